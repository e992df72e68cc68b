"""Inpainting of clips of the model's own size, in batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diffmae_video.diffusion.randomness import randn
from diffmae_video.inpainting.filling import Filler
from diffmae_video.inpainting.passes import NothingVisible
from diffmae_video.inpainting.sampling import OnStep, Sampling, check_model
from diffmae_video.models.masked_autoencoder import MaskedAutoencoder


@torch.no_grad()
def inpaint(
    model: MaskedAutoencoder,
    clip: torch.Tensor,
    mask: torch.Tensor,
    steps: int = 50,
    sampler: str = "ddim",
    seed: int | Sequence[int] = 0,
    eta: float = 0.0,
    noise: torch.Tensor | None = None,
    on_step: OnStep | None = None,
    *,
    spacing: str = "trailing",
    threshold: float | None = None,
    impute: bool = True,
    overlap: str = "time",
) -> torch.Tensor:
    """Fills the hidden pixels of clips.

    A patch is hidden if any of its pixels is; such a patch is generated whole, and its visible pixels are then put
    back. A clip with nothing hidden comes back unchanged. One that shows pixels but no whole patch, such as one with
    every second frame missing, is filled in two passes (see ``passes.py``).

    Args:
        model: a DiffMAE, or a MAE (one deterministic pass: of what follows ``mask``, nothing is used), trained on raw
            pixels, in eval mode. Inside ``torch.autocast`` its matrix products are in bfloat16; the chain is float32.
        clip: (B, C, T, H, W) of the model's ``clip_shape``, uint8, or float in [-1, 1].
        mask: (B, T, H, W) bool, True = hidden. Clips may hide different numbers of pixels.
        steps, sampler, eta, spacing, threshold: see :func:`diffmae_video.diffusion.sample`.
        seed: clip i draws its noise from ``seed + i``, or from ``seed[i]``: its result does not depend on the batch.
        noise: starting noise shaped like ``clip``, N(0, I), instead of noise drawn from ``seed``.
        on_step: called after every step; clips that need two passes go on by themselves.
        impute, overlap: see ``Sampling``.

    Returns:
        A clip of the same shape, type and range.

    Raises:
        ValueError: wrong shapes, a clip with no visible pixel, a model trained on normalised targets, or what
            ``sample`` refuses.
    """
    _check_inputs(model, clip, mask)
    sampling = Sampling(steps, sampler, eta, spacing, threshold, impute, overlap)
    pixels = clip.float() / 255 if clip.dtype == torch.uint8 else (clip + 1) / 2
    normalized = model.normalize(pixels)
    seeds = [seed + i for i in range(len(clip))] if isinstance(seed, int) else list(seed)
    generators = [torch.Generator(clip.device).manual_seed(s) for s in seeds]
    noise = randn(clip.shape, generators, clip.device) if noise is None else noise

    filler = Filler(model, sampling, clip.shape[2:], on_step)
    filled = filler.fill(normalized, mask, noise, generators)
    result = model.denormalize(filled).clamp(0, 1)
    result = (result * 255).round().to(torch.uint8) if clip.dtype == torch.uint8 else (result * 2 - 1).to(clip.dtype)
    return torch.where(mask.unsqueeze(1), result, clip)


def _check_inputs(model: MaskedAutoencoder, clip: torch.Tensor, mask: torch.Tensor) -> None:
    check_model(model)
    if tuple(clip.shape[1:]) != model.clip_shape or clip.dim() != 5:
        raise ValueError(
            f"expected clips (B, C, T, H, W) with {model.clip_shape}, got {tuple(clip.shape)}; "
            "inpaint_video takes other sizes"
        )
    if mask.dtype != torch.bool or tuple(mask.shape) != (clip.shape[0], *clip.shape[2:]):
        raise ValueError(
            f"expected a bool mask (B, T, H, W) = {(clip.shape[0], *clip.shape[2:])}, True = hidden, "
            f"got {mask.dtype} {tuple(mask.shape)}"
        )
    if mask.flatten(1).all(dim=1).any():
        raise NothingVisible()
