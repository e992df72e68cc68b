"""Real files of the field against a sequential decode, and the stated result on each difficult one."""

from __future__ import annotations

import csv

import av
import numpy as np
import pytest

from diffmae_video.data import UnreadableVideo, read_frames, video_info
from diffmae_video.data.decoding import missing_backends

BACKENDS = [name for name in ("auto", "pyav", "decord", "torchcodec") if name not in missing_backends()]

# What decord reads otherwise than a player shows, or cannot open.
NOT_FOR_DECORD = {
    "baseball.mp4": "some of its packets are not shown",
    "ut_handshake.avi": "packed B-frames",
    "ucf101_v_ApplyEyeMakeup_g01_c01.avi": "packed B-frames",
    "cockatoo_yuv444.mp4": "4:4:4",
    "av1_archery.mkv": "DECORDError",
    "nasa_13013.mp4": "several video streams",
    "h265_video.mp4": "groups of pictures are open",
    "av1_video.mkv": "DECORDError",
    "no_duration.webm": "DECORDError",
}
NOT_FOR_TORCHCODEC = {
    "ut_handshake.avi": "packed B-frames",
    "ucf101_v_ApplyEyeMakeup_g01_c01.avi": "packed B-frames",
    "cockatoo_yuv444.mp4": "4:4:4",
}
REFUSED = {"decord": NOT_FOR_DECORD, "torchcodec": NOT_FOR_TORCHCODEC}
COLOUR_TOLERANCE = {"h264_10bits.mp4": 5, "h265_10bits.mp4": 5}  # of 255; decord rounds 10 bits otherwise


def manifest(folder):
    with open(folder / "manifest.csv", newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def reference_frames(path, numbers):
    """The frames ``numbers`` of a decode from the start, turned as they are shown."""
    frames = {}
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in numbers:
                frames[number] = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            if number >= max(numbers):
                break
    return np.stack([frames[number] for number in numbers])


@pytest.mark.parametrize("folder", ["mini", "edge"])
def test_frames_of_real_files(research_data, folder):
    for name, row in manifest(research_data / folder).items():
        path = research_data / folder / name
        if name == "decord_corrupted.mp4":
            continue
        info = video_info(path)
        assert info.frames == int(row["frames"]), name
        assert info.fps == pytest.approx(float(row["fps"]), rel=0.02), name
        numbers = sorted({0, info.frames // 2, min(info.frames - 1, info.frames // 2 + 4)})
        expected = reference_frames(path, numbers).astype(int)
        assert (info.height, info.width) == expected.shape[1:3], name
        for backend in BACKENDS:
            # One by one and from the end, so that no read profits from another.
            for place in reversed(range(len(numbers))):
                if name in REFUSED.get(backend, ()):
                    with pytest.raises(UnreadableVideo, match=REFUSED[backend][name]):
                        read_frames(path, [numbers[place]], backend=backend)
                    break
                frame = read_frames(path, [numbers[place]], backend=backend)[0]
                difference = np.abs(frame - expected[place]).mean()
                assert difference < COLOUR_TOLERANCE.get(name, 1), f"{name} {backend} frame {numbers[place]}"


def test_the_damaged_one(research_data):
    """Its index and first frame are whole; what lies behind the damage must raise."""
    path = research_data / "edge" / "decord_corrupted.mp4"
    assert video_info(path).frames == 50
    for backend in BACKENDS:
        with pytest.raises(UnreadableVideo, match="decord_corrupted.mp4"):
            read_frames(path, [0, 25, 49], backend=backend)


def test_rotation_tags_decide_the_size(research_data):
    """Four films of one keyboard, the phone turned in each; that they are upright was looked at once."""
    sizes = {
        degrees: read_frames(research_data / "edge" / f"decord_video_{degrees}.mov", [0, 2]).shape
        for degrees in (0, 90, 180, 270)
    }
    assert sizes[0] == sizes[180] == (2, 320, 568, 3)
    assert sizes[90] == sizes[270] == (2, 568, 320, 3)
