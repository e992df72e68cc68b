"""The measures of an inpainted region, against other implementations, known answers and what they are meant to tell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffmae_video.quality import diversity, frame_difference_error, frechet_distance, high_frequency_ratio, psnr, ssim


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def textured(frames: int = 2, height: int = 48, width: int = 64) -> np.ndarray:
    """A slope with fine noise on it: uint8 (T, H, W, 3)."""
    rows, columns = np.indices((height, width))
    slope = 40 + 1.5 * rows + columns
    texture = np.random.default_rng(7).normal(0, 12, (frames, height, width, 3))
    return np.clip(slope[..., None] + texture, 0, 255).round().astype(np.uint8)


def blurred(frames: np.ndarray, sigma: float) -> np.ndarray:
    ndimage = pytest.importorskip("scipy.ndimage")
    return ndimage.gaussian_filter(frames.astype(np.float64), (0, sigma, sigma, 0)).round().astype(np.uint8)


def box(frames: np.ndarray, top: int = 8, left: int = 16, side: int = 24) -> np.ndarray:
    mask = np.zeros(frames.shape[:3], bool)
    mask[:, top : top + side, left : left + side] = True
    return mask


MASKED = [psnr, ssim, frame_difference_error, high_frequency_ratio]


@pytest.mark.parametrize("measure", MASKED)
def test_only_what_was_hidden_is_measured(measure):
    target, pred = textured(), textured()
    mask = box(target, 16, 24, 16)
    pred[mask] = blurred(target, 1.5)[mask]
    far = ~box(target, 4, 12, 40)  # more than a window away from what was hidden
    other = pred.copy()
    other[far] = noise(*target.shape[:3])[far]
    assert far.any() and measure(other, target, mask) == pytest.approx(measure(pred, target, mask), rel=1e-12)
    other[mask] = noise(*target.shape[:3])[mask]
    assert measure(other, target, mask) != pytest.approx(measure(pred, target, mask), rel=0.1)


@pytest.mark.parametrize("measure", MASKED)
def test_what_does_not_fit_is_refused(measure):
    frames, mask = noise(2, 16, 16), np.ones((2, 16, 16), bool)
    with pytest.raises(ValueError, match="hides nothing"):
        measure(frames, frames, ~mask)
    with pytest.raises(ValueError, match="shapes do not agree"):
        measure(frames, frames[:1], mask)
    with pytest.raises(ValueError, match="shapes do not agree"):
        measure(frames, frames, mask[:, :8])
    with pytest.raises(ValueError, match="uint8"):
        measure(frames / 255, frames, mask)
    with pytest.raises(ValueError, match="bool"):
        measure(frames, frames, mask.astype(np.uint8))


@pytest.mark.parametrize("measure", [ssim, frame_difference_error, high_frequency_ratio])
def test_frames_have_four_axes(measure):
    frames = noise(16, 16)
    with pytest.raises(ValueError, match=r"\(T, H, W, 3\)"):
        measure(frames, frames, np.ones((16, 16), bool))


# --------------------------------------------------------------------------------------------------------------- psnr


def test_psnr_of_a_known_error():
    target = np.full((2, 4, 4, 3), 100, np.uint8)
    mask = np.zeros((2, 4, 4), bool)
    mask[0] = True
    pred = target.copy()
    pred[0] += 10
    pred[1] += 50  # not under the mask: of no consequence
    assert psnr(pred, target, mask) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(target, target, mask) == float("inf")
    assert psnr(pred, target) == pytest.approx(10 * np.log10(255**2 / 1300))


# --------------------------------------------------------------------------------------------------------------- ssim


@pytest.mark.parametrize("kind", ["noise", "blurred", "shifted"])
def test_ssim_agrees_with_scikit_image_up_to_the_border(kind):
    metrics = pytest.importorskip("skimage.metrics")
    target = textured(3, 37, 50)
    pred = {
        "noise": noise(3, 37, 50),
        "blurred": blurred(target, 1.5),
        "shifted": np.clip(target.astype(int) + 30, 0, 255).astype(np.uint8),
    }[kind]
    mask = np.random.default_rng(1).random((3, 37, 50)) < 0.3
    mask[0, :4], mask[2] = True, False  # the border is hidden, too; a frame is not
    maps = [
        metrics.structural_similarity(
            x, y, gaussian_weights=True, use_sample_covariance=False, data_range=255, channel_axis=-1, full=True
        )[1]
        for x, y in zip(pred, target, strict=True)
    ]
    assert ssim(pred, target, mask) == pytest.approx(np.stack(maps)[mask].mean(), abs=1e-10)


def test_ssim_of_equal_frames_is_one_and_small_frames_are_refused():
    frames = noise(1, 11, 11)
    mask = np.ones((1, 11, 11), bool)
    assert ssim(frames, frames, mask) == pytest.approx(1)
    with pytest.raises(ValueError, match="11x11.*10x11"):
        ssim(frames[:, :10], frames[:, :10], mask[:, :10])


# --------------------------------------------------------------------------------------------------- frame difference


def test_frame_difference_error_sees_flicker_and_not_a_constant_error():
    target = noise(4, 12, 12) // 2
    mask = np.zeros((4, 12, 12), bool)
    mask[:, 3:9, 3:9] = True
    constant = target + mask[..., None] * np.uint8(40)
    assert frame_difference_error(constant, target, mask) == 0
    flicker = target.copy()
    flicker[1::2][mask[1::2]] += 40  # up, down, up
    assert frame_difference_error(flicker, target, mask) == pytest.approx(40)


def test_frame_difference_error_counts_pixels_hidden_in_either_frame():
    target = np.zeros((3, 2, 2, 3), np.uint8)
    pred, mask = target.copy(), np.zeros((3, 2, 2), bool)
    mask[1, 0, 0] = mask[2, 0, 0] = mask[2, 1, 1] = mask[1, 0, 1] = True
    pred[1, 0, 0], pred[2, 0, 0], pred[2, 1, 1], pred[1, 0, 1] = 30, 200, 60, 90
    expected = (30 + 90 + 170 + 60 + 90) / 5  # two pixels from frame 0 to 1; three from 1 to 2, one is visible again
    assert frame_difference_error(pred, target, mask) == pytest.approx(expected)
    assert frame_difference_error(255 - pred, 255 - target, mask) == pytest.approx(expected)


def test_frame_difference_error_of_opposite_changes_is_twice_the_range():
    target = np.zeros((2, 2, 2, 3), np.uint8)
    target[1] = 255
    assert frame_difference_error(255 - target, target, np.ones((2, 2, 2), bool)) == 510


def test_frame_difference_error_of_a_single_frame_is_not_a_number():
    frame = noise(1, 8, 8)
    assert math.isnan(frame_difference_error(frame, frame, np.ones((1, 8, 8), bool)))


# ------------------------------------------------------------------------------------------------------------- detail


@pytest.mark.parametrize("inside", [None, (8, 8), (16, 4)])
def test_detail_falls_with_blur_and_rises_with_noise(inside):
    target = textured()
    mask = box(target)
    ratios = [high_frequency_ratio(blurred(target, sigma), target, mask, inside) for sigma in (0.5, 1.0, 2.0)]
    assert high_frequency_ratio(target, target, mask, inside) == 1
    assert 1 > ratios[0] > ratios[1] > ratios[2] and ratios[2] < 0.1
    noisy = np.clip(target + np.random.default_rng(3).normal(0, 12, target.shape), 0, 255).round().astype(np.uint8)
    assert high_frequency_ratio(noisy, target, mask, inside) == pytest.approx(2, rel=0.15)


def test_detail_agrees_with_the_filter_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    pred, target = noise(2, 30, 40), textured(2, 30, 40)
    mask = np.random.default_rng(2).random((2, 30, 40)) < 0.5

    def energy(frames):
        values = frames.astype(np.float64)
        return ((values - ndimage.gaussian_filter(values, (0, 2, 2, 0), truncate=4))[mask] ** 2).sum()

    assert high_frequency_ratio(pred, target, mask) == pytest.approx(energy(pred) / energy(target), rel=1e-10)


def test_a_seam_is_detail_of_the_frame_and_not_of_a_patch():
    """Flat patches of different brightness, as of a model that gets only their means right."""
    target = textured()
    mask = np.ones(target.shape[:3], bool)
    means = np.random.default_rng(4).integers(60, 200, (2, 6, 8, 1, 3))
    patches = np.repeat(np.repeat(means[..., 0, :], 8, axis=1), 8, axis=2).astype(np.uint8)
    assert high_frequency_ratio(patches, target, mask) > 1
    assert high_frequency_ratio(patches, target, mask, inside=(8, 8)) == pytest.approx(0, abs=1e-12)
    smooth = blurred(target, 3)
    stepped = (smooth.astype(int) + 20 * (np.indices((6, 8)).sum(0) % 2).repeat(8, 0).repeat(8, 1)[..., None]).clip(
        0, 255
    )
    stepped = stepped.astype(np.uint8)
    plain = high_frequency_ratio(stepped, target, mask) / high_frequency_ratio(smooth, target, mask)
    within = high_frequency_ratio(stepped, target, mask, (8, 8)) / high_frequency_ratio(smooth, target, mask, (8, 8))
    assert plain > 5 and within == pytest.approx(1, rel=0.02)


def test_slopes_are_no_detail_of_a_patch():
    rows, columns = np.indices((24, 32))
    slopes = np.stack([3 * rows, 5 * columns, 2 * rows + 4 * columns], -1)[None].astype(np.uint8)
    target = textured(1, 24, 32)
    mask = np.ones((1, 24, 32), bool)
    assert high_frequency_ratio(slopes, target, mask, inside=(8, 16)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("inside", [None, (4, 4)])
def test_detail_relative_to_a_flat_original_is_not_a_number(inside):
    flat, mask = np.full((1, 16, 16, 3), 93, np.uint8), np.ones((1, 16, 16), bool)
    assert math.isnan(high_frequency_ratio(noise(1, 16, 16), flat, mask, inside))


@pytest.mark.parametrize("inside", [(2, 8), (8, 7), (5, 8)])
def test_patches_that_cannot_be_measured_are_refused(inside):
    frames = noise(1, 16, 16)
    with pytest.raises(ValueError, match="at least 3 each.*16x16"):
        high_frequency_ratio(frames, frames, np.ones((1, 16, 16), bool), inside)


# ---------------------------------------------------------------------------------------------------------- diversity


def test_diversity_of_known_samples():
    samples = np.full((3, 2, 4, 4, 3), 100, np.uint8)
    mask = np.zeros((2, 4, 4), bool)
    mask[0] = True
    assert diversity(samples, mask) == 0
    samples[1, 1] = 255  # visible
    assert diversity(samples, mask) == 0
    samples[0, 0, ..., 1], samples[2, 0, ..., 1] = 90, 110
    assert diversity(samples, mask) == pytest.approx(10 / 3)  # of one colour in three
    assert math.isnan(diversity(samples[:1], mask))
    with pytest.raises(ValueError, match="sample"):
        diversity(samples[0], mask)
    with pytest.raises(ValueError, match="hides nothing"):
        diversity(samples, mask & False)


# ----------------------------------------------------------------------------------------------------------- Fréchet


@pytest.mark.parametrize("rows", [(200, 150), (7, 9), (2, 40)])
def test_frechet_distance_agrees_with_the_matrix_square_root(rows):
    """With more rows than columns, and with fewer."""
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(5)
    a = rng.normal(size=(rows[0], 12)) @ rng.normal(size=(12, 12)) + 3
    b = rng.normal(size=(rows[1], 12)) @ rng.normal(size=(12, 12))
    c_a, c_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    if min(rows) > 12:
        root = np.trace(linalg.sqrtm(c_a @ c_b)).real
    else:  # sqrtm of a singular matrix is not reliable
        root = np.sqrt(np.clip(np.linalg.eigvals(c_a @ c_b).real, 0, None)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c_a) + np.trace(c_b) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-10)


def test_frechet_distance_of_known_gaussians():
    rng = np.random.default_rng(6)
    a = rng.normal(size=(50, 4))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(a, a + 2) == pytest.approx(16)  # four means that are 2 apart
    centred = a - a.mean(0)
    spread = np.trace(np.cov(a, rowvar=False))
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * spread)  # (3 - 1)^2 times the variance
    few, many = (frechet_distance(a, rng.normal(size=(rows, 4))) for rows in (5, 5000))
    assert few > many


def test_frechet_distance_refuses_what_has_no_covariance():
    features = np.ones((4, 3))
    with pytest.raises(ValueError, match="at least 2 rows.*4 and 1"):
        frechet_distance(features, features[:1])
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        frechet_distance(features, features[:, :2])
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(features, features * np.nan)
