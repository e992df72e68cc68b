"""Tokenizers: patches (B, N, P) to latents (B, N, d) in which a denoising model adds its noise, and back.

They are fitted or loaded before training (``tokenizer_fitting.py``) and frozen from then on: all that they hold are
buffers, which no optimiser sees and every checkpoint has. A latent is ``scale * project(patch)``, with a scale measured
in the fit, so that noise of one strength means the same for all tokenizers.

=================  =============================================  ==========
class              what it keeps of a patch                       d
=================  =============================================  ==========
PixelTokenizer     everything                                     P
PCATokenizer       its first principal components                 chosen
LinearTokenizer    what a linear map and its counterpart keep     chosen
ConvVAETokenizer   the latents of a convolutional VAE             given by it   (``tokenizer_vae.py``)
=================  =============================================  ==========
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

LATENT_SCALES = ("global", "component", "none")


class Tokenizer(nn.Module):
    """What the tokenizers share: the scale of the latents, and that nothing is learned through them.

    A subclass has :meth:`project` and :meth:`restore`; with ``orthonormal`` also :meth:`coordinates`.

    Args:
        patch_values: P.
        latent_dim: d.

    Attributes:
        orthonormal: whether the latents are the first d coordinates of a patch in an orthonormal basis of all P.
        scale: (d,) what projections are multiplied with.
        fitted: bool tensor (): whether :meth:`finish` was called, for these weights at some time.
    """

    orthonormal = False
    exact = True  # computed in float32 whatever the precision of the run is: noise levels are measured against these

    def __init__(self, patch_values: int, latent_dim: int):
        super().__init__()
        if not 1 <= latent_dim:
            raise ValueError(f"a latent needs at least 1 dimension, got {latent_dim}")
        self.patch_values, self.latent_dim = patch_values, latent_dim
        self.register_buffer("scale", torch.ones(latent_dim))
        self.register_buffer("fitted", torch.tensor(False))
        self._known_to_be_fitted = False

    @torch.no_grad()
    def encode(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches of normalised clips (B, N, P) -> latents (B, N, d), without gradient.

        Raises:
            RuntimeError: before the fit.
        """
        self._check_fitted()
        with self._precision(patches):
            return self.project(patches.float()) * self.scale

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, N, d) -> patches (B, N, P), without gradient: undoes :meth:`encode` as far as that can be.

        Raises:
            RuntimeError: before the fit.
        """
        self._check_fitted()
        with self._precision(latents):
            return self.restore(latents.float() / self.scale)

    def project(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches (B, N, P) -> latents (B, N, d) that are not scaled yet."""
        raise NotImplementedError

    def restore(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, N, d) that are not scaled -> patches (B, N, P)."""
        raise NotImplementedError

    def coordinates(self, difference: torch.Tensor) -> torch.Tensor:
        """A difference of patches (B, N, P) in the ``orthonormal`` basis: (B, N, P), the d of the latents first."""
        raise TypeError(f"{type(self).__name__} has no basis of all patches")

    @torch.no_grad()
    def finish(self, variances: torch.Tensor, latent_scale: str) -> None:
        """Ends a fit.

        Args:
            variances: (d,) of the components of :meth:`project`, over the data.
            latent_scale: ``"global"``: one factor for all, with which the mean of the variances is 1;
                ``"component"``: every component to variance 1; ``"none"``: 1.

        Raises:
            ValueError: another scale, or components that do not vary at all.
        """
        if latent_scale not in LATENT_SCALES:
            raise ValueError(f"unknown latent scale {latent_scale!r}: choose one of {', '.join(LATENT_SCALES)}")
        variances = variances.double()
        relevant = variances if latent_scale == "component" else variances.mean().reshape(1)
        if latent_scale != "none":
            flat = int((relevant <= 1e-12).sum())
            if flat:
                raise ValueError(
                    f"{flat if latent_scale == 'component' else 'all'} of the {self.latent_dim} latent components do "
                    "not vary over the clips of the fit, and cannot be scaled to variance 1: use fewer components "
                    "(LATENT_DIM), or other clips"
                )
            self.scale.copy_(relevant.rsqrt().expand_as(self.scale))
        self.fitted.fill_(True)

    def apply(self, function: Callable[[nn.Module], None]) -> Tokenizer:
        """Does nothing: what initialises the network that holds a tokenizer must not reach into it."""
        return self

    def is_fitted(self) -> bool:
        """Whether these weights have been through a fit."""
        # The tensor is read until it says so, once: reading it makes the host wait for the device.
        self._known_to_be_fitted = self._known_to_be_fitted or bool(self.fitted)
        return self._known_to_be_fitted

    def _check_fitted(self) -> None:
        if not self.is_fitted():
            raise RuntimeError(
                f"this {type(self).__name__} has not seen any data yet: fit it first (fit_tokenizer), or load weights "
                "that have one"
            )

    def _precision(self, like: torch.Tensor) -> AbstractContextManager:
        return torch.autocast(like.device.type, enabled=False) if self.exact else nullcontext()


class PixelTokenizer(Tokenizer):
    """The patch itself, d = P: noise is added to pixels."""

    orthonormal = True

    def __init__(self, patch_values: int):
        super().__init__(patch_values, patch_values)

    def project(self, patches: torch.Tensor) -> torch.Tensor:
        return patches

    def restore(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def coordinates(self, difference: torch.Tensor) -> torch.Tensor:
        return difference


class PCATokenizer(Tokenizer):
    """Patch-wise principal components: the first d of P coordinates (l-DAE, arXiv 2401.14404).

    Attributes:
        mean: (P,) of patches.
        basis: (P, P) the components of all patches as columns, that of the largest variance first.
        variances: (P,) float64, descending.

    Raises:
        ValueError: more components than a patch has values.
    """

    orthonormal = True

    def __init__(self, patch_values: int, latent_dim: int):
        super().__init__(patch_values, latent_dim)
        check_latent_dim(patch_values, latent_dim)
        self.register_buffer("mean", torch.zeros(patch_values))
        self.register_buffer("basis", torch.eye(patch_values))
        self.register_buffer("variances", torch.zeros(patch_values, dtype=torch.float64))

    def project(self, patches: torch.Tensor) -> torch.Tensor:
        return (patches - self.mean) @ self.basis[:, : self.latent_dim]

    def restore(self, latents: torch.Tensor) -> torch.Tensor:
        return latents @ self.basis[:, : self.latent_dim].T + self.mean

    def coordinates(self, difference: torch.Tensor) -> torch.Tensor:
        with self._precision(difference):
            return difference.float() @ self.basis

    def explained_variance(self) -> torch.Tensor:
        """Share of the patches' variance that the first 1, 2, ... P components have: (P,) float64, ascending to 1."""
        total = self.variances.cumsum(0)
        return total / total[-1]


class LinearTokenizer(Tokenizer):
    """A learned linear map of patches and one back: the patch-wise autoencoder or VAE of l-DAE, as we read it.

    Both subtract the patches' mean first, so that latents have none. Of a VAE's latent the mean is kept.

    Attributes:
        mean: (P,) of patches.
        down, up: (P, d) and (d, P).

    Raises:
        ValueError: more components than a patch has values.
    """

    def __init__(self, patch_values: int, latent_dim: int):
        super().__init__(patch_values, latent_dim)
        check_latent_dim(patch_values, latent_dim)
        self.register_buffer("mean", torch.zeros(patch_values))
        self.register_buffer("down", torch.eye(patch_values)[:, :latent_dim].clone())
        self.register_buffer("up", torch.eye(patch_values)[:latent_dim].clone())

    def project(self, patches: torch.Tensor) -> torch.Tensor:
        return (patches - self.mean) @ self.down

    def restore(self, latents: torch.Tensor) -> torch.Tensor:
        return latents @ self.up + self.mean


class LatentEmbedding(nn.Linear):
    """Patches (B, K, P) -> their latents (B, K, d) -> tokens (B, K, D): a patch embedding that holds its tokenizer."""

    def __init__(self, tokenizer: Tokenizer, width: int):
        super().__init__(tokenizer.latent_dim, width)
        self.tokenizer = tokenizer

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return self.embed_latents(self.tokenizer.encode(patches))

    def embed_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, K, d), noisy ones too -> tokens (B, K, D)."""
        return super().forward(latents)


def check_latent_dim(patch_values: int, latent_dim: int) -> None:
    if latent_dim > patch_values:
        raise ValueError(f"{latent_dim} latent components are more than the {patch_values} values of a patch")
