"""Frame i is frame i: proven by the numbers painted into rendered files, with both decoders."""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from diffmae_video.data import UnreadableVideo, read_frames, video_info
from diffmae_video.data.decoders import index as index_module
from diffmae_video.data.decoders import torchcodec_backend
from diffmae_video.data.decoding import missing_backends

BOTH = ("h264", "h264_mkv", "vp9", "mpeg4", "mjpeg")  # files that decord reads rightly
PYAV_ONLY = ("h264_open_groups", "h264_refresh", "h264_stream", "h264_avi", "hevc", "mpeg4_b", "mpeg4_b_mp4")
# What torchcodec reads rightly besides; the rest it refuses, or notices when it reads.
TORCHCODEC = (*BOTH, "h264_open_groups", "hevc", "mpeg4_b_mp4")
NOT_FOR_TORCHCODEC = {
    "h264_refresh": "torchcodec returned another frame|RuntimeError",
    "h264_stream": "not sure .* has no exact seeking",
    "h264_avi": "not sure .* does not say in which order",
    "mpeg4_b": "not sure .* does not say in which order",
}
ORDERS = {
    "all": list(range(90)),
    "one late frame": [77],
    "strided": list(range(20, 84, 4)),
    "unordered, repeated": [50, 3, 3, 89, 0, 50, 24, 23, 25, 49],
}


@pytest.fixture
def torchcodec() -> None:
    if problem := torchcodec_backend.import_problem():
        pytest.skip(problem)


def sequential(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize(
    ("name", "backend"),
    [(name, "decord") for name in BOTH]
    + [(name, "pyav") for name in BOTH + PYAV_ONLY]
    + [(name, "auto") for name in BOTH + PYAV_ONLY],
)
def test_frame_i_is_frame_i(numbered_videos, numbers_of, name, backend, order):
    frames = read_frames(numbered_videos[name], order, backend=backend)
    assert frames.shape == (len(order), 64, 96, 3) and frames.dtype == np.uint8
    assert numbers_of(frames) == order


@pytest.mark.parametrize("name", BOTH + PYAV_ONLY)
def test_every_single_frame_equals_the_sequential_decode(numbered_videos, name):
    """One call per frame, so that every seek is taken; pixels, not only numbers."""
    reference = sequential(numbered_videos[name])
    backends = ("decord", "pyav") if name in BOTH else ("pyav",)
    for number in range(0, 90, 7):
        for backend in backends:
            frame = read_frames(numbered_videos[name], [number], backend=backend)[0]
            difference = np.abs(frame.astype(int) - reference[number]).mean()
            assert difference < 1, f"{backend} frame {number}"


@pytest.mark.parametrize("name", PYAV_ONLY)
def test_decord_refuses_what_it_gets_wrong(numbered_videos, name):
    for read in (lambda path: read_frames(path, [0], backend="decord"), lambda path: video_info(path, "decord")):
        with pytest.raises(UnreadableVideo, match='decord is not sure .* use "auto" or "pyav"') as caught:
            read(numbered_videos[name])
        assert caught.value.path == str(numbered_videos[name])


@pytest.mark.parametrize("name", BOTH + PYAV_ONLY)
def test_video_info(numbered_videos, name):
    info = video_info(numbered_videos[name])
    assert (info.frames, info.width, info.height) == (90, 96, 64)
    assert info.fps == pytest.approx(25, rel=0.02)
    assert info.duration == pytest.approx(3.6, rel=0.02)


def test_frames_outside_the_edit_list_do_not_count(cut_video, numbers_of):
    assert video_info(cut_video).frames == 73
    assert numbers_of(read_frames(cut_video, [0, 30, 72])) == [17, 47, 89]
    with pytest.raises(UnreadableVideo, match="not shown"):
        read_frames(cut_video, [0], backend="decord")


def test_display_rotation_is_applied(turned_videos, numbered_videos):
    upright = read_frames(numbered_videos["h264"], [5, 40], backend="pyav").astype(int)
    for (degrees, hflip), path in turned_videos.items():
        expected = np.rot90(upright, degrees // 90, axes=(1, 2))
        if hflip:
            expected = expected[:, :, ::-1]
        info = video_info(path)
        assert (info.height, info.width) == expected.shape[1:3]
        for backend in ("pyav", "auto") if hflip else ("pyav", "auto", "decord"):
            frames = read_frames(path, [5, 40], backend=backend)
            assert np.abs(frames - expected).mean() < 1, f"{degrees} {hflip} {backend}"
    with pytest.raises(UnreadableVideo, match="mirrors"):
        read_frames(turned_videos[90, True], [0], backend="decord")


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_short_side(numbered_videos, turned_videos, numbers_of, backend):
    scaled = read_frames(numbered_videos["h264"], [8, 60], backend=backend, short_side=33)
    assert scaled.shape == (2, 33, 50, 3)  # 96 * 33 / 64 = 49.5, to the nearest even number
    assert numbers_of(scaled) == [8, 60]
    assert read_frames(turned_videos[90, False], [8], backend=backend, short_side=32).shape == (1, 48, 32, 3)
    for never_upward in (200, 0, None):
        assert read_frames(numbered_videos["h264"], [8], backend, never_upward).shape == (1, 64, 96, 3)


@pytest.mark.parametrize("backend", ["auto", "decord", "pyav"])
@pytest.mark.parametrize("outside", [90, -1])
def test_index_outside_the_video(numbered_videos, backend, outside):
    with pytest.raises(IndexError, match=rf"frame {outside} was asked for, but there are frames 0 to 89"):
        read_frames(numbered_videos["h264"], [3, outside], backend=backend)


def test_bad_arguments(numbered_videos):
    with pytest.raises(ValueError, match="unknown decoder 'ffmpeg'; choose one of auto, decord, torchcodec, pyav"):
        read_frames(numbered_videos["h264"], [0], backend="ffmpeg")
    with pytest.raises(ValueError, match="no frame was asked for"):
        read_frames(numbered_videos["h264"], [])
    with pytest.raises(ValueError, match="short_side"):
        read_frames(numbered_videos["h264"], [0], short_side=-1)


@pytest.mark.parametrize("backend", ["auto", "decord", "pyav"])
def test_missing_file(tmp_path, backend):
    for name in ("gone.mp4", "gone.jpg"):
        with pytest.raises(FileNotFoundError, match=name):
            read_frames(tmp_path / name, [0], backend=backend)
        with pytest.raises(FileNotFoundError, match=name):
            video_info(tmp_path / name, backend=backend)


@pytest.mark.parametrize("backend", ["auto", "decord", "pyav"])
def test_damaged_files_are_unreadable_by_name(damaged_videos, backend, capfd):
    for name, path in damaged_videos.items():
        with pytest.raises(UnreadableVideo) as caught:
            read_frames(path, [0], backend=backend)
        assert caught.value.path == str(path) and str(path) in str(caught.value), name
        assert caught.value.reason and "\n" not in caught.value.reason, name
    for name in ("cut_short.mp4", "cut_short.avi", "cut_short.webm"):
        with pytest.raises(UnreadableVideo, match=r"truncated: \d+ bytes are missing"):
            video_info(damaged_videos[name])
    assert capfd.readouterr().err == "", "decoders write to the terminal"


def test_the_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableVideo(Path("a.mp4"), "line one\n  line two")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "line one line two", "a.mp4: line one line two")


def test_damage_in_the_middle(numbered_videos, tmp_path):
    """The file opens and its index is whole; the damaged frame must raise, not come back as a copy of another one."""
    content = bytearray(numbered_videos["h264"].read_bytes())
    start = content.find(b"mdat") + 4
    middle = start + (content.find(b"moov") - start) // 2
    content[middle : middle + 3000] = bytes(3000)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    assert video_info(path).frames == 90
    for backend in ("auto", "decord", "pyav"):
        with pytest.raises(UnreadableVideo):
            read_frames(path, range(90), backend=backend)


def test_audio_only(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UnreadableVideo, match="has no video stream"):
        video_info(path)


def test_without_decord_auto_reads_on(numbered_videos, numbers_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    assert numbers_of(read_frames(numbered_videos["h264"], [41])) == [41]
    with pytest.raises(ImportError, match="pip install decord"):
        read_frames(numbered_videos["h264"], [41], backend="decord")


def test_without_pyav(numbered_videos, monkeypatch, tmp_path):
    path = shutil.copy(numbered_videos["h264"], tmp_path)  # not in the memory of indices
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install av"):
        read_frames(path, [0])


def test_a_changed_file_is_read_anew(numbered_videos, numbers_of, tmp_path):
    path = tmp_path / "video.mp4"
    shutil.copy(numbered_videos["hevc"], path)
    assert video_info(path).frames == 90
    shutil.copy(numbered_videos["h264_mkv"], path)
    assert numbers_of(read_frames(path, [70])) == [70]


def test_memory_of_indices_is_bounded(numbered_videos, monkeypatch):
    cache = index_module._Cache(capacity=200)
    index = index_module.read_index(str(numbered_videos["h264"]))
    for number in range(5):
        cache.put((str(number), 0, 0), index)
    kept = [number for number in range(5) if cache.get((str(number), 0, 0))]
    assert kept == [3, 4]  # 90 frames each


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_an_image_is_a_video_of_one_frame(images, painted, suffix):
    assert video_info(images[suffix]) == (1, 1.0, 96, 64, 1.0)
    frames = read_frames(images[suffix], [0, 0])
    assert frames.shape == (2, 64, 96, 3)
    assert np.abs(frames.astype(int) - painted(5)).mean() < (1 if suffix in ("png", "bmp") else 12)
    assert read_frames(images[suffix], [0], short_side=32).shape == (1, 32, 48, 3)
    with pytest.raises(IndexError):
        read_frames(images[suffix], [1])


def test_exif_rotation(images, painted):
    info = video_info(images["rotated"])
    assert (info.width, info.height) == (64, 96)
    expected = np.rot90(painted(5), -1).astype(int)
    assert np.abs(read_frames(images["rotated"], [0])[0] - expected).mean() < 12
    assert read_frames(images["rotated"], [0], short_side=32).shape == (1, 48, 32, 3)


# --------------------------------------------------------------------------------------------------------- torchcodec


@pytest.mark.parametrize("name", TORCHCODEC)
def test_torchcodec_returns_the_same_frames(torchcodec, numbered_videos, numbers_of, name):
    for order in ORDERS.values():
        assert numbers_of(read_frames(numbered_videos[name], order, "torchcodec")) == order
    reference = sequential(numbered_videos[name])
    for number in range(0, 90, 11):
        frame = read_frames(numbered_videos[name], [number], "torchcodec")[0]
        assert np.abs(frame.astype(int) - reference[number]).mean() < 1, number


@pytest.mark.parametrize("name", NOT_FOR_TORCHCODEC)
def test_torchcodec_refuses_what_it_gets_wrong(torchcodec, numbered_videos, name):
    with pytest.raises(UnreadableVideo, match=NOT_FOR_TORCHCODEC[name]):
        read_frames(numbered_videos[name], [31], "torchcodec")


def test_torchcodec_notices_a_cut(torchcodec, cut_video, numbers_of):
    """Behind the first keyframe that is shown it counts rightly, before it wrongly: caught by the timestamps."""
    assert numbers_of(read_frames(cut_video, [30, 72], "torchcodec")) == [47, 89]
    with pytest.raises(UnreadableVideo, match="returned another frame than 0"):
        read_frames(cut_video, [0], "torchcodec")


def test_torchcodec_turns_and_scales_like_the_others(torchcodec, turned_videos, numbered_videos):
    for (degrees, hflip), path in turned_videos.items():
        if hflip:
            with pytest.raises(UnreadableVideo, match="mirrors"):
                read_frames(path, [5], "torchcodec")
            continue
        for short_side in (None, 40):
            frames = read_frames(path, [5, 40], "torchcodec", short_side).astype(int)
            expected = read_frames(path, [5, 40], "pyav", short_side)
            assert frames.shape == expected.shape
            assert np.abs(frames - expected).mean() < 2, f"{degrees} {short_side}"


def test_torchcodec_on_damage(torchcodec, damaged_videos):
    for name, path in damaged_videos.items():
        if name != "picture.jpg":
            with pytest.raises(UnreadableVideo):
                read_frames(path, [0], "torchcodec")


def test_without_torchcodec(numbered_videos, numbers_of, monkeypatch):
    torchcodec_backend.import_problem.cache_clear()
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    try:
        with pytest.raises(ImportError, match="pip install torchcodec"):
            read_frames(numbered_videos["h264"], [41], "torchcodec")
        assert "torchcodec" in missing_backends()
        assert numbers_of(read_frames(numbered_videos["vp9"], [41], "auto")) == [41]
    finally:
        torchcodec_backend.import_problem.cache_clear()
