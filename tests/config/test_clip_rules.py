"""The rules of MODEL.CLIP: no key that nothing reads, and no pictures of pixels that nothing trains."""

from __future__ import annotations

import pytest

from diffmae_video.config import ConfigError, load_config

CLIP = ["MODEL.CLIP.WEIGHTS", "/models/clip"]
FEATURES_ALONE = [*CLIP, "MODEL.CLIP.PIXEL_WEIGHT", "0"]


def refused(*overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config((), overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        CLIP,
        ["MODEL.CLIP.WIDTH", "768"],  # a recipe, or a model that was trained with the head: the folder is given later
        FEATURES_ALONE,
        [*CLIP, "MODEL.CLIP.LAYER", "-2", "MODEL.CLIP.LOSS", "mse", "MODEL.CLIP.LOSS_WEIGHT", "0.5"],
        [*CLIP, "TRAIN.VISUALIZE_PERIOD", "5"],
        [*CLIP, "MODEL.NAME", "MAE", "MODEL.TARGET", "normalized"],
    ],
)
def test_what_can_be_trained(overrides):
    load_config((), overrides)


@pytest.mark.parametrize("key, value", [("LAYER", "-2"), ("LOSS", "mse"), ("LOSS_WEIGHT", "3"), ("PIXEL_WEIGHT", "0")])
def test_keys_of_targets_that_are_not_there(key, value):
    message = refused(f"MODEL.CLIP.{key}", value)
    assert message.startswith(f"MODEL.CLIP.{key} is ") and "without MODEL.CLIP.WEIGHTS" in message


@pytest.mark.parametrize(
    "overrides, part",
    [
        (["MODEL.CLIP.LAYER", "0"], "MODEL.CLIP.LAYER is 0: it must be in [-inf, -1]"),
        (["MODEL.CLIP.LOSS", "l1"], "choose one of cosine, mse"),
        (["MODEL.CLIP.LOSS_WEIGHT", "0"], "MODEL.CLIP.LOSS_WEIGHT is 0.0: it must be in (0, inf)"),
        (["MODEL.CLIP.PIXEL_WEIGHT", "-1"], "MODEL.CLIP.PIXEL_WEIGHT is -1.0"),
    ],
)
def test_values_out_of_range(overrides, part):
    assert part in refused(*CLIP, *overrides)


def test_untrained_pixels_are_not_shown():
    message = refused(*FEATURES_ALONE, "TRAIN.VISUALIZE_PERIOD", "5")
    assert "PIXEL_WEIGHT is 0" in message and "set TRAIN.VISUALIZE_PERIOD to 0" in message
    problems = refused(*FEATURES_ALONE, "TRAIN.VISUALIZE_PERIOD", "5", "MODEL.TARGET", "normalized")
    assert "PIXEL_WEIGHT" not in problems, "one reason is enough"
