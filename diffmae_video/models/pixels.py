"""Pixels to the numbers that a network takes, and back. The mean and deviation are stored with the weights."""

from __future__ import annotations

import torch
from torch import nn


class PixelNormalization(nn.Module):
    """For models whose clips come as pixels; a base class, used with ``patch_size`` of the model."""

    patch_size: tuple[int, int, int]

    def register_pixels(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """``mean``, ``std``: per channel, on the [0, 1] pixel scale."""
        shape = (1, -1, 1, 1, 1)
        self.register_buffer("pixel_mean", torch.tensor(mean, dtype=torch.float32).reshape(shape))
        self.register_buffer("pixel_std", torch.tensor(std, dtype=torch.float32).reshape(shape))

    def normalize(self, clip: torch.Tensor) -> torch.Tensor:
        """Pixels (B, C, T, H, W), uint8 or float in [0, 1] -> the float clip that the network takes.

        A single frame is repeated to the pt frames of one patch.
        """
        if clip.shape[2] == 1:
            clip = clip.expand(-1, -1, self.patch_size[0], -1, -1)
        # In place from the first copy on: new tensors of this size cost more than the arithmetic.
        pixels = clip.float().div_(255).sub_(self.pixel_mean) if clip.dtype == torch.uint8 else clip - self.pixel_mean
        return pixels.div_(self.pixel_std)

    def denormalize(self, clip: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`normalize`: float pixels, in [0, 1] where the clip was a picture."""
        return clip * self.pixel_std + self.pixel_mean
