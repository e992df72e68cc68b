"""Inpainting: visible pixels and a mask in, a completed clip or video out.

``inpaint`` takes clips of the model's own size; ``inpaint_video`` takes frames of any size and number and cuts them
into such clips. The pixels under the mask are never read, and the visible ones come back as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from diffmae_video.diffusion.randomness import randn
from diffmae_video.diffusion.sampling import sample
from diffmae_video.models.diffmae import DiffMAE
from diffmae_video.models.masked_autoencoder import MaskedAutoencoder
from diffmae_video.models.masks import pixel_mask_to_tokens
from diffmae_video.models.patches import gather_tokens, patchify, scatter_tokens, unpatchify

OnStep = Callable[[int, torch.Tensor, torch.Tensor], None]
FITS = ("resize", "native")


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
) -> torch.Tensor:
    """Fills the hidden pixels of clips.

    A patch is hidden if any of its pixels is; such a patch is generated whole, and its visible pixels are then put
    back. A clip with nothing hidden comes back unchanged.

    Args:
        model: a DiffMAE, or a MAE (one deterministic pass: ``steps``, ``sampler``, ``seed`` and ``noise`` are unused),
            trained on raw pixels, in eval mode.
        clip: (B, C, T, H, W) of the model's ``clip_shape``, uint8, or float in [-1, 1].
        mask: (B, T, H, W) bool, True = hidden. Clips may hide different numbers of pixels.
        steps, sampler, eta: see :func:`diffmae_video.diffusion.sample`.
        seed: clip i draws its noise from ``seed + i``, or from ``seed[i]``: its result does not depend on the batch.
        noise: starting noise shaped like ``clip``, N(0, I), instead of noise drawn from ``seed``.
        on_step: called with (t, x_t, x_0), both (B', M, P) patches, after every step of every group of clips that
            hide equally many patches.

    Returns:
        A clip of the same shape, type and range.

    Raises:
        ValueError: wrong shapes, a clip with no fully visible patch, or a model trained on normalised targets.
    """
    _check_inputs(model, clip, mask)
    pixels = clip.float() / 255 if clip.dtype == torch.uint8 else (clip + 1) / 2
    normalized = model.normalize(pixels)
    tokens = pixel_mask_to_tokens(mask, model.patch_size)
    seeds = [seed + i for i in range(len(clip))] if isinstance(seed, int) else list(seed)
    generators = [torch.Generator(clip.device).manual_seed(s) for s in seeds]
    noise = randn(clip.shape, generators, clip.device) if noise is None else noise

    filled = normalized.clone()
    counts = tokens.sum(dim=1)
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero().flatten()
        if count > 0:
            group = [generators[i] for i in rows.tolist()]
            filled[rows] = _fill(
                model, normalized[rows], tokens[rows], noise[rows], steps, sampler, eta, group, on_step
            )
    result = model.denormalize(filled).clamp(0, 1)
    result = (result * 255).round().to(torch.uint8) if clip.dtype == torch.uint8 else (result * 2 - 1).to(clip.dtype)
    return torch.where(mask.unsqueeze(1), result, clip)


def _check_inputs(model: MaskedAutoencoder, clip: torch.Tensor, mask: torch.Tensor) -> None:
    if model.target != "raw":
        raise ValueError(
            "this model was trained on per-patch normalised targets: what it predicts has lost the patches' mean and "
            "contrast and cannot be shown as pixels; inpaint with a model trained with MODEL.TARGET raw"
        )
    if tuple(clip.shape[1:]) != model.clip_shape or clip.dim() != 5:
        raise ValueError(
            f"expected clips (B, C, T, H, W) with {model.clip_shape}, got {tuple(clip.shape)}; "
            "inpaint_video takes other sizes"
        )
    if mask.dtype != torch.bool or mask.shape != (clip.shape[0], *clip.shape[2:]):
        raise ValueError(
            f"expected a bool mask (B, T, H, W) = {(clip.shape[0], *clip.shape[2:])}, True = hidden, "
            f"got {mask.dtype} {tuple(mask.shape)}"
        )
    if pixel_mask_to_tokens(mask, model.patch_size).all(dim=1).any():
        raise ValueError(
            "no patch is fully visible in at least one clip or window: there is nothing to fill the rest from; hide "
            'less, or let a window see more of the frame (fit="resize")'
        )


def _fill(model, clip, mask, noise, steps, sampler, eta, generators, on_step) -> torch.Tensor:
    """Normalised clips (B, C, T, H, W) with their hidden tokens, mask (B, N), replaced by predictions."""
    context = model.prepare(clip, mask)
    if isinstance(model, DiffMAE):
        x_T = gather_tokens(patchify(noise, model.patch_size), context.hidden)
        bounds = model.normalize(torch.tensor([0.0, 1.0], device=clip.device).reshape(2, 1, 1, 1, 1))
        patches = sample(
            lambda x_t, t: model.denoise(context, x_t, t),
            x_T,
            model.schedule,
            steps=steps,
            sampler=sampler,
            prediction=model.prediction,
            eta=eta,
            clamp=(bounds[0].min().item(), bounds[1].max().item()),
            generator=generators,
            on_step=on_step,
        )
    else:
        patches = model.predict(context).float()
    tokens = scatter_tokens(patchify(clip, model.patch_size), context.hidden, patches)
    return unpatchify(tokens, model.grid, model.patch_size)


def inpaint_video(
    model: MaskedAutoencoder,
    frames: np.ndarray,
    mask: np.ndarray,
    steps: int = 50,
    sampler: str = "ddim",
    seed: int = 0,
    fit: str = "resize",
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Fills the hidden pixels of a video, or of an image (one frame), of any length and size.

    1. Size. ``fit="resize"``: the frames are scaled so that their shorter side is the model's; ``"native"``: they
       keep their size, and are enlarged only if they are smaller than the model's clip. Both sides become whole
       patches. A scaled pixel is made of visible ones only, and hidden if these are less than half of it.
    2. Windows of the model's clip size then cover the video: along time, rows and columns, evenly spaced, overlapping
       by about half where more than one is needed, starting on whole patches. A video that is shorter than a clip or
       no whole number of patches repeats its last frame.
    3. Every window that hides something and shows at least a patch is inpainted; all cut their starting noise out of
       one noise volume, so that overlapping windows begin alike. Where windows overlap, results are averaged with
       weights that fall linearly from a window's middle to its edges.
    4. The result is scaled back and put under the mask of the original frames; the other pixels are untouched.

    Args:
        model: see :func:`inpaint`.
        frames: uint8 (T, H, W, 3) RGB.
        mask: bool (T, H, W), True = hidden.
        steps, sampler, seed: see :func:`inpaint`.
        fit: ``"resize"`` or ``"native"``.
        progress: called with (windows done, windows in all).

    Returns:
        uint8 (T, H, W, 3).

    Raises:
        ValueError: wrong shapes, unknown ``fit``, or a window without any fully visible patch.
    """
    _check_video(frames, mask, fit)
    if not mask.any():
        return frames.copy()
    device = next(model.parameters()).device
    _, clip_frames, clip_height, clip_width = model.clip_shape
    video, hidden = _scaled(frames, mask, (clip_frames, clip_height, clip_width), model.patch_size, fit)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(video.shape, generator=generator)  # (C, T', H', W')
    total, weight = torch.zeros(video.shape), torch.zeros(video.shape[1:])
    window_weight = _window_weight((clip_frames, clip_height, clip_width))

    clip_size = (clip_frames, clip_height, clip_width)
    windows = _useful_windows(hidden, clip_size, model.patch_size)
    for done, window in enumerate(windows, start=1):
        result = inpaint(
            model,
            video[(slice(None), *window)].unsqueeze(0).to(device),
            hidden[window].unsqueeze(0).to(device),
            steps,
            sampler,
            seed=seed + done,  # noise that DDPM adds between steps; the starting noise is the shared volume's
            noise=noise[(slice(None), *window)].unsqueeze(0).to(device),
        )
        total[(slice(None), *window)] += ((result[0].float().cpu() + 1) / 2) * window_weight
        weight[window] += window_weight
        if progress is not None:
            progress(done, len(windows))
    # Where no window was needed the scaled visible pixels stand: a hidden line thinner than a scaled pixel needs them.
    filled = torch.where(weight > 0, total / weight.clamp(min=1e-8), (video + 1) / 2)
    return _composite(frames, mask, filled)


def _check_video(frames: np.ndarray, mask: np.ndarray, fit: str) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(f"expected uint8 frames (T, H, W, 3), got {frames.dtype} {frames.shape}")
    if mask.dtype != np.bool_ or mask.shape != frames.shape[:3]:
        raise ValueError(f"expected a bool mask {frames.shape[:3]}, True = hidden, got {mask.dtype} {mask.shape}")
    if fit not in FITS:
        raise ValueError(f"unknown fit {fit!r}: choose one of {', '.join(FITS)}")


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


def _scaled(
    frames: np.ndarray, mask: np.ndarray, clip_size: tuple[int, int, int], patch_size: tuple[int, int, int], fit: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Video (C, T', H', W') in [-1, 1] and mask (T', H', W'): whole patches, at least a clip; hidden pixels 0."""
    size = working_size(*mask.shape[1:], clip_size[1:], patch_size[1:], fit)
    visible = torch.from_numpy(~mask).unsqueeze(1).float()  # (T, 1, H, W)
    video = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1  # (T, C, H, W)
    if size != mask.shape[1:]:
        # Resizing mixes neighbours, and no hidden pixel may take part. So a scaled pixel is the average of the visible
        # pixels that its filter reaches, and is hidden itself if they have less than half of the filter's weight:
        # edges between whole patches stay where they are instead of growing into the next patch.
        weighted = F.interpolate(video * visible, size=size, mode="bilinear", antialias=True)
        visible = F.interpolate(visible, size=size, mode="bilinear", antialias=True)
        video = (weighted / visible.clamp(min=0.25)).clamp(-1, 1)
    hidden = visible.squeeze(1) < 0.499
    video = video * ~hidden.unsqueeze(1)
    missing = max(clip_size[0], -(-len(video) // patch_size[0]) * patch_size[0]) - len(video)
    if missing > 0:
        video = torch.cat([video, video[-1:].expand(missing, -1, -1, -1)])
        hidden = torch.cat([hidden, hidden[-1:].expand(missing, -1, -1)])
    return video.permute(1, 0, 2, 3), hidden


def _starts(length: int, window: int, patch: int) -> list[int]:
    """First positions of windows that cover ``length``, about evenly spaced, overlapping by about half or more.

    They are multiples of ``patch``, so that a mask of whole patches is one in every window.
    """
    count = 1 if length <= window else -(-(length - window) // max(window // 2, 1)) + 1
    return [round(i * (length - window) / max(count - 1, 1) / patch) * patch for i in range(count)]


def _windows(
    shape: tuple[int, int, int], size: tuple[int, int, int], patch_size: tuple[int, int, int]
) -> list[tuple[slice, slice, slice]]:
    starts = [_starts(*lengths) for lengths in zip(shape, size, patch_size, strict=True)]
    return [
        (slice(t, t + size[0]), slice(y, y + size[1]), slice(x, x + size[2]))
        for t in starts[0]
        for y in starts[1]
        for x in starts[2]
    ]


def _useful_windows(
    hidden: torch.Tensor, clip_size: tuple[int, int, int], patch_size: tuple[int, int, int]
) -> list[tuple[slice, slice, slice]]:
    """The windows that hide something and show at least a patch to fill it from; together they cover the hidden."""
    useful, covered = [], ~hidden
    for window in _windows(tuple(hidden.shape), clip_size, patch_size):
        tokens = pixel_mask_to_tokens(hidden[window].unsqueeze(0), patch_size)
        if tokens.any() and not tokens.all():
            useful.append(window)
            covered[window] = True
    if not covered.all():
        raise ValueError(
            "no patch is fully visible in at least one clip or window: there is nothing to fill the rest from; hide "
            'less, or let a window see more of the frame (fit="resize")'
        )
    return useful


def _window_weight(size: tuple[int, int, int]) -> torch.Tensor:
    """(T, H, W) product of triangles: largest in the middle, above 0 at the edges."""
    ramps = [torch.minimum(torch.arange(n) + 1, n - torch.arange(n)).float() / n for n in size]
    return ramps[0][:, None, None] * ramps[1][:, None] * ramps[2]


def _composite(frames: np.ndarray, mask: np.ndarray, filled: torch.Tensor) -> np.ndarray:
    """``frames`` with ``filled`` (C, T', H', W') in [0, 1], scaled to their size, under the mask."""
    filled = filled[:, : len(frames)].permute(1, 0, 2, 3)  # (T, C, H', W')
    if tuple(filled.shape[2:]) != frames.shape[1:3]:
        filled = F.interpolate(filled, size=frames.shape[1:3], mode="bicubic", antialias=True)
    pixels = (filled.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.where(mask[..., None], pixels, frames)
