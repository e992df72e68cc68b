"""Which frames of a video make a clip."""

from __future__ import annotations

import numpy as np
import torch

SAMPLINGS = ("dense", "segment")


def frame_indices(
    sampling: str,
    num_video_frames: int,
    num_frames: int,
    sampling_rate: int,
    generator: torch.Generator | None = None,
    clip: int = 0,
    clips: int = 1,
) -> np.ndarray:
    """Frame numbers of a clip, by ``dense_indices`` or ``segment_indices``; int64 (num_frames,).

    Raises ValueError for a ``sampling`` that is neither "dense" nor "segment"; else as those.
    """
    if sampling == "dense":
        return dense_indices(num_video_frames, num_frames, sampling_rate, generator, clip, clips)
    if sampling == "segment":
        return segment_indices(num_video_frames, num_frames, generator, clip, clips)
    raise ValueError(f"unknown sampling {sampling!r}; choose one of {', '.join(SAMPLINGS)}")


def dense_indices(
    num_video_frames: int,
    num_frames: int,
    sampling_rate: int,
    generator: torch.Generator | None = None,
    clip: int = 0,
    clips: int = 1,
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
        generator: draws the start; None = where ``clip`` says.
        clip, clips: without a generator: number ``clip`` of ``clips`` spans whose starts are evenly spread, the first
            at the beginning and the last at the end of the video; a single one is centred.

    Raises:
        ValueError: a number out of its range.
    """
    _check(num_video_frames, num_frames, clip, clips)
    if sampling_rate < 1:
        raise ValueError(f"sampling_rate must be at least 1, got {sampling_rate}")
    span = (num_frames - 1) * sampling_rate + 1
    last_start = max(0, num_video_frames - span)
    if generator is not None:
        start = int(torch.randint(last_start + 1, (), generator=generator))
    elif clips == 1:
        start = last_start // 2
    else:
        start = last_start * clip // (clips - 1)
    return np.minimum(start + sampling_rate * np.arange(num_frames), num_video_frames - 1)


def segment_indices(
    num_video_frames: int, num_frames: int, generator: torch.Generator | None = None, clip: int = 0, clips: int = 1
) -> np.ndarray:
    """One frame out of each of ``num_frames`` equal parts of the whole video (TSN); int64 (num_frames,).

    Part i covers the times [i, i + 1) * num_video_frames / num_frames, in frames. A video of fewer frames repeats
    some of them; none is left out of reach.

    Args:
        num_video_frames: length of the video, >= 1.
        num_frames: T, >= 1.
        generator: draws a place in every part, independently; None = where ``clip`` says.
        clip, clips: without a generator: every part is cut into ``clips`` pieces, and the clip takes the centre of
            piece ``clip``; a single clip takes the centre of the part.

    Raises:
        ValueError: a number out of its range.
    """
    _check(num_video_frames, num_frames, clip, clips)
    if generator is None:
        place = np.full(num_frames, (clip + 0.5) / clips)
    else:
        place = torch.rand(num_frames, generator=generator, dtype=torch.float64).numpy()
    numbers = ((np.arange(num_frames) + place) * (num_video_frames / num_frames)).astype(np.int64)
    return np.minimum(numbers, num_video_frames - 1)


def _check(num_video_frames: int, num_frames: int, clip: int, clips: int) -> None:
    if min(num_video_frames, num_frames) < 1:
        raise ValueError(
            f"a clip of {num_frames} frames from a video of {num_video_frames} frames: both must be at least 1"
        )
    if not 0 <= clip < clips:
        raise ValueError(f"clip {clip} of {clips}: clips are numbered from 0")
