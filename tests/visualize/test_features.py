"""Tokens as colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffmae_video.visualize import GAP, feature_colours, feature_maps, feature_sheet, features
from diffmae_video.visualize.features import CONSTANT_GREY, _principal_components

GRID = (2, 3, 4)


def tokens(width: int = 8) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(24, width))
    return values * np.linspace(5, 1, width)  # so that the order of the components is clear


def test_components_are_those_of_scikit_learn_but_for_their_signs():
    decomposition = pytest.importorskip("sklearn.decomposition")
    expected = decomposition.PCA(3, svd_solver="full").fit_transform(tokens())
    found = _principal_components(tokens())
    signs = np.sign((found * expected).sum(axis=0))
    assert np.allclose(found, expected * signs)


def test_colours_do_not_depend_on_the_order_or_mirroring_of_the_tokens_width():
    """The sign of a component is chosen by its loadings: turning the data around turns nothing in the picture."""
    colours = feature_colours(tokens(), GRID)
    assert colours.dtype == np.uint8 and colours.shape == (*GRID, 3)
    assert np.array_equal(colours, feature_colours(tokens()[:, ::-1].copy(), GRID))
    assert np.array_equal(colours, feature_colours(torch.from_numpy(tokens()).reshape(*GRID, 8), GRID))
    assert np.array_equal(colours, feature_colours(tokens() + 100, GRID)), "the mean has no part in it"
    assert not np.array_equal(colours, feature_colours(-tokens(), GRID))


def test_contrast_is_full_and_outliers_do_not_take_it():
    values = np.zeros((1000, 3))
    values[:, 0] = np.linspace(-1, 1, 1000)
    values[0, 0] = -50
    red = feature_colours(values, (10, 10, 10))[..., 0].ravel()
    assert red.min() == 0 and red.max() == 255
    assert abs(int(np.median(red)) - 128) < 3
    assert (np.diff(red[1:].astype(int)) >= 0).all()


@pytest.mark.parametrize("width", [1, 2, 3])
def test_components_without_variance_are_grey(width):
    colours = feature_colours(tokens(width), GRID)
    assert all(np.ptp(colours[..., channel]) > 200 for channel in range(width))
    assert (colours[..., width:] == CONSTANT_GREY).all()
    assert (feature_colours(np.ones((24, 5)), GRID) == CONSTANT_GREY).all()


def test_a_token_is_a_block_of_pixels_over_its_frames():
    frames = np.random.default_rng(0).integers(0, 256, (7, 270, 280, 3), dtype=np.uint8)
    colours = feature_colours(tokens(), GRID)
    page = feature_maps(tokens(), GRID, frames, frames_per_slot=4)
    top = page.shape[1] - 270 - GAP
    assert np.array_equal(page[:, top : top + 270, GAP : GAP + 280], frames)
    maps = page[:, top : top + 270, 280 + 2 * GAP : 560 + 2 * GAP]
    for frame, slot in ((0, 0), (3, 0), (4, 1), (6, 1)):
        blocks = maps[frame].reshape(3, 90, 4, 70, 3)
        assert (blocks == colours[slot][:, None, :, None]).all()


def test_maps_alone_are_one_frame_per_time_slot():
    maps = feature_maps(tokens(), GRID)
    assert maps.shape[0] == 2 and min(maps.shape[1:3]) >= 256
    block = maps.shape[1] // 3
    assert np.array_equal(maps[:, ::block, ::block], feature_colours(tokens(), GRID))


def test_sheet_shows_the_video_above_its_features(monkeypatch):
    rows, real = {}, features.frame_sheet
    monkeypatch.setattr(features, "frame_sheet", lambda videos, *rest: rows.update(videos) or real(videos, *rest))
    frames = np.random.default_rng(0).integers(0, 256, (8, 60, 80, 3), dtype=np.uint8)
    assert feature_sheet(tokens(), GRID, frames, columns=2).dtype == np.uint8
    assert list(rows) == ["video", "features"]
    assert rows["video"].shape == rows["features"].shape == (8, 120, 160, 3)
    block = rows["features"][5].reshape(3, 40, 4, 40, 3)
    assert (block == feature_colours(tokens(), GRID)[1][:, None, :, None]).all()


@pytest.mark.parametrize(("count", "each"), [(4, 4), (9, 4), (7, None), (8, 3)])
def test_frames_that_do_not_fit_the_time_slots_are_refused(count, each):
    frames = np.zeros((count, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=f"{count} frames do not fit 2 time slots"):
        feature_maps(tokens(), GRID, frames, each)


def test_tokens_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="N = 24"):
        feature_colours(tokens()[:23], GRID)
    broken = tokens()
    broken[3, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        feature_colours(broken, GRID)
