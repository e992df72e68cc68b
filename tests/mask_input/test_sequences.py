"""Masks that change with time, as folders, files of several pictures, and videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmae_video.data.writing import write_gif, write_video
from diffmae_video.mask_input import folder_mask, picture_files, picture_mask, read_mask, video_mask

SHAPE = (6, 48, 64)


def moving_square() -> np.ndarray:
    """bool (6, 48, 64): frame i hides a square of 16 pixels that starts at row 8 and column 8 i."""
    mask = np.zeros(SHAPE, bool)
    for i in range(6):
        mask[i, 8:24, 8 * i : 8 * i + 16] = True
    return mask


def as_video(mask: np.ndarray) -> np.ndarray:
    """White where hidden: uint8 (T, H, W, 3)."""
    return np.repeat(mask[..., None] * np.uint8(255), 3, axis=-1)


def write_folder(folder: Path, pictures: np.ndarray, names: str = "{:05d}.png", start: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / names.format(start + i), quality=80)
    return folder


def test_mask_folder(tmp_path):
    mask = moving_square()
    folder = write_folder(tmp_path, mask.astype(np.uint8))
    (folder / "notes.txt").write_text("ignored")
    (folder / "._00000.png").write_text("ignored")
    (folder / "previews.png").mkdir()
    assert np.array_equal(folder_mask(folder, SHAPE, range(6), 6), mask)
    assert np.array_equal(folder_mask(folder, (2, 48, 64), [1, 3], 6), mask[[1, 3]])  # a mask for every frame
    assert np.array_equal(folder_mask(folder, (3, 48, 64), [3, 0, 3], 6), mask[[3, 0, 3]])
    assert np.array_equal(folder_mask(folder, SHAPE, range(5, 11), 12), mask)  # a mask for every frame used
    with pytest.raises(ValueError, match="holds 6 pictures, but the input has 9 frames, of which 3 are used"):
        folder_mask(folder, (3, 48, 64), [0, 1, 2], 9)


@pytest.mark.parametrize(
    ("names", "start"), [("{:05d}.png", 37), ("mask_{}.png", 8), ("{:04d}.jpg", 0), ("{}.TIF", 98)]
)
def test_names_give_the_order(tmp_path, names, start):
    """Folders start at any number, and 8, 9, 10, 11 need not be padded with zeros."""
    folder = write_folder(tmp_path, moving_square() * np.uint8(255), names, start)
    assert [file.name for file in picture_files(folder)] == [names.format(start + i) for i in range(6)]
    assert np.array_equal(folder_mask(folder, SHAPE, range(6), 6), moving_square())


def test_a_folder_of_one_picture_is_for_all_frames(tmp_path):
    folder = write_folder(tmp_path, moving_square()[2:3])
    mask = folder_mask(folder, SHAPE, range(6), 20)
    assert np.array_equal(mask, np.repeat(moving_square()[2:3], 6, axis=0))


def test_links_in_a_folder_are_followed(tmp_path):
    folder = write_folder(tmp_path / "real", moving_square())
    links = tmp_path / "links"
    links.mkdir()
    for file in folder.iterdir():
        (links / file.name).symlink_to(file)
    assert np.array_equal(folder_mask(links, SHAPE, range(6), 6), moving_square())


def test_a_folder_without_pictures_names_what_is_in_it(tmp_path):
    with pytest.raises(ValueError, match=r"holds no pictures \(\.bmp .*\)$"):
        folder_mask(tmp_path, SHAPE, range(6), 6)
    for name in ("dogs-jump", "bmx-trees"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="give one of the folders in it: bmx-trees, dogs-jump"):
        folder_mask(tmp_path, SHAPE, range(6), 6)


def test_objects_of_a_folder(tmp_path):
    """Object 1 is in every picture, object 2 only in the second half."""
    labels = moving_square().astype(np.uint8)
    labels[3:, 40:] = 2
    folder = write_folder(tmp_path, labels)
    for objects in ([1], [2], [1, 2]):
        mask = folder_mask(folder, SHAPE, range(6), 6, objects)
        assert np.array_equal(mask, np.isin(labels, objects))
    with pytest.raises(ValueError, match="mask folder .* has no object 3: .* there are 0, 1, 2 "):
        folder_mask(folder, SHAPE, range(6), 6, [1, 3])
    with pytest.raises(ValueError, match="has no object 2: .* there are 0, 1 "):
        folder_mask(folder, (3, 48, 64), range(3), 6, [2])  # not in the pictures that are used


def test_a_file_of_several_pictures_in_a_folder(tmp_path):
    folder = write_folder(tmp_path, moving_square())
    write_gif(folder / "00003.gif", as_video(moving_square()), fps=10)
    (folder / "00003.png").unlink()
    with pytest.raises(ValueError, match="00003.gif holds 6 pictures: expected one"):
        folder_mask(folder, SHAPE, range(6), 6)


# ------------------------------------------------------------------------------------- one file for the whole input


def mask_file(folder: Path, kind: str) -> Path:
    """The moving square as a file; every format but mp4 and gif through its own writer."""
    frames = as_video(moving_square())
    path = folder / f"mask.{kind}"
    if kind == "gif":
        return write_gif(path, frames, fps=10)
    if kind in ("webp", "png", "tif"):
        images = [Image.fromarray(frame if kind != "tif" else frame[..., 0]) for frame in frames]
        images[0].save(path, save_all=True, append_images=images[1:])
        return path
    return write_video(path, frames, fps=10)


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tif", "mp4"])
def test_a_file_with_a_mask_per_frame(tmp_path, kind):
    path = mask_file(tmp_path, kind)
    read = video_mask if kind == "mp4" else picture_mask
    mask = moving_square()
    assert np.array_equal(read(path, SHAPE, range(6), 6), mask)
    assert np.array_equal(read(path, (3, 48, 64), [5, 1, 1], 6), mask[[5, 1, 1]])
    assert np.array_equal(read(path, SHAPE, range(3, 9), 30), mask)
    assert np.array_equal(read_mask(str(path), (2, 48, 64), (2, 8, 8), 0.5, indices=[2, 4], total=6), mask[[2, 4]])
    larger = np.kron(mask, np.ones((1, 2, 2), bool))
    assert np.array_equal(read(path, (6, 96, 128), range(6), 6), larger)
    with pytest.raises(ValueError, match="holds 6 pictures, but the input has 7 frames: expected one picture"):
        read(path, (7, 48, 64), range(7), 7)
    with pytest.raises(ValueError, match="is 64x48 and the input is 48x64"):
        read(path, (6, 64, 48), range(6), 6)


@pytest.mark.parametrize("name", ["mpeg4", "vp9", "mpeg4_b", "hevc", "h264_open_groups"])
def test_mask_videos_of_many_codecs_are_frame_exact(numbered_videos, painted, name):
    """The lower half of these videos carries the frame's number in blocks that are white or black."""
    indices = [3, 4, 17, 50, 51, 89]
    mask = video_mask(numbered_videos[name], (6, 64, 96), indices, 90)
    expected = np.stack([painted(number)[48, :, 0] > 127 for number in indices])
    assert np.array_equal(mask[:, 48, 6::12], expected[:, 6::12])


def test_frames_that_a_gif_merged_are_explained(tmp_path):
    standing = np.repeat(moving_square()[:3], 2, axis=0)
    write_gif(tmp_path / "mask.gif", as_video(standing), fps=10)
    with pytest.raises(ValueError, match="holds 3 pictures, but the input has 6 frames.*merge equal frames: save"):
        picture_mask(tmp_path / "mask.gif", SHAPE, range(6), 6)


def test_compression_of_a_mask_video_moves_no_edge(tmp_path):
    mask = moving_square()
    path = write_video(tmp_path / "mask.mp4", as_video(mask), fps=10, crf=32)
    assert np.array_equal(video_mask(path, SHAPE, range(6), 6), mask)


def test_a_row_that_the_codec_added_is_left_out(tmp_path):
    mask = np.zeros((3, 47, 63), bool)
    mask[:, 40:47, 50:63] = True
    path = write_video(tmp_path / "mask.mp4", as_video(mask), fps=10)  # 48 x 64
    assert np.array_equal(video_mask(path, (3, 47, 63), range(3), 3), mask)


def test_a_video_of_one_frame_is_for_all_frames(tmp_path):
    path = write_video(tmp_path / "mask.mp4", as_video(moving_square()[:1]), fps=10)
    assert np.array_equal(video_mask(path, SHAPE, range(6), 6), np.repeat(moving_square()[:1], 6, axis=0))


def test_pages_of_a_tiff_keep_objects_and_animations_do_not(tmp_path):
    labels = [Image.fromarray(mask * np.uint8(1 + i % 2)) for i, mask in enumerate(moving_square())]
    labels[0].save(tmp_path / "mask.tif", save_all=True, append_images=labels[1:])
    mask = picture_mask(tmp_path / "mask.tif", SHAPE, range(6), 6, objects=[2])
    assert np.array_equal(mask[1::2], moving_square()[1::2]) and not mask[::2].any()
    with pytest.raises(ValueError, match="GIF does not keep the numbers of objects"):
        picture_mask(mask_file(tmp_path, "gif"), SHAPE, range(6), 6, objects=[1])


def test_what_is_no_video(tmp_path):
    (tmp_path / "mask.mp4").write_text("not a video")
    with pytest.raises(ValueError, match="cannot be read as a video"):
        video_mask(tmp_path / "mask.mp4", SHAPE, range(6), 6)
    with pytest.raises(FileNotFoundError):
        video_mask(tmp_path / "none.mp4", SHAPE, range(6), 6)
