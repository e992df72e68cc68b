"""A folder of extracted frames is a video."""

from __future__ import annotations

import numpy as np
import pytest

from diffmae_video.data import ClipDataset, Entry, UnreadableVideo, read_frames, video_info, write_image


@pytest.fixture(scope="module")
def frames_folder(tmp_path_factory, painted):
    """30 frames, whose numbers are not padded with zeros: sorted as text, 10 would come before 2."""
    folder = tmp_path_factory.mktemp("frames")
    for number in range(30):
        write_image(folder / f"img_{number + 1}.png", painted(number))
    (folder / "notes.txt").touch()
    return folder


def test_frame_i_is_the_ith_file(frames_folder, painted, numbers_of):
    assert video_info(frames_folder) == (30, 1.0, 96, 64, 30.0)
    frames = read_frames(frames_folder, [20, 3, 3, 0, 29])
    assert frames.shape == (5, 64, 96, 3) and frames.dtype == np.uint8
    assert numbers_of(frames) == [20, 3, 3, 0, 29] and np.array_equal(frames[1], painted(3))
    assert read_frames(frames_folder, [1], short_side=32).shape == (1, 32, 48, 3)
    with pytest.raises(IndexError, match="frames 0 to 29"):
        read_frames(frames_folder, [30])


def test_clips_of_frames(frames_folder, numbers_of):
    options = {"num_frames": 4, "sampling_rate": 3, "crop_size": 64, "train": False}
    wide = ClipDataset([Entry(str(frames_folder), 2)], **options)[(0, 0)]
    assert wide.label == 2 and wide.clips.shape == (1, 3, 4, 64, 64)
    expected = read_frames(frames_folder, [10, 13, 16, 19])[:, :, 16:80]
    assert np.array_equal(wide.clips[0].permute(1, 2, 3, 0).numpy(), expected)


def test_broken_folders(tmp_path, painted):
    with pytest.raises(UnreadableVideo, match="folder without frames"):
        video_info(tmp_path)
    write_image(tmp_path / "1.png", painted(0))
    write_image(tmp_path / "2.png", painted(1, height=32))
    (tmp_path / "3.png").write_bytes(b"no picture")
    with pytest.raises(UnreadableVideo, match=r"1\.png and 2\.png differ in size: 96x64 and 96x32"):
        read_frames(tmp_path, [0, 1])
    with pytest.raises(UnreadableVideo, match=r"frame 3\.png"):
        read_frames(tmp_path, [2])
