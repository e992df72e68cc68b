"""Files that are rare or damaged in their own way: every decoder gives the right frames, or says that it cannot."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from diffmae_video.data import UnreadableVideo, read_frames, video_info
from diffmae_video.data.decoders.structure import broken_at
from diffmae_video.data.decoding import missing_backends


def readers() -> list[str]:
    return [name for name in ("auto", "decord", "torchcodec", "pyav") if name not in missing_backends()]


def sequential(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate(tmp_path, painted, numbers_of, suffix):
    """Frames that last from 1 to 7 units: numbers count frames, not time."""
    path = tmp_path / f"variable.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "10"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        time = 0
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(painted(number), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            time += 1 + number % 7
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = video_info(path)
    assert info.frames == 60 and info.duration == pytest.approx(2.36, rel=0.05)
    for backend in readers():
        try:
            assert numbers_of(read_frames(path, [59, 0, 13, 14, 33], backend)) == [59, 0, 13, 14, 33], backend
        except UnreadableVideo as error:
            assert backend == "decord" and "groups of pictures are open" in error.reason


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "mp4"), ("libvpx-vp9", "webm"), ("mpeg4", "avi")])
def test_odd_sizes(tmp_path, painted, numbers_of, codec, suffix):
    path = tmp_path / f"odd.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "20"} if codec != "mpeg4" else {"qscale": "2"})
        stream.height, stream.width, stream.pix_fmt = 65, 97, "yuv444p" if codec == "libx264" else "yuv420p"
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(painted(number, 65, 97), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert video_info(path)[2:4] == (97, 65)
    reference = sequential(path)
    for backend in readers():
        try:
            frames = read_frames(path, [29, 3, 17], backend)
        except UnreadableVideo as error:
            assert backend in ("decord", "torchcodec") and "4:4:4" in error.reason
            continue
        assert frames.shape == (3, 65, 97, 3) and numbers_of(frames) == [29, 3, 17]
        assert np.abs(frames.astype(int) - reference[[29, 3, 17]]).mean() < 2, backend


@pytest.mark.parametrize("name", ["h264_mkv", "vp9", "mpeg4", "mjpeg"])
@pytest.mark.parametrize("length", [40, 3000])
def test_a_gap_in_the_chain_of_frames(numbered_videos, tmp_path, name, length):
    """A demuxer would search for the next frame, and go on as if nothing were missing."""
    content = bytearray(numbered_videos[name].read_bytes())
    with av.open(str(numbered_videos[name])) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos]
    start = places[len(places) // 2] - 10  # over the header in front of a frame
    content[start : start + length] = bytes(length)
    path = tmp_path / numbered_videos[name].name
    path.write_bytes(content)
    for backend in readers():
        with pytest.raises(UnreadableVideo, match="damaged: no frame can be found at byte"):
            read_frames(path, [0], backend)


def test_sound_files_have_no_gap(numbered_videos, research_data):
    files = [
        *numbered_videos.values(),
        *(research_data / "mini").iterdir(),
        *(research_data / "ut-interaction").rglob("*.avi"),
    ]
    for path in files:
        with open(path, "rb") as file:
            assert broken_at(file, path.stat().st_size) is None, path
