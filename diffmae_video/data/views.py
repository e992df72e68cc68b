"""The views of a video in testing: K clips along time x S crops along the longer side; their scores are then averaged.

The published tests: Kinetics 7 x 3 (MAE-ST) and 5 x 3 (VideoMAE) with "dense" sampling, Something-Something v2 2 x 3
with "segment" sampling. Nothing here is random. ``ClipDataset(train=False, test_clips=K, test_crops=S)`` reads them.
"""

from __future__ import annotations

import numpy as np
import torch

from diffmae_video.data.sampling import frame_indices
from diffmae_video.data.transforms import Box, crop_and_resize

FITS = ("crop", "stretch")


def check_fit(fit: str, crops: int) -> None:
    """Raises ValueError for an unknown ``fit``, fewer than 1 crop, or several crops of stretched frames."""
    if fit not in FITS:
        raise ValueError(f"unknown fit {fit!r}; choose one of {', '.join(FITS)}")
    if crops < 1:
        raise ValueError(f"a video needs at least 1 crop, got {crops}")
    if fit == "stretch" and crops > 1:
        raise ValueError(f"fit 'stretch' shows the whole frame: {crops} crops would be the same; use 1 crop")


def spatial_boxes(height: int, width: int, crops: int, fit: str = "crop") -> list[Box]:
    """The regions of a frame that are scaled to the square of a view.

    "crop": the largest squares of the frame, evenly spread along its longer side. 3: left, centre, right where the
    frame is wider than high, and top, centre, bottom where it is higher; 1: the centre; any other number: the first at
    one end, the last at the other. In a square frame all of them are the same. "stretch": the whole frame, once.

    Raises:
        ValueError: see :func:`check_fit`.
    """
    check_fit(fit, crops)
    if fit == "stretch":
        return [Box(0, 0, height, width)]
    side = min(height, width)
    room = max(height, width) - side
    places = [room // 2] if crops == 1 else [room * crop // (crops - 1) for crop in range(crops)]
    return [Box(0, place, side, side) if width >= height else Box(place, 0, side, side) for place in places]


def view_indices(
    num_video_frames: int, num_frames: int, sampling_rate: int, clips: int, sampling: str = "dense"
) -> np.ndarray:
    """Frame numbers of K clips, int64 (K, T).

    "dense": starts evenly spread from frame 0 to the last start that fits (floor(k * last / (K - 1))); a single clip
    is centred. "segment": clip k takes frame k of K, evenly spread, out of each of T equal parts. See
    :mod:`diffmae_video.data.sampling`, which also says what happens to videos that are too short.

    Raises:
        ValueError: a number below 1, or an unknown ``sampling``.
    """
    if clips < 1:
        raise ValueError(f"a video needs at least 1 clip, got {clips}")
    drawn = [
        frame_indices(sampling, num_video_frames, num_frames, sampling_rate, clip=clip, clips=clips)
        for clip in range(clips)
    ]
    return np.stack(drawn)


def cut_views(frames: torch.Tensor, rows: torch.Tensor, crops: int, size: int, fit: str = "crop") -> torch.Tensor:
    """The views of decoded frames; every frame is cut and scaled once per crop, however many clips share it.

    Args:
        frames: uint8 (N, H, W, C).
        rows: int64 (K, T): which frames make clip k.
        crops: S.
        size: height and width of a view, pixels.
        fit: "crop" or "stretch", see :func:`spatial_boxes`.

    Returns:
        uint8 (K * S, C, T, size, size): view k * S + s is crop s of clip k. 7 x 3 views of 16 x 224 x 224 take 51 MB.
    """
    boxes = spatial_boxes(frames.shape[1], frames.shape[2], crops, fit)
    clips, length = rows.shape
    views = torch.empty(clips, crops, frames.shape[3], length, size, size, dtype=torch.uint8)
    for place, box in enumerate(boxes):
        cut = crop_and_resize(frames, box, size)  # (C, N, size, size)
        for clip in range(clips):
            torch.index_select(cut, 1, rows[clip], out=views[clip, place])
    return views.flatten(0, 1)
