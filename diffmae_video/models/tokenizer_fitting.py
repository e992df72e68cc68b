"""Fits tokenizers to the patches of a data set, in one pass over batches of clips."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch.nn import functional as F

from diffmae_video.models.tokenizers import LinearTokenizer, PCATokenizer, Tokenizer

SAMPLE_BYTES = 256 * 2**20  # of patches that a learned tokenizer is trained on, at most
PATCHES_PER_STEP = 1024
LEARNING_RATE = 0.1  # of Adam, / sqrt(P) as the entries of the maps are; falls along half a cosine


class Fit(NamedTuple):
    """What a fit has seen."""

    clips: int
    patches: int
    warnings: list[str]


class FitError(ValueError):
    """The clips do not suffice; the message says what to do."""


def fit_tokenizer(
    tokenizer: Tokenizer,
    batches: Iterable[torch.Tensor],
    latent_scale: str = "global",
    steps: int = 2000,
    kl_weight: float = 0.0,
    seed: int = 0,
) -> Fit:
    """Fits a tokenizer in place and measures the scale of its latents; deterministic for given batches.

    Args:
        tokenizer: on the device of the batches.
        batches: patches (B, N, P) of normalised clips; their number ends the fit.
        latent_scale: see :meth:`Tokenizer.finish`.
        steps, kl_weight, seed: of a :class:`LinearTokenizer`, see :func:`fit_linear`.

    Raises:
        FitError: no clips, fewer patches than components, or components that do not vary.
    """
    count = _Count()
    batches = count.through(batches)
    learns = isinstance(tokenizer, PCATokenizer | LinearTokenizer)
    if isinstance(tokenizer, PCATokenizer):
        variances = fit_pca(tokenizer, batches)
    elif isinstance(tokenizer, LinearTokenizer):
        variances = fit_linear(tokenizer, batches, steps, kl_weight, seed)
    else:
        variances = measure(tokenizer, batches)
    if count.patches <= (tokenizer.latent_dim if learns else 0):
        raise FitError(
            f"{count.patches} patches of {count.clips} clips cannot define {tokenizer.latent_dim} latent components: "
            "use more clips (FIT_CLIPS), or fewer components (LATENT_DIM)"
        )
    try:
        tokenizer.finish(variances, latent_scale)
    except ValueError as error:
        raise FitError(str(error)) from error
    few = isinstance(tokenizer, PCATokenizer) and count.patches <= tokenizer.patch_values
    warning = (
        f"only {count.patches} patches for principal components of {tokenizer.patch_values} values: the last ones are "
        "arbitrary; use more clips (FIT_CLIPS)"
    )
    return Fit(count.clips, count.patches, [warning] if few else [])


class _Count:
    """Counts what passes through."""

    def __init__(self) -> None:
        self.clips = self.patches = 0

    def through(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for patches in batches:
            self.clips += len(patches)
            self.patches += patches.shape[0] * patches.shape[1]
            yield patches


class Moments:
    """Mean and (co)variance of vectors that come in batches; sums in float64.

    Args:
        dimensions: of a vector.
        joint: keep all products of two dimensions, not the squares alone.
    """

    def __init__(self, dimensions: int, joint: bool, device: torch.device):
        self.number, self.joint = 0, joint
        self.total = torch.zeros(dimensions, dtype=torch.float64, device=device)
        self.products = torch.zeros(
            (dimensions, dimensions) if joint else dimensions, dtype=torch.float64, device=device
        )

    def add(self, vectors: torch.Tensor) -> None:
        """``vectors``: (..., dimensions)."""
        vectors = vectors.flatten(0, -2).double()
        self.number += len(vectors)
        self.total += vectors.sum(0)
        self.products += vectors.T @ vectors if self.joint else vectors.square().sum(0)

    @property
    def mean(self) -> torch.Tensor:
        return self.total / max(self.number, 1)

    @property
    def covariance(self) -> torch.Tensor:
        """(dimensions, dimensions), or the variances (dimensions,) where only squares were kept."""
        mean = self.mean
        return self.products / max(self.number, 1) - (torch.outer(mean, mean) if self.joint else mean.square())


@torch.no_grad()
def measure(tokenizer: Tokenizer, batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """Variances (d,) of the latents of a tokenizer that has nothing to learn."""
    device = tokenizer.scale.device
    moments = Moments(tokenizer.latent_dim, False, device)
    for patches in batches:
        moments.add(tokenizer.project(patches))
    return moments.covariance.clamp(min=0)


@torch.no_grad()
def fit_pca(tokenizer: PCATokenizer, batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """Principal components from the covariance of all patches; returns the variances (d,) of the latents.

    The sign of a component is that with which its largest entry is positive.
    """
    moments = Moments(tokenizer.patch_values, True, tokenizer.scale.device)
    for patches in batches:
        moments.add(patches)
    variances, basis = torch.linalg.eigh(moments.covariance)  # ascending
    variances, basis = variances.flip(0).clamp(min=0), basis.flip(1)
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    tokenizer.mean.copy_(moments.mean)
    tokenizer.basis.copy_(basis * largest.sign())
    tokenizer.variances.copy_(variances)
    return variances[: tokenizer.latent_dim]


def fit_linear(
    tokenizer: LinearTokenizer, batches: Iterable[torch.Tensor], steps: int, kl_weight: float, seed: int
) -> torch.Tensor:
    """Trains the two maps of a linear autoencoder or VAE; returns the variances (d,) of the latents.

    Of x, the patches without their mean, divided by one number so that their mean variance is 1::

        x' = up(z)     autoencoder: z = down(x)
                       VAE:         z = down(x) + exp(spread(x) / 2) * eps,    eps ~ N(0, I)
        loss = (||x - x'||^2 + kl_weight * KL(N(down(x), exp(spread(x))) || N(0, I))) / P

    Args:
        tokenizer: its ``down`` and ``up`` are replaced.
        batches: see :func:`fit_tokenizer`; a random choice of their patches is trained on, ``SAMPLE_BYTES`` at most.
        steps: of Adam, ``PATCHES_PER_STEP`` patches each.
        kl_weight: 0 = an autoencoder.
        seed: of the initial maps, the choice of patches and the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    sample, mean = _sample(batches, SAMPLE_BYTES // (4 * tokenizer.patch_values), generator)
    unit = (sample - mean).square().mean().sqrt().clamp(min=1e-6)
    down, up, spread, bias = _random_maps(tokenizer, generator, sample.device)
    optimizer = torch.optim.Adam([down, up, *([spread, bias] if kl_weight else [])])
    for step in range(steps):
        _set_rate(optimizer, step / steps, tokenizer.patch_values)
        rows = torch.randint(len(sample), (PATCHES_PER_STEP,), generator=generator).to(sample.device)
        x = (sample[rows] - mean) / unit
        z, divergence = x @ down, torch.zeros((), device=x.device)
        if kl_weight:
            log_variance = x @ spread + bias
            divergence = 0.5 * (z.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
            z = z + (log_variance / 2).exp() * torch.randn(z.shape, generator=generator).to(z.device)
        loss = F.mse_loss(z @ up, x) + kl_weight * divergence / tokenizer.patch_values
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        tokenizer.mean.copy_(mean)
        tokenizer.down.copy_(down / unit)
        tokenizer.up.copy_(up * unit)
        moments = Moments(tokenizer.latent_dim, False, sample.device)
        moments.add(tokenizer.project(sample))
    return moments.covariance


def _random_maps(tokenizer: LinearTokenizer, generator: torch.Generator, device: torch.device) -> list[torch.Tensor]:
    """down, up (its transpose), spread (0) and the bias of the last (0), to be trained."""
    values, latent = tokenizer.patch_values, tokenizer.latent_dim
    down = torch.linalg.qr(torch.randn(values, latent, generator=generator))[0]  # orthonormal columns
    maps = [down, down.T.clone(), torch.zeros(values, latent), torch.zeros(latent)]
    return [each.to(device).requires_grad_() for each in maps]


def _set_rate(optimizer: torch.optim.Optimizer, progress: float, patch_values: int) -> None:
    rate = LEARNING_RATE * patch_values**-0.5 * 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def _sample(
    batches: Iterable[torch.Tensor], most: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(at most ``most`` patches (M, P), chosen at random from all; the mean (P,) of all of them), float32."""
    kept, keys, moments = None, torch.empty(0), None
    for patches in batches:
        patches = patches.flatten(0, 1).float()
        moments = moments or Moments(patches.shape[1], False, patches.device)
        moments.add(patches)
        # The patches with the largest random keys so far: every patch has the same chance, whenever it comes.
        keys = torch.cat([keys, torch.rand(len(patches), generator=generator)])
        kept = patches if kept is None else torch.cat([kept, patches])
        if len(keys) > most:
            keys, chosen = keys.topk(most)
            kept = kept[chosen.to(kept.device)]
    if kept is None:
        raise FitError("there are no clips to fit a tokenizer to")
    return kept, moments.mean.float()
