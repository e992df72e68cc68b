"""Inpainting of videos and images of any size and length: all windows are denoised together."""

from __future__ import annotations

import numpy as np
import torch

from diffmae_video.inpainting.filling import Filler, Progress
from diffmae_video.inpainting.sampling import OnStep, Sampling, check_model
from diffmae_video.inpainting.windows import FITS, put_under_mask, scale_to_work
from diffmae_video.mask_input import grow_mask
from diffmae_video.models.masked_autoencoder import MaskedAutoencoder


@torch.no_grad()
def inpaint_video(
    model: MaskedAutoencoder,
    frames: np.ndarray,
    mask: np.ndarray,
    steps: int = 50,
    sampler: str = "ddim",
    seed: int = 0,
    fit: str = "resize",
    progress: Progress | None = None,
    *,
    eta: float = 0.0,
    spacing: str = "trailing",
    threshold: float | None = None,
    impute: bool = True,
    overlap: str = "time",
    feather: int = 0,
    on_step: OnStep | None = None,
) -> np.ndarray:
    """Fills the hidden pixels of a video, or of an image (one frame), of any length and size.

    1. Size. ``fit="resize"``: the frames are scaled so that their shorter side is the model's; ``"native"``: they
       keep their size, and are enlarged only if they are smaller than the model's clip. Both sides become whole
       patches. A scaled pixel is made of visible ones only, and hidden if these are less than half of it.
    2. Windows of the model's clip size then cover the video: along time, rows and columns, evenly spaced, overlapping
       by about half where more than one is needed, starting on whole patches. A video that is shorter than a clip or
       no whole number of patches repeats its last frame.
    3. Windows that hide something and show at least a patch are encoded once each and denoised together, their
       estimates of x_0 averaged at every step: see :class:`diffmae_video.inpainting.joint.JointWindows`. Where some
       window shows pixels but no patch, all is done in two passes, see ``passes.py``.
    4. The result is scaled back and put under the mask of the original frames; the other pixels are untouched.

    Memory: about 30 bytes per value of the video at its working size, and the keys and values of every window.

    Args:
        model: see :func:`inpaint`.
        frames: uint8 (T, H, W, 3) RGB.
        mask: bool (T, H, W), True = hidden.
        steps, sampler, seed, eta, spacing, threshold, impute, overlap: see :func:`inpaint`.
        fit: ``"resize"`` or ``"native"``.
        progress: called with (network steps done, steps in all); two passes start again.
        feather: pixels around the mask over which the result fades into the original; visible pixels change there. They
            are generated as well, from 0 (off) on.
        on_step: called after every step with the whole video at its working size.

    Returns:
        uint8 (T, H, W, 3).

    Raises:
        ValueError: wrong shapes, unknown ``fit``, negative ``feather``, a window without anything visible, or what
            :func:`inpaint` refuses.
    """
    _check_video(model, frames, mask, fit, feather)
    if not mask.any():
        return frames.copy()
    device = model.pixel_mean.device
    weight = _feathered(mask, feather) if feather else mask
    pixels, hidden = scale_to_work(frames, weight > 0, model.clip_shape[1:], model.patch_size, fit)
    video, hidden = model.normalize(pixels.unsqueeze(0).to(device)), hidden.to(device)
    sampling = Sampling(steps, sampler, eta, spacing, threshold, impute, overlap)
    # Drawn on the CPU: the same on every device. A hidden line that is thinner than a scaled pixel leaves nothing to
    # generate: the scaled pixels have it filled.
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    between = torch.Generator(device).manual_seed(seed + 1)  # of the noise between steps
    filler = Filler(model, sampling, video.shape[2:], on_step, progress)
    filled = filler.fill(video, hidden.unsqueeze(0), noise, between)
    return put_under_mask(frames, model.denormalize(filled)[0].float().cpu(), weight)


def _check_video(model: MaskedAutoencoder, frames: np.ndarray, mask: np.ndarray, fit: str, feather: int) -> None:
    check_model(model)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(f"expected uint8 frames (T, H, W, 3), got {frames.dtype} {frames.shape}")
    if mask.dtype != np.bool_ or mask.shape != frames.shape[:3]:
        raise ValueError(f"expected a bool mask {frames.shape[:3]}, True = hidden, got {mask.dtype} {mask.shape}")
    if fit not in FITS:
        raise ValueError(f"unknown fit {fit!r}: choose one of {', '.join(FITS)}")
    if feather < 0:
        raise ValueError(f"feather is {feather}: expected a number of pixels, 0 = no feathering")


def _feathered(mask: np.ndarray, feather: int) -> np.ndarray:
    """Share of the result in every pixel, float32 (T, H, W): 1 under the mask, and linearly down to 0 outside."""
    grown = sum(grow_mask(mask, pixels).astype(np.float32) for pixels in range(feather + 1))
    return grown / (feather + 1)
