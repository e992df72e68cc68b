"""What an encoder tells apart in a video: the three largest principal components of its tokens as colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from diffmae_video.visualize.layout import resize, upscale
from diffmae_video.visualize.panels import frame_sheet, side_by_side

CONTRAST = (1.0, 99.0)  # percentiles of a component that become 0 and 255
CONSTANT_GREY = 128
SMALLEST = 256  # pixels of the shorter side, at least


def feature_colours(tokens: np.ndarray | torch.Tensor, grid: tuple[int, int, int]) -> np.ndarray:
    """Tokens as colours: red, green and blue are their first three principal components.

    The components are those of all given tokens together, so that a colour means the same in every time slot. Of the
    two directions of a component that one counts as positive in which its largest loading is; every component is
    stretched between its 1st and 99th percentile. A component without any variance is mid grey.

    Args:
        tokens: (N, D) or (t, h, w, D), t-major; of one clip, or of several one after the other.
        grid: (t, h, w) with t * h * w = N, t over all clips.

    Returns:
        uint8 (t, h, w, 3).

    Raises:
        ValueError: tokens that do not fit the grid, or that are not finite.
    """
    values = torch.as_tensor(tokens).detach().cpu().numpy().astype(np.float64)
    values = values.reshape(-1, values.shape[-1])
    if len(values) != np.prod(grid) or len(values) == 0:
        raise ValueError(f"expected tokens (N, D) with N = {np.prod(grid)} for the grid {grid}, got {len(values)}")
    if not np.isfinite(values).all():
        raise ValueError("the tokens are not finite: were the weights of a diverged run loaded?")
    components = _principal_components(values)
    low, high = np.percentile(components, CONTRAST, axis=0)
    varies = high - low > 1e-9 * max(np.abs(values).max(), 1e-9)
    stretched = np.clip((components - low) / np.where(varies, high - low, 1), 0, 1) * 255
    return np.where(varies, np.rint(stretched), CONSTANT_GREY).astype(np.uint8).reshape(*grid, 3)


def feature_maps(
    tokens: np.ndarray | torch.Tensor,
    grid: tuple[int, int, int],
    frames: np.ndarray | None = None,
    frames_per_slot: int | None = None,
) -> np.ndarray:
    """The colours of :func:`feature_colours` as a video, beside the video that they are of.

    Args:
        tokens, grid: see there.
        frames: uint8 (T, H, W, 3), which the grid covers from edge to edge; a token is shown as a block of pixels.
            None = just the colours, a frame per time slot.
        frames_per_slot: frames that share a time slot; the last slot may have fewer. None = T / t.

    Returns:
        uint8 (T, H', W', 3): video | features; without frames (t, H', W', 3).

    Raises:
        ValueError: as :func:`feature_colours`; a number of frames that does not fit t time slots.
    """
    colours = feature_colours(tokens, grid)
    if frames is None:
        block = -(-SMALLEST // min(grid[1:]))
        return resize(colours, grid[1] * block, grid[2] * block, smooth=False)
    frames = upscale(frames, SMALLEST)  # before the colours, whose edges would get soft
    return side_by_side({"video": frames, "features": _colours_over(colours, frames, frames_per_slot)})


def feature_sheet(
    tokens: np.ndarray | torch.Tensor,
    grid: tuple[int, int, int],
    frames: np.ndarray,
    frames_per_slot: int | None = None,
    columns: int = 6,
    numbers: Sequence[int] | None = None,
    minimum: int = 128,
) -> np.ndarray:
    """A few frames of :func:`feature_maps` on one picture: the video above its features, uint8 (H', W', 3).

    Args:
        tokens, grid, frames, frames_per_slot: see there.
        columns, numbers, minimum: as in :func:`diffmae_video.visualize.frame_sheet`.

    Raises:
        ValueError: as :func:`feature_maps`.
    """
    frames = upscale(frames, minimum)
    colours = _colours_over(feature_colours(tokens, grid), frames, frames_per_slot)
    return frame_sheet({"video": frames, "features": colours}, columns, numbers, minimum)


def _colours_over(colours: np.ndarray, frames: np.ndarray, frames_per_slot: int | None) -> np.ndarray:
    """Colours of tokens, uint8 (t, h, w, 3), at the size of ``frames`` (T, H, W, 3), nearest in time and space."""
    slots, count = len(colours), len(frames)
    each = count / slots if frames_per_slot is None else frames_per_slot
    if each != int(each) or not (slots - 1) * each < count <= slots * each:
        raise ValueError(f"{count} frames do not fit {slots} time slots of {each:g} frames")
    return np.repeat(resize(colours, *frames.shape[1:3], smooth=False), int(each), axis=0)[:count]


def _principal_components(values: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, 3): coordinates along the three directions of largest variance; zeros where D is less."""
    centred = values - values.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    directions = directions[:, ::-1][:, :3]
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.where(directions[largest, np.arange(directions.shape[1])] < 0, -1, 1)
    components = centred @ directions
    return np.pad(components, ((0, 0), (0, 3 - components.shape[1])))
