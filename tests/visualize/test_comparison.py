"""Results of several models, and of several seeds."""

from __future__ import annotations

import numpy as np
import pytest

from diffmae_video.visualize import (
    GAP,
    HEAT,
    HIDDEN_GREY,
    comparison_sheet,
    deviation_frames,
    panels,
    pixel_deviation,
    seed_grid,
)

SIDE = 130


@pytest.fixture
def clip():
    """Frames and a mask; hidden pixels are pure red, which nothing else is."""
    frames = np.random.default_rng(0).integers(0, 200, (3, SIDE, SIDE, 3), dtype=np.uint8)
    mask = np.zeros((3, SIDE, SIDE), bool)
    mask[:, 20:60, 30:90] = True
    frames[mask] = (255, 0, 0)
    return frames, mask


@pytest.fixture
def rows(monkeypatch):
    """Title -> frames of the rows of the sheet that was made last."""
    found, real = {}, panels.contact_sheet

    def spy(videos, titles, *arguments):
        found.clear()
        found.update(zip(titles, videos, strict=True))
        return real(videos, titles, *arguments)

    monkeypatch.setattr(panels, "contact_sheet", spy)
    return found


def test_models_stand_between_masked_input_and_original(clip, rows):
    frames, mask = clip
    results = {"MAE": frames // 2, "DiffMAE,\nseed 1": frames // 4}
    sheet = comparison_sheet(frames, mask, results)
    assert list(rows) == ["masked input", "MAE", "DiffMAE,\nseed 1", "original"]
    assert np.array_equal(rows["MAE"], frames // 2) and np.array_equal(rows["original"], frames)
    masked = rows["masked input"]
    assert (masked[mask] == HIDDEN_GREY).all() and np.array_equal(masked[~mask], frames[~mask])
    red = (sheet == (255, 0, 0)).all(-1)
    assert red.any() and not red[: -SIDE - 2 * GAP].any(), "hidden pixels are shown above the original"


def test_few_columns_show_both_ends(clip, rows):
    comparison_sheet(*clip, {"MAE": clip[0]}, columns=2)
    assert np.array_equal(rows["original"], clip[0][[0, 2]])


def test_seeds_and_where_they_differ(clip, rows):
    frames, mask = clip
    results = {7: frames // 2, 8: frames // 2}
    results[7][1, 30, 40] = (100, 100, 100)
    results[8][1, 30, 40] = (200, 200, 200)
    results[7][1, 30, 41], results[8][1, 30, 41] = (100, 100, 100), (150, 150, 150)
    page = seed_grid(results, frames, mask)
    assert list(rows) == ["masked input", "seed 7", "seed 8", "standard\ndeviation", "original"]
    assert (rows["masked input"][mask] == HIDDEN_GREY).all()
    assert np.array_equal(rows["seed 7"], results[7]) and np.array_equal(rows["seed 8"], results[8])
    deviation = rows["standard\ndeviation"]
    assert deviation[1, 30, 40].tolist() == list(HEAT[-1]), "the largest deviation is the brightest"
    assert deviation[1, 30, 41].tolist() == list(HEAT[2]), "half of it is the middle of the scale"
    deviation[1, 30, 40:42] = HEAT[0]
    assert (deviation == HEAT[0]).all()
    assert (page[-20:] == HEAT[-1]).all(-1).any() and (page[-20:] > 200).any(), "no scale"
    assert page.shape[0] % 2 == 0


def test_deviation_is_that_of_numpy():
    results = np.random.default_rng(1).integers(0, 256, (5, 2, 6, 7, 3), dtype=np.uint8)
    expected = np.sqrt(results.astype(float).var(axis=0).mean(axis=-1))
    assert np.allclose(pixel_deviation(list(results)), expected)
    assert pixel_deviation([np.zeros((1, 1, 1, 3), np.uint8), np.full((1, 1, 1, 3), 255, np.uint8)]) == 127.5


def test_seeds_that_agree_are_dark_everywhere(clip):
    assert (deviation_frames(pixel_deviation([clip[0], clip[0]])) == HEAT[0]).all()
    assert seed_grid({0: clip[0], 1: clip[0]}, *clip).dtype == np.uint8


def test_what_does_not_fit_is_refused(clip):
    frames, mask = clip
    with pytest.raises(ValueError, match="at least one result"):
        comparison_sheet(frames, mask, {})
    with pytest.raises(ValueError, match="one shape"):
        comparison_sheet(frames, mask, {"MAE": frames[:2]})
    with pytest.raises(ValueError, match="two or more seeds"):
        seed_grid({0: frames}, frames, mask)
    with pytest.raises(ValueError, match="one shape"):
        pixel_deviation([frames, frames[:1]])
