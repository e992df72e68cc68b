"""Pictures for people: masked frames, panels side by side, contact sheets.

Everything takes and returns uint8 RGB arrays; ``diffmae_video.data.writing`` puts them into files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HIDDEN_GREY = 128
BACKGROUND = (24, 24, 24)
TEXT = (235, 235, 235)
FONT_SIZE = 15
GAP = 6  # pixels between panels


def masked_frames(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``frames`` (T, H, W, 3) with the pixels where ``mask`` (T, H, W) is True shown in mid grey."""
    return np.where(mask[..., None], np.uint8(HIDDEN_GREY), frames)


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most ``most`` increasing indices spread over ``range(count)``, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def upscale(frames: np.ndarray, minimum: int = 256) -> np.ndarray:
    """Frames (T, H, W, 3) enlarged (bicubic) by a whole factor, until the shorter side is ``minimum`` or nearly so."""
    factor = math.ceil(minimum / min(frames.shape[1:3]) - 0.25)
    return frames if factor <= 1 else _resize(frames, frames.shape[1] * factor, frames.shape[2] * factor)


def side_by_side(videos: Mapping[str, np.ndarray], minimum: int = 256, max_width: int = 3840) -> np.ndarray:
    """Panels in one row, each under its title.

    Args:
        videos: title -> uint8 (T, H, W, 3), all of one shape. Titles wider than their panel are cut.
        minimum: panels smaller than this many pixels are enlarged, see :func:`upscale`.
        max_width: panels are shrunk evenly if the row would be wider (browsers decode no wider H.264 smoothly).

    Returns:
        uint8 (T, H', W', 3), H' and W' even.

    Raises:
        ValueError: no video, or shapes that differ.
    """
    shapes = {np.shape(video) for video in videos.values()}
    if len(shapes) != 1:
        raise ValueError(f"expected videos (T, H, W, 3) of one shape, got {sorted(shapes)}")
    panels = [upscale(video, minimum) for video in videos.values()]
    room = (max_width - GAP * (len(panels) + 1)) // len(panels)
    if panels[0].shape[2] > room:
        height = max(round(panels[0].shape[1] * room / panels[0].shape[2]), 1)
        panels = [_resize(panel, height, room) for panel in panels]
    count, height, width, _ = panels[0].shape
    bar = _line_height() + GAP
    page = _page(bar + height + GAP, GAP + len(panels) * (width + GAP))
    for place, title in enumerate(videos):
        _write(page, title, GAP + place * (width + GAP), GAP // 2, width)
    result = np.repeat(page[None], count, axis=0)
    for place, panel in enumerate(panels):
        left = GAP + place * (width + GAP)
        result[:, bar : bar + height, left : left + width] = panel
    return result


def contact_sheet(
    rows: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    minimum: int = 128,
) -> np.ndarray:
    """Frames of several videos on one picture: one video a row, one frame a column.

    Args:
        rows: uint8 (T, H, W, 3) each, all of one shape; choose few frames (:func:`evenly_spaced`).
        titles: one per row, written left of it; line breaks are kept.
        captions: one per column, written above it.
        minimum: frames smaller than this many pixels are enlarged, see :func:`upscale`.

    Returns:
        uint8 (H', W', 3).

    Raises:
        ValueError: no row, shapes that differ, or not as many titles / captions as rows / columns.
    """
    shapes = {np.shape(row) for row in rows}
    if len(shapes) != 1:
        raise ValueError(f"expected rows (T, H, W, 3) of one shape, got {sorted(shapes)}")
    cells = [upscale(row, minimum) for row in rows]
    columns, height, width, _ = cells[0].shape
    for name, texts, count in (("titles", titles, len(cells)), ("captions", captions, columns)):
        if texts is not None and len(texts) != count:
            raise ValueError(f"expected {count} {name}, got {len(texts)}")
    left = GAP + (max(_text_width(title) for title in titles) + GAP if titles else 0)
    top = GAP + (_line_height() if captions else 0)
    sheet = _page(top + len(cells) * (height + GAP), left + columns * (width + GAP))
    for column, caption in enumerate(captions or []):
        _write(sheet, caption, left + column * (width + GAP), GAP // 2, width)
    for row, cell in enumerate(cells):
        y = top + row * (height + GAP)
        if titles:
            _write(sheet, titles[row], GAP, y, left - GAP)
        for column in range(columns):
            x = left + column * (width + GAP)
            sheet[y : y + height, x : x + width] = cell[column]
    return sheet


def _resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)) for frame in frames]
    )


def _page(height: int, width: int) -> np.ndarray:
    """An empty dark picture; sides rounded up to even numbers, which H.264 needs."""
    return np.full((height + height % 2, width + width % 2, 3), BACKGROUND, np.uint8)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_SIZE)


def _line_height() -> int:
    return FONT_SIZE + 5


def _text_width(text: str) -> int:
    return max(math.ceil(_font().getlength(line)) for line in text.split("\n"))


def _write(page: np.ndarray, text: str, left: int, top: int, width: int) -> None:
    """Write ``text`` onto ``page`` in place, cut off at ``width`` pixels."""
    height = min(_line_height() * (text.count("\n") + 1), len(page) - top)
    label = Image.new("RGB", (width, height), BACKGROUND)
    ImageDraw.Draw(label).multiline_text((0, 0), text, fill=TEXT, font=_font())
    page[top : top + height, left : left + width] = np.asarray(label)


# ---------------------------------------------------------------------------------------------------- confusion matrix

NAMED_CLASSES = 40  # more names than this would fill a wall
COUNTED_CLASSES = 20  # up to so many, the counts are written into the cells
LONGEST_NAME = 260  # pixels
AXES = "rows: class of the video; columns: taken for"
HEAT_BAR = 160  # pixels
HEAT = ((24, 24, 40), (62, 53, 139), (168, 50, 125), (240, 118, 66), (252, 240, 190))  # dark to bright in even steps


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Which classes are taken for which: the brighter a cell, the larger its share of the row's videos.

    Brightness goes with the square root of the share, so that rare confusions among hundreds of classes can be seen.

    Args:
        counts: int (K, K): how many videos of class i (row) were taken for class j (column).
        class_names: K. Up to 40 classes have their names beside rows and columns, long ones cut; up to 20 classes have
            the counts in their cells; more classes make a heat map. A class without videos is a dark row.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: counts that are not square, or not as many names.
    """
    counts = np.asarray(counts)
    classes = len(class_names)
    if counts.shape != (classes, classes) or classes == 0:
        raise ValueError(f"expected counts (K, K) and K class names, got {counts.shape} and {classes}")
    cell = 46 if classes <= COUNTED_CLASSES else 24 if classes <= NAMED_CLASSES else max(900 // classes, 2)
    named = classes <= NAMED_CLASSES
    margin = min(max(map(_text_width, class_names)), LONGEST_NAME) + GAP if named else 0
    left = GAP + margin
    top = 2 * GAP + 2 * _line_height() + margin
    page = _page(top + classes * cell + GAP, max(left + classes * cell, HEAT_BAR + 120, _text_width(AXES) + GAP) + GAP)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cells = _heat(shares).repeat(cell, axis=0).repeat(cell, axis=1)
    if named:
        cells[::cell], cells[:, ::cell] = BACKGROUND, BACKGROUND  # a line between cells
    page[top : top + len(cells), left : left + len(cells)] = cells
    _write_axes(page, top, left, cell, class_names if named else (), margin)
    if classes <= COUNTED_CLASSES:
        _write_counts(page, counts, shares, top, left, cell)
    return page


def _heat(shares: np.ndarray) -> np.ndarray:
    """Shares (...) in [0, 1] -> colours uint8 (..., 3)."""
    stops = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(np.sqrt(shares), stops, channel) for channel in zip(*HEAT, strict=True)]
    return np.stack(channels, -1).astype(np.uint8)


def _write_axes(page: np.ndarray, top: int, left: int, cell: int, names: Sequence[str], margin: int) -> None:
    """What rows and columns are, the scale of colours, and the names of the classes."""
    line = _line_height()
    _write(page, AXES, GAP, GAP, _text_width(AXES))
    start = 2 * GAP + _text_width("0 %")
    page[GAP + line + 3 : GAP + 2 * line - 3, start : start + HEAT_BAR] = _heat(np.linspace(0, 1, HEAT_BAR) ** 2)
    for text, place in (("0 %", GAP), ("100 %", start + HEAT_BAR + GAP)):
        _write(page, text, place, GAP + line, _text_width(text))
    middle = _label("25 %", _text_width("25 %"), line)
    place = start + (HEAT_BAR - middle.shape[1]) // 2
    bar = page[GAP + line : GAP + 2 * line, place : place + middle.shape[1]]
    np.maximum(bar, np.where(middle > BACKGROUND, middle, 0), out=bar)
    for number, name in enumerate(names):
        start = number * cell + (cell - line) // 2
        row = _label(name, margin - GAP, line, right=True)
        page[top + start : top + start + line, left - margin : left - GAP] = row
        column = np.rot90(_label(name, margin - GAP, line))
        page[top - margin : top - GAP, left + start : left + start + line] = column


def _write_counts(page: np.ndarray, counts: np.ndarray, shares: np.ndarray, top: int, left: int, cell: int) -> None:
    picture = Image.fromarray(page)
    draw = ImageDraw.Draw(picture)
    for row, column in np.argwhere(counts):
        centre = (left + column * cell + cell // 2, top + row * cell + cell // 2)
        colour = BACKGROUND if shares[row, column] > 0.4 else TEXT
        draw.text(centre, str(counts[row, column]), fill=colour, font=_font(), anchor="mm")
    page[:] = np.asarray(picture)


def _label(text: str, width: int, height: int, right: bool = False) -> np.ndarray:
    """One line of text on background, uint8 (height, width, 3); what is too long ends in an ellipsis."""
    if _text_width(text) > width:
        while text and _text_width(text + "…") > width:
            text = text[:-1]
        text += "…"
    page = np.full((height, width, 3), BACKGROUND, np.uint8)
    room = _text_width(text)
    _write(page, text, max(width - room, 0) if right else 0, 0, min(room, width))
    return page
