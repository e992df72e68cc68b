"""What a tokenizer keeps of pictures: some frames through it, and the variance that its components explain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffmae_video.visualize.curves import Panel, line_plot
from diffmae_video.visualize.layout import BACKGROUND
from diffmae_video.visualize.panels import contact_sheet


def tokenizer_picture(
    frames: np.ndarray,
    restored: np.ndarray,
    title: str,
    explained: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """Two rows of frames, as they are and through the tokenizer; below, where it is known, explained variance.

    Args:
        frames, restored: uint8 (K, H, W, 3), one column each.
        title: of the second row.
        explained: (P,) share of the variance that the first 1, 2, ... P components have, in [0, 1].

    Returns:
        uint8 (H', W', 3).

    Raises:
        ImportError: the curve needs matplotlib, which is not installed.
        ValueError: frames of different shapes.
    """
    sheet = contact_sheet([frames, restored], ["original", title])
    if explained is None:
        return sheet
    components = np.arange(1, len(explained) + 1)
    panel = Panel(
        {"explained": (components, np.asarray(explained, np.float64))},
        title="variance of patches",
        x_label="principal components",
        y_label="share explained",
        log_x=True,
        y_range=(0.0, 1.02),
    )
    return _stack(sheet, line_plot(panel))


def _stack(*pictures: np.ndarray) -> np.ndarray:
    """One above the other, on the background of sheets."""
    width = max(picture.shape[1] for picture in pictures)
    page = np.full((sum(len(picture) for picture in pictures), width, 3), BACKGROUND, np.uint8)
    top = 0
    for picture in pictures:
        page[top : top + len(picture), : picture.shape[1]] = picture
        top += len(picture)
    return page
