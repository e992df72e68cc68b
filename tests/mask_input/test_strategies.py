"""Masks of whole patches over a video of any size."""

from __future__ import annotations

import numpy as np
import pytest

from diffmae_video.mask_input import patch_in_pixels, strategy_mask
from diffmae_video.models.masks import STRATEGIES


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_strategy_mask_hides_whole_patches_at_about_the_ratio(name):
    shape, patch = (8, 96, 144), (2.0, 12.0, 12.0)
    mask = strategy_mask(name, 0.5, shape, patch)
    tokens = mask[::2, ::12, ::12]
    assert np.array_equal(np.kron(tokens, np.ones((2, 12, 12), bool)), mask)
    assert abs(mask.mean() - 0.5) < 0.15
    assert np.array_equal(mask, strategy_mask(name, 0.5, shape, patch))
    if name != "center":
        assert any(not np.array_equal(mask, strategy_mask(name, 0.5, shape, patch, seed)) for seed in (1, 2, 3))


def test_a_patch_grows_with_the_input():
    assert patch_in_pixels((24, 96, 96), (8, 64, 64), (2, 8, 8)) == (2.0, 12.0, 12.0)
    assert patch_in_pixels((24, 32, 64), (8, 64, 64), (2, 8, 8)) == (2.0, 4.0, 4.0)
    # 96 x 130: worked on at 64 x 88, eleven patches wide
    assert patch_in_pixels((24, 96, 130), (8, 64, 64), (2, 8, 8)) == (2.0, 12.0, 130 / 11)
    assert patch_in_pixels((24, 96, 130), (8, 64, 64), (2, 8, 8), fit="native") == (2.0, 8.0, 130 / 16)
