"""MAE (He et al. 2022): DiffMAE at t = T, where the hidden input carries no signal and one step decodes it."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from diffmae_video.diffusion.randomness import Generators
from diffmae_video.models.blocks import initialize
from diffmae_video.models.decoders import Decoder
from diffmae_video.models.encoder import SpaceTimeViT
from diffmae_video.models.masked_autoencoder import Context, MaskedAutoencoder, Output


class MAE(MaskedAutoencoder):
    """A masked autoencoder with a learned mask token in the place of every hidden patch.

    Arguments as of :class:`MaskedAutoencoder`.
    """

    def __init__(self, encoder: SpaceTimeViT, decoder: Decoder, **masking):
        super().__init__(encoder, decoder, **masking)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder.head.in_features))
        nn.init.normal_(self.mask_token, std=0.02)
        self.decoder.apply(initialize)

    def forward(
        self,
        clip: torch.Tensor,
        mask: torch.Tensor | None = None,
        generator: Generators = None,
        features: torch.Tensor | None = None,
    ) -> Output:
        """Predicts the hidden patches and compares; arguments as of ``DiffMAE.forward``."""
        self.check_clip(clip)
        mask = self.make_mask(clip.shape[0], generator, clip.shape[2]) if mask is None else mask
        context = self.prepare(clip, mask, partial(self.training_places, generator=generator))
        target = self.target_patches(clip, context.hidden)
        return self.output(context, self.decode(context), target, mask, None, features)

    def decode(self, context: Context) -> torch.Tensor:
        """The decoder's tokens (B, M, d) for the hidden patches."""
        return self.decoder.features(self.mask_token + context.positions, context.layers)

    def predict(self, context: Context) -> torch.Tensor:
        """The decoder's prediction (B, M, P) for the hidden patches."""
        return self.decoder.head(self.decode(context))
