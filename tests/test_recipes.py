"""The shipped recipes hold the published values: one table per paper, compared key by key.

Where a unit differs (epochs of videos or of clips, a base learning rate per 256 videos or per node), the table has the
published number and ``as_ours`` the arithmetic. The learning rate of every layer is computed here once more, from the
formula and the parameters' names alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from diffmae_video.build import build_model
from diffmae_video.config import load_config
from diffmae_video.config.validation import value_of
from diffmae_video.engine import LrSchedule, make_optimizer, parameter_groups
from diffmae_video.engine.optimizer import set_lr

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DEPTHS = {"small": 12, "base": 12, "large": 24, "huge": 32}
FINETUNE = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("[A-Z]*/finetune_*.yaml"))


class Published(NamedTuple):
    """A row of a paper's fine-tuning table."""

    recipe: str
    size: str
    epochs: int  # of videos
    clips: int  # of a video in an epoch
    base_lr: float
    per: int  # videos that base_lr is for
    layer_decay: float
    drop_path: float
    dropout: float


# arXiv 2205.09113; the base rate is that of a node, which takes 16 videos in PySlowFast's recipes
MAE_ST = [
    Published("K400/finetune_ViT_B.yaml", "base", 75, 2, 6e-4, 16, 0.65, 0.1, 0.3),
    Published("K400/finetune_ViT_L.yaml", "large", 50, 2, 3e-4, 16, 0.75, 0.2, 0.3),
    Published("K400/finetune_ViT_H.yaml", "huge", 75, 1, 3e-4, 16, 0.8, 0.2, 0.5),
]
# arXiv 2203.12602
VIDEO_MAE = [
    Published("K400/finetune_ViT_S.yaml", "small", 150, 2, 1e-3, 256, 0.7, 0.1, 0.0),
    Published("SSv2/finetune_ViT_S.yaml", "small", 40, 2, 1e-3, 256, 0.7, 0.1, 0.0),
    Published("SSv2/finetune_ViT_B.yaml", "base", 40, 2, 5e-4, 256, 0.75, 0.1, 0.0),
    Published("SSv2/finetune_ViT_L.yaml", "large", 30, 2, 5e-4, 256, 0.75, 0.2, 0.0),
]
# arXiv 2304.03283, which follows MaskFeat's recipe; the last from MAE's public code
IMAGENET = [
    Published("IN1K/finetune_ViT_B.yaml", "base", 100, 1, 1e-3, 256, 0.65, 0.1, 0.0),
    Published("IN1K/finetune_ViT_L.yaml", "large", 50, 1, 1e-3, 256, 0.75, 0.1, 0.0),
    Published("IN1K/finetune_ViT_H.yaml", "huge", 50, 1, 1e-3, 256, 0.75, 0.3, 0.0),
]
EVERYWHERE = {
    "TASK": "finetune",
    "DATA.CROP_SCALE": [0.08, 1.0],
    "DATA.CROP_ASPECT": [0.75, 1.3333],
    "DATA.CROP_SIZE": 224,
    "AUGMENT.ERASING": 0.25,
    "AUGMENT.MIXUP": 0.8,
    "AUGMENT.CUTMIX": 1.0,
    "AUGMENT.MIX_PROBABILITY": 1.0,
    "AUGMENT.MIX_SWITCH_PROBABILITY": 0.5,
    "AUGMENT.LABEL_SMOOTHING": 0.1,
    "SOLVER.OPTIMIZER": "adamw",
    "SOLVER.BETAS": [0.9, 0.999],
    "SOLVER.WEIGHT_DECAY": 0.05,
    "MODEL.HEAD.INIT_STD": 2e-5,
}
VIDEO = {"DATA.NUM_FRAMES": 16, "MODEL.PATCH_SIZE": [2, 16, 16]}
# What all rows of a table share; warm-up in epochs of videos
SHARED = {
    "mae_st": {
        **VIDEO,
        "DATA.SAMPLING": "dense",
        "DATA.SAMPLING_RATE": 4,
        "DATA.HORIZONTAL_FLIP": True,
        "AUGMENT.RAND_AUGMENT": "rand-m7-mstd0.5-inc1",
        "SOLVER.CLIP_GRAD_NORM": 5.0,
    },
    "video_mae": {
        **VIDEO,
        "AUGMENT.RAND_AUGMENT": "rand-m7-n4-mstd0.5-inc1",
        "SOLVER.CLIP_GRAD_NORM": 0.0,
        "SOLVER.BATCH_SIZE": 1024,
    },
    "imagenet": {
        "DATA.NUM_FRAMES": 1,
        "DATA.HORIZONTAL_FLIP": True,
        "MODEL.PATCH_SIZE": [1, 16, 16],
        "AUGMENT.RAND_AUGMENT": "rand-m9-mstd0.5-inc1",
        "SOLVER.BATCH_SIZE": 1024,
        "SOLVER.CLIP_GRAD_NORM": 0.0,
    },
}
ROWS = [
    pytest.param(row, name, id=row.recipe)
    for name, table in (("mae_st", MAE_ST), ("video_mae", VIDEO_MAE), ("imagenet", IMAGENET))
    for row in table
]


def config(recipe: str, *overrides):
    return load_config([CONFIGS / recipe], overrides)


def as_ours(row: Published) -> dict:
    """The keys of a row, in this project's units: an epoch counts clips, and so does the batch of the base rate."""
    return {
        "DATA.REPEATED_SAMPLING": row.clips,
        "SOLVER.EPOCHS": float(row.epochs * row.clips),
        "SOLVER.BASE_LR": row.base_lr,
        "SOLVER.BASE_BATCH_SIZE": row.per * row.clips,
        "SOLVER.LAYER_DECAY": row.layer_decay,
        "MODEL.ENCODER.SIZE": row.size,
        "MODEL.ENCODER.DROP_PATH": row.drop_path,
        "MODEL.HEAD.DROPOUT": row.dropout,
    }


def assert_values(cfg, expected: dict) -> None:
    found = {key: value_of(cfg, key) for key in expected}
    assert found == expected


@pytest.mark.parametrize("row, table", ROWS)
def test_fine_tuning_has_the_published_values(row, table):
    cfg = config(row.recipe)
    assert_values(cfg, EVERYWHERE | SHARED[table] | as_ours(row))
    warmup = 20 if row.recipe == "IN1K/finetune_ViT_B.yaml" else 5
    assert cfg.SOLVER.WARMUP_EPOCHS == warmup * row.clips
    assert cfg.MODEL.NUM_CLASSES == {"K400": 400, "SSv2": 174, "IN1K": 1000}[row.recipe.split("/")[0]]


@pytest.mark.parametrize("row", [row for row in VIDEO_MAE if row.recipe.startswith("SSv2")], ids=lambda row: row.recipe)
def test_something_something_takes_segments_and_is_never_mirrored(row):
    assert_values(config(row.recipe), {"DATA.SAMPLING": "segment", "DATA.HORIZONTAL_FLIP": False})


@pytest.mark.parametrize(
    "recipe, views, crops, split",
    [
        ("K400/test_7x3.yaml", 7, 3, "val"),
        ("K400/test_5x3.yaml", 5, 3, "val"),
        ("SSv2/test_2x3.yaml", 2, 3, "val"),
        ("IN1K/test.yaml", 1, 1, "val"),
    ],
)
def test_published_tests(recipe, views, crops, split):
    expected = {"TASK": "test", "TEST.NUM_ENSEMBLE_VIEWS": views, "TEST.NUM_SPATIAL_CROPS": crops, "TEST.SPLIT": split}
    cfg = config(recipe)
    assert_values(cfg, expected)
    assert cfg.DATA.SAMPLING == ("segment" if recipe.startswith("SSv2") else "dense")


@pytest.mark.parametrize("size", ["B", "L"])
def test_linear_probe_of_images_is_mae_s(size):
    """LARS, no weight decay, 90 epochs of 16384 images, 0.1 per 256: a peak of 6.4."""
    cfg = config(f"IN1K/linear_ViT_{size}.yaml")
    expected = {
        "TASK": "linear",
        "SOLVER.OPTIMIZER": "lars",
        "SOLVER.WEIGHT_DECAY": 0.0,
        "SOLVER.BATCH_SIZE": 16384,
        "SOLVER.EPOCHS": 90.0,
        "SOLVER.WARMUP_EPOCHS": 10.0,
        "SOLVER.MOMENTUM": 0.9,
        "SOLVER.LAYER_DECAY": 1.0,
        "MODEL.HEAD.INIT_STD": 0.01,
        "AUGMENT.RAND_AUGMENT": "",
        "AUGMENT.MIXUP": 0.0,
    }
    assert_values(cfg, expected)
    assert peak(cfg) == pytest.approx(6.4)


@pytest.mark.parametrize("recipe", ["K400/attentive_ViT_L.yaml", "SSv2/attentive_ViT_L.yaml"])
def test_attentive_probe_is_v_jepa_s(recipe):
    """arXiv 2404.08471: a query of one block, 20 epochs of 256 videos, 1e-3 without warm-up, weight decay 0.01."""
    expected = {
        "TASK": "attentive",
        "MODEL.HEAD.PROBE_DEPTH": 1,
        "SOLVER.OPTIMIZER": "adamw",
        "SOLVER.BATCH_SIZE": 256,
        "SOLVER.EPOCHS": 20.0,
        "SOLVER.WARMUP_EPOCHS": 0.0,
        "SOLVER.WEIGHT_DECAY": 0.01,
        "SOLVER.CLIP_GRAD_NORM": 1.0,
        "DATA.HORIZONTAL_FLIP": False,
        "AUGMENT.RAND_AUGMENT": "rand-m7-n4-mstd0.5-inc1",
        "AUGMENT.ERASING": 0.25,
    }
    assert_values(config(recipe), expected)
    assert peak(config(recipe)) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    "recipe, size, epochs, batch, base_lr, decoder",
    [
        ("CIFAR10/ViT_T.yaml", "tiny", 800.0, 512, 1e-4, 96),
        ("CIFAR100/ViT_T.yaml", "tiny", 800.0, 512, 1e-4, 96),
        ("IN100/ViT_S.yaml", "small", 1000.0, 256, 1.5e-4, 192),
    ],
)
def test_small_datasets_pretrain_as_other_implementations_recommend(recipe, size, epochs, batch, base_lr, decoder):
    expected = {
        "TASK": "pretrain",
        "DATA.NUM_FRAMES": 1,
        "MODEL.ENCODER.SIZE": size,
        "MODEL.DECODER.WIDTH": decoder,
        "MODEL.DECODER.DEPTH": 4,
        "MASK.RATIO": 0.75,
        "DIFFUSION.STEPS": 1000,
        "DIFFUSION.SCHEDULE": "cosine",
        "SOLVER.EPOCHS": epochs,
        "SOLVER.BATCH_SIZE": batch,
        "SOLVER.BASE_LR": base_lr,
        "SOLVER.BASE_BATCH_SIZE": 256,
    }
    assert_values(config(recipe), expected)


@pytest.mark.parametrize("dataset, classes", [("CIFAR10", 10), ("CIFAR100", 100), ("IN100", 100)])
def test_small_datasets_count_their_classes(dataset, classes):
    recipes = [path for path in (CONFIGS / dataset).glob("*.yaml") if path.name.startswith(("finetune", "linear"))]
    assert len(recipes) == 2
    for path in recipes:
        cfg = load_config([path])
        assert cfg.MODEL.NUM_CLASSES == classes
        assert cfg.TEST.SPLIT == ("val" if dataset == "IN100" else "test")


# ------------------------------------------------------------------------------------------- learning rates of layers


def peak(cfg) -> float:
    return cfg.SOLVER.BASE_LR * cfg.SOLVER.BATCH_SIZE / cfg.SOLVER.BASE_BATCH_SIZE


def rates(cfg) -> tuple[dict[str, float], dict[str, float]]:
    """(learning rate, weight decay) of every trained parameter at the end of the warm-up, as the trainer sets them."""
    with torch.device("meta"):
        model = build_model(cfg)
    solver = cfg.SOLVER
    groups = parameter_groups(model, solver.WEIGHT_DECAY, model.no_weight_decay(), solver.LAYER_DECAY)
    optimizer = make_optimizer(solver.OPTIMIZER, groups, tuple(solver.BETAS), solver.MOMENTUM)
    schedule = LrSchedule.from_base(solver.BASE_LR, solver.BATCH_SIZE, solver.BASE_BATCH_SIZE, 100, 1000, solver.MIN_LR)
    set_lr(optimizer, schedule(100))
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    lr, decay = {}, {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names.pop(id(parameter))
            lr[name], decay[name] = group["lr"], group["weight_decay"]
    assert not names, f"trained, but in no group: {sorted(names.values())}"
    return lr, decay


def distance_to_the_top(name: str, depth: int) -> int:
    """Layers above a parameter's own: 0 of the head, 1 of the last block, depth of the first one, depth + 1 below."""
    if block := re.match(r"encoder\.blocks\.(\d+)\.", name):
        return depth - int(block[1])
    return depth + 1 if name.startswith(("encoder.patch_embed.", "encoder.position.", "encoder.class_token")) else 0


@pytest.mark.parametrize("recipe", [row.recipe for row in (*MAE_ST, *VIDEO_MAE, *IMAGENET)])
def test_learning_rate_of_every_layer(recipe):
    row = next(row for row in (*MAE_ST, *VIDEO_MAE, *IMAGENET) if row.recipe == recipe)
    cfg = config(recipe)
    depth, videos = DEPTHS[row.size], cfg.SOLVER.BATCH_SIZE / row.clips
    top = row.base_lr * videos / row.per
    lr, _ = rates(cfg)
    for name, value in lr.items():
        assert value == pytest.approx(top * row.layer_decay ** distance_to_the_top(name, depth), rel=1e-9), name
    assert len({f"{value:.9g}" for value in lr.values()}) == depth + 2, "one rate per layer: embedding, blocks, head"


def test_learning_rates_written_out():
    """ViT-L on Kinetics-400, worked out by hand: 3e-4 x 16 nodes, and 0.75 per layer."""
    lr, _ = rates(config("K400/finetune_ViT_L.yaml"))
    assert lr["head.classifier.weight"] == pytest.approx(4.8e-3)
    assert lr["encoder.blocks.23.mlp.fc1.weight"] == pytest.approx(3.6e-3)
    assert lr["encoder.blocks.0.attn.qkv.weight"] == pytest.approx(4.8163e-6, rel=1e-4)  # 4.8e-3 * 0.75 ** 24
    assert lr["encoder.position.space"] == pytest.approx(3.6122e-6, rel=1e-4)  # 4.8e-3 * 0.75 ** 25


@pytest.mark.parametrize("recipe", FINETUNE)
def test_biases_norms_positions_and_tokens_are_not_decayed(recipe):
    cfg = config(recipe)
    _, decay = rates(cfg)
    for name, value in decay.items():
        free = name.endswith(".bias") or "norm" in name or ".position." in name or "class_token" in name
        assert value == (0.0 if free else cfg.SOLVER.WEIGHT_DECAY), name


@pytest.mark.parametrize("recipe", ["IN1K/linear_ViT_B.yaml", "K400/linear_ViT_L.yaml", "K400/attentive_ViT_L.yaml"])
def test_probes_train_their_head_alone_at_one_rate(recipe):
    cfg = config(recipe)
    lr, _ = rates(cfg)
    assert all(name.startswith("head.") for name in lr)
    assert len(set(lr.values())) == 1 and min(lr.values()) == pytest.approx(peak(cfg))
    if cfg.TASK == "linear":
        assert set(lr) == {"head.classifier.weight", "head.classifier.bias"}
