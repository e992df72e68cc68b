"""DiffMAE: Diffusion Models as Masked Autoencoders (Wei et al., ICCV 2023, arXiv 2304.03283).

x_t = sqrt(abar_t) * x_0 + sqrt(1 - abar_t) * eps              on the hidden patches only
loss = || x_0 - decoder(x_t, t, encoder(visible)) ||^2         on the hidden patches only
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from diffmae_video.diffusion.randomness import Generators, randn
from diffmae_video.diffusion.schedule import NoiseSchedule, draw_timesteps
from diffmae_video.models.blocks import TimestepEmbedding, initialize
from diffmae_video.models.decoders import Decoder
from diffmae_video.models.encoder import SpaceTimeViT
from diffmae_video.models.masked_autoencoder import Context, MaskedAutoencoder, Output
from diffmae_video.models.noisy_input import VARIANCE, WienerEstimate
from diffmae_video.models.patches import gather_patches

PREDICTIONS = ("x0", "eps", "v")
INPUT_SCALINGS = ("none", "signal", "wiener")


class DiffMAE(MaskedAutoencoder):
    """A masked autoencoder whose decoder denoises the hidden patches.

    Args:
        encoder, decoder, and ``masking`` (target, mask_strategy and so on): see :class:`MaskedAutoencoder`. The target
            is of all frames of a patch: those are noised.
        schedule: noise levels.
        train_range: timesteps are drawn uniformly from this part of the schedule; see ``draw_timesteps``. (1, 1) is its
            last one alone, where x_t carries no signal: MAE with noise in the place of the mask token.
        prediction: what the decoder predicts: ``"x0"`` (clean patches, the paper's choice), ``"eps"`` or ``"v"``.
        input_scaling: how x_t enters the decoder: ``"none"``, as it is, or ``"signal"``, times sqrt(abar_t). That is
            the best linear estimate of x_0 for data of unit variance: pure noise enters as almost nothing, and the
            decoder does not have to learn at every timestep anew how far to trust its input. ``"wiener"``: the best one
            for patches of a picture, see ``noisy_input.py``.

    Raises:
        ValueError: unknown prediction, input scaling or target.
    """

    def __init__(
        self,
        encoder: SpaceTimeViT,
        decoder: Decoder,
        schedule: NoiseSchedule,
        prediction: str = "x0",
        input_scaling: str = "none",
        train_range: tuple[float, float] = (0.0, 1.0),
        **masking,
    ):
        super().__init__(encoder, decoder, **masking)
        if self.target_frames != "all":
            raise ValueError(
                f'DiffMAE noises all frames of a patch: target_frames is "all", not {self.target_frames!r}'
            )
        if prediction not in PREDICTIONS:
            raise ValueError(f"unknown prediction {prediction!r}: choose one of {', '.join(PREDICTIONS)}")
        if input_scaling not in INPUT_SCALINGS:
            raise ValueError(f"unknown input scaling {input_scaling!r}: choose one of {', '.join(INPUT_SCALINGS)}")
        self.schedule, self.prediction, self.input_scaling = schedule, prediction, input_scaling
        self.train_range = tuple(train_range)
        patch_values, width = decoder.head.out_features, decoder.head.in_features
        if input_scaling == "wiener":
            self.wiener = WienerEstimate(self.patch_size, self.clip_shape[0], VARIANCE[self.target])
        # The *pixels* of a noisy patch are embedded; the noise is never added to an embedding.
        self.noisy_embed = nn.Linear(patch_values, width)
        self.time_embed = TimestepEmbedding(width)
        for module in (self.decoder, self.noisy_embed, self.time_embed):
            module.apply(initialize)
        # Unit noise enters the tokens with a standard deviation of 0.1. With the usual initialisation it can be
        # twice as large as the position embedding, which the first steps then have to dig out of the noise.
        nn.init.normal_(self.noisy_embed.weight, std=0.1 * patch_values**-0.5)

    def forward(
        self,
        clip: torch.Tensor,
        mask: torch.Tensor | None = None,
        t: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        generator: Generators = None,
        features: torch.Tensor | None = None,
    ) -> Output:
        """Noises the hidden patches, denoises them and compares.

        Args:
            clip: (B, C, T, H, W) float, normalised (:meth:`normalize`), of the model's ``clip_shape`` or with fewer
                frames, a multiple of pt; N below is then the number of its own tokens.
            mask: (B, N) bool, True = hidden, the same number in every clip; None = drawn.
            t: (B,) int64 timesteps in [0, schedule.steps - 1]; None = drawn uniformly from ``train_range``.
            noise: N(0, I) for the decoded patches (B, K, P), or for a whole clip like ``clip``, of which the decoded
                patches are used; None = drawn.
            generator: source of what is drawn: None, one, or a list with one per clip.
            features: (B, N, F), for models with a ``feature_width``: what the second head is to predict.

        Raises:
            ValueError: a clip, mask or noise of another shape.
        """
        self.check_clip(clip)
        batch = clip.shape[0]
        mask = self.make_mask(batch, generator, clip.shape[2]) if mask is None else mask
        t = draw_timesteps(self.schedule.steps, self.train_range, batch, generator, clip.device) if t is None else t

        context = self.prepare(clip, mask, partial(self.training_places, generator=generator))
        x0 = self.target_patches(clip, context.hidden)  # (B, M, P)
        eps = self.noise_patches(noise, x0, context.hidden, generator)
        x_t = self.schedule.add_noise(x0, eps, t)
        target = {"x0": lambda: x0, "eps": lambda: eps, "v": lambda: self.schedule.velocity(x0, eps, t)}
        return self.output(context, self.decode(context, x_t, t), target[self.prediction](), mask, t, features)

    def denoise(self, context: Context, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The decoder's prediction (B, M, P) for noisy hidden patches ``x_t`` (B, M, P) at timesteps ``t`` (B,)."""
        return self.decoder.head(self.decode(context, x_t, t))

    def decode(self, context: Context, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The decoder's tokens (B, M, d); arguments as of :meth:`denoise`."""
        if self.input_scaling != "none":
            signal, noise = self.schedule.scales(t, x_t)
            x_t = signal * x_t if self.input_scaling == "signal" else self.wiener(x_t, signal, noise)
        tokens = self.noisy_embed(x_t) + context.positions + self.time_embed(t)
        return self.decoder.features(tokens, context.layers)

    def noise_patches(
        self, noise: torch.Tensor | None, x0: torch.Tensor, hidden: torch.Tensor, generator: Generators
    ) -> torch.Tensor:
        """The noise of the hidden patches, shaped like ``x0`` (B, M, P): drawn, given, or cut out of a clip of it."""
        if noise is None:
            return randn(x0.shape, generator, x0.device)
        if noise.dim() == 5:
            self.check_clip(noise)
            noise = gather_patches(noise, hidden, self.patch_size)
        if noise.shape != x0.shape:
            raise ValueError(
                f"expected noise (B, M, P) = {tuple(x0.shape)} or (B, C, T, H, W) with {self.clip_shape}, "
                f"got {tuple(noise.shape)}"
            )
        return noise
