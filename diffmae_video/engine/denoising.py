"""The evaluator of denoising autoencoders; see ``evaluation.py`` for what an evaluator is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from diffmae_video.engine.evaluators import publish_picture
from diffmae_video.engine.monitor import Monitor
from diffmae_video.models.latent_dae import LatentDAE
from diffmae_video.visualize import contact_sheet, evenly_spaced

LEVELS = (0.2, 0.5, 0.9)  # noise levels that are shown, as shares of those that are trained


class DenoisingEvaluator:
    """Denoises a few fixed clips at three noise levels and writes a sheet: clean, and per level noisy and denoised.

    Returns ``psnr_t<timestep>`` for each of the levels: peak signal-to-noise ratio (dB) of the denoised clips.

    Args:
        clips: (B, C, T, H, W) uint8 of the model's ``clip_shape``, with 3 channels.
        folder: the sheets are ``folder/step_00000500.png``; created when missing.
        period: optimiser steps between two sheets.
        seed: of the noise, which is the same every time.
        frames: frames of a clip that are shown, evenly spaced.
    """

    name = "denoising"

    def __init__(self, clips: torch.Tensor, folder: str | Path, period: int, seed: int = 0, frames: int = 3):
        self.clips, self.folder, self.period, self.seed, self.frames = clips, Path(folder), period, seed, frames

    def evaluate(self, model: LatentDAE, step: int, monitor: Monitor) -> dict[str, float]:
        device = model.pixel_mean.device
        clean = model.normalize(self.clips.to(device))
        rows, titles, values = [self._row(self.clips)], ["clean"], {}
        for t in levels(model):
            generators = [torch.Generator(device).manual_seed(self.seed + i) for i in range(len(clean))]
            seen, denoised = (
                model.denormalize(clip.float()).clamp(0, 1)
                for clip in model.reconstruct(clean, torch.full((len(clean),), t, device=device), generators)
            )
            error = (denoised - model.denormalize(clean)).double().square().mean().item()
            values[f"psnr_t{t}"] = -10 * math.log10(max(error, 1e-12))
            rows += [self._row((255 * clip).round().to(torch.uint8).cpu()) for clip in (seen, denoised)]
            titles += [f"input, t = {t}", "denoised"]
        publish_picture(contact_sheet(rows, titles, minimum=96), self.name, self.folder, step, monitor)
        return values

    def _row(self, clips: torch.Tensor) -> np.ndarray:
        """Clips uint8 (B, 3, T, H, W) -> some frames of each, one after the other (K, H, W, 3)."""
        shown = clips[:, :, evenly_spaced(self.clips.shape[2], self.frames)]
        return shown.permute(0, 2, 3, 4, 1).flatten(0, 1).contiguous().numpy()


def levels(model: LatentDAE) -> list[int]:
    """The timesteps that are shown; one, where the model is trained at a single noise level."""
    low, high = model.train_range
    last = model.schedule.steps - 1
    return sorted({round((low + share * (high - low)) * last) for share in LEVELS})
