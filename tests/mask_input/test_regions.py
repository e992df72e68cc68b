"""Masks in words and numbers: halves, boxes that stand or move, whole frames."""

from __future__ import annotations

import numpy as np
import pytest

from diffmae_video.mask_input import REGIONS, box_mask, frames_mask, moving_box_mask, region_mask


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("right-half", np.s_[:, :, 5:]),
        ("left-half", np.s_[:, :, :5]),
        ("top-half", np.s_[:, :4]),
        ("bottom-half", np.s_[:, 4:]),
        ("every-second-frame", np.s_[[1, 3]]),
    ],
)
def test_regions_hide_what_they_say(name, hidden):
    expected = np.zeros((5, 8, 10), bool)
    expected[hidden] = True
    assert np.array_equal(region_mask(name, (5, 8, 10)), expected)


def test_the_middle_of_an_odd_size_stays_visible():
    shape = (1, 5, 7)
    sides = region_mask("left-half", shape) | region_mask("right-half", shape)
    assert np.array_equal(np.flatnonzero(~sides[0, 0]), [3])
    sides = region_mask("top-half", shape) | region_mask("bottom-half", shape)
    assert np.array_equal(np.flatnonzero(~sides[0, :, 0]), [2])


@pytest.mark.parametrize("name", list(REGIONS))
def test_a_single_pixel_has_no_half(name):
    with pytest.raises(ValueError, match=f"mask {name} hides nothing of 1 frame"):
        region_mask(name, (1, 1, 1))


def test_unknown_region():
    with pytest.raises(ValueError, match="choose one of right-half, left-half"):
        region_mask("right-third", (2, 8, 8))


@pytest.mark.parametrize(
    ("given", "hidden"),
    [
        ("frames:3", [3]),
        ("frames:2-4", [2, 3, 4]),
        ("frames:0, 5 , 7-8", [0, 5, 7, 8]),
        ("frames:1-3,2-4", [1, 2, 3, 4]),
    ],
)
def test_frames(given, hidden):
    mask = frames_mask(given, (9, 4, 6))
    assert mask.shape == (9, 4, 6)
    assert np.array_equal(np.flatnonzero(mask.all(axis=(1, 2))), hidden) and mask.any(axis=(1, 2)).sum() == len(hidden)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("frames:", "expected frame numbers"),
        ("frames:a", "'a' is neither"),
        ("frames:1,,2", "'' is neither"),
        ("frames:-3", "'-3' is neither"),
        ("frames:1.5", "'1.5' is neither"),
        ("frames:8-9", "'8-9' is outside 0 to 8"),
        ("frames:9", "'9' is outside 0 to 8 .* counted from 0 in the 9 that are taken"),
        ("frames:5-3", "runs backwards"),
        ("frames:0-8", "hides every one of the 9 frames"),
    ],
)
def test_frames_errors(given, message):
    with pytest.raises(ValueError, match=message):
        frames_mask(given, (9, 4, 6))


def test_box_in_pixels_and_in_shares():
    mask = box_mask("2,1,6,4", (3, 8, 10))
    assert mask[:, 1:4, 2:6].all() and mask.sum() == 3 * 3 * 4
    assert np.array_equal(box_mask("0.2, 0.125, 0.6, 0.5", (3, 8, 10)), mask)


BOX_ERRORS = [
    ("1,2,3", "four numbers"),
    ("a,b,c,d", "four numbers"),
    ("0,0,0.5,0.5", "four numbers"),
    ("6,0,2,4", "expected 0 <= x0 < x1 <= 10"),
    ("0,0,11,4", "the size of the input"),
    ("-1,0,5,4", "the size of the input"),
    ("nan,nan,nan,nan", "four numbers"),
]


@pytest.mark.parametrize(("box", "message"), BOX_ERRORS)
def test_box_errors(box, message):
    with pytest.raises(ValueError, match=message):
        box_mask(box, (3, 8, 10))
    with pytest.raises(ValueError, match=message):
        moving_box_mask(f"0:0,0,1,1 2:{box}", (3, 8, 10))


def corners(frame: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a rectangle; fails where the hidden pixels are none."""
    rows, columns = np.flatnonzero(frame.any(axis=1)), np.flatnonzero(frame.any(axis=0))
    box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    assert frame.sum() == (box[2] - box[0]) * (box[3] - box[1])
    return tuple(int(side) for side in box)


def test_a_box_moves_evenly_and_hides_nothing_before_and_after():
    mask = moving_box_mask("2:10,10,40,40 6:30,10,60,44 8:30,20,50,44", (12, 64, 96))
    assert not mask[:2].any() and not mask[9:].any()
    assert [corners(frame) for frame in mask[2:9]] == [
        (10, 10, 40, 40),
        (15, 10, 45, 41),
        (20, 10, 50, 42),
        (25, 10, 55, 43),
        (30, 10, 60, 44),
        (30, 15, 55, 44),
        (30, 20, 50, 44),
    ]


def test_a_box_that_only_moves_keeps_its_size():
    """Halves of pixels between an even and an odd number, where round() would go both ways."""
    mask = moving_box_mask("0:10,10,41,41 2:11,13,42,44 8:21,14,52,45", (9, 64, 96))
    assert (mask.sum(axis=(1, 2)) == 31 * 31).all()


def test_keyframes_in_shares():
    shares = moving_box_mask("0:0.1,0.25,0.5,0.5 3:0.4,0.25,0.8,0.5", (5, 8, 10))
    assert np.array_equal(shares, moving_box_mask("0:1,2,5,4  3:4,2,8,4", (5, 8, 10)))


def test_a_single_keyframe_is_a_box_that_stands():
    assert np.array_equal(moving_box_mask("2:2,1,6,4", (3, 8, 10)), box_mask("2,1,6,4", (3, 8, 10)))
    assert np.array_equal(moving_box_mask("0:2,1,6,4", (1, 8, 10)), box_mask("2,1,6,4", (1, 8, 10)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0:1,1,4,4 2,1,5,4", "'2,1,5,4' is none"),
        ("0:1,1,4,4 -1:1,1,4,4", "'-1:1,1,4,4' is none"),
        ("0:1,1,4,4 3:1,1,4,4", "keyframe 3 is outside 0 to 2"),
        ("2:1,1,4,4 1:1,1,4,4", "not in the order of time"),
        ("1:1,1,4,4 1:2,1,5,4", "not in the order of time"),
    ],
)
def test_keyframe_errors(given, message):
    with pytest.raises(ValueError, match=message):
        moving_box_mask(given, (3, 8, 10))
