"""How a video of any size becomes windows of a model's clip size, and how they become a video again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

FITS = ("resize", "native")

Size = tuple[int, int, int]  # frames, rows, columns
Window = tuple[slice, slice, slice]  # of frames, rows, columns


def working_size(
    height: int, width: int, clip_size: tuple[int, int], patch_size: tuple[int, int], fit: str = "resize"
) -> tuple[int, int]:
    """Size (pixels) at which a video is worked on: whole patches, and at least a clip of the model."""
    scale = max(clip_size[0] / height, clip_size[1] / width)
    scale = scale if fit == "resize" else max(scale, 1.0)
    return tuple(
        max(round(side * scale / patch) * patch, least)
        for side, patch, least in zip((height, width), patch_size, clip_size, strict=True)
    )


def scale_to_work(
    frames: np.ndarray, mask: np.ndarray, clip_size: Size, patch_size: Size, fit: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Video (C, T', H', W') in [0, 1] and mask (T', H', W'): whole patches, at least a clip; hidden pixels 0.5.

    Frames uint8 (T, H, W, 3) and mask bool (T, H, W), True = hidden. A video that is shorter than a clip or no whole
    number of patches repeats its last frame.
    """
    size = working_size(*mask.shape[1:], clip_size[1:], patch_size[1:], fit)
    visible = torch.from_numpy(~mask).unsqueeze(1).float()  # (T, 1, H, W)
    video = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255  # (T, C, H, W)
    if size != mask.shape[1:]:
        # Resizing mixes neighbours, and no hidden pixel may take part. So a scaled pixel is the average of the visible
        # pixels that its filter reaches, and is hidden itself if they have less than half of the filter's weight:
        # edges between whole patches stay where they are instead of growing into the next patch.
        weighted = F.interpolate(video * visible, size=size, mode="bilinear", antialias=True)
        visible = F.interpolate(visible, size=size, mode="bilinear", antialias=True)
        video = (weighted / visible.clamp(min=0.25)).clamp(0, 1)
    hidden = visible.squeeze(1) < 0.499
    video = torch.where(hidden.unsqueeze(1), 0.5, video)
    missing = max(clip_size[0], -(-len(video) // patch_size[0]) * patch_size[0]) - len(video)
    if missing > 0:
        video = torch.cat([video, video[-1:].expand(missing, -1, -1, -1)])
        hidden = torch.cat([hidden, hidden[-1:].expand(missing, -1, -1)])
    return video.permute(1, 0, 2, 3), hidden


def put_under_mask(frames: np.ndarray, filled: torch.Tensor, weight: np.ndarray) -> np.ndarray:
    """``frames`` with ``filled`` (C, T', H', W') in [0, 1], scaled to their size, where ``weight`` is above 0.

    ``weight``: bool (T, H, W), or float in [0, 1]: the share of ``filled`` in a pixel.
    """
    filled = filled[:, : len(frames)].permute(1, 0, 2, 3)  # (T, C, H', W')
    if tuple(filled.shape[2:]) != frames.shape[1:3]:
        filled = F.interpolate(filled, size=frames.shape[1:3], mode="bicubic", antialias=True)
    pixels = filled.clamp(0, 1).mul(255).permute(0, 2, 3, 1).numpy()
    weight = weight[..., None].astype(np.float32)
    return np.where(weight > 0, weight * pixels + (1 - weight) * frames, frames).round().astype(np.uint8)


def _starts(length: int, window: int, patch: int) -> list[int]:
    """First positions of windows that cover ``length``, about evenly spaced, overlapping by about half or more.

    They are multiples of ``patch``, so that a mask of whole patches is one in every window.
    """
    count = 1 if length <= window else -(-(length - window) // max(window // 2, 1)) + 1
    return [round(i * (length - window) / max(count - 1, 1) / patch) * patch for i in range(count)]


def all_windows(shape: Size, size: Size, patch_size: Size) -> list[Window]:
    """Windows of ``size`` that cover ``shape``, in order of time, row and column."""
    starts = [_starts(*lengths) for lengths in zip(shape, size, patch_size, strict=True)]
    return [
        (slice(t, t + size[0]), slice(y, y + size[1]), slice(x, x + size[2]))
        for t in starts[0]
        for y in starts[1]
        for x in starts[2]
    ]


def window_weight(size: Size) -> torch.Tensor:
    """(T, H, W) product of triangles: largest in the middle, above 0 at the edges."""
    ramps = [torch.minimum(torch.arange(n) + 1, n - torch.arange(n)).float() / n for n in size]
    return ramps[0][:, None, None] * ramps[1][:, None] * ramps[2]


def patch_weight(frames: int, patch: int) -> torch.Tensor:
    """(frames,): largest in the middle of every patch of so many frames, above 0 at its ends."""
    place = torch.arange(frames) % patch
    return torch.minimum(place + 1, patch - place).float() / patch


class Layout(NamedTuple):
    """Windows over a video with margins.

    Attributes:
        margins: frames, rows and columns that are added in front and behind, so that windows can begin there.
        early: windows, and the weight (clip frames, rows, columns) of their predictions.
        late: the same for the end of the reverse chain; None = as ``early``.
    """

    margins: tuple[tuple[int, int], ...]
    early: tuple[list[Window], torch.Tensor]
    late: tuple[list[Window], torch.Tensor] | None


def layout(size: Size, clip_size: Size, patch_size: Size, overlap: str) -> Layout:
    """Windows that cover a video of ``size``; for ``overlap`` see ``Sampling``."""
    axes = {"none": (), "time": (0,), "all": (0, 1, 2)}[overlap]
    axes = tuple(axis for axis in axes if patch_size[axis] > 1)
    margins = tuple((p // 2, p - p // 2) if axis in axes else (0, 0) for axis, p in enumerate(patch_size))
    fronts = [front for front, _ in margins]
    base = [_moved(window, fronts) for window in all_windows(size, clip_size, patch_size)]

    def with_shifted(shifted: Sequence[int]) -> tuple[list[Window], torch.Tensor]:
        """The windows, and those that begin half a patch before and after them along the axes ``shifted``."""
        weight = window_weight(clip_size)
        if not shifted:
            return base, weight
        for axis in shifted:
            ramp = patch_weight(clip_size[axis], patch_size[axis])
            weight = weight * ramp.reshape([-1 if a == axis else 1 for a in range(3)])
        larger = tuple(length + sum(margins[a]) if a in shifted else length for a, length in enumerate(size))
        starts = [0 if a in shifted else fronts[a] for a in range(3)]
        return base + [_moved(window, starts) for window in all_windows(larger, clip_size, patch_size)], weight

    return Layout(
        margins, with_shifted(axes[:1] if 0 in axes else ()), with_shifted(axes) if overlap == "all" else None
    )


def _moved(window: Window, places: Sequence[int]) -> Window:
    return tuple(slice(part.start + place, part.stop + place) for part, place in zip(window, places, strict=True))
