"""Masks that words and numbers describe: halves, boxes that stand or move, whole frames.

Frames are counted from 0 in those that are taken: frame 0 is the first of them, wherever it is in the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

Shape = tuple[int, int, int]


def _right_half(mask: np.ndarray) -> None:
    width = mask.shape[2]
    mask[:, :, width - width // 2 :] = True  # the middle column of an odd width stays visible, on either side


def _left_half(mask: np.ndarray) -> None:
    mask[:, :, : mask.shape[2] // 2] = True


def _top_half(mask: np.ndarray) -> None:
    mask[:, : mask.shape[1] // 2] = True


def _bottom_half(mask: np.ndarray) -> None:
    height = mask.shape[1]
    mask[:, height - height // 2 :] = True


def _every_second_frame(mask: np.ndarray) -> None:
    mask[1::2] = True


# To add a region: a function that sets the hidden pixels of an empty mask (T, H, W), and its name here.
REGIONS: dict[str, Callable[[np.ndarray], None]] = {
    "right-half": _right_half,
    "left-half": _left_half,
    "top-half": _top_half,
    "bottom-half": _bottom_half,
    "every-second-frame": _every_second_frame,  # 1, 3, 5, ...: the first frame is visible
}


def region_mask(name: str, shape: Shape) -> np.ndarray:
    """One of ``REGIONS``: exact pixels, whatever the patches of the model.

    Raises:
        ValueError: unknown name, or a video too small to hide a part of (one frame has no second one).
    """
    if name not in REGIONS:
        raise ValueError(f"unknown region {name!r}: choose one of {', '.join(REGIONS)}")
    mask = np.zeros(shape, dtype=bool)
    REGIONS[name](mask)
    if not mask.any():
        frames, height, width = shape
        raise ValueError(
            f"mask {name} hides nothing of {frames} frame(s) of {width}x{height}: there is no second half or frame; "
            "take more frames or another mask"
        )
    return mask


def frames_mask(given: str, shape: Shape) -> np.ndarray:
    """Whole frames: "frames:8-15" (both included), "frames:3", "frames:3,5,9-12".

    Raises:
        ValueError: no such list, a frame that there is not, or no frame left visible.
    """
    count = shape[0]
    mask = np.zeros(shape, dtype=bool)
    for part in given.removeprefix("frames:").split(","):
        numbers = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if numbers is None:
            raise ValueError(
                f"mask {given!r}: expected frame numbers and ranges after frames:, such as frames:8-15 or "
                f"frames:3,5,9-12; {part!r} is neither"
            )
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if not first <= last < count:
            raise ValueError(
                f"mask {given!r}: {part.strip()!r} is outside 0 to {count - 1} or runs backwards; frames are counted "
                f"from 0 in the {count} that are taken"
            )
        mask[first : last + 1] = True
    if mask.all():
        raise ValueError(f"mask {given!r} hides every one of the {count} frames: leave at least one visible")
    return mask


def box_mask(box: str, shape: Shape) -> np.ndarray:
    """The rectangle "x0,y0,x1,y1" in every frame; x to the right, y down, x1 and y1 exclusive.

    Pixels, or shares of width and height where a number has a decimal point: "0.25,0.25,0.75,0.75".

    Raises:
        ValueError: not four numbers, pixels and shares mixed, an empty box or one outside the frame.
    """
    x0, y0, x1, y1 = _box_in_pixels(box, *shape[1:])
    mask = np.zeros(shape, dtype=bool)
    mask[:, y0:y1, x0:x1] = True
    return mask


def moving_box_mask(given: str, shape: Shape) -> np.ndarray:
    """A rectangle that follows keyframes "frame:box frame:box ...": "0:10,10,40,40 15:30,10,60,40".

    Between two keyframes each side moves evenly, to the nearest pixel. Before the first keyframe and after the last
    nothing is hidden: the object is not there yet, or gone. A single keyframe is a box that stands in every frame.

    Args:
        given: keyframes in the order of time; boxes as for :func:`box_mask`.
        shape: (T, H, W).

    Raises:
        ValueError: what is no keyframe, frames out of order or that there are not, and what ``box_mask`` raises.
    """
    frames, boxes = [], []
    for keyframe in given.split():
        frame, _, box = keyframe.partition(":")
        if not frame.isdecimal():
            raise ValueError(
                f"mask {given!r}: expected keyframes frame:x0,y0,x1,y1 with a space between them, such as "
                f'"0:10,10,40,40 15:30,10,60,40"; {keyframe!r} is none'
            )
        if int(frame) >= shape[0]:
            raise ValueError(
                f"mask {given!r}: keyframe {frame} is outside 0 to {shape[0] - 1}; frames are counted from 0 in the "
                f"{shape[0]} that are taken"
            )
        frames.append(int(frame))
        boxes.append(_box_in_pixels(box, *shape[1:]))
    if any(a >= b for a, b in zip(frames, frames[1:], strict=False)):
        raise ValueError(f"mask {given!r}: the keyframes are not in the order of time, each at a frame of its own")
    if len(frames) == 1:
        frames, boxes = [0, shape[0]], boxes * 2
    mask = np.zeros(shape, dtype=bool)
    moments = np.arange(frames[0], min(frames[-1] + 1, shape[0]))
    # Half a pixel goes up on every side, so that a box that only moves keeps its size; round() would go to even ones.
    sides = [np.floor(np.interp(moments, frames, side) + 0.5).astype(int) for side in zip(*boxes, strict=True)]
    for frame, x0, y0, x1, y1 in zip(moments, *sides, strict=True):
        mask[frame, y0:y1, x0:x1] = True
    return mask


def _box_in_pixels(box: str, height: int, width: int) -> tuple[int, int, int, int]:
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
    return x0, y0, x1, y1
