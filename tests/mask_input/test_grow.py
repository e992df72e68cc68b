"""Masks made larger by a disc."""

from __future__ import annotations

import numpy as np
import pytest

from diffmae_video.mask_input import grow_mask


def blobs(frames: int = 3, height: int = 50, width: int = 70) -> np.ndarray:
    """A frame with single pixels and lines up to the edges, an empty one, and one of a single corner."""
    mask = np.zeros((frames, height, width), bool)
    mask[0] = np.random.default_rng(0).random((height, width)) < 0.003
    mask[0, 0, 30:34] = mask[0, 20:30, -1] = True
    mask[2, -1, 0] = True
    return mask


@pytest.mark.parametrize("pixels", [1, 2, 5, 12, 30, 60, 300])
def test_growing_is_dilation_by_a_disc(pixels):
    scipy_ndimage = pytest.importorskip("scipy.ndimage")
    mask = blobs()
    expected = np.zeros_like(mask)
    for frame in (0, 2):  # of an empty frame scipy's distance is undefined
        expected[frame] = scipy_ndimage.distance_transform_edt(~mask[frame]) <= pixels
    grown = grow_mask(mask, pixels)
    assert grown.dtype == np.bool_ and np.array_equal(grown, expected)


def test_growth_of_more_than_a_byte_holds():
    mask = np.zeros((1, 40, 900), bool)
    mask[0, 0, 400] = True
    y, x = np.ogrid[:40, :900]
    assert np.array_equal(grow_mask(mask, 300)[0], y**2 + (x - 400) ** 2 <= 300**2)


def test_growing_is_the_dilation_of_scikit_image():
    morphology = pytest.importorskip("skimage.morphology")
    mask = blobs()
    expected = [morphology.dilation(frame, morphology.disk(7)) for frame in mask]
    assert np.array_equal(grow_mask(mask, 7), expected)


def test_frames_do_not_grow_into_each_other():
    mask = np.zeros((3, 9, 9), bool)
    mask[1, 4, 4] = True
    grown = grow_mask(mask, 2)
    assert not grown[0].any() and not grown[2].any() and grown[1].sum() == 13
    assert mask.sum() == 1  # what was given is left alone


def test_no_growth_is_an_equal_mask():
    mask = blobs()
    grown = grow_mask(mask, 0)
    assert np.array_equal(grown, mask) and grown is not mask


def test_grow_errors():
    with pytest.raises(ValueError, match="cannot grow by -1 pixels: expected 0 or more"):
        grow_mask(blobs(), -1)
    with pytest.raises(ValueError, match="expected a bool mask"):
        grow_mask(blobs().astype(np.uint8), 1)
    with pytest.raises(ValueError, match="expected a bool mask"):
        grow_mask(blobs()[0], 1)
