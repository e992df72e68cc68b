"""Rules of what is predicted, and from which noise."""

from __future__ import annotations

import pytest

from diffmae_video.config import ConfigError, load_config

CLASS_TOKENS = ["MODEL.ENCODER.CLASS_TOKEN", True, "MODEL.DECODER.CLASS_TOKEN", True]


def refused(*overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config((), overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    "overrides, parts",
    [
        (["DIFFUSION.TRAIN_RANGE", [0.9, 0.1]], ["DIFFUSION.TRAIN_RANGE is [0.9, 0.1]", "lower end comes first"]),
        (["MODEL.NAME", "MAE", "DIFFUSION.TRAIN_RANGE", [1.0, 1.0]], ["TRAIN_RANGE", "sees no noise", "leave it out"]),
        (["MODEL.TARGET_FRAMES", "linspace"], ["DiffMAE noises and predicts all frames", 'MODEL.NAME to "MAE"']),
        (
            ["MODEL.NAME", "MAE", "MODEL.TARGET_FRAMES", "first", "TRAIN.VISUALIZE_PERIOD", 5],
            ["one frame of every patch", "TRAIN.VISUALIZE_PERIOD to 0"],
        ),
        (
            ["MODEL.TARGET", "normalized_per_channel", "TRAIN.VISUALIZE_PERIOD", 5],
            ['MODEL.TARGET "normalized_per_channel"', "TRAIN.VISUALIZE_PERIOD to 0"],
        ),
        (["MODEL.DECODER.CLASS_TOKEN", True], ["MODEL.DECODER.CLASS_TOKEN", "cross_self", '"joint"']),
        (["MODEL.DECODER.CLASS_POSITION", True], ["MODEL.DECODER.CLASS_POSITION", "leave it out"]),
        (
            ["MODEL.DECODER.CLASS_POSITION", True, "MODEL.DECODER.TYPE", "joint"],
            ["needs", "MODEL.ENCODER.CLASS_TOKEN True"],
        ),
        (
            ["MODEL.DECODER.CLASS_POSITION", True, "MODEL.DECODER.TYPE", "joint", *CLASS_TOKENS],
            ["needs", "MODEL.DECODER.CLASS_TOKEN False"],
        ),
        (["TASK", "inpaint_eval", "MODEL.DECODER.PREDICT_RATIO", 0.5], ["PREDICT_RATIO is for training"]),
        (
            ["MODEL.ENCODER.POSITION", "sincos_1d", "MODEL.ENCODER.WIDTH", 33, "MODEL.ENCODER.HEADS", 3],
            ["MODEL.ENCODER.WIDTH = 33 must be a multiple of 2", "sincos_1d"],
        ),
        (
            ["MODEL.DECODER.POSITION", "sincos", "MODEL.DECODER.WIDTH", 30, "MODEL.DECODER.HEADS", 3],
            ["MODEL.DECODER.WIDTH = 30 must be a multiple of 4", "sincos"],
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(overrides, parts):
    message = refused(*overrides)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "overrides",
    [
        ["DIFFUSION.TRAIN_RANGE", [1.0, 1.0]],
        ["DIFFUSION.TRAIN_RANGE", [0.5, 0.5]],
        ["MODEL.NAME", "MAE", "MODEL.TARGET_FRAMES", "linspace", "MODEL.TARGET", "normalized"],
        ["MODEL.DECODER.TYPE", "joint", "MODEL.DECODER.CLASS_TOKEN", True],
        ["MODEL.DECODER.TYPE", "joint", "MODEL.DECODER.CLASS_POSITION", True, "MODEL.ENCODER.CLASS_TOKEN", True],
        ["MODEL.ENCODER.POSITION", "learned", "MODEL.DECODER.POSITION", "learned", "MODEL.DECODER.WIDTH", 512],
        ["MODEL.ENCODER.POSITION", "sincos_1d", "MODEL.DECODER.POSITION", "sincos_1d"],
        ["MODEL.DECODER.PREDICT_RATIO", 0.5],
    ],
)
def test_what_can(overrides):
    load_config((), overrides)
