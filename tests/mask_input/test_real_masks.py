"""Masks that people drew for real videos: in place, in time, and of the right object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmae_video.data import read_frames
from diffmae_video.mask_input import grow_mask, read_mask

PATCH = (2.0, 16.0, 16.0)


@pytest.fixture(scope="module")
def masks(research_data) -> Path:
    folder = research_data / "inpainting"
    if not folder.is_dir():
        pytest.skip(f"no masks at {folder}")
    return folder


@pytest.fixture(scope="module")
def dogs(masks) -> np.ndarray:
    """The masks of all three objects, bool (66, 240, 432)."""
    return read_mask(str(masks / "sttn_examples" / "dogs_jump"), (66, 240, 432), PATCH, 0.5)


def test_dogs_jump_is_in_step_with_its_video(masks, dogs):
    """The authors' own overlay of the grown masks changes the video exactly there, and fits at no shift in time."""
    numbers = range(5, 61, 5)
    clips = [masks / "sttn_examples" / f"dogs_jump_{name}.mp4" for name in ("orig", "ann")]
    original, overlaid = (read_frames(clip, numbers).astype(int) for clip in clips)
    painted = (original[..., 2] - overlaid[..., 2] > 20) | (overlaid[..., 0] - original[..., 0] > 40)  # yellow on grey

    def agreement(shift: int) -> float:
        grown = grow_mask(dogs[[number + shift for number in numbers]], 5)
        return (grown & painted).sum() / (grown | painted).sum()

    scores = {shift: agreement(shift) for shift in (-2, -1, 0, 1, 2)}
    assert max(scores, key=scores.get) == 0 and scores[0] > 0.8


def test_dogs_jump_object_by_object(masks, dogs):
    folder = masks / "sttn_examples" / "dogs_jump"
    single = [read_mask(str(folder), dogs.shape, PATCH, 0.5, objects=[number]) for number in (1, 2, 3)]
    assert np.array_equal(np.sum(single, axis=0), dogs.astype(int))  # all of it, and nothing twice
    woman = single[2][0]
    rows, columns = np.nonzero(woman)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (176, 230, 63, 180)
    with pytest.raises(ValueError, match="has no object 4: .* there are 0, 1, 2, 3 "):
        read_mask(str(folder), dogs.shape, PATCH, 0.5, objects=[4])


def test_bmx_trees_follows_the_frames_that_are_taken(masks):
    folder = masks / "object_removal" / "bmx-trees_mask"
    every = read_mask(str(folder), (80, 240, 432), PATCH, 0.5)
    some = read_mask(str(folder), (8, 240, 432), PATCH, 0.5, indices=range(10, 74, 8), total=80)
    assert np.array_equal(some, every[10:74:8])
    assert 0.005 < every.mean() < 0.04 and every.any(axis=(1, 2)).all()
    assert np.array_equal(every[33], np.asarray(Image.open(folder / "00033.png")) > 127)


@pytest.mark.parametrize(("name", "share"), [("mask_logo", 0.067), ("mask_square", 0.106)])
def test_running_car_masks_are_scaled_to_the_video(masks, name, share):
    """1296 x 720 and 432 x 240 for a video of 972 x 540."""
    mask = read_mask(str(masks / "video_completion" / f"{name}.png"), (3, 540, 972), PATCH, 0.5)
    assert mask.shape == (3, 540, 972) and (mask == mask[:1]).all()
    assert mask.mean() == pytest.approx(share, abs=0.002)
