"""Colours and text that pictures are made of."""

from __future__ import annotations

import numpy as np

from diffmae_video.visualize import BACKGROUND, HEAT
from diffmae_video.visualize.layout import empty_page, heat, label, resize, text_width


def test_heat_runs_from_dark_to_bright_in_even_steps():
    assert heat(np.array([0, 0.25, 0.5, 0.75, 1])).tolist() == [list(colour) for colour in HEAT]
    brightness = heat(np.linspace(0, 1, 50)).astype(float).mean(-1)
    assert brightness[0] == brightness.min() and brightness[-1] == brightness.max()


def test_nearest_resizing_keeps_hard_edges():
    frames = np.zeros((1, 2, 2, 3), np.uint8)
    frames[0, 0, 1] = 255
    large = resize(frames, 6, 8, smooth=False)
    assert (large[0, :3, 4:] == 255).all() and large.sum() == 3 * 4 * 3 * 255
    assert len(np.unique(resize(frames, 6, 8))) > 2


def test_a_label_that_is_too_long_ends_in_an_ellipsis_and_a_short_one_does_not():
    text = "a name that goes on"
    whole, cut = label(text, text_width(text), 20), label(text, text_width(text) - 5, 20)
    assert whole.shape[1] == text_width(text) and cut.shape[1] == text_width(text) - 5
    assert (whole > 200).any() and not np.array_equal(whole[:, : cut.shape[1]], cut)


def test_pages_have_even_sides():
    assert empty_page(7, 9).shape == (8, 10, 3) and (empty_page(2, 2) == BACKGROUND).all()
