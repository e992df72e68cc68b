"""Masks that change with time: a folder of pictures, a file of several pictures, a video."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from diffmae_video.data import UnreadableVideo, read_frames, video_info
from diffmae_video.data.decoders.common import natural_key
from diffmae_video.mask_input.pictures import (
    HALF_OF_WHITE,
    PICTURES,
    check_objects,
    count_pages,
    read_pages,
    read_single,
    scaled_mask,
)

Shape = tuple[int, int, int]


def picture_files(folder: str | Path) -> list[Path]:
    """The pictures of a folder in the order of the numbers in their names: frame_2.png before frame_10.png.

    Other files, hidden ones and folders are left out; links count as what they lead to.
    """
    files = [file for file in Path(folder).iterdir() if file.suffix.lower() in PICTURES and file.is_file()]
    return sorted((file for file in files if file.name[0] != "."), key=lambda file: natural_key(file.name))


def folder_mask(
    folder: str | Path,
    shape: Shape,
    indices: Sequence[int],
    total: int,
    objects: Collection[int] | None = None,
) -> np.ndarray:
    """One picture per frame, in the order of their names (:func:`picture_files`), or one for all frames.

    Args:
        folder: holds the pictures.
        shape: (T, H, W) of the frames to mask.
        indices: which frames of the input these are (T of them).
        total: frames of the whole input. The folder has a picture for each of these, or for each of ``indices``, or
            a single one.
        objects: hide only these, see :func:`~diffmae_video.mask_input.pictures.read_mask_picture`; each must be in at
            least one of the pictures that are used.

    Returns:
        bool (T, H, W), True = hidden.

    Raises:
        ValueError: another number of pictures, or a picture that cannot be used.
    """
    files = picture_files(folder)
    if not files:
        inner = sorted(entry.name for entry in Path(folder).iterdir() if entry.is_dir())
        there = f"; give one of the folders in it: {', '.join(inner[:10])}" if inner else ""
        raise ValueError(f"mask folder {folder} holds no pictures ({' '.join(sorted(PICTURES))}){there}")

    def read(numbers: Sequence[int]) -> np.ndarray:
        pictures = (read_single(files[number], *shape[1:], objects) for number in numbers)
        return _stacked(pictures, objects, f"mask folder {folder}")

    return _for_frames(len(files), indices, total, f"mask folder {folder}", read)


def picture_mask(
    path: str | Path,
    shape: Shape,
    indices: Sequence[int],
    total: int,
    objects: Collection[int] | None = None,
) -> np.ndarray:
    """A picture for all frames, or an animation (GIF, WebP, PNG) or TIFF with a picture for each.

    Arguments, result and errors as for :func:`folder_mask`; FileNotFoundError where there is no such file.
    """

    def read(numbers: Sequence[int]) -> np.ndarray:
        return _stacked(read_pages(path, numbers, *shape[1:], objects), objects, f"mask {path}")

    count = count_pages(path)
    merged = "; programs that write animations merge equal frames: save this mask as mp4 or as a folder of pictures"
    return _for_frames(count, indices, total, f"mask {path}", read, advice=merged if count > 1 else "")


def video_mask(path: str | Path, shape: Shape, indices: Sequence[int], total: int) -> np.ndarray:
    """A video that is white where the input is hidden; the limit is half of white, because compression blurs.

    Arguments and result as for :func:`folder_mask`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a readable video, another number of frames, or another width / height.
    """
    _, height, width = shape

    def read(numbers: Sequence[int]) -> np.ndarray:
        frames = read_frames(path, numbers)
        hidden = np.maximum(np.maximum(frames[..., 0], frames[..., 1]), frames[..., 2]) >= HALF_OF_WHITE
        if hidden.shape[1:] == (height + height % 2, width + width % 2):
            hidden = hidden[:, :height, :width]  # most codecs hold even sizes only: the last row or column was added
        return np.stack([scaled_mask(frame, height, width, f"mask {path}") for frame in hidden])

    try:
        return _for_frames(video_info(path).frames, indices, total, f"mask {path}", read)
    except UnreadableVideo as error:
        raise ValueError(f"mask {path} cannot be read as a video: {error.reason}") from error


def _for_frames(
    count: int,
    indices: Sequence[int],
    total: int,
    what: str,
    read: Callable[[Sequence[int]], np.ndarray],
    advice: str = "",
) -> np.ndarray:
    """The masks of the frames ``indices``; ``read`` reads those with the numbers (increasing) out of ``count``."""
    if count == total:
        numbers = np.asarray(indices)
    elif count == len(indices):
        numbers = np.arange(count)
    elif count == 1:
        numbers = np.zeros(len(indices), np.int64)
    else:
        used = "" if len(indices) == total else f", of which {len(indices)} are used"
        raise ValueError(
            f"{what} holds {count} pictures, but the input has {total} frames{used}: expected one picture per frame, "
            f"or a single one for all{advice}"
        )
    wanted, rows = np.unique(numbers, return_inverse=True)
    masks = read(wanted.tolist())
    return masks if np.array_equal(wanted, numbers) else masks[rows]


def _stacked(pictures: Iterable[tuple[np.ndarray, set[int]]], objects: Collection[int] | None, what: str) -> np.ndarray:
    """Pictures [(hidden (H, W), indices that it has)] one after another, bool (n, H, W); all objects are in them."""
    masks, present = [], set()
    for hidden, indices in pictures:
        masks.append(hidden)
        present |= indices
    check_objects(objects, present, what)
    return np.stack(masks)
