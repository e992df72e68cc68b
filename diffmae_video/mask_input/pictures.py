"""Mask pictures: which of their pixels are hidden.

Every pixel that is not black is hidden: white, grey edges, any colour, or any index but 0 where the picture has a
palette (DAVIS and other segmentations). JPEG and WebP blur edges and animations mix colours, so there the limit is
half of white. A fully transparent pixel is visible. Where objects are chosen, exactly the pixels that have their
palette index or grey value are hidden.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
HALF_OF_WHITE = 128
BLURRED = frozenset({"JPEG", "MPO", "WEBP"})
ONE_CHANNEL = frozenset({"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
ASPECT_TOLERANCE = 0.02  # sizes that are rounded from one picture differ by a pixel or two
LISTED = 20  # numbers that an error names


def read_mask_picture(path: str | Path, height: int, width: int, objects: Collection[int] | None = None) -> np.ndarray:
    """One picture as bool (height, width), True = hidden; see the top of this file for which pixels are.

    Args:
        path: the picture, turned as its EXIF tag says.
        height, width: size of the video. A picture of another size is scaled, see :func:`scaled_mask`.
        objects: hide only the pixels with these palette indices or grey values; None = all that is not black.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a picture, or several; another width / height; an object that the picture does not have.
    """
    hidden, present = read_single(path, height, width, objects)
    check_objects(objects, present, f"mask {path}")
    return hidden


def read_single(
    path: str | Path, height: int, width: int, objects: Collection[int] | None = None
) -> tuple[np.ndarray, set[int]]:
    """The only picture of a file, see :func:`read_pages`; raises ValueError if it holds several."""
    count = count_pages(path)
    if count > 1:
        raise ValueError(f"mask {path} holds {count} pictures: expected one; save them as one file per frame")
    return next(read_pages(path, [0], height, width, objects))


def count_pages(path: str | Path) -> int:
    """Pictures in a file: the frames of an animation, the pages of a TIFF, else 1.

    Raises:
        FileNotFoundError, ValueError: no such file, not a picture.
    """
    with _readable(path), Image.open(path) as file:
        # the second picture of a photograph (MPO) is a preview or depth
        return 1 if file.format == "MPO" else getattr(file, "n_frames", 1)


def read_pages(
    path: str | Path, numbers: Sequence[int], height: int, width: int, objects: Collection[int] | None = None
) -> Iterator[tuple[np.ndarray, set[int]]]:
    """The pictures ``numbers`` (increasing) of one file: hidden, bool (height, width), and the indices it has.

    The indices are collected only where ``objects`` are chosen; one that is missing here may be in the next picture,
    so that is left to :func:`check_objects`.

    Raises:
        FileNotFoundError, ValueError: as ``read_mask_picture``.
    """
    count = count_pages(path)
    with _readable(path):
        file = Image.open(path)
    with file:
        moving = count > 1 and file.format != "TIFF"
        exact = not moving and file.format not in BLURRED
        for number in numbers:
            with _readable(path):
                file.seek(number)
                image = ImageOps.exif_transpose(file)
            if objects is None:
                hidden, present = _not_black(image.convert("RGBA") if moving else image, exact), set()
            elif exact:
                indices = _indices(image, path)
                hidden, present = np.isin(indices, list(objects)), set(np.unique(indices).tolist())
            else:
                raise ValueError(
                    f"mask {path}: {file.format} does not keep the numbers of objects; choose objects in palette or "
                    "grey pictures (PNG, BMP, TIFF)"
                )
            yield scaled_mask(hidden, height, width, f"mask {path}"), present


def check_objects(objects: Collection[int] | None, present: set[int], what: str) -> None:
    """Raises ValueError for an object that ``what`` does not have; names those that it has."""
    missing = sorted(set(objects or ()) - present)
    if missing:
        found = sorted(present)
        listed = ", ".join(map(str, found[:LISTED])) + (f" and {len(found) - LISTED} more" * (len(found) > LISTED))
        raise ValueError(
            f"{what} has no object {', '.join(map(str, missing))}: the palette indices or grey values there are "
            f"{listed} (0 is the background)"
        )


def scaled_mask(hidden: np.ndarray, height: int, width: int, what: str) -> np.ndarray:
    """A mask bool (H, W) at the size of the video, bool (height, width).

    Enlarged, every pixel becomes a rectangle. Shrunk, a pixel is hidden if any of those that it is made of is: a thin
    line does not vanish.

    Raises:
        ValueError: width / height differs by more than rounding does.
    """
    if hidden.shape == (height, width):
        return hidden
    found = hidden.shape[1] / hidden.shape[0]
    if abs(found / (width / height) - 1) > ASPECT_TOLERANCE:
        raise ValueError(
            f"{what} is {hidden.shape[1]}x{hidden.shape[0]} and the input is {width}x{height}: a mask of another "
            "size is scaled only if its width / height is the same; make the mask for this input"
        )
    # Each target pixel averages the source pixels whose centres lie in it, and takes the nearest where there are none.
    share = Image.fromarray(hidden.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    return np.asarray(share) > 0


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """What Pillow raises, in words."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"mask {path}: there is no such file or folder") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"mask {path} cannot be read as a picture: {error}") from error


def _not_black(image: Image.Image, exact: bool) -> np.ndarray:
    hidden = _brightness(image) > 0 if exact else _brightness(image) >= HALF_OF_WHITE
    if image.has_transparency_data:
        hidden &= np.asarray(image.convert("RGBA"))[..., 3] > 0
    return hidden


def _brightness(image: Image.Image) -> np.ndarray:
    """(H, W), 0 = black: the grey value, the largest of the colours, or the index in a palette."""
    if image.mode == "P":
        return _palette_brightness(image)
    if image.mode in ONE_CHANNEL:
        return np.asarray(image)
    return np.asarray(image.convert("RGB")).max(axis=-1)


def _palette_brightness(image: Image.Image) -> np.ndarray:
    """The indices of a segmentation, whose background is index 0 whatever its colours are.

    A painting that was reduced to a palette has black anywhere in it. So if index 0 is not black, and another colour
    that the picture uses is, the colours count.
    """
    indices = np.asarray(image)
    colours = np.zeros((256, 3), np.uint8)
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colours[: len(palette)] = palette
    brightness = colours.max(axis=1)
    if brightness[0] > 0 and (brightness[np.unique(indices)] == 0).any():
        return brightness[indices]
    return indices


def _indices(image: Image.Image, path: str | Path) -> np.ndarray:
    """(H, W) palette indices or grey values."""
    if image.mode == "P" or image.mode in ONE_CHANNEL:
        return np.asarray(image).astype(np.int64)
    colours = np.asarray(image.convert("RGB"))
    if (colours != colours[..., :1]).any():
        raise ValueError(
            f"mask {path} has colours instead of numbers: objects can be chosen in pictures with a palette, as DAVIS "
            "has them, or in grey ones"
        )
    return colours[..., 0].astype(np.int64)
