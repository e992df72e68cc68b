from __future__ import annotations

import pytest
import torch

from diffmae_video.data import dense_indices, segment_indices
from diffmae_video.data.sampling import frame_indices


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


def test_clips_spread_over_the_video():
    starts = [dense_indices(100, 4, 10, clip=clip, clips=3)[0] for clip in range(3)]
    assert starts == [0, 34, 69]  # the last span ends with the video
    assert {dense_indices(12, 4, 10, clip=clip, clips=3)[0] for clip in range(3)} == {0}


def test_segments_take_their_centres():
    assert segment_indices(40, 4).tolist() == [5, 15, 25, 35]
    assert segment_indices(10, 4).tolist() == [1, 3, 6, 8]  # parts of 2.5 frames
    assert segment_indices(3, 6).tolist() == [0, 0, 1, 1, 2, 2] and segment_indices(1, 4).tolist() == [0] * 4
    assert [segment_indices(40, 4, clip=clip, clips=2).tolist() for clip in (0, 1)] == [
        [2, 12, 22, 32], [7, 17, 27, 37],
    ]  # fmt: skip


def test_random_segments_cover_every_frame_of_their_part_and_no_other():
    generator = torch.Generator().manual_seed(0)
    clips = torch.tensor([segment_indices(20, 4, generator).tolist() for _ in range(2000)])
    for part in range(4):
        counts = torch.bincount(clips[:, part], minlength=20)
        assert counts.nonzero().flatten().tolist() == list(range(5 * part, 5 * part + 5))
        assert counts.max() < 1.3 * counts[counts > 0].min(), "every frame of a part equally often"
    assert segment_indices(7, 4, generator).max() <= 6


def test_sampling_by_name():
    assert frame_indices("dense", 100, 4, 10).tolist() == [34, 44, 54, 64]
    assert frame_indices("segment", 40, 4, 10).tolist() == [5, 15, 25, 35]
    with pytest.raises(ValueError, match="choose one of dense, segment"):
        frame_indices("sparse", 40, 4, 10)
    with pytest.raises(ValueError, match="numbered from 0"):
        segment_indices(40, 4, clip=2, clips=2)
