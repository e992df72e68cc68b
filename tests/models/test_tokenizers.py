"""Patch-wise tokenizers and their fits."""

import numpy as np
import pytest
import torch

from diffmae_video.models.tokenizer_fitting import FitError, Moments, fit_tokenizer
from diffmae_video.models.tokenizers import LATENT_SCALES, LinearTokenizer, PCATokenizer, PixelTokenizer, Tokenizer

P = 12


def patches(count: int = 400, seed: int = 0, values: int = P) -> torch.Tensor:
    """(count, 4, values): correlated values with a mean, of falling variance."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.linalg.qr(torch.randn(values, values, generator=generator))[0] * 0.5 ** torch.arange(values)
    return torch.randn(count, 4, values, generator=generator) @ mixing.T + torch.linspace(-0.3, 0.4, values)


def in_batches(x: torch.Tensor, sizes: tuple[int, ...] = (1, 99, 250, 50)) -> list[torch.Tensor]:
    return list(x.split(sizes))


def fitted(tokenizer: Tokenizer, x: torch.Tensor | None = None, **options) -> Tokenizer:
    fit_tokenizer(tokenizer, in_batches(patches() if x is None else x), **options)
    return tokenizer


def kept_share(tokenizer: Tokenizer, x: torch.Tensor) -> float:
    error = (tokenizer.decode(tokenizer.encode(x)) - x).square().mean()
    return 1 - (error / (x - x.mean((0, 1))).square().mean()).item()


# ------------------------------------------------------------------------------------------------------------ moments


def test_moments_of_batches_are_those_of_the_whole_in_float64():
    x = patches() * 1e-2 + 100  # sums of squares in float32 would lose the variance
    moments = Moments(P, True, x.device)
    for batch in in_batches(x):
        moments.add(batch)
    flat = x.flatten(0, 1).double().numpy()
    np.testing.assert_allclose(moments.mean, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(flat.T, bias=True), rtol=0, atol=1e-10)
    assert moments.covariance.dtype == torch.float64
    single = Moments(P, False, x.device)
    single.add(x)
    np.testing.assert_allclose(single.covariance, flat.var(0), rtol=0, atol=1e-10)


# ---------------------------------------------------------------------------------------------------------------- pca


def test_pca_is_that_of_numpy():
    x = patches()
    tokenizer = fitted(PCATokenizer(P, 5), x, latent_scale="none")
    flat = x.flatten(0, 1).double().numpy()
    variances, basis = np.linalg.eigh(np.cov(flat.T, bias=True))
    np.testing.assert_allclose(tokenizer.variances, variances[::-1], rtol=1e-4, atol=1e-9)
    cosines = np.abs((tokenizer.basis.numpy() * basis[:, ::-1]).sum(0))
    np.testing.assert_allclose(cosines[:8], 1, atol=1e-4)
    np.testing.assert_allclose(tokenizer.mean, flat.mean(0), rtol=1e-5, atol=1e-6)
    latents = tokenizer.encode(x).flatten(0, 1)
    np.testing.assert_allclose(latents.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(latents.numpy().T, bias=True), np.diag(variances[::-1][:5]), atol=1e-4)


def test_pca_has_one_sign_and_does_not_depend_on_the_batches():
    x = patches()
    whole, parts = PCATokenizer(P, 5), PCATokenizer(P, 5)
    fit_tokenizer(whole, [x])
    fit_tokenizer(parts, in_batches(x))
    torch.testing.assert_close(whole.basis, parts.basis, atol=1e-4, rtol=0)
    largest = whole.basis.gather(0, whole.basis.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()


def test_pca_keeps_the_most_that_any_linear_map_can():
    x = patches()
    tokenizer = fitted(PCATokenizer(P, 3), x)
    share = tokenizer.explained_variance()
    assert share.dtype == torch.float64 and (share.diff() >= 0).all() and share[-1] == 1
    assert kept_share(tokenizer, x) == pytest.approx(share[2].item(), abs=1e-4)
    other = torch.linalg.qr(torch.randn(P, 3, generator=torch.Generator().manual_seed(3)))[0]
    centred = (x - x.mean((0, 1))).flatten(0, 1)
    assert (centred @ other).square().sum() / centred.square().sum() < share[2]


def test_all_components_give_the_patch_back():
    x = patches()
    tokenizer = fitted(PCATokenizer(P, P), x)
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(x)), x, atol=1e-5, rtol=1e-5)


def test_coordinates_keep_lengths_and_begin_with_the_latents():
    x = patches()
    tokenizer = fitted(PCATokenizer(P, 4), x)
    difference = x[:3] - x[3:6]
    coordinates = tokenizer.coordinates(difference)
    torch.testing.assert_close(coordinates.square().sum(-1), difference.square().sum(-1), rtol=1e-4, atol=1e-6)
    latents = tokenizer.encode(x[:3]) - tokenizer.encode(x[3:6])
    torch.testing.assert_close(coordinates[..., :4] * tokenizer.scale, latents, rtol=1e-3, atol=1e-5)


def test_coordinates_pass_the_gradient_and_encoding_does_not():
    tokenizer = fitted(PCATokenizer(P, 4))
    x = patches(2).requires_grad_()
    tokenizer.coordinates(x)[..., 0].sum().backward()
    torch.testing.assert_close(x.grad[0, 0], tokenizer.basis[:, 0])
    assert not tokenizer.encode(x).requires_grad and not tokenizer.decode(x[..., :4]).requires_grad


# -------------------------------------------------------------------------------------------------------------- scale


def test_scale_of_the_latents():
    x = patches()
    latents = {
        scale: fitted(PCATokenizer(P, 4), x, latent_scale=scale).encode(x).flatten(0, 1) for scale in LATENT_SCALES
    }
    variances = {scale: z.var(0, unbiased=False) for scale, z in latents.items()}
    assert variances["global"].mean() == pytest.approx(1, abs=1e-4)
    assert variances["global"][0] > 10 * variances["global"][3]
    torch.testing.assert_close(variances["component"], torch.ones(4), atol=1e-3, rtol=0)
    assert variances["none"].mean() < 0.5
    ratio = latents["global"] / latents["none"]
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), rtol=1e-3, atol=1e-3)


def test_pixels_are_scaled_and_nothing_else():
    x = patches()
    tokenizer = fitted(PixelTokenizer(P), x)
    assert tokenizer.latent_dim == P and tokenizer.orthonormal
    variance = x.flatten(0, 1).var(0, unbiased=False).mean()
    torch.testing.assert_close(tokenizer.encode(x), x / variance.sqrt(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(x)), x)
    assert torch.equal(fitted(PixelTokenizer(P), x, latent_scale="none").encode(x), x)


@pytest.mark.parametrize("latent_scale", ["global", "component"])
def test_patches_that_do_not_vary_are_refused(latent_scale):
    with pytest.raises(FitError, match="not vary"):
        fitted(PCATokenizer(P, 4), torch.full((400, 4, P), 0.25), latent_scale=latent_scale)
    flat = patches()
    flat[..., 4:] = 0.0
    fitted(PCATokenizer(P, 4), flat, latent_scale=latent_scale)  # as many components as the patches have
    if latent_scale == "component":
        with pytest.raises(FitError, match="1 of the 5 latent components"):
            fitted(PCATokenizer(P, 5), flat, latent_scale=latent_scale)


# ------------------------------------------------------------------------------------------------ learned tokenizers


def test_autoencoder_comes_close_to_pca():
    """A linear autoencoder's best is the principal components' subspace (Bourlard & Kamp 1988)."""
    x = patches()
    best = kept_share(fitted(PCATokenizer(P, 3), x), x)
    assert best - 0.001 < kept_share(fitted(LinearTokenizer(P, 3), x, steps=500), x) <= best + 1e-6
    few = kept_share(fitted(LinearTokenizer(P, 3), x, steps=1), x)
    assert few < best - 0.05, "the test shows nothing: the initial maps are as good"


def test_vae_with_a_heavy_divergence_keeps_less():
    x = patches()
    light = fitted(LinearTokenizer(P, 6), x, steps=600, kl_weight=1e-3)
    heavy = fitted(LinearTokenizer(P, 6), x, steps=600, kl_weight=3.0)
    assert kept_share(light, x) > 0.97 > kept_share(heavy, x)
    assert heavy.encode(x).flatten(0, 1).var(0).mean() == pytest.approx(1, abs=0.01)  # scaled all the same


def test_learned_latents_have_no_mean():
    x = patches()
    latents = fitted(LinearTokenizer(P, 3), x, steps=50).encode(x)
    torch.testing.assert_close(latents.mean((0, 1)), torch.zeros(3), atol=1e-4, rtol=0)


def test_training_depends_on_the_seed_alone():
    first, same, other = (fitted(LinearTokenizer(P, 3), steps=20, kl_weight=0.1, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.down, same.down) and torch.equal(first.scale, same.scale)
    assert not torch.allclose(first.down, other.down)


def test_only_so_many_patches_are_kept_in_memory(monkeypatch):
    from diffmae_video.models import tokenizer_fitting

    monkeypatch.setattr(tokenizer_fitting, "SAMPLE_BYTES", 4 * P * 100)
    x = patches()
    generator = torch.Generator().manual_seed(0)
    sample, mean = tokenizer_fitting._sample(in_batches(x), 100, generator)
    assert sample.shape == (100, P)
    torch.testing.assert_close(mean, x.mean((0, 1)), atol=1e-5, rtol=0)  # of all patches, not of those kept
    rows = (sample[:, None] == x.flatten(0, 1)[None]).all(-1).nonzero()[:, 1]
    assert len(rows) == 100 and (rows < 400).any() and (rows > 1200).any()  # early and late ones
    assert kept_share(fitted(LinearTokenizer(P, 6), x, steps=400), x) > 0.95


# ------------------------------------------------------------------------------------------------- what is not fitted


@pytest.mark.parametrize("make", [lambda: PixelTokenizer(P), lambda: PCATokenizer(P, 3), lambda: LinearTokenizer(P, 3)])
def test_nothing_is_encoded_before_the_fit(make):
    tokenizer = make()
    assert not tokenizer.is_fitted() and not list(tokenizer.parameters())
    with pytest.raises(RuntimeError, match="fit it first"):
        tokenizer.encode(patches())
    with pytest.raises(RuntimeError, match="fit it first"):
        tokenizer.decode(patches()[..., : tokenizer.latent_dim])
    state = fitted(make(), steps=5).state_dict()
    tokenizer.load_state_dict(state)
    assert tokenizer.is_fitted()
    tokenizer.encode(patches())


def test_too_few_patches():
    with pytest.raises(FitError, match="8 patches of 2 clips cannot define 8"):
        fit_tokenizer(PCATokenizer(P, 8), [patches(2)])
    with pytest.raises(FitError, match="FIT_CLIPS"):
        fit_tokenizer(PCATokenizer(P, 8), [])
    with pytest.raises(FitError, match="no clips"):
        fit_tokenizer(LinearTokenizer(P, 8), [])
    few = fit_tokenizer(PCATokenizer(P, 4), [patches(3)])
    assert (few.clips, few.patches) == (3, 12) and "only 12 patches" in few.warnings[0]
    assert fit_tokenizer(PCATokenizer(P, 4), [patches(4)]).warnings == []


@pytest.mark.parametrize("make", [PCATokenizer, LinearTokenizer])
def test_more_components_than_values(make):
    with pytest.raises(ValueError, match="13 latent components are more than the 12"):
        make(P, P + 1)
    with pytest.raises(ValueError, match="at least 1"):
        make(P, 0)


def test_linear_maps_stay_in_float32_under_autocast():
    x = patches(8)
    tokenizer = fitted(PCATokenizer(P, 3))
    plain = tokenizer.encode(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.encode(x), plain)
        assert tokenizer.decode(plain).dtype == torch.float32 == tokenizer.coordinates(x).dtype
