from __future__ import annotations

import math
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from diffmae_video.data.augment import (
    ColorJitter,
    CropAndFlip,
    RandomErasing,
    multi_scale_crop_box,
    random_grayscale,
)
from diffmae_video.data.pipelines import PretrainTransform, RecognitionTransform
from diffmae_video.data.rand_augment import RandAugment
from diffmae_video.data.transforms import random_resized_crop_flip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def still_frames(count=4, height=48, width=64):
    """uint8 (T, H, W, 3), all frames the same."""
    frame = torch.randint(0, 256, (1, height, width, 3), generator=generator(), dtype=torch.uint8)
    return frame.repeat(count, 1, 1, 1)


def still_clip(count=4, size=32):
    return still_frames(count, size, size).permute(3, 0, 1, 2).contiguous()


def is_still(clip):
    return torch.equal(clip, clip[:, :1].expand_as(clip))


# ------------------------------------------------------------------------------------------------- multi-scale crop


def test_multi_scale_sizes_and_places_are_those_of_videomae():
    # 340 x 256 at 224: sides int(256 * (1, .875, .75, .66)) = 256, 224, 192, 168
    source = generator()
    drawn = [multi_scale_crop_box(256, 340, 224, source) for _ in range(4000)]
    sides = [256, 224, 192, 168]
    pairs = {(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1}
    sizes = Counter((box.height, box.width) for box in drawn)
    assert set(sizes) == pairs and len(pairs) == 10 and max(sizes.values()) < 1.4 * min(sizes.values())
    places = Counter((box.top, box.left) for box in drawn if (box.height, box.width) == (192, 168))
    step_y, step_x = (256 - 192) // 4, (340 - 168) // 4
    corners = {(y * step_y, x * step_x) for y in (0, 2, 4) for x in (0, 2, 4)}
    assert set(places) == corners | {(y * step_y, x * step_x) for y in (1, 3) for x in (1, 3)} and len(places) == 13


def test_multi_scale_crop_anywhere_and_undistorted():
    source = generator()
    drawn = [multi_scale_crop_box(256, 340, 224, source, max_distort=0, fixed_positions=False) for _ in range(2000)]
    assert all(box.height == box.width for box in drawn)
    assert all(0 <= box.top <= 256 - box.height and 0 <= box.left <= 340 - box.width for box in drawn)
    assert len({box.left for box in drawn if box.width == 168}) > 120


def test_multi_scale_crop_stays_inside_small_frames():
    source = generator()
    for height, width in [(222, 300), (20, 200), (2, 1), (225, 225)]:
        for _ in range(50):
            box = multi_scale_crop_box(height, width, 224, source)
            assert 0 <= box.top <= height - box.height and 0 <= box.left <= width - box.width
            assert box.height >= 1 and box.width >= 1
    # a side within 2 pixels of the size is the size
    assert {multi_scale_crop_box(226, 300, 224, source, scales=(1.0,)).height for _ in range(5)} == {224}


def test_multi_scale_crop_resizes_as_pillow_does():
    frames = still_frames(1, 64, 80)
    box = multi_scale_crop_box(64, 80, 24, generator(3))
    clip = CropAndFlip(24, "multi_scale", horizontal_flip=False)(frames, generator(3))
    area = (box.left, box.top, box.left + box.width, box.top + box.height)
    image = Image.fromarray(frames[0].numpy()).crop(area).resize((24, 24), Image.BILINEAR)
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert (clip[:, 0].int() - expected.int()).abs().max() <= 1


def test_random_resized_crop_is_that_of_the_transforms():
    frames = still_frames()
    for seed in range(8):
        expected = random_resized_crop_flip(frames, 24, (0.3, 0.9), (0.75, 4 / 3), True, generator(seed))
        found = CropAndFlip(24, scale=(0.3, 0.9), aspect=(0.75, 4 / 3))(frames, generator(seed))
        assert torch.equal(found, expected)
        assert torch.equal(PretrainTransform(CropAndFlip(24, "multi_scale"))(frames, generator(seed)),
                           CropAndFlip(24, "multi_scale")(frames, generator(seed)))  # fmt: skip


@pytest.mark.parametrize("crop", ["random_resized", "multi_scale"])
@pytest.mark.parametrize("horizontal_flip", [True, False])
def test_half_of_the_clips_are_mirrored_or_none(crop, horizontal_flip):
    frames = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    frames[:, :, 16:] = 255  # bright on the right
    transform = CropAndFlip(8, crop, scale=(1, 1), aspect=(1, 1), scales=(1.0,), horizontal_flip=horizontal_flip)
    source = generator()
    mirrored = sum(int(transform(frames, source)[0, 0, 0, 0] > 128) for _ in range(300))
    assert 110 < mirrored < 190 if horizontal_flip else mirrored == 0


# ------------------------------------------------------------------------------------------------------------ colours


def test_colour_jitter_ranges_and_order():
    gray = torch.full((3, 1, 4, 4), 100, dtype=torch.uint8)
    source = generator()
    values = torch.tensor([ColorJitter(brightness=0.4)(gray, source)[0, 0, 0, 0] for _ in range(500)]).float()
    assert 59 <= values.min() < 63 and 136 < values.max() <= 140 and values.mean() == pytest.approx(100, abs=3)
    strong = torch.tensor([ColorJitter(brightness=3.0)(gray, source)[0, 0, 0, 0] for _ in range(300)])
    assert strong.min() < 10 and strong.max() == 255, "the factor goes from 0 to 1 + v"
    assert is_still(ColorJitter(0.4, 0.4, 0.4, 0.1)(still_clip(), source))
    assert torch.equal(ColorJitter()(still_clip(), source), still_clip())
    red = torch.tensor([200, 10, 10], dtype=torch.uint8).view(3, 1, 1, 1)
    shifted = [ColorJitter(hue=0.5)(red, source).flatten() for _ in range(100)]
    assert {int(color.argmax()) for color in shifted} == {0, 1, 2} and all(color.max() == 200 for color in shifted)


def test_grayscale():
    clip, source = still_clip(), generator()
    results = [random_grayscale(clip, 0.3, source) for _ in range(400)]
    grays = [bool((result[0] == result[1]).all() and (result[1] == result[2]).all()) for result in results]
    assert sum(grays) / 400 == pytest.approx(0.3, abs=0.06)
    assert all(gray or torch.equal(result, clip) for gray, result in zip(grays, results, strict=True))
    assert torch.equal(random_grayscale(clip, 0.0, source), clip)


# ------------------------------------------------------------------------------------------------------------ erasing


def erased_boxes(erasing, count=400, size=64):
    """(height, width) of the box erased from each of ``count`` clips."""
    source, found = generator(), []
    for _ in range(count):
        clip = erasing(torch.full((3, 2, size, size), 7.0), source)
        changed = (clip != 7).any(0)
        assert torch.equal(changed[0], changed[1])
        rows, columns = changed[0].any(1).sum().item(), changed[0].any(0).sum().item()
        assert changed[0].sum() == rows * columns, "one full rectangle"
        found.append((rows, columns))
    return found


def test_erased_boxes_have_the_stated_sizes():
    boxes = erased_boxes(RandomErasing(probability=1.0))
    shares = torch.tensor([height * width / 64**2 for height, width in boxes])
    assert 0.01 < shares.min() < 0.05 and 0.28 < shares.max() < 0.36 and shares.mean() == pytest.approx(0.17, abs=0.03)
    ratios = torch.tensor([math.log(height / width) for height, width in boxes])
    assert ratios.abs().max() < math.log(1 / 0.3) + 0.15 and ratios.mean() == pytest.approx(0, abs=0.15)
    sides = erased_boxes(RandomErasing(probability=1.0, area=(0.25, 0.25), aspect=(1.0, 1.0)), 20)
    assert set(sides) == {(32, 32)}
    erased = [height > 0 for height, _ in erased_boxes(RandomErasing(probability=0.25))]
    assert sum(erased) / 400 == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_erased_content(mode, dtype):
    clip = torch.full((3, 2, 64, 64), 3, dtype=dtype)
    statistics = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2)}
    erasing = RandomErasing(1.0, mode, area=(0.3, 0.3), aspect=(1.0, 1.0), **statistics)
    result = erasing(clip, generator(1))
    assert result.dtype == dtype and is_still(result) and (clip == 3).all()
    inside = result[:, 0][(result[:, 0] != 3).any(0).expand(3, -1, -1)].view(3, -1).float()
    mean, std = (torch.tensor([102.0, 128, 153]), 51.0) if dtype == torch.uint8 else (torch.zeros(3), 1.0)
    if mode == "const":
        assert (inside == mean[:, None]).all()
    elif mode == "rand":
        assert (inside == inside[:, :1]).all() and len(set(inside[:, 0].tolist())) == 3
    else:
        assert torch.allclose(inside.mean(1), mean, atol=0.1 * std)
        assert torch.allclose(inside.std(1), torch.full((3,), std), atol=0.1 * std)


def test_several_boxes_share_the_area():
    clip = torch.zeros(3, 1, 64, 64)
    erasing = RandomErasing(1.0, "pixel", count=(4, 4), area=(0.2, 0.2), aspect=(1.0, 1.0))
    covered = [(erasing(clip, generator(seed)) != 0).any(0).float().mean().item() for seed in range(30)]
    assert 0.1 < min(covered) and 0.18 < max(covered) < 0.21
    point = torch.ones(3, 1, 1, 1)
    assert torch.equal(RandomErasing(1.0)(point, generator()), point), "no box is smaller than the frame"


# ---------------------------------------------------------------------------------------------------------- pipelines


def everything(**options):
    return RecognitionTransform(
        CropAndFlip(24, scale=(0.08, 1.0)),
        rand_augment=RandAugment.parse("rand-m7-n4-mstd0.5-inc1"),
        color_jitter=ColorJitter(0.4, 0.4, 0.4, 0.1),
        grayscale=0.2,
        erasing=RandomErasing(0.5),
        **options,
    )


@pytest.mark.parametrize("augment_first", [False, True])
def test_recognition_is_reproducible_and_the_same_for_all_frames(augment_first):
    transform = everything(augment_first=augment_first)
    frames = still_frames()
    different = set()
    for seed in range(12):
        clip = transform(frames, generator(seed))
        assert clip.shape == (3, 4, 24, 24) and clip.dtype == torch.uint8 and is_still(clip)
        torch.manual_seed(99 - seed)
        assert torch.equal(clip, transform(frames, generator(seed)))
        different.add(clip.float().mean().item())
    assert len(different) == 12 and torch.equal(frames, still_frames())
    assert pickle.loads(pickle.dumps(transform)) == transform


def test_every_part_of_the_pipelines_takes_effect():
    frames, crop = still_frames(), CropAndFlip(24)
    plain = [PretrainTransform(crop)(frames, generator(seed)) for seed in range(10)]
    for changed in (
        PretrainTransform(crop, ColorJitter(brightness=0.4)),
        PretrainTransform(crop, grayscale=1.0),
        RecognitionTransform(crop, RandAugment(9, 4, increasing=True, probability=1.0)),
        RecognitionTransform(crop, erasing=RandomErasing(1.0)),
        RecognitionTransform(crop, color_jitter=ColorJitter(contrast=0.4)),
        RecognitionTransform(crop, grayscale=1.0),
    ):
        results = [changed(frames, generator(seed)) for seed in range(10)]
        assert sum(not torch.equal(a, b) for a, b in zip(plain, results, strict=True)) >= 9, changed
    first = RecognitionTransform(crop, RandAugment(9, 2, probability=1.0), augment_first=True)
    after = RecognitionTransform(crop, RandAugment(9, 2, probability=1.0))
    assert not torch.equal(first(frames, generator()), after(frames, generator()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CropAndFlip(0), "size"),
        (lambda: CropAndFlip(24, "square"), "unknown crop 'square'; choose one of random_resized, multi_scale"),
        (lambda: CropAndFlip(24, scale=(0.5, 1.5)), "scale must satisfy"),
        (lambda: CropAndFlip(24, aspect=(2.0, 1.0)), "aspect must satisfy"),
        (lambda: CropAndFlip(24, scales=()), "scales must be"),
        (lambda: ColorJitter(brightness=-0.1), "values >= 0"),
        (lambda: ColorJitter(hue=0.6), "hue at most 0.5"),
        (lambda: RandomErasing(1.5), "probability"),
        (lambda: RandomErasing(mode="black"), "unknown mode 'black'"),
        (lambda: RandomErasing(count=(0, 1)), "count"),
        (lambda: RandomErasing(area=(0.3, 0.2)), "area"),
        (lambda: PretrainTransform(CropAndFlip(24), grayscale=2.0), "grayscale is a probability"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_stretched_crops_follow_the_shape_of_the_frame():
    frames = still_frames(2, 40, 80)
    whole = CropAndFlip(32, scale=(1.0, 1.0), aspect=(1.0, 1.0), horizontal_flip=False, relative_aspect=True)
    stretched = torch.nn.functional.interpolate(
        frames.permute(0, 3, 1, 2), size=(32, 32), mode="bilinear", antialias=True
    ).transpose(0, 1)
    assert torch.equal(whole(frames, generator()), stretched)
    options = ((0.3, 0.9), (0.75, 4 / 3), True)
    for seed in range(5):
        clip = CropAndFlip(24, "random_resized", *options, relative_aspect=True)(frames, generator(seed))
        assert torch.equal(clip, random_resized_crop_flip(frames, 24, *options, generator(seed), relative_aspect=True))
    with pytest.raises(ValueError, match="multi_scale"):
        CropAndFlip(24, "multi_scale", relative_aspect=True)
