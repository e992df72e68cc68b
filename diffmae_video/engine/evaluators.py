"""The evaluators of pre-training; see ``evaluation.py`` for what an evaluator is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from diffmae_video.data.writing import write_image
from diffmae_video.engine.disk import tolerate_full_disk
from diffmae_video.engine.monitor import Monitor
from diffmae_video.inpainting import inpaint
from diffmae_video.visualize import Trajectory, contact_sheet, evenly_spaced, masked_frames, trajectory_strip


class ReconstructionEvaluator:
    """Inpaints a few fixed clips and writes a sheet of frames: masked input, inpainted, original.

    Of a model that inpaints step by step (DiffMAE) it also writes the denoising of the first clip as a strip.

    Returns ``psnr_hidden``: peak signal-to-noise ratio (dB) inside the mask, over all clips.

    Args:
        clips: (B, C, T, H, W) uint8 of the model's ``clip_shape``, with 3 channels.
        mask: (B, T, H, W) bool, True = hidden.
        folder: the sheets are ``folder/step_00000500.png``, the strips beside it ``trajectories/step_00000500.png``;
            created when missing.
        period: optimiser steps between two sheets.
        steps, sampler, seed: see :func:`diffmae_video.inpainting.inpaint`.
        frames: frames of a clip that are shown, evenly spaced.
    """

    name = "reconstruction"

    def __init__(
        self,
        clips: torch.Tensor,
        mask: torch.Tensor,
        folder: str | Path,
        period: int,
        steps: int = 20,
        sampler: str = "ddim",
        seed: int = 0,
        frames: int = 8,
    ):
        self.clips, self.mask = clips, mask
        self.folder, self.period = Path(folder), period
        self.steps, self.sampler, self.seed, self.frames = steps, sampler, seed, frames

    def evaluate(self, model: nn.Module, step: int, monitor: Monitor) -> dict[str, float]:
        device = next(model.parameters()).device
        clips, mask = self.clips.to(device), self.mask.to(device)
        trajectory = Trajectory()
        filled = inpaint(model, clips, mask, steps=self.steps, sampler=self.sampler, seed=self.seed, on_step=trajectory)
        hidden = mask.unsqueeze(1).expand_as(clips)
        error = (filled.double() - clips.double())[hidden].square().mean().item()
        publish_picture(self._sheet(filled.cpu()), self.name, self.folder, step, monitor)
        if trajectory.steps:  # a MAE has none
            folder = self.folder.with_name("trajectories")
            publish_picture(trajectory_strip(trajectory), "trajectory", folder, step, monitor)
        return {"psnr_hidden": 10 * math.log10(255**2 / max(error, 1e-9))}

    def _sheet(self, filled: torch.Tensor) -> np.ndarray:
        """uint8 (H, W, 3): three rows per clip, one column per shown frame."""
        shown = evenly_spaced(self.clips.shape[2], self.frames)
        rows = []
        for clip, result, mask in zip(self.clips, filled, self.mask, strict=True):
            original = _frames(clip)[shown]
            rows += [masked_frames(original, mask.numpy()[shown]), _frames(result)[shown], original]
        return contact_sheet(rows, titles=["masked input", "inpainted", "original"] * len(self.clips))


def publish_picture(picture: np.ndarray, tag: str, folder: Path, step: int, monitor: Monitor) -> None:
    """A picture, uint8 (H, W, 3), as a PNG in ``folder`` and in TensorBoard."""
    with tolerate_full_disk(f"a picture for {folder.name}"):
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"step_{step:08d}.png", picture)
    monitor.record_image(tag, picture, step)


def _frames(clip: torch.Tensor) -> np.ndarray:
    """uint8 clip (C, T, H, W) -> frames (T, H, W, C)."""
    return clip.permute(1, 2, 3, 0).contiguous().numpy()
