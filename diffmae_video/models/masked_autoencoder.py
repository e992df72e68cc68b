"""What DiffMAE and MAE share: visible patches -> encoder -> decoder -> hidden patches.

The two differ in one thing, what stands in the place of a hidden patch: its noisy pixels, or a learned mask token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from diffmae_video.diffusion.randomness import Generators
from diffmae_video.models.blocks import initialize
from diffmae_video.models.decoders import Decoder
from diffmae_video.models.dual_mask import decoded_places
from diffmae_video.models.encoder import SpaceTimeViT
from diffmae_video.models.masks import MaskChoice, make_mask, mask_indices
from diffmae_video.models.patches import gather_patches, gather_tokens
from diffmae_video.models.pixels import PixelNormalization
from diffmae_video.models.targets import (
    TARGETS,
    frame_in_patch,
    normalize_channels,
    normalize_patches,
    take_frames,
    target_values,
)

FEATURE_LOSSES = ("cosine", "mse")


class Output(NamedTuple):
    """What a forward pass returns; B clips, N tokens of which M are hidden and K decoded, P values per patch."""

    loss: torch.Tensor  # scalar, float32
    pred: torch.Tensor  # (B, K, P) the network's prediction for the decoded patches, in token order; K = M usually
    mask: torch.Tensor  # (B, N) bool, True = hidden
    per_clip_loss: torch.Tensor  # (B,) float32; their mean is ``loss``
    t: torch.Tensor | None  # (B,) int64 timesteps; None without diffusion
    places: torch.Tensor  # (B, K) int64 places of the decoded patches
    # Where the loss is a sum: its parts by name, (B,) each, before they are weighted.
    parts: Mapping[str, torch.Tensor] = MappingProxyType({})


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
        target: ``"raw"`` pixels, or, for recognition only, ``"normalized"``: every patch to mean 0, variance 1 (MAE),
            or ``"normalized_per_channel"``: every channel of it (VideoMAE).
        target_frames: ``"all"`` frames of a patch, or one of them: ``"first"``, ``"linspace"`` (MAE-ST; see
            ``targets.frame_in_patch``), for recognition only. The decoder's head then has that many outputs.
        predict_ratio, predict_pattern: share of the hidden tokens that training decodes; see ``dual_mask.py``.
        feature_width: F of a second head that predicts another network's features of every decoded patch; 0 = none.
        feature_loss: ``"cosine"``, 1 - cos of the angle between prediction and feature; or ``"mse"``, of the two, each
            to mean 0, variance 1.
        feature_weight, pixel_weight: the loss is pixel_weight * (pixels) + feature_weight * (features).
        mask_strategy, mask_ratio: how to mask when ``forward`` is given no mask; see ``masks.make_mask``.
        pixel_mean, pixel_std: per channel, on the [0, 1] pixel scale; stored with the weights.
    """

    def __init__(
        self,
        encoder: SpaceTimeViT,
        decoder: Decoder,
        target: str = "raw",
        target_frames: str = "all",
        predict_ratio: float = 1.0,
        predict_pattern: str = "running_cell",
        feature_width: int = 0,
        feature_loss: str = "cosine",
        feature_weight: float = 1.0,
        pixel_weight: float = 1.0,
        mask_strategy: str = "tube",
        mask_ratio: float = 0.9,
        pixel_mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        pixel_std: tuple[float, ...] = (0.5, 0.5, 0.5),
    ):
        super().__init__()
        if target not in TARGETS:
            raise ValueError(f"unknown target {target!r}: choose one of {', '.join(TARGETS)}")
        if feature_loss not in FEATURE_LOSSES:
            raise ValueError(f"unknown feature loss {feature_loss!r}: choose one of {', '.join(FEATURE_LOSSES)}")
        expected = target_values(encoder.patch_size, encoder.clip_shape[0], target_frames)
        if decoder.head.out_features != expected:
            raise ValueError(
                f"the decoder predicts {decoder.head.out_features} values per token, the target has {expected}"
            )
        self.encoder, self.decoder, self.target, self.target_frames = encoder, decoder, target, target_frames
        self.predict_ratio, self.predict_pattern = predict_ratio, predict_pattern
        self.feature_width, self.feature_loss = feature_width, feature_loss
        self.feature_weight, self.pixel_weight = feature_weight, pixel_weight
        if feature_width:
            self.feature_head = nn.Linear(decoder.head.in_features, feature_width)
            self.feature_head.apply(initialize)
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

    def prepare(
        self,
        clip: torch.Tensor,
        mask: torch.Tensor,
        choose: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> Context:
        """Encodes the visible patches of a normalised clip; hidden ones, mask (B, N) True, are never read.

        The clip may have fewer frames than ``clip_shape``: N is then the number of its own tokens. ``choose``: places
        (B, M) of the hidden tokens -> (B, K) of those that will be decoded; None = all of them.
        """
        self.check_clip(clip)
        visible, hidden = mask_indices(mask)
        hidden = hidden if choose is None else choose(hidden)
        patches = gather_patches(clip, visible, self.patch_size)
        features = self.encoder.features(patches, visible, last=self.decoder.feature_layers)
        return Context(self.decoder.prepare(features, visible), hidden, self.decoder.positions(hidden))

    def training_places(self, hidden: torch.Tensor, generator: Generators) -> torch.Tensor:
        """Places (B, M) of the hidden tokens -> (B, K) of those that a training step decodes."""
        if self.predict_ratio == 1:
            return hidden
        return decoded_places(hidden, self.grid, self.predict_ratio, self.predict_pattern, generator)

    def target_patches(self, clip: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """What is to be reconstructed at ``hidden`` (B, M): (B, M, P), or (B, M, P / pt) of single frames."""
        if self.target == "normalized_per_channel":
            clip = self.denormalize(clip)
        patches = gather_patches(clip, hidden, self.patch_size)
        if self.target_frames != "all":
            pt, (_, h, w) = self.patch_size[0], self.grid
            frame = frame_in_patch(clip.shape[2] // pt, pt, self.target_frames, clip.device)
            patches = take_frames(patches, hidden // (h * w), frame, pt)
        if self.target == "raw":
            return patches
        if self.target == "normalized":
            return normalize_patches(patches)
        return normalize_channels(patches, self.clip_shape[0])

    def output(
        self,
        context: Context,
        tokens: torch.Tensor,
        target: torch.Tensor,
        mask: torch.Tensor,
        t: torch.Tensor | None,
        features: torch.Tensor | None,
    ) -> Output:
        """Predictions from the decoder's ``tokens`` (B, K, d), compared with ``target`` (B, K, P).

        ``features``: (B, N, F) another network's features of all patches, for models with a ``feature_width``.
        """
        pred = self.decoder.head(tokens)
        per_clip, parts = reconstruction_loss(pred, target), {}
        if self.feature_width:
            if features is None or features.shape[1:] != (mask.shape[1], self.feature_width):
                shape = None if features is None else tuple(features.shape)
                expected = (len(mask), mask.shape[1], self.feature_width)
                raise ValueError(
                    f"this model also predicts features: expected them as (B, N, F) = {expected}, got {shape}"
                )
            wanted = gather_tokens(features, context.hidden)
            parts = {"pixels": per_clip, "features": feature_loss(self.feature_head(tokens), wanted, self.feature_loss)}
            per_clip = self.pixel_weight * parts["pixels"] + self.feature_weight * parts["features"]
        return Output(per_clip.mean(), pred, mask, per_clip, t, context.hidden, parts)

    def check_clip(self, clip: torch.Tensor) -> None:
        if not self.encoder.takes(clip) or not clip.is_floating_point():
            raise ValueError(
                f"expected a float clip (B, C, T, H, W) with (C, T, H, W) = {self.clip_shape}, or fewer frames, a "
                f"multiple of {self.patch_size[0]}; got {clip.dtype} {tuple(clip.shape)}; uint8 pixels go through "
                "normalize() first"
            )

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are positions or tokens: like biases and norms, they are not decayed."""
        names = ("position.space", "position.time", "position.table", "class_token", "class_position", "mask_token")
        return {name for name, _ in self.named_parameters() if name.endswith(names)}


def reconstruction_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error over the hidden patches of every clip: (B, M, P) twice -> (B,) float32."""
    return F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2))


def feature_loss(prediction: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
    """How far predicted features (B, K, F) are from ``target``, by ``FEATURE_LOSSES``; (B,) float32."""
    prediction, target = prediction.float(), target.float()
    if kind == "cosine":
        return (1 - F.cosine_similarity(prediction, target, dim=-1)).mean(dim=1)
    width = target.shape[-1:]
    return reconstruction_loss(F.layer_norm(prediction, width), F.layer_norm(target, width))
