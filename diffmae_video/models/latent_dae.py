"""l-DAE: a latent denoising autoencoder (Chen et al., Deconstructing Denoising Diffusion Models, arXiv 2401.14404).

z_0 = tokenizer(x_0),    z_t = a_t * z_0 + s_t * eps                               on all patches; nothing is masked
input "image":   the network sees the noisy patches tokenizer^-1(z_t)              input "latent":  z_t itself
output "image":  loss = lambda_t * mean_i w_i r_i^2,   r = V^T (x_0 - network)     w_i = 1 for i <= d, less beyond
output "latent": loss = lambda_t * mean_i (target - network)_i^2                   target z_0, eps or v

V is the orthonormal basis of all patches whose first d directions are the latent's. lambda_t = 1 / (1 + sigma_t^2)
with sigma_t = s_t / a_t, the noise for a signal of scale 1; without ``time_weight`` it is 1 for all t.

The encoder is the first part of the blocks. With the tokenizer ``PixelTokenizer``, output "latent" and prediction "eps"
this is DDPM's training (Ho et al. 2020) of a Vision Transformer.
"""

from __future__ import annotations

import torch
from torch import nn

from diffmae_video.diffusion.randomness import Generators, rand, randn
from diffmae_video.diffusion.schedule import NoiseSchedule, draw_timesteps
from diffmae_video.models.blocks import NORM_EPS, AdaLNBlock, initialize
from diffmae_video.models.encoder import SpaceTimeViT
from diffmae_video.models.masked_autoencoder import Output
from diffmae_video.models.patches import patchify, unpatchify
from diffmae_video.models.pixels import PixelNormalization
from diffmae_video.models.tokenizers import LatentEmbedding, Tokenizer

SPACES = ("image", "latent")
LATENT_PREDICTIONS = ("x0", "eps", "v")


class DenoisingDecoder(nn.Module):
    """The blocks after the encoder's, of its width and heads, and the projection to ``values`` numbers per token."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float, values: int):
        super().__init__()
        self.blocks = nn.ModuleList(AdaLNBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = nn.Linear(width, values)
        self.apply(initialize)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D) and the condition of their clips (B, 1, D) -> (B, N, values)."""
        for block in self.blocks:
            x = block(x, condition)
        return self.head(self.norm(x))


class LatentDAE(PixelNormalization):
    """A denoising autoencoder whose noise is added in the latent space of a tokenizer.

    Args:
        encoder: with ``time_conditioning``; with input "latent" it holds the tokenizer.
        decoder: of the encoder's width; predicts P values per token for output "image", d for "latent".
        tokenizer: patches to latents; see ``tokenizers.py``.
        schedule: noise levels.
        input, output: ``"image"`` or ``"latent"``: what the network sees, and what it predicts.
        prediction: ``"x0"``, ``"eps"`` or ``"v"``; for output "image" it is "x0". "v" is for schedules that preserve
            the variance.
        residual_weight: w_i of what the latent leaves out, in [0, 1]; of output "image". Below 1 it is for tokenizers
            with an orthonormal basis.
        time_weight: whether the loss has the factor lambda_t.
        train_range: (lo, hi), shares of the schedule from which timesteps are drawn; see ``draw_timesteps``.
        num_classes: of labels that the network is told; 0 = it is told none.
        class_dropout: share of the clips that training tells no class.
        pixel_mean, pixel_std: per channel, on the [0, 1] pixel scale; stored with the weights.

    Raises:
        ValueError: choices that do not exist, or do not go together.
    """

    def __init__(
        self,
        encoder: SpaceTimeViT,
        decoder: DenoisingDecoder,
        tokenizer: Tokenizer,
        schedule: NoiseSchedule,
        input: str = "image",
        output: str = "image",
        prediction: str = "x0",
        residual_weight: float = 0.1,
        time_weight: bool = True,
        train_range: tuple[float, float] = (0.0, 1.0),
        num_classes: int = 0,
        class_dropout: float = 0.1,
        pixel_mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        pixel_std: tuple[float, ...] = (0.5, 0.5, 0.5),
    ):
        super().__init__()
        _check_choices(tokenizer, schedule, input, output, prediction, residual_weight)
        _check_parts(encoder, decoder, tokenizer, input, output)
        self.encoder, self.decoder, self.schedule = encoder, decoder, schedule
        if input == "image":  # else it is in the encoder, and would be saved twice
            self.image_tokenizer = tokenizer
        self.input, self.output, self.prediction = input, output, prediction
        self.residual_weight, self.time_weight, self.train_range = residual_weight, time_weight, tuple(train_range)
        self.num_classes, self.class_dropout = num_classes, class_dropout
        # The row of "no class" is zero and stays so: the encoder alone, in recognition, is then told just that.
        if num_classes:
            self.label_embed = nn.Embedding(num_classes + 1, encoder.width, padding_idx=num_classes)
            nn.init.normal_(self.label_embed.weight, std=0.02)
            nn.init.zeros_(self.label_embed.weight[num_classes])
        self.clip_shape, self.patch_size, self.grid = encoder.clip_shape, encoder.patch_size, encoder.grid
        self.register_pixels(pixel_mean, pixel_std)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.image_tokenizer if self.input == "image" else self.encoder.patch_embed.tokenizer

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        """Normalised clean clip (B, C, T, H, W) -> tokens (B, N, D), at the encoder's ``timestep``, told no class."""
        return self.encoder.encode(clip)

    def forward(
        self,
        clip: torch.Tensor,
        t: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        generator: Generators = None,
        labels: torch.Tensor | None = None,
    ) -> Output:
        """Noises the latents of all patches, denoises and compares.

        Args:
            clip: (B, C, T, H, W) float, normalised (:meth:`normalize`), of the model's ``clip_shape`` or with fewer
                frames, a multiple of pt; N below is then the number of its own tokens.
            t: (B,) int64 timesteps in [0, schedule.steps - 1]; None = drawn uniformly from ``train_range``.
            noise: (B, N, d), N(0, I); None = drawn.
            generator: source of what is drawn: None, one, or a list with one per clip.
            labels: (B,) int64 classes, negative = none; None = none. Not used without ``num_classes``.

        Returns:
            ``pred`` is (B, N, P) or (B, N, d); ``mask`` all True, as every patch is predicted.

        Raises:
            ValueError: a clip, noise or labels of another shape.
        """
        self.check_clip(clip)
        batch, device = clip.shape[0], clip.device
        if t is None:
            t = draw_timesteps(self.schedule.steps, self.train_range, batch, generator, device)
        x0 = patchify(clip, self.patch_size)  # (B, N, P)
        z0 = self.tokenizer.encode(x0)  # (B, N, d)
        noise = randn(z0.shape, generator, device) if noise is None else noise
        if noise.shape != z0.shape:
            raise ValueError(f"expected noise (B, N, d) = {tuple(z0.shape)}, got {tuple(noise.shape)}")
        labels = self._drop_labels(labels, batch, generator, device)
        pred = self.denoise(self.schedule.add_noise(z0, noise, t), t, labels)
        per_clip = self._loss(pred, x0, z0, noise, t)
        places = torch.arange(x0.shape[1], device=device).expand(batch, -1)
        return Output(per_clip.mean(), pred, torch.ones_like(places, dtype=torch.bool), per_clip, t, places)

    def denoise(self, z_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """The network: noisy latents (B, N, d) at timesteps ``t`` (B,) -> (B, N, P) or (B, N, d), by ``output``.

        ``labels``: (B,) int64, negative = no class.
        """
        condition = self.encoder.condition(t)  # (B, 1, D)
        if self.num_classes and labels is not None:
            rows = torch.where(labels < 0, self.num_classes, labels)
            condition = condition + self.label_embed(rows).unsqueeze(1)
        embed = self.encoder.patch_embed
        tokens = embed(self.tokenizer.decode(z_t)) if self.input == "image" else embed.embed_latents(z_t)
        features = self.encoder.run(self.encoder.place(tokens), condition=condition)[0]
        return self.decoder(features, condition)[:, -z_t.shape[1] :]  # without a class token

    @torch.no_grad()
    def reconstruct(
        self, clip: torch.Tensor, t: torch.Tensor, generator: Generators = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(what the network sees, its estimate of the clip), as normalised clips like ``clip``; for pictures.

        Latents are turned back into patches by the tokenizer. Arguments as of :meth:`forward`.
        """
        self.check_clip(clip)
        z0 = self.tokenizer.encode(patchify(clip, self.patch_size))
        z_t = self.schedule.add_noise(z0, randn(z0.shape, generator, clip.device), t)
        pred = self.denoise(z_t, t).float()
        if self.output == "latent":
            pred = self.tokenizer.decode(self._clean_latents(pred, z_t, t))
        grid = (clip.shape[2] // self.patch_size[0], *self.grid[1:])
        noisy, clean = (unpatchify(patches, grid, self.patch_size) for patches in (self.tokenizer.decode(z_t), pred))
        return noisy, clean

    def _clean_latents(self, pred: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The estimate of z_0 in a prediction for output "latent"."""
        signal, noise = self.schedule.scales(t, z_t)
        if self.prediction == "eps":
            return (z_t - noise * pred) / signal
        return pred if self.prediction == "x0" else signal * z_t - noise * pred

    def _loss(
        self, pred: torch.Tensor, x0: torch.Tensor, z0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        """(B,) float32; see the module's description."""
        if self.output == "latent":
            target = {"x0": lambda: z0, "eps": lambda: noise, "v": lambda: self.schedule.velocity(z0, noise, t)}
            squares = (target[self.prediction]() - pred.float()).square()
        else:
            squares = self._weighted_residual(x0.float() - pred.float())
        per_clip = squares.mean(dim=(1, 2))
        if self.time_weight:
            signal, level = self.schedule.scales(t, per_clip)
            per_clip = per_clip * signal.square() / (signal.square() + level.square())
        return per_clip

    def _weighted_residual(self, residual: torch.Tensor) -> torch.Tensor:
        """w_i r_i^2, (B, N, P)."""
        if self.residual_weight == 1:  # no basis is needed: lengths are the same in all of them
            return residual.square()
        squares = self.tokenizer.coordinates(residual).square()
        kept, beyond = squares.split([self.tokenizer.latent_dim, squares.shape[-1] - self.tokenizer.latent_dim], dim=-1)
        return torch.cat([kept, self.residual_weight * beyond], dim=-1)

    def _drop_labels(
        self, labels: torch.Tensor | None, batch: int, generator: Generators, device: torch.device
    ) -> torch.Tensor | None:
        """The labels that the network is told: in training some become -1."""
        if not self.num_classes:
            return None
        labels = torch.full((batch,), -1, device=device) if labels is None else labels
        if labels.shape != (batch,):
            raise ValueError(f"expected one label per clip, ({batch},), got {tuple(labels.shape)}")
        if not self.training or not self.class_dropout:
            return labels
        return torch.where(rand((batch,), generator, device) < self.class_dropout, -1, labels)

    def check_clip(self, clip: torch.Tensor) -> None:
        """Raises ValueError for what :meth:`forward` does not take."""
        if not clip.is_floating_point():
            raise ValueError(f"expected a float clip, got {clip.dtype}: uint8 pixels go through normalize() first")
        self.encoder.check(clip)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are positions or tokens: like biases and norms, they are not decayed."""
        names = ("position.space", "position.time", "position.table", "class_token", "label_embed.weight")
        return {name for name, _ in self.named_parameters() if name.endswith(names)}


def _check_choices(
    tokenizer: Tokenizer, schedule: NoiseSchedule, input: str, output: str, prediction: str, residual_weight: float
) -> None:
    known = {"input": SPACES, "output": SPACES, "prediction": LATENT_PREDICTIONS}
    for name, value in {"input": input, "output": output, "prediction": prediction}.items():
        if value not in known[name]:
            raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(known[name])}")
    if output == "image" and prediction != "x0":
        raise ValueError(f'prediction {prediction!r} is of latents: with output "image" the network predicts "x0"')
    if prediction == "v" and not schedule.preserves_variance:
        raise ValueError(f'prediction "v" needs a schedule that preserves the variance, not {schedule.name!r}')
    if output == "image" and residual_weight != 1 and not tokenizer.orthonormal:
        raise ValueError(
            f"residual_weight {residual_weight:g} tells what a latent keeps from what it leaves out, which needs an "
            f"orthonormal basis; {type(tokenizer).__name__} has none: set it to 1"
        )


def _check_parts(
    encoder: SpaceTimeViT, decoder: DenoisingDecoder, tokenizer: Tokenizer, input: str, output: str
) -> None:
    if encoder.time_embed is None:
        raise ValueError("a denoising autoencoder needs an encoder with time_conditioning")
    held = encoder.patch_embed.tokenizer if isinstance(encoder.patch_embed, LatentEmbedding) else None
    if held is not (tokenizer if input == "latent" else None):
        raise ValueError('the encoder holds the tokenizer if, and only if, the input is "latent"')
    expected = tokenizer.patch_values if output == "image" else tokenizer.latent_dim
    if decoder.head.out_features != expected or decoder.head.in_features != encoder.width:
        raise ValueError(
            f"the decoder has width {decoder.head.in_features} and predicts {decoder.head.out_features} values per "
            f"token; expected the encoder's width {encoder.width} and {expected} values"
        )
