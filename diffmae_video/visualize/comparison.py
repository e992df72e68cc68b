"""Results for one mask on one picture: of several models, or of several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffmae_video.visualize.layout import (
    GAP,
    HEAT_BAR,
    empty_page,
    heat,
    line_height,
    text_width,
    write,
)
from diffmae_video.visualize.panels import frame_sheet, masked_frames


def comparison_sheet(
    frames: np.ndarray,
    mask: np.ndarray,
    results: Mapping[str, np.ndarray],
    columns: int = 6,
    numbers: Sequence[int] | None = None,
    minimum: int = 128,
) -> np.ndarray:
    """Masked input, what each model made of it, original: a row each, one frame a column.

    Args:
        frames: uint8 (T, H, W, 3).
        mask: bool (T, H, W), True = hidden: grey in the first row.
        results: title, such as "MAE" or "DiffMAE, seed 1", -> frames like ``frames``; line breaks are kept.
        columns: frames that are shown at most, evenly spaced.
        numbers: of the frames in their video, for the captions; None = 0, 1, ...
        minimum: frames smaller than this many pixels are enlarged.

    Returns:
        uint8 (H', W', 3).

    Raises:
        ValueError: no result, or shapes that differ.
    """
    if not results:
        raise ValueError("expected at least one result to show beside the original")
    rows = {"masked input": masked_frames(frames, mask), **results, "original": frames}
    return frame_sheet(rows, columns, numbers, minimum)


def seed_grid(
    results: Mapping[int, np.ndarray],
    frames: np.ndarray,
    mask: np.ndarray,
    columns: int = 6,
    numbers: Sequence[int] | None = None,
    minimum: int = 128,
) -> np.ndarray:
    """Several samples for one mask, and where they differ: masked input, a row per seed, standard deviation, original.

    Args:
        results: seed -> uint8 (T, H, W, 3); at least two.
        frames, mask, columns, numbers, minimum: as in :func:`comparison_sheet`.

    Returns:
        uint8 (H', W', 3), below the rows the scale of the standard deviation.

    Raises:
        ValueError: fewer than two seeds, or shapes that differ.
    """
    deviation = pixel_deviation(list(results.values()))
    highest = float(deviation.max())
    rows = {
        "masked input": masked_frames(frames, mask),
        **{f"seed {seed}": result for seed, result in results.items()},
        "standard\ndeviation": deviation_frames(deviation),
        "original": frames,
    }
    sheet = frame_sheet(rows, columns, numbers, minimum)
    return np.concatenate([sheet, _scale(sheet.shape[1], f"standard deviation over {len(results)} seeds", highest)])


def pixel_deviation(results: Sequence[np.ndarray]) -> np.ndarray:
    """How much K samples differ, pixel by pixel: float64 (T, H, W), in grey levels, 0 to 127.5.

    The square root of the variance over samples (divided by K), averaged over red, green and blue.

    Raises:
        ValueError: fewer than two samples, or shapes that differ.
    """
    shapes = {np.shape(result) for result in results}
    if len(results) < 2 or len(shapes) != 1:
        raise ValueError(f"expected the frames of two or more seeds, of one shape; got {len(results)}: {shapes}")
    mean = sum(result.astype(np.float64) for result in results) / len(results)
    variance = sum(np.square(result - mean) for result in results) / len(results)
    return np.sqrt(variance.mean(axis=-1))


def deviation_frames(deviation: np.ndarray) -> np.ndarray:
    """Deviations (T, H, W) as a heat map, uint8 (T, H, W, 3): dark = 0, brightest = the largest of the video."""
    return heat(deviation / max(float(deviation.max()), 1e-9))


def _scale(width: int, title: str, highest: float) -> np.ndarray:
    """A line that says which colour is which deviation, uint8 (H, ``width``, 3)."""
    line = line_height()
    before, after = f"{title}: 0", f"{highest:.0f} of 255"
    start = GAP + text_width(before) + GAP
    needed = start + HEAT_BAR + GAP + text_width(after) + GAP
    page = empty_page(line + GAP, max(width, needed))
    write(page, before, GAP, 0, text_width(before))
    page[3 : line - 3, start : start + HEAT_BAR] = heat(np.linspace(0, 1, HEAT_BAR))
    write(page, after, start + HEAT_BAR + GAP, 0, text_width(after))
    return page[:, :width]
