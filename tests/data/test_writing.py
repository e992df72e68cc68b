from __future__ import annotations

import av
import numpy as np
import pytest
from PIL import Image

from diffmae_video.data import read_frames, video_info, write_gif, write_image, write_video


def clip(painted, height=64, width=96):
    return np.stack([painted(number, height, width) for number in range(20)])


def test_video_comes_back(painted, numbers_of, tmp_path):
    frames = clip(painted)
    path = write_video(tmp_path / "new" / "clip.mp4", frames, fps=29.97, gop=5)
    info = video_info(path)
    assert (info.frames, info.width, info.height) == (20, 96, 64) and info.fps == pytest.approx(29.97, rel=1e-4)
    again = read_frames(path, range(20))
    assert numbers_of(again) == list(range(20))
    assert np.abs(again[..., 1].astype(int) - frames[..., 1]).mean() < 12
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        keyframes = [number for number, packet in enumerate(container.demux(stream)) if packet.is_keyframe]
        assert max(np.diff([*keyframes, 20])) <= 5
    content = path.read_bytes()
    assert content.find(b"moov") < content.find(b"mdat"), "the index must stand in front"
    assert [file.name for file in path.parent.iterdir()] == ["clip.mp4"], "temporary files are left"


def test_odd_sizes_are_padded_by_repeating_the_edge(tmp_path):
    frames = np.full((3, 33, 47, 3), 60, np.uint8)
    frames[:, -1], frames[:, :, -1] = 220, 220
    again = read_frames(write_video(tmp_path / "odd.mp4", frames, fps=10, crf=1), [2])[0]
    assert again.shape == (34, 48, 3)
    assert again[-1].mean() > 210 and again[:, -1].mean() > 210 and again[:30, :40].mean() == pytest.approx(60, abs=3)


def test_quality_is_chosen_by_crf(painted, tmp_path):
    sizes = [write_video(tmp_path / f"{crf}.mp4", clip(painted), 25, crf=crf).stat().st_size for crf in (10, 40)]
    assert sizes[0] > 1.5 * sizes[1]


def test_gif_comes_back(painted, numbers_of, tmp_path):
    path = write_gif(tmp_path / "clip.gif", clip(painted), fps=10)
    assert numbers_of(read_frames(path, range(20))) == list(range(20))
    with Image.open(path) as image:
        assert image.info["loop"] == 0 and image.info["duration"] == 100


def test_image_comes_back(painted, tmp_path):
    assert np.array_equal(np.array(Image.open(write_image(tmp_path / "a.png", painted(3)))), painted(3))
    grey = painted(3)[..., 0]
    assert np.array_equal(np.array(Image.open(write_image(tmp_path / "b.png", grey))), grey)


def test_wrong_arrays_and_names(tmp_path):
    for wrong in (np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)):
        for write in (write_video, write_gif):
            with pytest.raises(ValueError, match=r"expected uint8 \(T, H, W, 3\)"):
                write(tmp_path / "x", wrong, 10)
    for write in (write_video, write_gif):
        with pytest.raises(ValueError, match="fps must be positive"):
            write(tmp_path / "x", np.zeros((2, 8, 8, 3), np.uint8), 0)
    with pytest.raises(ValueError, match="names no picture format"):
        write_image(tmp_path / "x.mp4", np.zeros((8, 8, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(painted, tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.png", painted(3))
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_image(path, painted(4))
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["a.png"]
