"""Videos beside each other, and frames of several videos on one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffmae_video.visualize.layout import (
    GAP,
    HIDDEN_GREY,
    check_one_shape,
    empty_page,
    evenly_spaced,
    line_height,
    resize,
    text_width,
    upscale,
    write,
)


def masked_frames(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``frames`` (T, H, W, 3) with the pixels where ``mask`` (T, H, W) is True shown in mid grey."""
    return np.where(mask[..., None], np.uint8(HIDDEN_GREY), frames)


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
    check_one_shape(list(videos.values()), "videos")
    panels = [upscale(video, minimum) for video in videos.values()]
    room = (max_width - GAP * (len(panels) + 1)) // len(panels)
    if panels[0].shape[2] > room:
        height = max(round(panels[0].shape[1] * room / panels[0].shape[2]), 1)
        panels = [resize(panel, height, room) for panel in panels]
    count, height, width, _ = panels[0].shape
    bar = line_height() + GAP
    page = empty_page(bar + height + GAP, GAP + len(panels) * (width + GAP))
    for place, title in enumerate(videos):
        write(page, title, GAP + place * (width + GAP), GAP // 2, width)
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
    check_one_shape(list(rows), "rows")
    cells = [upscale(row, minimum) for row in rows]
    columns, height, width, _ = cells[0].shape
    for name, texts, count in (("titles", titles, len(cells)), ("captions", captions, columns)):
        if texts is not None and len(texts) != count:
            raise ValueError(f"expected {count} {name}, got {len(texts)}")
    left = GAP + (max(text_width(title) for title in titles) + GAP if titles else 0)
    top = GAP + (line_height() if captions else 0)
    sheet = empty_page(top + len(cells) * (height + GAP), left + columns * (width + GAP))
    for column, caption in enumerate(captions or []):
        write(sheet, caption, left + column * (width + GAP), GAP // 2, width)
    for row, cell in enumerate(cells):
        y = top + row * (height + GAP)
        if titles:
            write(sheet, titles[row], GAP, y, left - GAP)
        for column in range(columns):
            x = left + column * (width + GAP)
            sheet[y : y + height, x : x + width] = cell[column]
    return sheet


def frame_sheet(
    videos: Mapping[str, np.ndarray], columns: int = 6, numbers: Sequence[int] | None = None, minimum: int = 128
) -> np.ndarray:
    """A :func:`contact_sheet` of a few frames of whole videos, with their numbers above.

    Args:
        videos: title -> uint8 (T, H, W, 3), all of one shape.
        columns: frames that are shown at most, evenly spaced.
        numbers: of the T frames in the file that they are from; None = 0, 1, ...
        minimum: frames smaller than this many pixels are enlarged.

    Returns:
        uint8 (H', W', 3).

    Raises:
        ValueError: no video, shapes that differ, or not T numbers.
    """
    check_one_shape(list(videos.values()), "videos")
    count = len(next(iter(videos.values())))
    numbers = range(count) if numbers is None else numbers
    if len(numbers) != count:
        raise ValueError(f"expected the numbers of {count} frames, got {len(numbers)}")
    shown = evenly_spaced(count, columns)
    captions = [f"frame {numbers[i]}" for i in shown]
    return contact_sheet([video[shown] for video in videos.values()], list(videos), captions, minimum)
