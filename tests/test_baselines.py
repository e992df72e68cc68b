"""PSNR, and the fills that an inpainting is compared with."""

from __future__ import annotations

import numpy as np
import pytest

from diffmae_video.baselines import mean_fill, nearest_patch_fill, psnr
from diffmae_video.mask_input import strategy_mask


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_psnr_of_a_known_error():
    target = np.full((2, 4, 4, 3), 100, np.uint8)
    mask = np.zeros((2, 4, 4), bool)
    mask[0] = True
    pred = target.copy()
    pred[0] += 10
    pred[1] += 50  # not under the mask: of no consequence
    assert psnr(pred, target, mask) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(target, target, mask) == float("inf")
    with pytest.raises(ValueError, match="hides nothing"):
        psnr(pred, target, mask & False)
    with pytest.raises(ValueError, match="shapes"):
        psnr(pred[:1], target)


def test_mean_fill_uses_visible_pixels_only():
    frames, mask = np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 2, 2), bool)
    frames[0, 0], frames[0, 1] = (10, 20, 30), (30, 40, 50)
    mask[0, 0, 0] = True
    frames[0, 0, 0] = 255
    assert mean_fill(frames, mask)[0, 0, 0].tolist() == [23, 33, 43]
    with pytest.raises(ValueError, match="every pixel"):
        mean_fill(frames, mask | True)


def test_nearest_patch_fill_copies_a_patch_from_its_neighbour():
    frames, mask = noise(2, 8, 12), np.zeros((2, 8, 12), bool)
    mask[:, 4:8, 8:12] = True
    filled = nearest_patch_fill(frames, mask, (2, 4, 4))
    assert np.array_equal(filled[:, 4:8, 8:12], frames[:, 4:8, 4:8])  # same row before same column
    assert np.array_equal(filled[~mask], frames[~mask])


def test_nearest_patch_fill_agrees_with_brute_force_and_never_reads_hidden_pixels():
    rng = np.random.default_rng(1)
    frames = noise(6, 24, 20)
    mask = strategy_mask("random", 0.8, (6, 24, 20), (2, 4, 4), seed=3)
    filled = nearest_patch_fill(frames, mask, (2, 4, 4))
    hidden = mask[::2, ::4, ::4]
    visible = np.argwhere(~hidden)
    weights = np.array([0.999, 1.001, 1.0])
    for place in np.argwhere(hidden):
        t, y, x = visible[(weights * (visible - place) ** 2).sum(1).argmin()]
        pt, py, px = place
        assert np.array_equal(
            filled[2 * pt : 2 * pt + 2, 4 * py : 4 * py + 4, 4 * px : 4 * px + 4],
            frames[2 * t : 2 * t + 2, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4],
        )
    other = frames.copy()
    other[mask] = rng.integers(0, 256, other[mask].shape)
    assert np.array_equal(nearest_patch_fill(other, mask, (2, 4, 4))[mask], filled[mask])


@pytest.mark.parametrize("shape", [(5, 23, 37), (1, 17, 16), (3, 100, 75)])
@pytest.mark.parametrize("patch", [(2, 4.7, 5.3), (2.0, 12.0, 11.63), (1, 1.4, 1.6)])
def test_nearest_patch_fill_with_fractional_and_cut_patches(shape, patch):
    frames = noise(*shape)
    mask = strategy_mask("random", 0.6, shape, patch)
    filled = nearest_patch_fill(frames, mask, patch)
    colours = {tuple(c) for c in frames[~mask].tolist()}
    assert all(tuple(c) in colours for c in filled[mask].tolist())


def test_nearest_patch_fill_needs_a_visible_patch():
    mask = np.zeros((2, 8, 8), bool)
    mask[:, ::4, ::4] = True  # one pixel of every patch
    with pytest.raises(ValueError, match="no patch is fully visible"):
        nearest_patch_fill(noise(2, 8, 8), mask, (2, 4, 4))
