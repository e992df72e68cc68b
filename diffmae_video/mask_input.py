"""What a user gives as a mask -> bool pixels (T, H, W), True = hidden.

A mask is the name of a strategy, a picture, a folder of pictures or a box. In pictures every pixel that is not black
is hidden: white, grey edges, any colour or, where the picture has a palette (DAVIS and other segmentation masks), any
index but 0. JPEG blurs its edges, so there the limit is half of white. A fully transparent pixel is visible.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from diffmae_video.models.masks import STRATEGIES, make_mask

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
JPEG_LIMIT = 128
ASPECT_TOLERANCE = 0.02  # sizes that are rounded from one picture differ by a pixel or two

Shape = tuple[int, int, int]


def patch_in_pixels(
    shape: Shape, clip_size: Shape, patch_size: Shape, fit: str = "resize"
) -> tuple[float, float, float]:
    """One patch of a model in frames, rows and columns of a video (T, H, W).

    A video is worked on at another size than its own (:func:`diffmae_video.inpainting.inpaint_video`): its shorter
    side is scaled to the model's ("resize") or only if it is smaller ("native"), and both sides to whole patches.
    """
    _, height, width = shape
    scale = max(clip_size[1] / height, clip_size[2] / width)
    scale = scale if fit == "resize" else max(scale, 1.0)
    rows = max(round(height * scale / patch_size[1]), clip_size[1] // patch_size[1])
    columns = max(round(width * scale / patch_size[2]), clip_size[2] // patch_size[2])
    return float(patch_size[0]), height / rows, width / columns


def strategy_mask(name: str, ratio: float, shape: Shape, patch: Sequence[float], seed: int = 0) -> np.ndarray:
    """A mask of whole patches by one of the strategies that models are trained with.

    The patches are laid over the whole video, however many clips of the model it takes: "tube" hides the same places
    from the first frame to the last, "block" is one block in all.

    Args:
        name: a key of ``diffmae_video.models.masks.STRATEGIES``.
        ratio: share of the patches to hide, in (0, 1).
        shape: (T, H, W) of the video.
        patch: a patch in frames, rows and columns of the video, see :func:`patch_in_pixels`.
        seed: chooses among random masks.

    Raises:
        ValueError: unknown strategy, ratio outside (0, 1), or too few patches to hide some and show some.
    """
    places = [((np.arange(n) + 0.5) / size).astype(np.int64) for n, size in zip(shape, patch, strict=True)]
    grid = tuple(int(place[-1]) + 1 for place in places)
    tokens = make_mask(name, grid, ratio, batch=1, generator=torch.Generator().manual_seed(seed))
    return tokens.reshape(grid).numpy()[np.ix_(*places)]


def box_mask(box: str, shape: Shape) -> np.ndarray:
    """The rectangle "x0,y0,x1,y1" in every frame; x to the right, y down, x1 and y1 exclusive.

    Pixels, or shares of width and height where a number has a decimal point: "0.25,0.25,0.75,0.75".

    Raises:
        ValueError: not four numbers, pixels and shares mixed, an empty box or one outside the frame.
    """
    _, height, width = shape
    parts = [part.strip() for part in box.split(",")]
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    fractions = {"." in part for part in parts}
    if len(numbers) != 4 or len(fractions) != 1 or not np.isfinite(numbers).all():
        raise ValueError(
            f"box {box!r}: expected four numbers x0,y0,x1,y1, all in pixels (32,32,64,64) or all as shares of "
            "width and height (0.25,0.25,0.5,0.5)"
        )
    if fractions == {True}:
        numbers = [number * side for number, side in zip(numbers, (width, height) * 2, strict=True)]
    x0, y0, x1, y1 = (round(number) for number in numbers)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(
            f"box {box!r} is pixels x {x0} to {x1}, y {y0} to {y1}: expected 0 <= x0 < x1 <= {width} and "
            f"0 <= y0 < y1 <= {height}, the size of the input"
        )
    mask = np.zeros(shape, dtype=bool)
    mask[:, y0:y1, x0:x1] = True
    return mask


def read_mask_picture(path: str | Path, height: int, width: int) -> np.ndarray:
    """One picture as bool (height, width), True = hidden; see the top of this file for which pixels are.

    A picture of another size is scaled (nearest neighbour) if its width / height is that of the video.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a picture, or another width / height.
    """
    try:
        with Image.open(path) as image:
            hidden = _hidden_pixels(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"mask {path}: there is no such file or folder") from None
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"mask {path} cannot be read as a picture: {error}") from error
    if hidden.shape == (height, width):
        return hidden
    found = hidden.shape[1] / hidden.shape[0]
    if abs(found / (width / height) - 1) > ASPECT_TOLERANCE:
        raise ValueError(
            f"mask {path} is {hidden.shape[1]}x{hidden.shape[0]} and the input is {width}x{height}: a mask of another "
            "size is scaled only if its width / height is the same; make the mask for this input"
        )
    scaled = Image.fromarray(hidden).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(scaled)


def _hidden_pixels(image: Image.Image) -> np.ndarray:
    limit = JPEG_LIMIT if image.format == "JPEG" else 1
    if "A" in image.getbands():
        values = np.asarray(image.convert("RGBA"))
        return (values[..., :3].max(axis=-1) >= limit) & (values[..., 3] > 0)
    values = np.asarray(image)  # of a picture with a palette: the indices
    return (values.max(axis=-1) if values.ndim == 3 else values) >= limit


def folder_mask(folder: str | Path, shape: Shape, indices: Sequence[int], total: int) -> np.ndarray:
    """One picture per frame, in the order of the file names.

    Args:
        folder: holds the pictures; other files in it are ignored.
        shape: (T, H, W) of the frames to mask.
        indices: which frames of the input these are (T of them).
        total: frames of the whole input. The folder has a picture for each of these, or for each of ``indices``.

    Raises:
        ValueError: another number of pictures, or a picture that cannot be used.
    """
    files = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))
    if len(files) not in (total, len(indices)):
        used = "" if len(indices) == total else f", of which {len(indices)} are used"
        raise ValueError(
            f"mask folder {folder} holds {len(files)} pictures, but the input has {total} frames{used}: "
            "expected one picture per frame"
        )
    if len(files) == total:
        files = [files[i] for i in indices]
    return np.stack([read_mask_picture(file, *shape[1:]) for file in files])


def read_mask(
    given: str,
    shape: Shape,
    patch: Sequence[float],
    ratio: float,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    total: int | None = None,
) -> np.ndarray:
    """The mask that ``given`` describes: a strategy, a picture for all frames, a folder of pictures, or a box.

    Args:
        given: name of a strategy, path, or "x0,y0,x1,y1".
        shape: (T, H, W) of the frames to mask.
        patch, ratio, seed: for strategies, see :func:`strategy_mask`.
        indices, total: for folders, see :func:`folder_mask`; by default the frames are the whole input.

    Returns:
        bool (T, H, W), True = hidden, with hidden and visible pixels.

    Raises:
        ValueError, FileNotFoundError: as the functions above; a mask that hides nothing or everything.
    """
    path = Path(given)
    if given in STRATEGIES:
        return strategy_mask(given, ratio, shape, patch, seed)
    if path.is_dir():
        indices = range(shape[0]) if indices is None else indices
        mask = folder_mask(path, shape, indices, shape[0] if total is None else total)
    elif path.exists():
        mask = np.repeat(read_mask_picture(path, *shape[1:])[None], shape[0], axis=0)
    elif given.count(",") == 3:
        mask = box_mask(given, shape)
    else:
        raise FileNotFoundError(
            f"mask {given!r}: expected a strategy ({', '.join(STRATEGIES)}), a mask picture, a folder of mask pictures "
            "or a box x0,y0,x1,y1; there is no file or folder of that name"
        )
    if not mask.any() or mask.all():
        what = "no pixel: hidden pixels are those that are not black" if not mask.any() else "every pixel"
        raise ValueError(f"mask {given} hides {what}")
    return mask
