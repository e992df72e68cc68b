"""The pipelines where they are used: in the dataset, and as AUGMENT of a configuration."""

from __future__ import annotations

import pytest
import torch

from diffmae_video.build import build_dataset, build_transform
from diffmae_video.config import load_config
from diffmae_video.data import (
    ClipDataset,
    ColorJitter,
    CropAndFlip,
    DrawSampler,
    Entry,
    PretrainTransform,
    RandAugment,
    RandomErasing,
    RecognitionTransform,
    make_loader,
)


def dataset_of(numbered_videos, transform, **options):
    entries = [Entry(str(numbered_videos[name]), label) for label, name in enumerate(("h264", "vp9"))]
    return ClipDataset(
        entries, num_frames=4, sampling_rate=4, crop_size=32, repeats=2, seed=3, transform=transform, **options
    )


RECOGNITION = RecognitionTransform(
    CropAndFlip(32, scale=(0.08, 1.0)), RandAugment.parse("rand-m7-n4-mstd0.5-inc1"), erasing=RandomErasing(0.5)
)


def test_repeated_augmentation_is_one_reading_and_reproducible(numbered_videos):
    dataset = dataset_of(numbered_videos, RECOGNITION)
    sample = dataset[(5, 1)]
    assert sample.clips.shape == (2, 3, 4, 32, 32) and sample.clips.dtype == torch.uint8
    assert torch.equal(sample.clips, dataset[(5, 1)].clips)
    assert not torch.equal(sample.clips[0], sample.clips[1]), "the clips of one video must differ"
    assert not torch.equal(sample.clips, dataset[(6, 1)].clips)


def test_workers_give_the_same_clips(numbered_videos):
    def first_batch(workers):
        sampler = DrawSampler(2, seed=3, start_draw=0, rank=0, world_size=1, videos_per_step=4, micro_batches=1)
        return next(iter(make_loader(dataset_of(numbered_videos, RECOGNITION), sampler, num_workers=workers)))

    assert torch.equal(first_batch(0).clips, first_batch(2).clips)


def test_without_options_the_pretraining_transform_is_the_default(numbered_videos):
    plain = dataset_of(numbered_videos, None, crop_scale=(0.5, 1.0), crop_aspect=(0.75, 4 / 3))
    wired = dataset_of(numbered_videos, PretrainTransform(CropAndFlip(32)))
    for draw in range(4):
        assert torch.equal(plain[(draw, 0)].clips, wired[(draw, 0)].clips)


def test_evaluation_takes_no_transform(numbered_videos):
    with pytest.raises(ValueError, match="a transform is for training"):
        dataset_of(numbered_videos, RECOGNITION, train=False)


def test_keys_of_the_configuration(sample_videos):
    base = ["DATA.PATH_TO_DATA_DIR", str(sample_videos), "DATA.NUM_FRAMES", "4", "DATA.CROP_SIZE", "32",
            "DATA.HORIZONTAL_FLIP", "False", "MASK.RATIO", "0.5"]  # fmt: skip

    def config(*overrides):
        return load_config((), [*base, *overrides])

    assert build_transform(config()) is None and build_dataset(config()).transform is None
    crop = CropAndFlip(32, "multi_scale", (0.5, 1.0), (0.75, 1.3333), horizontal_flip=False)
    assert build_transform(config("AUGMENT.CROP", "multi_scale")) == PretrainTransform(crop)
    found = build_transform(config("AUGMENT.COLOR_JITTER", "0.4", "AUGMENT.GRAYSCALE", "0.2"))
    expected = CropAndFlip(32, "random_resized", (0.5, 1.0), (0.75, 1.3333), horizontal_flip=False)
    assert found == PretrainTransform(expected, ColorJitter(0.4, 0.4, 0.4), 0.2)
    dataset = build_dataset(config("AUGMENT.CROP", "multi_scale", "AUGMENT.GRAYSCALE", "1.0"))
    clip = dataset[(0, 0)].clips
    assert torch.equal(clip[:, 0], clip[:, 1]) and clip.shape[-2:] == (32, 32)
    assert build_dataset(config("AUGMENT.CROP", "multi_scale"), "val").transform is None
