"""Masks of whole patches, as models are trained with them, laid over a video of any size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from diffmae_video.models.masks import make_mask

Shape = tuple[int, int, int]


def patch_in_pixels(
    shape: Shape, clip_size: Shape, patch_size: Shape, fit: str = "resize"
) -> tuple[float, float, float]:
    """One patch of a model in frames, rows and columns of a video (T, H, W).

    A video is worked on at another size than its own (:func:`diffmae_video.inpainting.inpaint_video`): its shorter
    side is scaled to the model's ("resize") or only if it is smaller ("native"), and both sides to whole patches.
    """
    _, height, width = shape
    scale = max(clip_size[1] / height, clip_size[2] / width)
    scale = scale if fit == "resize" else max(scale, 1.0)
    rows = max(round(height * scale / patch_size[1]), clip_size[1] // patch_size[1])
    columns = max(round(width * scale / patch_size[2]), clip_size[2] // patch_size[2])
    return float(patch_size[0]), height / rows, width / columns


def strategy_mask(name: str, ratio: float, shape: Shape, patch: Sequence[float], seed: int = 0) -> np.ndarray:
    """A mask of whole patches by one of the strategies that models are trained with.

    The patches are laid over the whole video, however many clips of the model it takes: "tube" hides the same places
    from the first frame to the last, "block" is one block in all.

    Args:
        name: a key of ``diffmae_video.models.masks.STRATEGIES``.
        ratio: share of the patches to hide, in (0, 1).
        shape: (T, H, W) of the video.
        patch: a patch in frames, rows and columns of the video, see :func:`patch_in_pixels`.
        seed: chooses among random masks.

    Raises:
        ValueError: unknown strategy, ratio outside (0, 1), or too few patches to hide some and show some.
    """
    places = [((np.arange(n) + 0.5) / size).astype(np.int64) for n, size in zip(shape, patch, strict=True)]
    grid = tuple(int(place[-1]) + 1 for place in places)
    tokens = make_mask(name, grid, ratio, batch=1, generator=torch.Generator().manual_seed(seed))
    return tokens.reshape(grid).numpy()[np.ix_(*places)]
