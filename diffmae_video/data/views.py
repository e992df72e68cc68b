"""Multi-view testing: K clips along time x S crops along the longer side, whose scores are then averaged.

The published tests: Kinetics 7 x 3 (MAE-ST) and 5 x 3 (VideoMAE) with "dense" sampling, Something-Something v2 2 x 3
with "segment" sampling. Nothing here is random and nothing substituted: a video that cannot be read raises.
"""

from __future__ import annotations

import os

import numpy as np
import torch

from diffmae_video.data.decoding import read_frames, video_info
from diffmae_video.data.sampling import frame_indices
from diffmae_video.data.transforms import Box, crop_and_resize


def spatial_boxes(height: int, width: int, crops: int) -> list[Box]:
    """The largest squares of a frame, evenly spread along its longer side.

    3: left, centre, right where the frame is wider than high, and top, centre, bottom where it is higher; 1: the
    centre; any other number: the first at one end, the last at the other. In a square frame all of them are the same.

    Raises:
        ValueError: ``crops`` is below 1.
    """
    if crops < 1:
        raise ValueError(f"a video needs at least 1 crop, got {crops}")
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


def cut_views(frames: torch.Tensor, rows: torch.Tensor, crops: int, size: int) -> torch.Tensor:
    """The views of decoded frames; every frame is cut and scaled once per crop, however many clips share it.

    Args:
        frames: uint8 (N, H, W, C).
        rows: int64 (K, T): which frames make clip k.
        crops: S.
        size: height and width of a view, pixels.

    Returns:
        uint8 (K * S, C, T, size, size): view k * S + s is crop s of clip k.
    """
    views = []
    for box in spatial_boxes(frames.shape[1], frames.shape[2], crops):
        views.append(crop_and_resize(frames, box, size)[:, rows])  # (C, K, T, size, size)
    return torch.stack(views).permute(2, 0, 1, 3, 4, 5).flatten(0, 1).contiguous()


def read_views(
    path: str | os.PathLike[str],
    num_frames: int,
    sampling_rate: int,
    size: int,
    clips: int,
    crops: int = 3,
    sampling: str = "dense",
    decoder: str = "auto",
    decode_short_side: int = 0,
) -> torch.Tensor:
    """All test views of a video, decoded in one pass.

    Args:
        path: a video, an image or a folder of frames.
        num_frames: T.
        sampling_rate: distance between two frames of a clip; not used by "segment".
        size: height and width of a view, pixels.
        clips: K, see :func:`view_indices`.
        crops: S, see :func:`spatial_boxes`.
        sampling: "dense" or "segment".
        decoder, decode_short_side: as for ``read_frames``.

    Returns:
        uint8 (K * S, C, T, size, size): view k * S + s is crop s of clip k. 7 x 3 views of 16 x 224 x 224 take 51 MB.

    Raises:
        What ``read_frames`` raises; ValueError as the functions above.
    """
    numbers = view_indices(video_info(path, decoder).frames, num_frames, sampling_rate, clips, sampling)
    needed, rows = np.unique(numbers, return_inverse=True)
    frames = torch.from_numpy(read_frames(path, needed, decoder, decode_short_side))
    return cut_views(frames, torch.from_numpy(rows.reshape(numbers.shape)), crops, size)
