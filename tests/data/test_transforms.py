from __future__ import annotations

import math

import pytest
import torch

from diffmae_video.data.transforms import (
    Box,
    center_box,
    center_crop,
    crop_and_resize,
    random_resized_crop_box,
    random_resized_crop_flip,
)


def boxes(height, width, scale, aspect, count=2000):
    generator = torch.Generator().manual_seed(0)
    return [random_resized_crop_box(height, width, scale, aspect, generator) for _ in range(count)]


def test_crop_boxes_cover_the_stated_ranges():
    height, width = 256, 340
    drawn = boxes(height, width, (0.2, 0.8), (0.75, 4 / 3))
    for box in drawn:
        assert 0 <= box.top <= height - box.height and 0 <= box.left <= width - box.width
    shares = torch.tensor([box.height * box.width / (height * width) for box in drawn])
    ratios = torch.tensor([math.log(box.width / box.height) for box in drawn])
    assert 0.19 < shares.min() < 0.22 and 0.74 < shares.max() < 0.81
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert ratios.min() == pytest.approx(math.log(0.75), abs=0.03)
    assert ratios.max() == pytest.approx(math.log(4 / 3), abs=0.03)
    tops = torch.tensor([box.top / max(1, height - box.height) for box in drawn])
    assert tops.min() < 0.02 and tops.max() > 0.98 and tops.mean() == pytest.approx(0.5, abs=0.03)


def test_crop_falls_back_to_the_largest_centred_one():
    assert set(boxes(100, 1000, (1.0, 1.0), (0.75, 4 / 3), 5)) == {Box(0, 433, 100, 133)}
    assert set(boxes(1000, 100, (1.0, 1.0), (0.75, 4 / 3), 5)) == {Box(433, 0, 133, 100)}


def test_the_whole_frame_can_be_kept():
    assert set(boxes(64, 64, (1.0, 1.0), (1.0, 1.0), 5)) == {Box(0, 0, 64, 64)}


def test_crop_and_resize_layout():
    frames = torch.arange(2 * 6 * 8 * 3, dtype=torch.uint8).reshape(2, 6, 8, 3)
    clip = crop_and_resize(frames, Box(1, 2, 4, 4), 4)
    assert clip.shape == (3, 2, 4, 4) and clip.dtype == torch.uint8 and clip.is_contiguous()
    assert torch.equal(clip, frames[:, 1:5, 2:6].permute(3, 0, 1, 2))


def test_resize_is_that_of_float_arithmetic():
    frames = torch.randint(0, 256, (2, 50, 70, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    clip = crop_and_resize(frames, Box(3, 5, 40, 60), 24).float()
    exact = torch.nn.functional.interpolate(
        frames[:, 3:43, 5:65].permute(0, 3, 1, 2).float(), size=(24, 24), mode="bilinear", antialias=True
    )
    assert (clip.transpose(0, 1) - exact).abs().max() < 1.5


def test_all_frames_of_a_clip_are_treated_alike_and_the_generator_decides():
    frame = torch.randint(0, 256, (40, 60, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    frames = frame.expand(5, -1, -1, -1)
    clips = [
        random_resized_crop_flip(frames, 16, (0.3, 1.0), (0.75, 4 / 3), True, torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    ]
    assert torch.equal(clips[0], clips[0][:, :1].expand_as(clips[0]))
    assert torch.equal(clips[0], clips[1]) and not torch.equal(clips[0], clips[2])


@pytest.mark.parametrize("horizontal_flip", [True, False])
def test_half_of_the_clips_are_mirrored_or_none(horizontal_flip):
    frames = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    frames[:, :, 16:] = 255  # bright on the right
    generator = torch.Generator().manual_seed(0)
    mirrored = 0
    for _ in range(400):
        clip = random_resized_crop_flip(frames, 8, (1.0, 1.0), (1.0, 1.0), horizontal_flip, generator)
        mirrored += int(clip[0, 0, 0, 0] > 128)
    assert 150 < mirrored < 250 if horizontal_flip else mirrored == 0


def test_center_crop():
    assert center_box(256, 340) == Box(0, 42, 256, 256)
    frames = torch.zeros(2, 32, 64, 3, dtype=torch.uint8)
    frames[:, :, 16:48] = 200
    assert torch.equal(center_crop(frames, 16), torch.full((3, 2, 16, 16), 200, dtype=torch.uint8))
