"""From what a user typed to a mask: which of the forms it is, and what holds for all of them."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from diffmae_video.data import VIDEO_EXTENSIONS
from diffmae_video.mask_input.grow import grow_mask
from diffmae_video.mask_input.pictures import PICTURES
from diffmae_video.mask_input.regions import REGIONS, box_mask, frames_mask, moving_box_mask, region_mask
from diffmae_video.mask_input.sequences import folder_mask, picture_mask, video_mask
from diffmae_video.mask_input.strategies import strategy_mask
from diffmae_video.models.masks import STRATEGIES

Shape = tuple[int, int, int]
KEYFRAMES = re.compile(r"\s*\d+:")


def read_mask(
    given: str,
    shape: Shape,
    patch: Sequence[float],
    ratio: float,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    total: int | None = None,
    objects: Collection[int] | None = None,
    invert: bool = False,
    grow: int = 0,
) -> np.ndarray:
    """The mask that ``given`` describes.

    Args:
        given: name of a strategy or region, "frames:...", a box "x0,y0,x1,y1", keyframes "frame:box frame:box", or the
            path of a picture, a folder of pictures or a video. A name goes before a file of that name ("./tube").
        shape: (T, H, W) of the frames to mask.
        patch, ratio, seed: for strategies, see :func:`strategy_mask`.
        indices, total: which frames of the input these are, and how many it has, for what holds a picture per frame:
            see :func:`folder_mask`; by default the frames are the whole input.
        objects: of pictures with several objects, hide these palette indices or grey values.
        invert: hide what would be visible, and show the rest.
        grow: then hide also what is at most so many pixels away in the same frame, see :func:`grow_mask`.

    Returns:
        bool (T, H, W), True = hidden, with hidden and visible pixels.

    Raises:
        ValueError, FileNotFoundError: as the functions of each form; objects of what has none; a mask that hides
            nothing or everything.
    """
    indices = range(shape[0]) if indices is None else indices
    total = shape[0] if total is None else total
    named = given in STRATEGIES or given in REGIONS
    if not named and os.path.exists(given):  # Path.exists would raise for keyframes that are too long for a file name
        mask = _mask_of_file(Path(given), shape, indices, total, objects)
    else:
        mask = _mask_of_words(given, shape, patch, ratio, seed)  # first: a path that is not there is to be said
        if objects is not None:
            raise ValueError(
                f"mask {given!r} has no objects to choose from: they are numbers in mask pictures with a palette or in "
                "grey"
            )
    mask = grow_mask(~mask if invert else mask, grow)
    if not mask.any() or mask.all():
        raise ValueError(_useless(given, mask.all(), invert, grow))
    return mask


def object_numbers(given: str) -> tuple[int, ...]:
    """ "1,3" -> (1, 3): the numbers of objects as typed.

    Raises:
        ValueError: something else than whole numbers and commas.
    """
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"objects {given!r}: expected their palette indices or grey values, such as 1 or 1,3")
    return tuple(int(part) for part in parts)


def _mask_of_file(
    path: Path, shape: Shape, indices: Sequence[int], total: int, objects: Collection[int] | None
) -> np.ndarray:
    if path.is_dir():
        return folder_mask(path, shape, indices, total, objects)
    suffix = path.suffix.lower()
    if suffix in PICTURES or suffix not in VIDEO_EXTENSIONS:
        return picture_mask(path, shape, indices, total, objects)
    if objects is not None:
        raise ValueError(
            f"mask {path}: a video does not keep the numbers of objects; choose objects in a folder of palette or grey "
            "pictures"
        )
    return video_mask(path, shape, indices, total)


def _mask_of_words(given: str, shape: Shape, patch: Sequence[float], ratio: float, seed: int) -> np.ndarray:
    if given in STRATEGIES:
        return strategy_mask(given, ratio, shape, patch, seed)
    if given in REGIONS:
        return region_mask(given, shape)
    if given.startswith("frames:"):
        return frames_mask(given, shape)
    if KEYFRAMES.match(given):
        return moving_box_mask(given, shape)
    if given.count(",") == 3:
        return box_mask(given, shape)
    near = difflib.get_close_matches(given, [*STRATEGIES, *REGIONS], n=1)
    raise FileNotFoundError(
        f"mask {given!r}: "
        + (f"did you mean {near[0]}? " if near else "")
        + f"expected a strategy ({', '.join(STRATEGIES)}), a region ({', '.join(REGIONS)}), frames:8-15, a box "
        'x0,y0,x1,y1, a moving box "0:x0,y0,x1,y1 15:x0,y0,x1,y1", or the path of a mask picture, a folder of mask '
        "pictures or a mask video; there is no file or folder of that name"
    )


def _useless(given: str, everything: bool, invert: bool, grow: int) -> str:
    if not everything:
        why = "all of it is hidden before it is inverted" if invert else "hidden pixels are those that are not black"
        return f"mask {given} hides no pixel: {why}"
    causes = ["inverted"] * invert + [f"grown by {grow} pixels"] * (grow > 0)
    once = f" once it is {' and '.join(causes)}" if causes else ""
    return f"mask {given} hides every pixel{once}: leave some visible to fill the rest from"
