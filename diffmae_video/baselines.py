"""What an inpainted region is measured against: PSNR, and two fills that need no network.

Frames are uint8 (T, H, W, 3) RGB; masks are bool (T, H, W), True = hidden. Neither fill reads a hidden pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def psnr(pred: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pixels, ``10 log10(255^2 / MSE)``; infinite where they are equal.

    Args:
        pred, target: uint8 of one shape (..., 3).
        mask: bool (...): only the pixels that are True count; None = all.

    Raises:
        ValueError: shapes that differ, or a mask without a True pixel.
    """
    if pred.shape != target.shape or (mask is not None and mask.shape != pred.shape[:-1]):
        raise ValueError(
            f"shapes do not agree: prediction {pred.shape}, target {target.shape}, "
            f"mask {None if mask is None else mask.shape}"
        )
    if mask is not None:
        if not mask.any():
            raise ValueError("the mask hides nothing: there is no pixel to compare")
        pred, target = pred[mask], target[mask]
    error = np.mean((pred.astype(np.float64) - target.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def mean_fill(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``frames`` with the hidden pixels set to the mean colour of all visible ones.

    Raises:
        ValueError: nothing is visible.
    """
    if mask.all():
        raise ValueError("the mask hides every pixel: there is no visible colour to fill with")
    filled = frames.copy()
    filled[mask] = frames[~mask].mean(axis=0).round().astype(np.uint8)
    return filled


def nearest_patch_fill(frames: np.ndarray, mask: np.ndarray, patch_size: Sequence[float]) -> np.ndarray:
    """``frames`` with every hidden pixel copied from its place in the nearest fully visible patch.

    Distance is Euclidean between patch positions in space-time, in patches; of equally near patches one in the same
    place at another time is taken first, then one in the same row.

    Args:
        frames: uint8 (T, H, W, 3).
        mask: bool (T, H, W).
        patch_size: (pt, ph, pw) in frames, rows and columns; may be fractional, and the last patch of an axis may be
            cut off, so that the patches of a model can be laid over frames that are not of the model's size.

    Raises:
        ValueError: no patch is fully visible.
    """
    starts = [_patch_starts(length, size) for length, size in zip(mask.shape, patch_size, strict=True)]
    hidden = mask
    for axis, first in enumerate(starts):
        hidden = np.logical_or.reduceat(hidden, first, axis=axis)  # a patch is hidden if any pixel of it is
    if hidden.all():
        raise ValueError("no patch is fully visible: there is nothing to copy from")
    source = _nearest_visible(hidden)
    pixel = np.nonzero(mask)
    patch = [np.searchsorted(first, p, side="right") - 1 for first, p in zip(starts, pixel, strict=True)]
    places = []
    for axis, first in enumerate(starts):
        ends = np.append(first[1:], mask.shape[axis])
        taken = source[axis][tuple(patch)]
        places.append(np.minimum(first[taken] + pixel[axis] - first[patch[axis]], ends[taken] - 1))
    filled = frames.copy()
    filled[pixel] = frames[tuple(places)]
    return filled


def _patch_starts(length: int, size: float) -> np.ndarray:
    """First pixel of every patch along an axis: the first whose centre lies in it."""
    patch = ((np.arange(length) + 0.5) / size).astype(np.int64)
    return np.unique(patch, return_index=True)[1]


def _nearest_visible(hidden: np.ndarray) -> list[np.ndarray]:
    """For every place of ``hidden`` (t, h, w) the t, h and w index of the nearest place that is False.

    Squared Euclidean distance is separable, so one minimum per axis is enough.
    """
    cost = np.where(hidden, np.float32(np.inf), np.float32(0))
    nearest = list(np.indices(hidden.shape))
    # The weights break ties: in favour of time first, then of the same row.
    for axis, weight in enumerate((0.999, 1.001, 1.0)):
        place = np.arange(hidden.shape[axis], dtype=np.float32)
        steps = weight * (place[:, None] - place) ** 2  # (to, from)
        total = np.moveaxis(cost, axis, -1)[..., None, :] + steps
        best = total.argmin(axis=-1)
        cost = np.moveaxis(np.take_along_axis(total, best[..., None], axis=-1)[..., 0], -1, axis)
        best = np.moveaxis(best, -1, axis)
        nearest = [np.take_along_axis(index, best, axis=axis) for index in nearest]
    return nearest
