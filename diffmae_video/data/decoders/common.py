"""What all decoders share: the error, the description of a video, and the size to which frames are scaled."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class UnreadableVideo(RuntimeError):
    """A file that exists but does not give the frames asked for.

    Attributes:
        path: the file.
        reason: what is wrong with it, one line.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = os.fspath(path)
        self.reason = " ".join(str(reason).split())
        super().__init__(f"{self.path}: {self.reason}")

    def __reduce__(self):  # noqa: ANN204 - needed because RuntimeError would be rebuilt from its one-line message
        return type(self), (self.path, self.reason)


class VideoInfo(NamedTuple):
    """A video as it is shown (display rotation applied)."""

    frames: int
    fps: float  # average, frames per second; 1.0 for an image
    width: int  # pixels
    height: int  # pixels
    duration: float  # seconds


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """(width, height) after scaling the shorter side down to ``short_side``; never upward; None or 0 = unchanged.

    The shorter side becomes exactly ``short_side``; the longer one keeps the aspect ratio, rounded to the nearest
    even number (but not below ``short_side``).
    """
    shorter, longer = min(width, height), max(width, height)
    if not short_side or shorter <= short_side:
        return width, height
    scaled = max(short_side, 2 * round(longer * short_side / shorter / 2))
    return (short_side, scaled) if width <= height else (scaled, short_side)


def natural_key(name: str) -> tuple[int | str, ...]:
    """Sorts img_2 before img_10: digits by their value, everything else as text."""
    parts = re.split(r"([0-9]+)", name)  # text and digits take turns
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts))
