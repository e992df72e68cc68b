"""The Wiener estimate of a clean patch: against the formula written with full matrices, and as the better guess."""

import pytest
import torch

from diffmae_video.diffusion import NoiseSchedule
from diffmae_video.models.noisy_input import CORRELATION, WienerEstimate, cosine_transform

PATCH = (2, 4, 3)
PIXELS = 2 * 4 * 3


def covariance(variance):
    """Of the pixels of a patch, by their distances."""
    place = torch.stack(torch.meshgrid(*(torch.arange(size) for size in PATCH), indexing="ij"), -1).reshape(-1, 3)
    return variance * CORRELATION ** (place[:, None] - place).abs().sum(-1).double()


def test_the_basis_is_orthonormal_and_starts_with_the_mean():
    for size in (1, 2, 5, 16):
        rows = cosine_transform(size)
        torch.testing.assert_close(rows @ rows.T, torch.eye(size, dtype=torch.float64))
        torch.testing.assert_close(rows[0], torch.full((size,), size**-0.5, dtype=torch.float64))


@pytest.mark.parametrize("abar", [0.9, 0.1, 1e-3, 1e-12])
def test_it_is_nearly_the_best_linear_estimate(abar):
    """E[x_0 | x_t] = sqrt(abar) C (abar C + (1 - abar) I)^-1 x_t for Gaussian patches of covariance C."""
    C = covariance(0.25)
    patch = torch.linalg.cholesky(C) @ torch.randn(PIXELS, 4000, generator=torch.Generator().manual_seed(0)).double()
    noise = torch.randn(PIXELS, 4000, generator=torch.Generator().manual_seed(1)).double()
    x_t = abar**0.5 * patch + (1 - abar) ** 0.5 * noise
    best = abar**0.5 * C @ torch.linalg.solve(abar * C + (1 - abar) * torch.eye(PIXELS).double(), x_t)
    model = WienerEstimate(PATCH, channels=1, variance=0.25)
    scales = (torch.full((1, 1, 1), value) for value in (abar**0.5, (1 - abar) ** 0.5))
    ours = (model(x_t.T.float().unsqueeze(0), *scales)[0] @ model.basis).T.double()  # back to pixels
    errors = [(estimate - patch).square().mean().item() for estimate in (best, ours, abar**0.5 * x_t)]
    assert errors[0] <= errors[1] <= 1.02 * errors[0], "nearly optimal"
    if abar == 0.1:
        assert errors[1] < 0.85 * errors[2], "and better than scaling all pixels alike"


def test_channels_are_treated_alike_and_apart():
    model = WienerEstimate(PATCH, channels=3, variance=0.25)
    x_t = torch.randn(2, 5, PIXELS * 3, generator=torch.Generator().manual_seed(0))
    signal, noise = NoiseSchedule().scales(torch.tensor([100, 700]), x_t)
    result = model(x_t, signal, noise).reshape(2, 5, 3, PIXELS)
    alone = WienerEstimate(PATCH, channels=1, variance=0.25)
    for channel in range(3):  # values of a patch are ordered (pt, ph, pw, C)
        torch.testing.assert_close(result[:, :, channel], alone(x_t[..., channel::3], signal, noise))


def test_nothing_is_lost_where_there_is_no_noise_and_noise_alone_is_nothing():
    model = WienerEstimate(PATCH, channels=3, variance=0.25)
    x = torch.randn(1, 4, PIXELS * 3)
    clean = model(x, torch.ones(1, 1, 1), torch.zeros(1, 1, 1))
    torch.testing.assert_close(clean.square().sum(), x.square().sum())
    assert model(x, torch.full((1, 1, 1), 1e-8), torch.ones(1, 1, 1)).abs().max() < 1e-5
