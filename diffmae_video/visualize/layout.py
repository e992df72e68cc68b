"""The parts that pictures are put together from: a page, text on it, colours, frames of another size."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HIDDEN_GREY = 128
BACKGROUND = (24, 24, 24)
TEXT = (235, 235, 235)
FONT_SIZE = 15
GAP = 6  # pixels between panels
HEAT = ((24, 24, 40), (62, 53, 139), (168, 50, 125), (240, 118, 66), (252, 240, 190))  # dark to bright in even steps
HEAT_BAR = 160  # pixels


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most ``most`` increasing indices spread over ``range(count)``, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def upscale(frames: np.ndarray, minimum: int = 256) -> np.ndarray:
    """Frames (T, H, W, 3) enlarged (bicubic) by a whole factor, until the shorter side is ``minimum`` or nearly so."""
    factor = math.ceil(minimum / min(frames.shape[1:3]) - 0.25)
    return frames if factor <= 1 else resize(frames, frames.shape[1] * factor, frames.shape[2] * factor)


def resize(frames: np.ndarray, height: int, width: int, smooth: bool = True) -> np.ndarray:
    """Frames uint8 (T, H, W, 3) of another size, bicubic; ``smooth=False``: nearest pixel, so that edges stay hard."""
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), how)) for frame in frames])


def empty_page(height: int, width: int) -> np.ndarray:
    """An empty dark picture; sides rounded up to even numbers, which H.264 needs."""
    return np.full((height + height % 2, width + width % 2, 3), BACKGROUND, np.uint8)


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_SIZE)


def line_height() -> int:
    return FONT_SIZE + 5


def text_width(text: str) -> int:
    return max(math.ceil(font().getlength(line)) for line in text.split("\n"))


def write(page: np.ndarray, text: str, left: int, top: int, width: int) -> None:
    """Write ``text`` onto ``page`` in place, cut off at ``width`` pixels."""
    height = min(line_height() * (text.count("\n") + 1), len(page) - top)
    picture = Image.new("RGB", (width, height), BACKGROUND)
    ImageDraw.Draw(picture).multiline_text((0, 0), text, fill=TEXT, font=font())
    page[top : top + height, left : left + width] = np.asarray(picture)


def label(text: str, width: int, height: int, right: bool = False) -> np.ndarray:
    """One line of text on background, uint8 (height, width, 3); what is too long ends in an ellipsis."""
    if text_width(text) > width:
        while text and text_width(text + "…") > width:
            text = text[:-1]
        text += "…"
    page = np.full((height, width, 3), BACKGROUND, np.uint8)
    room = text_width(text)
    write(page, text, max(width - room, 0) if right else 0, 0, min(room, width))
    return page


def heat(values: np.ndarray) -> np.ndarray:
    """Values (...) in [0, 1] -> colours uint8 (..., 3), from dark to bright."""
    stops = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(values, stops, channel) for channel in zip(*HEAT, strict=True)]
    return np.stack(channels, -1).astype(np.uint8)


def check_one_shape(videos: list[np.ndarray], what: str) -> None:
    """Raises ValueError unless there is a video and all have one shape; ``what`` they are called."""
    shapes = {np.shape(video) for video in videos}
    if len(shapes) != 1:
        raise ValueError(f"expected {what} (T, H, W, 3) of one shape, got {sorted(shapes)}")
