"""Frames that nothing refers to stay undecoded, and no pixel of the others changes."""

from __future__ import annotations

import av
import numpy as np
import pytest

from diffmae_video.data import read_frames
from diffmae_video.data.decoders import pyav_backend
from diffmae_video.data.decoders.index import read_index

ENCODINGS = {
    "pyramid": "keyint=40:min-keyint=40:bframes=3:b-pyramid=normal:b-adapt=0:scenecut=0",
    "adaptive": "keyint=90:bframes=5:b-adapt=2:ref=5:weightp=2",
    "open groups": "keyint=20:open-gop=1:bframes=3:b-adapt=0:scenecut=0",
    "no pyramid, temporal": "keyint=24:bframes=3:b-pyramid=none:b-adapt=0:direct=temporal",
    "interlaced": "keyint=30:bframes=2:b-adapt=0:tff=1",
    "gradual refresh": "keyint=12:intra-refresh=1:bframes=2",
    "no B-frames": "keyint=30:bframes=0",
    "slices": "keyint=30:bframes=3:slices=4:b-pyramid=strict",
}
SEQUENCES = {
    "clip": [list(range(start, start + 61, 4)) for start in range(0, 30, 3)],
    "sparse": [[5, 50, 51, 89], [88, 89], [0, 45], [41, 42, 43]],
    "single": [[number] for number in range(0, 90, 4)],
}


@pytest.fixture(scope="module")
def videos(painted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dropping")
    rng = np.random.default_rng(0)
    # noise makes every B-frame differ from what could be copied from its neighbours
    frames = [np.clip(painted(i) + rng.normal(0, 6, (64, 96, 3)), 0, 255).astype(np.uint8) for i in range(90)]
    paths = {}
    for name, parameters in ENCODINGS.items():
        paths[name] = folder / f"{name}.mp4"
        with av.open(str(paths[name]), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"x264-params": parameters + ":log-level=none"})
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
    return paths


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_frame_is_bit_identical_to_the_sequential_decode(videos, name):
    with av.open(str(videos[name])) as container:
        expected = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert read_index(str(videos[name])).can_drop_frames
    for sequences in SEQUENCES.values():
        for numbers in sequences:
            frames = read_frames(videos[name], numbers, backend="pyav")
            assert np.array_equal(frames, expected[numbers]), numbers


def test_frames_are_left_undecoded_and_none_after_the_last(videos, monkeypatch):
    decoded = []
    decode = pyav_backend._decode

    def counting(*arguments):
        for frame in decode(*arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(pyav_backend, "_decode", counting)
    read_frames(videos["no pyramid, temporal"], [20, 23], backend="pyav")
    # 24 frames a group, references 0, 4, 8, ..., 20, 23 and three B-frames between two of them
    assert len(decoded) == 7


def test_only_h264_with_timestamps_is_treated_so(numbered_videos):
    droppable = {name for name, path in numbered_videos.items() if read_index(str(path)).can_drop_frames}
    assert droppable == {"h264", "h264_mkv", "h264_open_groups", "h264_refresh"}


def test_real_clips_are_bit_identical(research_data):
    tried = 0
    for path in sorted((research_data / "mini").iterdir()):
        if path.suffix == ".csv" or not read_index(str(path)).can_drop_frames:
            continue
        index = read_index(str(path))
        start = min(index.frames - 1, index.frames // 3)
        numbers = list(range(start, min(index.frames, start + 33), 4))
        expected = np.empty((len(numbers), index.height, index.width, 3), np.uint8)
        pyav_backend._read_in_sequence(str(path), numbers, index, expected)
        assert np.array_equal(read_frames(path, numbers, backend="pyav"), expected), path.name
        tried += 1
    assert tried > 5
