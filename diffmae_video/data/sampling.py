"""Which frames of a video make a clip."""

from __future__ import annotations

import numpy as np
import torch


def dense_indices(
    num_video_frames: int, num_frames: int, sampling_rate: int, generator: torch.Generator | None = None
) -> np.ndarray:
    """Frame numbers of a clip: ``num_frames`` of them, ``sampling_rate`` apart; int64 (num_frames,).

    The clip covers a span of (num_frames - 1) * sampling_rate + 1 frames. Where the video is longer, the span starts
    at a random frame, every start that fits equally likely. Where it is shorter, the span starts at frame 0, the
    distance between frames is kept (motion keeps its speed), and the last frame of the video is repeated to the end:
    numbers past it are clamped to it, as SlowFast does. An image thus fills a clip by repeating.

    Args:
        num_video_frames: length of the video, >= 1.
        num_frames: T, >= 1.
        sampling_rate: distance between two sampled frames, >= 1.
        generator: draws the start; None = centred span.

    Raises:
        ValueError: one of the three numbers is below 1.
    """
    if min(num_video_frames, num_frames, sampling_rate) < 1:
        raise ValueError(
            f"a clip of {num_frames} frames, {sampling_rate} apart, from {num_video_frames} frames: all three must be "
            "at least 1"
        )
    span = (num_frames - 1) * sampling_rate + 1
    last_start = max(0, num_video_frames - span)
    if generator is None:
        start = last_start // 2
    else:
        start = int(torch.randint(last_start + 1, (), generator=generator))
    return np.minimum(start + sampling_rate * np.arange(num_frames), num_video_frames - 1)
