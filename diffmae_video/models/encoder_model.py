"""A model of which only the encoder is left: what features need, and no more."""

from __future__ import annotations

import torch
from torch import nn

from diffmae_video.models.encoder import SpaceTimeViT
from diffmae_video.models.pixels import PixelNormalization


class EncoderModel(PixelNormalization):
    """The encoder of a pre-trained model or a classifier, without its decoder or head.

    Its state dict is that of the whole model, cut down to the names that begin with ``encoder.`` or ``pixel_``.

    Args:
        encoder: that of the whole model.
        pixel_mean, pixel_std: per channel, on the [0, 1] pixel scale; stored with the weights.
    """

    def __init__(self, encoder: SpaceTimeViT, pixel_mean: tuple[float, ...], pixel_std: tuple[float, ...]):
        super().__init__()
        self.encoder = encoder
        self.clip_shape, self.patch_size, self.grid = encoder.clip_shape, encoder.patch_size, encoder.grid
        self.register_pixels(pixel_mean, pixel_std)

    @classmethod
    def of(cls, model: nn.Module) -> EncoderModel:
        """That of a whole model with ``encoder``, ``pixel_mean`` and ``pixel_std``; it shares the encoder."""
        mean, std = (tuple(buffer.flatten().tolist()) for buffer in (model.pixel_mean, model.pixel_std))
        return cls(model.encoder, mean, std).to(model.pixel_mean.device).train(model.training)

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        """Normalised clip (B, C, T, H, W) -> patch tokens (B, N, D), t-major."""
        return self.encoder.encode(clip)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """The same as :meth:`encode`: there is nothing else that this model does."""
        return self.encode(clip)
