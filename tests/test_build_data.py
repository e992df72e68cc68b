"""From DATA of a config to a dataset and its batches: formats, mixes, refusals."""

from __future__ import annotations

import itertools
import json
import logging

import pytest
import torch

from diffmae_video.build import DatasetError, build_dataset, build_loader, build_model
from diffmae_video.config import load_config
from diffmae_video.data import MixDataset, write_image

SMALL = (
    "DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.CROP_SIZE 32 MODEL.PATCH_SIZE [2,16,16] DATA_LOADER.NUM_WORKERS 0 "
    "SOLVER.BATCH_SIZE 4 MODEL.ENCODER.SIZE tiny MODEL.ENCODER.DEPTH 2 MODEL.ENCODER.WIDTH 24 MODEL.DECODER.WIDTH 16 "
    "MODEL.DECODER.DEPTH 1 MODEL.DECODER.HEADS 2 MASK.RATIO 0.5 DATA.DECODE_TIMEOUT 0"
).split()


@pytest.fixture(scope="module")
def image_classes(tmp_path_factory, painted):
    folder = tmp_path_factory.mktemp("image_classes")
    for number in range(12):
        write_image(folder / "train" / f"class_{number % 3}" / f"n_{7 * number}.png", painted(number, 32, 32))
    return folder


@pytest.fixture
def something_something(sample_videos, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({"Moving something": "5"}))
    (tmp_path / "train.json").write_text(json.dumps([{"id": "clip_0", "template": "Moving [something]"}]))
    (tmp_path / "videos").symlink_to(sample_videos)
    return tmp_path


def test_a_mix_of_videos_and_images_trains(sample_videos, image_classes, caplog):
    paths = ["DATA.MIX.PATHS", f"[{sample_videos},{image_classes}]", "DATA.MIX.NUM_FRAMES", "[4,1]"]
    cfg = load_config((), [*SMALL, *paths, "DATA.MIX.WEIGHTS", "[2,1]", "SOLVER.ACCUMULATION_STEPS", "2"])
    with caplog.at_level(logging.INFO):
        dataset = build_dataset(cfg)
    assert "train: 12 videos of 3 classes" in caplog.text and "(class_folders)" in caplog.text
    assert isinstance(dataset, MixDataset) and dataset.sizes == [6, 12]
    model = build_model(cfg)
    lengths = []
    for batch in itertools.islice(build_loader(cfg, dataset), 12):
        output = model(model.normalize(batch.clips))
        assert torch.isfinite(output.loss) and output.mask.shape == (2, 8 if batch.clips.shape[2] == 4 else 4)
        lengths.append(batch.clips.shape[2])
    assert lengths[::2] == lengths[1::2] and sorted(lengths) == [1] * 4 + [4] * 8, "two steps of six take images"


def test_something_something_is_found_and_never_flipped(something_something):
    options = [*SMALL, "DATA.PATH_TO_DATA_DIR", str(something_something)]
    with pytest.raises(DatasetError, match="tells left from right|tell left from right"):
        build_dataset(load_config((), options))
    dataset = build_dataset(load_config((), [*options, "DATA.HORIZONTAL_FLIP", "False", "DATA.SAMPLING", "segment"]))
    assert dataset.entry(0).label == 5 and dataset.sampling == "segment" and not dataset.horizontal_flip
    assert dataset[(0, 0)].failures == ()


def test_a_missing_dataset_names_the_page(tmp_path):
    cfg = load_config((), [*SMALL, "DATA.MIX.PATHS", f"[{tmp_path}/gone,{tmp_path}]", "DATA.PAGE", "datasets/mix.md"])
    with pytest.raises(DatasetError, match=r"gone.*datasets/mix\.md"):
        build_dataset(cfg)
