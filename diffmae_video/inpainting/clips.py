"""Inpainting of clips of the model's own size, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from diffmae_video.diffusion.randomness import randn
from diffmae_video.inpainting.passes import NothingVisible, in_two_passes
from diffmae_video.inpainting.sampling import OnStep, Sampling, SamplingStep, check_model
from diffmae_video.models.diffmae import DiffMAE
from diffmae_video.models.masked_autoencoder import MaskedAutoencoder
from diffmae_video.models.masks import pixel_mask_to_tokens
from diffmae_video.models.patches import gather_tokens, patchify, scatter_tokens, unpatchify


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
        on_step: called after every network call, for every group of clips that hide equally many patches.
        impute: let visible pixels in hidden patches steer the sampling; see ``Sampling``.

    Returns:
        A clip of the same shape, type and range.

    Raises:
        ValueError: wrong shapes, a clip with no visible pixel, a model trained on normalised targets, or what
            ``sample`` refuses.
    """
    _check_inputs(model, clip, mask)
    sampling = Sampling(steps, sampler, eta, spacing, threshold, impute)
    pixels = clip.float() / 255 if clip.dtype == torch.uint8 else (clip + 1) / 2
    normalized = model.normalize(pixels)
    seeds = [seed + i for i in range(len(clip))] if isinstance(seed, int) else list(seed)
    generators = [torch.Generator(clip.device).manual_seed(s) for s in seeds]
    noise = randn(clip.shape, generators, clip.device) if noise is None else noise

    def fill(visible: torch.Tensor, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        own = [generators[i] for i in rows.tolist()]
        return _fill(model, visible, hidden, noise[rows], sampling, own, rows.tolist(), on_step)

    result = model.denormalize(_by_group(model, normalized, mask, fill)).clamp(0, 1)
    result = (result * 255).round().to(torch.uint8) if clip.dtype == torch.uint8 else (result * 2 - 1).to(clip.dtype)
    return torch.where(mask.unsqueeze(1), result, clip)


def _by_group(model: MaskedAutoencoder, clips: torch.Tensor, mask: torch.Tensor, fill: Callable) -> torch.Tensor:
    """``fill(clips, mask, rows)`` for every group of clips that hide equally many patches, in two passes where needed.

    ``rows``: (B',) int64, which clips they are.
    """
    filled = clips.clone()
    tokens = pixel_mask_to_tokens(mask, model.patch_size)
    counts = tokens.sum(dim=1)
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero().flatten()
        own = partial(fill, rows=rows)
        if count == tokens.shape[1]:
            filled[rows] = in_two_passes(clips[rows], mask[rows], model.patch_size, own)
        elif count > 0:
            filled[rows] = own(clips[rows], mask[rows])
    return filled


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


def _fill(
    model: MaskedAutoencoder,
    clip: torch.Tensor,
    mask: torch.Tensor,
    noise: torch.Tensor,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    rows: Sequence[int],
    on_step: OnStep | None,
) -> torch.Tensor:
    """Normalised clips (B, C, T, H, W) with their hidden patches, by the pixel mask (B, T, H, W), predicted."""
    context = model.prepare(clip, pixel_mask_to_tokens(mask, model.patch_size))
    tokens = patchify(clip, model.patch_size)

    def as_clip(patches: torch.Tensor) -> torch.Tensor:
        return unpatchify(scatter_tokens(tokens, context.hidden, patches), model.grid, model.patch_size)

    if not isinstance(model, DiffMAE):
        return as_clip(model.predict(context).float())
    known = _known_pixels(tokens, mask.unsqueeze(1).expand_as(clip), context.hidden, model) if sampling.impute else None
    calls = 0

    def report(t: int, x_t: torch.Tensor, x0: torch.Tensor) -> None:
        nonlocal calls
        calls += 1
        noisy, clean = (
            torch.where(mask.unsqueeze(1), model.denormalize(as_clip(patches)).clamp(0, 1), model.denormalize(clip))
            for patches in (x_t, x0)
        )
        on_step(SamplingStep(calls, sampling.steps, t, noisy, clean, rows))

    patches = sampling.run(
        model,
        lambda x_t, t: model.denoise(context, x_t, t),
        gather_tokens(patchify(noise, model.patch_size), context.hidden),
        model.prediction,
        generators,
        known,
        report if on_step is not None else None,
    )
    return as_clip(patches)


def _known_pixels(
    tokens: torch.Tensor, mask: torch.Tensor, hidden: torch.Tensor, model: MaskedAutoencoder
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What puts the visible pixels of hidden patches back into (B, M, P); None where there are none.

    Args:
        tokens: (B, N, P) patches of the clips, of which visible pixels are used.
        mask: (B, C, T, H, W) bool, True = hidden.
        hidden: (B, M) places of the hidden patches.
    """
    unknown = gather_tokens(patchify(mask, model.patch_size), hidden)
    if unknown.all():
        return None
    values = gather_tokens(tokens, hidden)
    return lambda x0: torch.where(unknown, x0, values)
