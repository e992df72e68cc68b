"""The fills that an inpainting is compared with."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from diffmae_video.baselines import interpolate_in_time, mean_fill, nearest_patch_fill, opencv_fill, temporal_fill
from diffmae_video.mask_input import strategy_mask


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


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


# ---------------------------------------------------------------------------------------------------------- temporal


def test_temporal_fill_interpolates_in_time_at_the_same_place():
    frames, mask = np.zeros((5, 1, 4, 3), np.uint8), np.zeros((5, 1, 4), bool)
    frames[:, 0] = np.array([10, 255, 255, 255, 51], np.uint8)[:, None, None]
    frames[1, 0, 3] = 77
    mask[1:4, 0, 0] = True  # between the first and the last frame
    mask[:4, 0, 1] = True  # before the last
    mask[1:, 0, 2] = True  # after the first
    mask[2:4, 0, 3] = True  # between the second and the last
    filled = temporal_fill(frames, mask)
    assert (filled == filled[..., :1]).all()
    assert filled[:, 0, 0, 0].tolist() == [10, 20, 30, 41, 51]  # 10 + 10.25 a frame
    assert filled[:, 0, 1, 0].tolist() == [51] * 5
    assert filled[:, 0, 2, 0].tolist() == [10] * 5
    assert filled[:, 0, 3, 0].tolist() == [10, 77, 68, 60, 51]  # 77 - 8.67 a frame


def test_temporal_fill_of_a_place_that_is_never_visible_is_the_mean_colour():
    frames, mask = noise(3, 4, 6), np.zeros((3, 4, 6), bool)
    mask[:, 1, 2] = mask[1] = True
    filled = temporal_fill(frames, mask)
    assert filled[0, 1, 2].tolist() == frames[~mask].mean(axis=0).round().tolist()
    assert (filled[:, 1, 2] == filled[0, 1, 2]).all()
    assert not np.array_equal(filled[1, 0, 0], filled[0, 1, 2])
    with pytest.raises(ValueError, match="every pixel"):
        temporal_fill(frames, mask | True)


def test_temporal_fill_agrees_with_interpolation_of_every_place():
    frames = noise(9, 6, 7)
    mask = np.random.default_rng(2).random((9, 6, 7)) < 0.6
    mask[0] &= ~mask.all(axis=0)  # every place is visible once
    filled = temporal_fill(frames, mask)
    for y, x, c in np.ndindex(6, 7, 3):
        seen = np.flatnonzero(~mask[:, y, x])
        expected = np.interp(np.arange(9), seen, frames[seen, y, x, c])
        assert np.abs(filled[:, y, x, c] - expected).max() <= 0.5 + 1e-9


# ------------------------------------------------------------------------------------------------------------ OpenCV


@pytest.mark.parametrize("method", ["telea", "ns"])
def test_opencv_fill_is_that_of_opencv_frame_by_frame(method):
    cv2 = pytest.importorskip("cv2")
    frames = noise(3, 24, 32)
    mask = np.zeros((3, 24, 32), bool)
    mask[0, 4:12, 6:20] = mask[2, 5:9, 24:29] = True  # off the border, where OpenCV reads what is hidden
    filled = opencv_fill(frames, mask, method, radius=2)
    flag = {"telea": cv2.INPAINT_TELEA, "ns": cv2.INPAINT_NS}[method]
    for number in (0, 2):
        expected = cv2.inpaint(frames[number], 255 * mask[number].astype(np.uint8), 2, flag)
        assert np.array_equal(filled[number], expected)
    assert np.array_equal(filled[~mask], frames[~mask])
    assert not np.array_equal(filled[mask], frames[mask])


def test_opencv_fill_goes_on_with_a_smooth_picture():
    pytest.importorskip("cv2")
    rows, columns = np.indices((32, 32))
    frames = np.stack([4 * rows, 4 * columns, 2 * (rows + columns)], -1)[None].astype(np.uint8)
    mask = np.zeros((1, 32, 32), bool)
    mask[:, 12:18, 12:18] = True
    dark = frames * ~mask[..., None]
    errors = np.abs(opencv_fill(dark, mask).astype(int) - frames)[mask]
    assert errors.mean() < 3


def test_opencv_fill_of_a_whole_frame_is_the_temporal_one():
    pytest.importorskip("cv2")
    frames, mask = noise(3, 16, 16), np.zeros((3, 16, 16), bool)
    mask[1], mask[2, 4:8, 4:8] = True, True
    filled = opencv_fill(frames, mask)
    assert np.array_equal(filled[1], temporal_fill(frames, mask)[1])
    assert np.array_equal(filled[2], opencv_fill(frames[2:], mask[2:])[0])
    with pytest.raises(ValueError, match="every pixel"):
        opencv_fill(frames, mask | True)


def test_opencv_fill_refuses_what_opencv_would_misread():
    frames, mask = noise(1, 8, 8), np.zeros((1, 8, 8), bool)
    with pytest.raises(ValueError, match="telea, ns"):
        opencv_fill(frames, mask, method="fast")
    with pytest.raises(ValueError, match="positive"):
        opencv_fill(frames, mask, radius=0)


def test_opencv_fill_without_opencv_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="opencv-python-headless"):
        opencv_fill(noise(1, 8, 8), np.zeros((1, 8, 8), bool))


# -------------------------------------------------------------------------------------------------------- every fill


FILLS = {
    "mean": mean_fill,
    "nearest": lambda frames, mask: nearest_patch_fill(frames, mask, (2, 4, 4)),
    "temporal": temporal_fill,
    "telea": opencv_fill,
    "ns": lambda frames, mask: opencv_fill(frames, mask, "ns"),
}


@pytest.mark.parametrize("name", FILLS)
def test_no_fill_reads_a_hidden_pixel_or_changes_a_visible_one(name):
    if name in ("telea", "ns"):
        pytest.importorskip("cv2")
    frames = noise(6, 24, 20)
    mask = strategy_mask("random", 0.6, (6, 24, 20), (2, 4, 4), seed=3)
    mask[:, 20:, 16:], mask[3] = True, True  # never visible; a whole frame
    given = frames.copy()
    filled = FILLS[name](given, mask)
    assert np.array_equal(given, frames), "the input was written to"
    assert filled.dtype == np.uint8 and np.array_equal(filled[~mask], frames[~mask])
    other = frames.copy()
    other[mask] = np.random.default_rng(1).integers(0, 256, other[mask].shape)
    assert np.array_equal(FILLS[name](other, mask), filled)


def test_interpolation_in_time():
    clip = torch.arange(6.0).reshape(1, 1, 6, 1, 1).repeat(1, 1, 1, 1, 4) ** 2
    mask = torch.zeros(1, 6, 1, 4, dtype=torch.bool)
    mask[0, 1:3, 0, 0] = True  # between 0 and 9
    mask[0, :2, 0, 1] = True  # before the first
    mask[0, 4:, 0, 2] = True  # after the last
    mask[0, :, 0, 3] = True  # never visible
    visible = torch.where(mask, float("nan"), clip[:, 0])
    filled = interpolate_in_time(clip, mask)[0, 0, :, 0]
    assert filled[:, 0].tolist() == [0, 3, 6, 9, 16, 25]
    assert filled[:, 1].tolist() == [4, 4, 4, 9, 16, 25]
    assert filled[:, 2].tolist() == [0, 1, 4, 9, 9, 9]
    torch.testing.assert_close(filled[:, 3], visible.nanmean().expand(6))
