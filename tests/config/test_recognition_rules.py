"""Rules about classifiers: what is refused, what is accepted beside it, and agreement with the code."""

from __future__ import annotations

import pytest

from diffmae_video.config import AUTOENCODER_TASKS, ConfigError, load_config, validation

CLASS_TOKEN = ["MODEL.ENCODER.CLASS_TOKEN", True]
STRETCH = ["DATA.FIT", "stretch"]
# key: a value that pre-training would ignore
ONLY_OF_CLASSIFIERS = {
    "AUGMENT.RAND_AUGMENT": "rand-m7-n4-mstd0.5-inc1",
    "AUGMENT.ERASING": 0.25,
    "AUGMENT.MIXUP": 0.8,
    "AUGMENT.CUTMIX": 1.0,
    "AUGMENT.LABEL_SMOOTHING": 0.1,
    "MODEL.NUM_CLASSES": 400,
    "MODEL.HEAD.DROPOUT": 0.5,
    "SOLVER.LAYER_DECAY": 0.75,
    "TRAIN.EVAL_PERIOD": 100,
}


def problems(task: str, *overrides) -> str:
    """What is said about a config; "" = accepted."""
    try:
        load_config((), ["TASK", task, *overrides])
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "task, refused, parts, accepted",
    [
        (
            "finetune",
            ["MODEL.HEAD.POOL", "class_token"],
            ["MODEL.HEAD.POOL", "MODEL.ENCODER.CLASS_TOKEN is False", '"mean"'],
            ["MODEL.HEAD.POOL", "class_token", *CLASS_TOKEN],
        ),
        (
            "attentive",
            ["MODEL.HEAD.PROBE_HEADS", 7],
            ["MODEL.HEAD.PROBE_HEADS = 7", "width 1024"],
            ["MODEL.HEAD.PROBE_HEADS", 8],
        ),
        (
            "finetune",
            [*STRETCH, "TEST.NUM_SPATIAL_CROPS", 3],
            ["TEST.NUM_SPATIAL_CROPS = 3", "set it to 1"],
            [*STRETCH, "TEST.NUM_ENSEMBLE_VIEWS", 5],
        ),
        (
            "finetune",
            [*STRETCH, "AUGMENT.CROP", "multi_scale"],
            ["AUGMENT.CROP", '"random_resized"'],
            ["AUGMENT.CROP", "multi_scale"],
        ),
        (
            "linear",
            ["DATA.MIX.PATHS", ["/a", "/b"]],
            ["TASK is 'linear'", "DATA.MIX"],
            ["DATA.PATH_TO_DATA_DIR", "/a"],
        ),
        (
            "linear",
            ["SOLVER.BATCH_SIZE", 8, "SOLVER.ACCUMULATION_STEPS", 8],
            ["SOLVER.BATCH_SIZE = 8", "SOLVER.ACCUMULATION_STEPS = 8", "one clip"],
            ["SOLVER.BATCH_SIZE", 8, "SOLVER.ACCUMULATION_STEPS", 4],
        ),
        ("test", ["TRAIN.EMA_DECAY", 0.999], ["TRAIN.EMA_DECAY", "trains nothing"], ["TEST.NUM_SPATIAL_CROPS", 3]),
        ("knn", ["TRAIN.EMA_DECAY", 0.999], ["TRAIN.EMA_DECAY", "trains nothing"], ["KNN.K", 5]),
        ("finetune", ["AUGMENT.LABEL_SMOOTHING", 1.0], ["[0, 1)"], ["TRAIN.EMA_DECAY", 0.999]),
    ],
)
def test_one_refused_one_accepted(task, refused, parts, accepted):
    message = problems(task, *refused)
    assert all(part in message for part in parts), message
    assert problems(task, *accepted) == ""


def test_the_list_of_keys_is_complete():
    assert set(ONLY_OF_CLASSIFIERS) == set(validation.CLASSIFIERS_ONLY)


@pytest.mark.parametrize("key", sorted(ONLY_OF_CLASSIFIERS))
def test_pretraining_refuses_what_it_would_ignore(key):
    value = ONLY_OF_CLASSIFIERS[key]
    message = problems("pretrain", key, value)
    assert key in message and "'pretrain', which has no labels" in message
    assert problems("finetune", key, value) == ""


@pytest.mark.parametrize("task", [task for task in validation.CHOICES["TASK"] if task not in AUTOENCODER_TASKS])
@pytest.mark.parametrize(
    "overrides",
    [
        ["MODEL.DECODER.HEADS", 3],
        ["MODEL.DECODER.DEPTH", 40],
        ["DATA.CROP_SIZE", 16],  # one place to hide
        ["DATA.MEAN", [0.485, 0.456, 0.406]],
    ],
)
def test_rules_about_decoder_mask_and_target_are_for_pretraining(task, overrides):
    assert problems("pretrain", *overrides) != ""
    assert problems(task, *overrides) == ""


def test_choices_agree_with_the_code():
    from diffmae_video.data.views import FITS
    from diffmae_video.engine.classification import UNREADABLE
    from diffmae_video.engine.optimizer import OPTIMIZERS
    from diffmae_video.models.classifier import KINDS, POOLS
    from diffmae_video.models.resizing import INFLATIONS

    assert set(POOLS) == set(validation.CHOICES["MODEL.HEAD.POOL"])
    assert set(OPTIMIZERS) == set(validation.CHOICES["SOLVER.OPTIMIZER"])
    assert set(UNREADABLE) == set(validation.CHOICES["TEST.UNREADABLE"])
    assert set(FITS) == set(validation.CHOICES["DATA.FIT"])
    assert set(INFLATIONS) == set(validation.CHOICES["MODEL.INFLATION"])
    assert set(KINDS) | {"pretrain", "knn", "test", "inpaint_eval"} == set(validation.CHOICES["TASK"])
