"""Which classes a classifier takes for which, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from diffmae_video.visualize.layout import (
    BACKGROUND,
    GAP,
    HEAT_BAR,
    TEXT,
    empty_page,
    font,
    heat,
    label,
    line_height,
    text_width,
    write,
)

NAMED_CLASSES = 40  # more names than this would fill a wall
COUNTED_CLASSES = 20  # up to so many, the counts are written into the cells
LONGEST_NAME = 260  # pixels
AXES = "rows: class of the video; columns: taken for"


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
    margin = min(max(map(text_width, class_names)), LONGEST_NAME) + GAP if named else 0
    left = GAP + margin
    top = 2 * GAP + 2 * line_height() + margin
    page = empty_page(
        top + classes * cell + GAP, max(left + classes * cell, HEAT_BAR + 120, text_width(AXES) + GAP) + GAP
    )
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cells = heat(np.sqrt(shares)).repeat(cell, axis=0).repeat(cell, axis=1)
    if named:
        cells[::cell], cells[:, ::cell] = BACKGROUND, BACKGROUND  # a line between cells
    page[top : top + len(cells), left : left + len(cells)] = cells
    _write_axes(page, top, left, cell, class_names if named else (), margin)
    if classes <= COUNTED_CLASSES:
        _write_counts(page, counts, shares, top, left, cell)
    return page


def _write_axes(page: np.ndarray, top: int, left: int, cell: int, names: Sequence[str], margin: int) -> None:
    """What rows and columns are, the scale of colours, and the names of the classes."""
    line = line_height()
    write(page, AXES, GAP, GAP, text_width(AXES))
    start = 2 * GAP + text_width("0 %")
    page[GAP + line + 3 : GAP + 2 * line - 3, start : start + HEAT_BAR] = heat(np.linspace(0, 1, HEAT_BAR))
    for text, place in (("0 %", GAP), ("100 %", start + HEAT_BAR + GAP)):
        write(page, text, place, GAP + line, text_width(text))
    middle = label("25 %", text_width("25 %"), line)
    place = start + (HEAT_BAR - middle.shape[1]) // 2
    bar = page[GAP + line : GAP + 2 * line, place : place + middle.shape[1]]
    np.maximum(bar, np.where(middle > BACKGROUND, middle, 0), out=bar)
    for number, name in enumerate(names):
        start = number * cell + (cell - line) // 2
        row = label(name, margin - GAP, line, right=True)
        page[top + start : top + start + line, left - margin : left - GAP] = row
        column = np.rot90(label(name, margin - GAP, line))
        page[top - margin : top - GAP, left + start : left + start + line] = column


def _write_counts(page: np.ndarray, counts: np.ndarray, shares: np.ndarray, top: int, left: int, cell: int) -> None:
    picture = Image.fromarray(page)
    draw = ImageDraw.Draw(picture)
    for row, column in np.argwhere(counts):
        centre = (left + column * cell + cell // 2, top + row * cell + cell // 2)
        colour = BACKGROUND if shares[row, column] > 0.4 else TEXT
        draw.text(centre, str(counts[row, column]), fill=colour, font=font(), anchor="mm")
    page[:] = np.asarray(picture)
