"""What a decoder is shown of a noisy patch: the pixels as they are, or scaled to what they tell about x_0.

As it is, the noise of x_t is as large at the first step of sampling as the picture is at the last, and a network has to
learn for every timestep anew how far to trust its input. Scaling by sqrt(abar) is the best linear guess for pixels of
unit variance that know nothing of each other. But a patch is a few hundred pixels that go together: its mean colour
shows through noise in which no single pixel does. The Wiener filter below scales every spatial frequency by itself. It
takes away the noise that a network would need to predict eps or v: it is for models that predict x0.
"""

from __future__ import annotations

import math

import torch
from torch import nn

CORRELATION = 0.9  # of neighbouring pixels along every axis
VARIANCE = {"raw": 0.25, "normalized": 1.0, "normalized_per_channel": 1.0}  # of pixels in [-1, 1], by target


class WienerEstimate(nn.Module):
    """The best linear estimate of x_0 from a noisy patch, if pixels d apart correlate by ``CORRELATION ** d``.

    That is the first-order autoregressive model of pictures (Jain 1989, section 2.9), whose principal components are
    nearly the cosine transform's. In that basis, component k of variance lambda_k is scaled by (Wiener)::

        sqrt(abar) * lambda_k / (abar * lambda_k + 1 - abar)

    Args:
        patch_size: (pt, ph, pw).
        channels: C; they are treated alike and apart.
        variance: of a pixel.
    """

    def __init__(self, patch_size: tuple[int, int, int], channels: int, variance: float):
        super().__init__()
        self.channels = channels
        basis, variances = torch.ones(1, 1, dtype=torch.float64), torch.full((1,), variance, dtype=torch.float64)
        for size in patch_size:  # (pt, ph, pw), as the values of a patch are ordered
            cosines = cosine_transform(size)
            basis = torch.kron(basis, cosines)
            variances = torch.kron(variances, torch.diagonal(cosines @ _correlations(size) @ cosines.T))
        # Functions of the patch size: not in a checkpoint.
        self.register_buffer("basis", basis.float(), persistent=False)  # (pt*ph*pw, pt*ph*pw), a component a row
        self.register_buffer("variances", variances.float(), persistent=False)

    def forward(self, x_t: torch.Tensor, signal: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Noisy patches (B, M, P), sqrt(abar_t) and sqrt(1 - abar_t) (B, 1, 1) -> components of the estimate (B, M, P).

        They are not turned back into pixels: the linear embedding that follows can do that.
        """
        pixels = x_t.unflatten(-1, (-1, self.channels)).transpose(-1, -2)  # (B, M, C, pt*ph*pw)
        gain = signal * self.variances / (signal**2 * self.variances + noise**2)  # (B, 1, pt*ph*pw)
        return ((pixels @ self.basis.T) * gain.unsqueeze(1)).flatten(-2)


def cosine_transform(size: int) -> torch.Tensor:
    """The orthonormal DCT-II, float64 (size, size), a frequency a row."""
    place, frequency = torch.arange(size, dtype=torch.float64), torch.arange(size, dtype=torch.float64)[:, None]
    rows = torch.cos(math.pi * (place + 0.5) * frequency / size) * (2 / size) ** 0.5
    rows[0] /= 2**0.5
    return rows


def _correlations(size: int) -> torch.Tensor:
    place = torch.arange(size, dtype=torch.float64)
    return CORRELATION ** (place[:, None] - place).abs()
