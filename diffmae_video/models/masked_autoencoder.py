"""What DiffMAE and MAE share: visible patches -> encoder -> decoder -> hidden patches.

The two differ in one thing, what stands in the place of a hidden patch: its noisy pixels, or a learned mask token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from diffmae_video.diffusion.randomness import Generators
from diffmae_video.models.decoders import Decoder
from diffmae_video.models.encoder import SpaceTimeViT
from diffmae_video.models.masks import MaskChoice, make_mask, mask_indices
from diffmae_video.models.patches import gather_tokens, normalize_patches, patchify
from diffmae_video.models.pixels import PixelNormalization

TARGETS = ("raw", "normalized")


class Output(NamedTuple):
    """What a forward pass returns; B clips, N tokens of which M are hidden, P values per patch."""

    loss: torch.Tensor  # scalar, float32
    pred: torch.Tensor  # (B, M, P) the network's prediction for the hidden patches, in token order
    mask: torch.Tensor  # (B, N) bool, True = hidden
    per_clip_loss: torch.Tensor  # (B,) float32; their mean is ``loss``
    t: torch.Tensor | None  # (B,) int64 timesteps; None without diffusion


class Context(NamedTuple):
    """A clip's visible part, encoded: all that decoding needs besides the hidden tokens."""

    layers: Any  # what Decoder.prepare returned
    hidden: torch.Tensor  # (B, M) int64 places of the hidden tokens
    positions: torch.Tensor  # (B, M, d) position embeddings of the hidden tokens


class MaskedAutoencoder(PixelNormalization):
    """Base of :class:`DiffMAE` and :class:`MAE`; not used by itself.

    Args:
        encoder: sees the visible patches only.
        decoder: built for the same token grid.
        target: ``"raw"`` pixels, or ``"normalized"``: every patch to mean 0, variance 1 (recognition only).
        mask_strategy, mask_ratio: how to mask when ``forward`` is given no mask; see ``masks.make_mask``.
        pixel_mean, pixel_std: per channel, on the [0, 1] pixel scale; stored with the weights.
    """

    def __init__(
        self,
        encoder: SpaceTimeViT,
        decoder: Decoder,
        target: str = "raw",
        mask_strategy: str = "tube",
        mask_ratio: float = 0.9,
        pixel_mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        pixel_std: tuple[float, ...] = (0.5, 0.5, 0.5),
    ):
        super().__init__()
        if target not in TARGETS:
            raise ValueError(f"unknown target {target!r}: choose one of {', '.join(TARGETS)}")
        self.encoder, self.decoder, self.target = encoder, decoder, target
        self.mask_strategy, self.mask_ratio = mask_strategy, mask_ratio
        self.clip_shape, self.patch_size, self.grid = encoder.clip_shape, encoder.patch_size, encoder.grid
        self.register_pixels(pixel_mean, pixel_std)

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        """Normalised clip (B, C, T, H, W) -> tokens (B, N, D), nothing hidden."""
        return self.encoder.encode(clip)

    def make_mask(
        self,
        batch: int,
        generator: Generators = None,
        frames: int | None = None,
        choice: MaskChoice | None = None,
    ) -> torch.Tensor:
        """Masks (B, N), True = hidden, that ``forward`` takes.

        ``frames``: T of the clips; None = the model's. N is the number of tokens that so many frames have.
        ``choice``: what a ``MaskMix`` drew for this batch; None = the model's own strategy and ratio.
        """
        device = self.pixel_mean.device
        slots = self.grid[0] if frames is None else frames // self.patch_size[0]
        strategy, ratio = choice or (self.mask_strategy, self.mask_ratio)
        return make_mask(strategy, (slots, *self.grid[1:]), ratio, batch, generator, device)

    def prepare(self, clip: torch.Tensor, mask: torch.Tensor) -> Context:
        """Encodes the visible patches of a normalised clip; hidden ones, mask (B, N) True, are never read.

        The clip may have fewer frames than ``clip_shape``: N is then the number of its own tokens.
        """
        self.check_clip(clip)
        visible, hidden = mask_indices(mask)
        patches = gather_tokens(patchify(clip, self.patch_size), visible)
        features = self.encoder.features(patches, visible, last=self.decoder.feature_layers)
        return Context(self.decoder.prepare(features, visible), hidden, self.decoder.positions(hidden))

    def target_patches(self, clip: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """What is to be reconstructed at ``hidden`` (B, M): (B, M, P), raw or normalised values."""
        patches = gather_tokens(patchify(clip, self.patch_size), hidden)
        return patches if self.target == "raw" else normalize_patches(patches)

    def check_clip(self, clip: torch.Tensor) -> None:
        if not self.encoder.takes(clip) or not clip.is_floating_point():
            raise ValueError(
                f"expected a float clip (B, C, T, H, W) with (C, T, H, W) = {self.clip_shape}, or fewer frames, a "
                f"multiple of {self.patch_size[0]}; got {clip.dtype} {tuple(clip.shape)}; uint8 pixels go through "
                "normalize() first"
            )

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are positions or tokens: like biases and norms, they are not decayed."""
        names = ("position.space", "position.time", "class_token", "mask_token")
        return {name for name, _ in self.named_parameters() if name.endswith(names)}


def reconstruction_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error over the hidden patches of every clip: (B, M, P) twice -> (B,) float32."""
    return F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2))
