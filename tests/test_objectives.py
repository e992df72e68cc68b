"""The objectives of the family, as the shipped recipes write them down: MAE, MAE-ST, VideoMAE, VideoMAE V2, DiffMAE.

The values that make each what it is, and the fine-tuning recipes of their encoders. What the losses compute is in
``test_objective_losses.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from diffmae_video.config import load_config
from diffmae_video.config.validation import value_of

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
IMAGENET_PIXELS = {"DATA.MEAN": [0.485, 0.456, 0.406], "DATA.STD": [0.229, 0.224, 0.225]}
KINETICS_PIXELS = {"DATA.MEAN": [0.45] * 3, "DATA.STD": [0.225] * 3}
CLIP = {"DATA.NUM_FRAMES": 16, "DATA.CROP_SIZE": 224, "MODEL.PATCH_SIZE": [2, 16, 16]}
IMAGE = {"DATA.NUM_FRAMES": 1, "DATA.CROP_SIZE": 224, "MODEL.PATCH_SIZE": [1, 16, 16]}
ADAMW = {"SOLVER.OPTIMIZER": "adamw", "SOLVER.BETAS": [0.9, 0.95], "SOLVER.WEIGHT_DECAY": 0.05}
ALL_DECODED = {"MODEL.DECODER.PREDICT_RATIO": 1.0, "TRAIN.VISUALIZE_PERIOD": 0}

# What all recipes of an objective share
MAE_ST = {
    **CLIP,
    **KINETICS_PIXELS,
    **ADAMW,
    **ALL_DECODED,
    "MODEL.NAME": "MAE",
    "MODEL.TARGET": "normalized",
    "MODEL.TARGET_FRAMES": "linspace",
    "MODEL.ENCODER.POSITION": "separable",
    "MODEL.ENCODER.CLASS_TOKEN": True,
    "MODEL.DECODER.TYPE": "joint",
    "MODEL.DECODER.WIDTH": 512,
    "MODEL.DECODER.DEPTH": 4,
    "MODEL.DECODER.POSITION": "separable",
    "MODEL.DECODER.CLASS_TOKEN": True,
    "MASK.STRATEGY": "random",
    "MASK.RATIO": 0.9,
    "DATA.REPEATED_SAMPLING": 4,
    "DATA.CROP_SCALE": [0.5, 1.0],
    "DATA.CROP_ASPECT": [0.75, 1.3333],
    "SOLVER.BATCH_SIZE": 2048,
    "SOLVER.EPOCHS": 800.0,
    "SOLVER.CLIP_GRAD_NORM": 0.02,
}
VIDEO_MAE = {
    **CLIP,
    **IMAGENET_PIXELS,
    **ADAMW,
    "MODEL.NAME": "MAE",
    "MODEL.TARGET": "normalized_per_channel",
    "MODEL.TARGET_FRAMES": "all",
    "MODEL.ENCODER.POSITION": "sincos_1d",
    "MODEL.ENCODER.CLASS_TOKEN": False,
    "MODEL.DECODER.TYPE": "joint",
    "MODEL.DECODER.POSITION": "sincos_1d",
    "MODEL.DECODER.CLASS_TOKEN": False,
    "MASK.STRATEGY": "tube",
    "MASK.RATIO": 0.9,
    "AUGMENT.CROP": "multi_scale",
    "DATA.REPEATED_SAMPLING": 1,
    "SOLVER.BATCH_SIZE": 1024,
    "SOLVER.WARMUP_EPOCHS": 40.0,
    "SOLVER.CLIP_GRAD_NORM": 0.0,
}
MAE = {
    **IMAGE,
    **IMAGENET_PIXELS,
    **ADAMW,
    **ALL_DECODED,
    "MODEL.NAME": "MAE",
    "MODEL.TARGET": "normalized",
    "MODEL.ENCODER.POSITION": "sincos",
    "MODEL.ENCODER.CLASS_TOKEN": True,
    "MODEL.DECODER.TYPE": "joint",
    "MODEL.DECODER.WIDTH": 512,
    "MODEL.DECODER.DEPTH": 8,
    "MODEL.DECODER.POSITION": "sincos",
    "MODEL.DECODER.CLASS_TOKEN": False,
    "MASK.STRATEGY": "random",
    "MASK.RATIO": 0.75,
    "SOLVER.BATCH_SIZE": 4096,
}
DIFFMAE = {
    "MODEL.NAME": "DiffMAE",
    "MODEL.TARGET": "raw",
    "MODEL.PREDICTION": "x0",
    "MODEL.DECODER.TYPE": "cross_self",
    "MODEL.DECODER.WIDTH": 512,
    "MODEL.DECODER.DEPTH": 8,
    "DIFFUSION.STEPS": 1000,
}
DIFFMAE_IMAGES = {**DIFFMAE, **IMAGE, "MASK.STRATEGY": "random", "MASK.RATIO": 0.75, "MODEL.ENCODER.POSITION": "sincos"}
DIFFMAE_VIDEO = {**DIFFMAE, **CLIP, "MASK.STRATEGY": "tube", "MASK.RATIO": 0.9}
PLAIN_V1 = {"MODEL.DECODER.PREDICT_RATIO": 1.0}
DUAL = {"MODEL.DECODER.PREDICT_RATIO": 0.5, "MODEL.DECODER.PREDICT_PATTERN": "running_cell"}
ALL_T, LAST_T = {"DIFFUSION.TRAIN_RANGE": [0.0, 1.0]}, {"DIFFUSION.TRAIN_RANGE": [1.0, 1.0]}
STRIDE = {"K400": {"DATA.SAMPLING_RATE": 4, "DATA.HORIZONTAL_FLIP": True}}
STRIDE["SSv2"] = {"DATA.SAMPLING_RATE": 2, "DATA.HORIZONTAL_FLIP": False}

# pattern of files: (their number, what they hold)
FAMILIES: dict[str, tuple[int, dict]] = {
    "MAE_ST/K400_ViT_*.yaml": (3, MAE_ST | STRIDE["K400"]),
    "MAE_ST/SSv2_ViT_*.yaml": (1, MAE_ST | STRIDE["SSv2"]),
    "VideoMAE/K400_ViT_*.yaml": (4, VIDEO_MAE | STRIDE["K400"] | PLAIN_V1 | {"SOLVER.EPOCHS": 1600.0}),
    "VideoMAE/SSv2_ViT_*.yaml": (3, VIDEO_MAE | STRIDE["SSv2"] | PLAIN_V1 | {"SOLVER.EPOCHS": 2400.0}),
    "VideoMAE/V2_K400_ViT_*.yaml": (3, VIDEO_MAE | STRIDE["K400"] | DUAL),
    "MAE/IN1K_ViT_*.yaml": (3, MAE),
    "IN1K/ViT_*.yaml": (3, DIFFMAE_IMAGES | ALL_T),
    "K400/ViT_*.yaml": (4, DIFFMAE_VIDEO | ALL_T | STRIDE["K400"]),
    "IN1K/DiffMAE_t_last_*.yaml": (1, DIFFMAE_IMAGES | LAST_T),
    "K400/DiffMAE_t_last_*.yaml": (1, DIFFMAE_VIDEO | LAST_T),
}
SIZES = {"S": "small", "B": "base", "L": "large", "H": "huge"}
# arXiv 2203.12602: half the encoder's width; 12 blocks for L and H on Kinetics-400. Heads: its public code.
VIDEO_MAE_DECODERS = {"S": (192, 4, 3), "B": (384, 4, 6), "L": (512, 12, 8), "H": (640, 12, 8)}


def load(recipe: str | Path, *overrides):
    return load_config([CONFIGS / recipe], overrides)


def values(cfg, keys) -> dict:
    return {key: value_of(cfg, key) for key in keys}


def flat(node, prefix: str = "") -> dict:
    """All values by their dotted names."""
    found = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def differences(one: str, other: str) -> set[str]:
    """Names of the keys, but for the place of the run, in which two recipes differ."""
    left, right = flat(load(one)), flat(load(other))
    return {key for key in left if left[key] != right[key]} - {"OUTPUT_DIR"}


# ------------------------------------------------------------------------------------------------------ what they hold


@pytest.mark.parametrize("pattern", FAMILIES)
def test_every_recipe_of_an_objective_holds_its_values(pattern):
    count, expected = FAMILIES[pattern]
    files = sorted(CONFIGS.glob(pattern))
    assert len(files) == count
    for file in files:
        cfg = load(file)
        assert values(cfg, expected) == expected, file
        assert cfg.TASK == "pretrain" and cfg.MODEL.ENCODER.SIZE == SIZES[file.stem[-1]], file


@pytest.mark.parametrize("file", sorted((CONFIGS / "VideoMAE").glob("*_ViT_?.yaml")), ids=lambda file: file.stem)
def test_the_decoder_of_video_mae_follows_the_encoder(file):
    cfg = load(file)
    if cfg.TASK == "pretrain":
        width, depth, heads = VIDEO_MAE_DECODERS[file.stem[-1]]
        decoder = cfg.MODEL.DECODER
        assert decoder.WIDTH == width and decoder.HEADS == heads
        assert decoder.DEPTH == (4 if file.stem.startswith("SSv2") else depth)


@pytest.mark.parametrize(
    "recipe, peak",
    [
        ("MAE_ST/K400_ViT_L.yaml", 1.6e-3 * 512 / 256),  # videos, of 4 clips each
        ("VideoMAE/K400_ViT_B.yaml", 1.5e-4 * 1024 / 256),
        ("MAE/IN1K_ViT_L.yaml", 1.5e-4 * 4096 / 256),
    ],
)
def test_peak_learning_rates(recipe, peak):
    solver = load(recipe).SOLVER
    assert solver.BASE_LR * solver.BATCH_SIZE / solver.BASE_BATCH_SIZE == pytest.approx(peak)


def test_neighbours_differ_in_what_their_headers_say_and_in_nothing_else():
    """One objective becomes the next by these keys: docs/methods.md promises the same."""
    for size in "BLH":
        keys = {"MODEL.DECODER.PREDICT_RATIO"}
        assert differences(f"VideoMAE/K400_ViT_{size}.yaml", f"VideoMAE/V2_K400_ViT_{size}.yaml") == keys
    last = {"DIFFUSION.TRAIN_RANGE", "TRAIN.VISUALIZE_STEPS"}
    for dataset in ("IN1K", "K400"):
        assert differences(f"{dataset}/ViT_L.yaml", f"{dataset}/DiffMAE_t_last_ViT_L.yaml") == last
    for study in ("cifar10", "motion_set"):
        files = [f"evidence/{study}/{name}.yaml" for name in ("diffmae", "t_last", "mae")]
        assert differences(*files[:2]) == {"DIFFUSION.TRAIN_RANGE", "MODEL.INPUT_SCALING"}
        assert differences(files[0], files[2]) == {"MODEL.NAME", "MODEL.INPUT_SCALING"}
    assert differences("K400/MAE_ViT_L.yaml", "MAE_ST/K400_ViT_L.yaml") == {
        "DATA.MEAN", "DATA.STD", "MODEL.TARGET_FRAMES", "MODEL.ENCODER.CLASS_TOKEN", "MODEL.DECODER.CLASS_TOKEN",
        "MODEL.DECODER.POSITION", "SOLVER.BASE_LR", "SOLVER.BASE_BATCH_SIZE",
    }  # fmt: skip
    images = differences("IN1K/ViT_L.yaml", "MAE/IN1K_ViT_L.yaml")
    assert images == {
        "DATA.MEAN", "DATA.STD", "MODEL.NAME", "MODEL.TARGET", "MODEL.ENCODER.CLASS_TOKEN", "MODEL.DECODER.TYPE",
        "TRAIN.VISUALIZE_PERIOD",
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------------- fine-tuning


class FineTuning(NamedTuple):
    """A row of a paper's table; epochs and batch in clips, 2 of a video but for MAE-ST's ViT-H."""

    recipe: str
    epochs: float
    layer_decay: float
    drop_path: float
    peak: float  # learning rate


# arXiv 2203.12602: 512 videos of 2 clips per step, so its base rate per 256 videos doubles
VIDEO_MAE_ROWS = [
    FineTuning("VideoMAE/finetune_K400_ViT_S.yaml", 300.0, 0.7, 0.1, 2e-3),
    FineTuning("VideoMAE/finetune_K400_ViT_B.yaml", 150.0, 0.75, 0.1, 2e-3),
    FineTuning("VideoMAE/finetune_K400_ViT_L.yaml", 100.0, 0.75, 0.2, 2e-3),
    FineTuning("VideoMAE/finetune_K400_ViT_H.yaml", 100.0, 0.75, 0.2, 2e-3),
    FineTuning("VideoMAE/finetune_SSv2_ViT_S.yaml", 80.0, 0.7, 0.1, 2e-3),
    FineTuning("VideoMAE/finetune_SSv2_ViT_B.yaml", 80.0, 0.75, 0.1, 1e-3),
    FineTuning("VideoMAE/finetune_SSv2_ViT_L.yaml", 60.0, 0.75, 0.2, 1e-3),
]


@pytest.mark.parametrize("row", VIDEO_MAE_ROWS, ids=lambda row: row.recipe)
def test_video_mae_is_fine_tuned_as_published(row):
    cfg = load(row.recipe)
    solver = cfg.SOLVER
    assert (solver.EPOCHS, solver.LAYER_DECAY, cfg.MODEL.ENCODER.DROP_PATH) == (
        row.epochs,
        row.layer_decay,
        row.drop_path,
    )
    assert solver.BASE_LR * solver.BATCH_SIZE / solver.BASE_BATCH_SIZE == pytest.approx(row.peak)
    expected = {
        **IMAGENET_PIXELS,
        "SOLVER.BATCH_SIZE": 1024,
        "DATA.REPEATED_SAMPLING": 2,
        "DATA.SAMPLING": "segment" if "SSv2" in row.recipe else "dense",
        "DATA.HORIZONTAL_FLIP": "SSv2" not in row.recipe,
        "MODEL.ENCODER.POSITION": "sincos_1d",
        "MODEL.ENCODER.CLASS_TOKEN": False,
        "MODEL.HEAD.POOL": "mean",
        "MODEL.NUM_CLASSES": 174 if "SSv2" in row.recipe else 400,
    }
    assert values(cfg, expected) == expected


@pytest.mark.parametrize(
    "recipe, same, pixels",
    [(f"MAE_ST/finetune_K400_ViT_{size}.yaml", f"K400/finetune_ViT_{size}.yaml", KINETICS_PIXELS) for size in "BLH"]
    + [("MAE_ST/finetune_SSv2_ViT_L.yaml", "SSv2/finetune_ViT_L.yaml", KINETICS_PIXELS)]
    + [(f"MAE/finetune_IN1K_ViT_{size}.yaml", f"IN1K/finetune_ViT_{size}.yaml", IMAGENET_PIXELS) for size in "BLH"]
    + [("MAE/linear_IN1K_ViT_L.yaml", "IN1K/linear_ViT_L.yaml", IMAGENET_PIXELS)],
)
def test_encoders_with_a_class_token_take_the_recipes_of_the_dataset(recipe, same, pixels):
    """MAE's and MAE-ST's differ from DiffMAE's by that token and the pixels; a probe reads MAE's token."""
    cfg = load(recipe)
    assert cfg.MODEL.ENCODER.CLASS_TOKEN and values(cfg, pixels) == pixels
    probe = {"MODEL.HEAD.POOL"} if cfg.TASK == "linear" else set()
    assert differences(recipe, same) == {"MODEL.WEIGHTS", "MODEL.ENCODER.CLASS_TOKEN", *pixels} | probe
    assert cfg.MODEL.HEAD.POOL == ("class_token" if probe else "mean")
