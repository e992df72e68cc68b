"""Fills that need no network, which an inpainting is compared with.

Frames are uint8 (T, H, W, 3) RGB; masks are bool (T, H, W), True = hidden. No fill reads a hidden pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

OPENCV_METHODS = {"telea": "INPAINT_TELEA", "ns": "INPAINT_NS"}
NOTHING_VISIBLE = "the mask hides every pixel: there is no visible colour to fill with"


def mean_fill(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``frames`` with the hidden pixels set to the mean colour of all visible ones.

    Raises:
        ValueError: nothing is visible.
    """
    if mask.all():
        raise ValueError(NOTHING_VISIBLE)
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


def temporal_fill(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``frames`` with every hidden pixel interpolated in time between what is seen at its place before and after.

    Linear between the nearest earlier and the nearest later frame in which the place is visible, rounded; a copy of
    the one where there is no other. A place that is hidden in all frames gets the mean colour of all visible pixels.

    Args:
        frames: uint8 (T, H, W, 3).
        mask: bool (T, H, W).

    Raises:
        ValueError: nothing is visible.
    """
    if mask.all():
        raise ValueError(NOTHING_VISIBLE)
    clip, hidden = torch.from_numpy(frames).permute(3, 0, 1, 2).float(), torch.from_numpy(mask)
    filled = interpolate_in_time(clip.unsqueeze(0), hidden.unsqueeze(0))[0].permute(1, 2, 3, 0).numpy()
    return np.where(mask[..., None], filled.round().astype(np.uint8), frames)


def interpolate_in_time(clip: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``clip`` with every hidden pixel between the nearest visible ones of its place, before and after it.

    Before the first or after the last visible one it is that one; a place that is never visible gets the mean of all
    visible pixels of its clip.

    Args:
        clip: (B, C, T, H, W) float.
        mask: (B, T, H, W) bool, True = hidden; every clip has a visible pixel.
    """
    frames = clip.shape[2]
    time = torch.arange(frames, device=clip.device).reshape(1, -1, 1, 1)
    before = torch.where(mask, -1, time).cummax(dim=1).values
    after = torch.where(mask, frames, time).flip(1).cummin(dim=1).values.flip(1)
    first, last = (place.clamp(0, frames - 1).unsqueeze(1).expand_as(clip) for place in (before, after))
    share = ((time - before) / (after - before).clamp(min=1)).masked_fill(before < 0, 1).masked_fill(after == frames, 0)
    filled = torch.lerp(clip.gather(2, first), clip.gather(2, last), share.unsqueeze(1).to(clip.dtype))
    visible = ~mask.unsqueeze(1)
    mean = (clip * visible).sum(dim=(2, 3, 4), keepdim=True) / visible.sum(dim=(2, 3, 4), keepdim=True)
    never = ((before < 0) & (after == frames)).unsqueeze(1)
    return torch.where(visible, clip, torch.where(never, mean, filled))


def opencv_fill(frames: np.ndarray, mask: np.ndarray, method: str = "telea", radius: float = 3) -> np.ndarray:
    """``frames`` filled one by one by OpenCV's ``inpaint``, from what is visible in the same frame.

    A frame that is hidden entirely has nothing to start from: it gets what ``temporal_fill`` gives.

    Args:
        frames: uint8 (T, H, W, 3).
        mask: bool (T, H, W).
        method: "telea" (fast marching, Telea 2004) or "ns" (Navier-Stokes, Bertalmio et al. 2001).
        radius: of the neighbourhood that a pixel is computed from, in pixels.

    Raises:
        ValueError: an unknown method, a radius that is not positive, or nothing is visible.
        ImportError: OpenCV is not installed.
    """
    if method not in OPENCV_METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(OPENCV_METHODS)}")
    if not radius > 0:
        raise ValueError(f"radius must be positive, in pixels; got {radius}")
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"the OpenCV fill needs cv2 ({error}): pip install -c constraints.txt opencv-python-headless"
        ) from error
    flag = getattr(cv2, OPENCV_METHODS[method])
    whole = mask.all(axis=(1, 2))
    filled = temporal_fill(frames, mask) if whole.any() else frames.copy()
    for number in np.flatnonzero(mask.any(axis=(1, 2)) & ~whole):
        # Where a hole touches the border of the frame OpenCV (5.0) reads hidden pixels, so they are covered first.
        covered = mean_fill(frames[number], mask[number])
        filled[number] = cv2.inpaint(covered, mask[number].astype(np.uint8), radius, flag)
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
