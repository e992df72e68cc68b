"""What a visitor of the page chooses or paints as a mask -> bool pixels, by the words that --mask takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from page_input import Clip, Refused

from diffmae_video.data.writing import write_image
from diffmae_video.mask_input import REGIONS, patch_in_pixels, read_mask
from diffmae_video.models.masks import STRATEGIES

BOX, MOVING_BOX, FRAMES, PAINTED = "box", "moving box", "frames", "painted"
TITLES = {
    "tube": "patches, the same in all frames (tube)",
    "random": "patches, at random",
    "frame": "slots of time, at random",
    "block": "a block of patches",
    "center": "the centre",
    PAINTED: "what I paint on the first frame",
    BOX: "a box",
    MOVING_BOX: "a box that moves",
    FRAMES: "whole frames",
}
KINDS = (*STRATEGIES, PAINTED, BOX, MOVING_BOX, *REGIONS, FRAMES)

# What is typed is looked up as a file, too, where it is no word: neither of the two can be a path.
FRAME_LIST = re.compile(r"[\d\s,-]+")
KEYFRAMES = re.compile(r"(\s*\d+:[\d.,]+)+\s*")


@dataclass(frozen=True)
class MaskChoice:
    """The controls of the page; only those of ``kind`` count.

    Attributes:
        kind: one of ``KINDS``.
        ratio: share of the patches that a strategy hides.
        box: left, top, right, bottom as shares of width and height.
        keyframes: of a moving box, "0:0.1,0.3,0.4,0.6 15:0.6,0.3,0.9,0.6".
        frames: "8-15" or "3,5,9-12".
        painted: what Gradio's editor gives: "layers", uint8 (H, W, 4) each, transparent where nothing was painted.
        grow: pixels around it that are hidden, too.
    """

    kind: str
    ratio: float = 0.5
    box: tuple[float, float, float, float] = (0.25, 0.25, 0.75, 0.75)
    keyframes: str = ""
    frames: str = ""
    painted: Mapping | None = None
    grow: int = 0


def title_of(kind: str) -> str:
    """What the page calls a kind of mask."""
    return TITLES.get(kind, kind.replace("-", " "))


def build_mask(
    choice: MaskChoice, clip: Clip, model: torch.nn.Module, fit: str, seed: int, folder: str | Path
) -> np.ndarray:
    """The mask of a clip.

    Args:
        choice: see :class:`MaskChoice`.
        clip: what is to be masked.
        model: whose patches strategies follow.
        fit: ``"resize"`` or ``"native"``, see ``inpaint_video``.
        seed: of random masks.
        folder: for the painted picture.

    Returns:
        bool (T, H, W), True = hidden.

    Raises:
        Refused: nothing is hidden or everything is, or a box or list that does not fit the clip.
    """
    shape = clip.frames.shape[:3]
    words = _words(choice, Path(folder))
    try:
        patch = patch_in_pixels(shape, model.clip_shape[1:], model.patch_size, fit)
        return read_mask(words, shape, patch, choice.ratio, seed, grow=choice.grow)
    except ValueError as error:
        raise Refused(str(error).replace(words, "as painted") if choice.kind == PAINTED else str(error)) from error


def _words(choice: MaskChoice, folder: Path) -> str:
    """What --mask takes for it."""
    if choice.kind not in KINDS:
        raise Refused(f"there is no mask {choice.kind!r}: choose one of {', '.join(KINDS)}")
    if choice.kind == BOX:
        left, top, right, bottom = choice.box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise Refused("the box is empty: its left must be before its right, its top above its bottom")
        return ",".join(f"{side:.6f}" for side in choice.box)
    if choice.kind == MOVING_BOX:
        if not KEYFRAMES.fullmatch(choice.keyframes):
            raise Refused("moving box: expected frame:left,top,right,bottom, e.g. 0:0.1,0.3,0.4,0.6 7:0.6,0.3,0.9,0.6")
        return choice.keyframes.strip()
    if choice.kind == FRAMES:
        if not FRAME_LIST.fullmatch(choice.frames):
            raise Refused("whole frames: expected their numbers, such as 8-15 or 3,5,9-12")
        return f"frames:{choice.frames}"
    if choice.kind == PAINTED:
        return str(_painted_picture(choice.painted, folder / "painted.png"))
    return choice.kind


def _painted_picture(painted: Mapping | None, path: Path) -> Path:
    layers = [layer for layer in (painted or {}).get("layers") or () if layer is not None]
    hidden = np.any([layer[..., 3] > 0 for layer in layers], axis=0) if layers else np.zeros(0, bool)
    if not hidden.any():
        raise Refused("nothing is painted yet: paint on the first frame what is to be filled in")
    return write_image(path, np.where(hidden, np.uint8(255), np.uint8(0)))
