from __future__ import annotations

import pytest
import torch

from diffmae_video.data import dense_indices


def test_centred_span():
    assert dense_indices(100, 4, 10).tolist() == [34, 44, 54, 64]  # span of 31 frames, 69 left, 34 before
    assert dense_indices(31, 4, 10).tolist() == [0, 10, 20, 30]


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(0)])
def test_short_videos_keep_the_stride_and_repeat_the_last_frame(generator):
    assert dense_indices(30, 4, 10, generator).tolist() == [0, 10, 20, 29]
    assert dense_indices(12, 4, 10, generator).tolist() == [0, 10, 11, 11]
    assert dense_indices(1, 4, 10, generator).tolist() == [0, 0, 0, 0]


def test_random_starts_are_uniform_over_all_that_fit():
    generator = torch.Generator().manual_seed(1)
    clips = [dense_indices(36, 16, 2, generator) for _ in range(3000)]
    assert all((clip[1:] - clip[:-1] == 2).all() for clip in clips)
    counts = torch.bincount(torch.tensor([clip[0] for clip in clips]), minlength=6)
    assert len(counts) == 6  # a span of 31 in 36 frames starts at 0 to 5
    assert ((counts - 500).abs() < 100).all()


def test_the_generator_decides():
    first, second = (dense_indices(300, 16, 4, torch.Generator().manual_seed(7)) for _ in range(2))
    assert (first == second).all()


@pytest.mark.parametrize("numbers", [(0, 4, 1), (10, 0, 1), (10, 4, 0)])
def test_numbers_below_one(numbers):
    with pytest.raises(ValueError, match="at least 1"):
        dense_indices(*numbers)
