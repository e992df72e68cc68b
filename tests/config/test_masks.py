"""The rules of MASK.MIX, and what it means; those of one strategy are in test_validation.py."""

from __future__ import annotations

import pytest

from diffmae_video.config import ConfigError, MaskRange, from_yaml, load_config, mask_mix, trained_ratio

ALL = "[random, tube, block, center, frame]"
LOW = ["MASK.MIX.RATIOS_LOW", "[0.6, 0.5, 0.3, 0.25, 0.5]"]
HIGH = ["MASK.MIX.RATIOS_HIGH", "[0.95, 0.9, 0.6, 0.5, 0.5]"]
MIX = ["MASK.MIX.STRATEGIES", ALL, *LOW, *HIGH]
IMAGES = ["DATA.NUM_FRAMES", 1, "MODEL.PATCH_SIZE", [1, 16, 16], "DATA.SAMPLING_RATE", 1]
VIDEOS_AND_IMAGES = ["DATA.MIX.PATHS", "[/a, /b]", "DATA.MIX.NUM_FRAMES", "[16, 1]"]


def refused(*overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config((), overrides)
    return str(caught.value)


def test_a_mix_is_one_row_per_strategy():
    cfg = load_config((), [*MIX, "MASK.MIX.WEIGHTS", "[2, 2, 1, 1, 1]"])
    assert mask_mix(cfg) == [
        MaskRange("random", 2.0, 0.6, 0.95),
        MaskRange("tube", 2.0, 0.5, 0.9),
        MaskRange("block", 1.0, 0.3, 0.6),
        MaskRange("center", 1.0, 0.25, 0.5),
        MaskRange("frame", 1.0, 0.5, 0.5),
    ]
    shared = load_config((), ["MASK.MIX.STRATEGIES", "[tube, block]", "MASK.MIX.RATIOS_HIGH", "[0.75]"])
    assert mask_mix(shared) == [MaskRange("tube", 1.0, 0.5, 0.75), MaskRange("block", 1.0, 0.5, 0.75)]
    assert mask_mix(load_config()) == []


def test_a_configuration_that_was_written_before_there_were_mixes_is_read():
    assert mask_mix(from_yaml("MASK: {STRATEGY: random, RATIO: 0.75}")) == []


def test_the_ratio_that_a_model_knows():
    one = load_config((), ["MASK.STRATEGY", "random", "MASK.RATIO", 0.75])
    assert trained_ratio(one, "random") == 0.75 and trained_ratio(one, "tube") is None
    mix = load_config((), ["MASK.MIX.STRATEGIES", "[random, block]", "MASK.MIX.RATIOS_LOW", "[0.6, 0.3]"])
    assert trained_ratio(mix, "random") == pytest.approx(0.75) and trained_ratio(mix, "block") == pytest.approx(0.6)
    assert trained_ratio(mix, "tube") is None, "MASK.STRATEGY of a mix is no mask of its training"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["MASK.MIX.STRATEGIES", "[random, tubes]"], ["names 'tubes': did you mean 'tube'? choose from tube, random"]),
        (["MASK.MIX.STRATEGIES", "[Random]"], ["names 'Random': did you mean 'random'?"]),
        (["MASK.MIX.STRATEGIES", "[xyz]"], ["names 'xyz': choose from tube, random, frame, block, center"]),
        (["MASK.MIX.STRATEGIES", "[tube, '']"], ["names '': choose from"]),
        (["MASK.MIX.STRATEGIES", "[tube, random, tube]"], ["names 'tube' more than once", "a larger weight"]),
        ([*MIX, "MASK.MIX.WEIGHTS", "[1, 2]"], ["MASK.MIX.WEIGHTS is [1.0, 2.0]: it needs 1 element, or 5"]),
        ([*MIX, "MASK.MIX.RATIOS_LOW", "[0.5, 0.5]"], ["MASK.MIX.RATIOS_LOW is [0.5, 0.5]", "or 5, as many as"]),
        ([*MIX, "MASK.MIX.RATIOS_HIGH", "[0.5, 0.5]"], ["MASK.MIX.RATIOS_HIGH is [0.5, 0.5]"]),
        ([*MIX, "MASK.MIX.WEIGHTS", "[0]"], ["MASK.MIX.WEIGHTS is [0.0]: it must be in (0, inf)"]),
        ([*MIX, "MASK.MIX.RATIOS_HIGH", "[1.0]"], ["MASK.MIX.RATIOS_HIGH is [1.0]: it must be in (0, 1)"]),
        (
            [*MIX, "MASK.MIX.RATIOS_LOW", "[0.6, 0.95, 0.3, 0.25, 0.5]"],
            ["MASK.MIX.RATIOS_LOW = 0.95 of strategy 'tube' is above its MASK.MIX.RATIOS_HIGH = 0.9", "exchange"],
        ),
        (
            ["MASK.MIX.STRATEGIES", "[tube, frame]", "MASK.MIX.RATIOS_HIGH", "[0.9, 0.95]"],
            ["MASK.MIX.RATIOS_HIGH = 0.95 hides 8 of 8 time slots", "(MASK.MIX.STRATEGIES 'frame')", "0.125 and 0.875"],
        ),
        (
            ["MASK.MIX.STRATEGIES", "[random, tube]", "MASK.MIX.RATIOS_LOW", "[0.5, 0.001]"],
            ["MASK.MIX.RATIOS_LOW = 0.001 hides 0 of 196 spatial places of the token grid 8 x 14 x 14"],
        ),
        ([*MIX, *IMAGES], ["MASK.MIX.STRATEGIES 'frame' needs at least 2 time slots", "1 x 14 x 14"]),
        ([*MIX, *VIDEOS_AND_IMAGES], ['MASK.MIX.STRATEGIES "frame" hides whole time slots', "clips of 1 frames"]),
        (["TASK", "inpaint_eval", *MIX, "MASK.MIX.WEIGHTS", "[1, 2]"], ["MASK.MIX.WEIGHTS is [1.0, 2.0]"]),
        ([*MIX, "MASK.RATIO", 0.999], ["MASK.RATIO = 0.999 hides 196 of 196 spatial places"]),
    ],
)
def test_what_a_mix_refuses(overrides, parts):
    message = refused(*overrides)
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    "overrides",
    [
        MIX,
        ["MASK.MIX.STRATEGIES", "[random, tube, block, center]", *IMAGES],
        ["MASK.MIX.STRATEGIES", "[random, tube, block, center]", *VIDEOS_AND_IMAGES],
        ["MASK.MIX.STRATEGIES", "[frame]", "MASK.MIX.RATIOS_LOW", "[0.125]", "MASK.MIX.RATIOS_HIGH", "[0.875]"],
        ["MASK.MIX.STRATEGIES", "['']", "MASK.MIX.WEIGHTS", "[1, 2, 3]"],  # a mix that is switched off again
        ["TASK", "finetune", *MIX, *IMAGES],  # hides nothing
    ],
)
def test_what_a_mix_accepts(overrides):
    load_config((), overrides)


def test_every_end_of_every_range_is_looked_at():
    """Where the configuration accepts a range, the masks at both its ends hide what they say."""
    masks = pytest.importorskip("diffmae_video.models.masks")
    for slots, rows in ((1, 1), (1, 2), (2, 1), (2, 2)):
        for strategy in masks.STRATEGIES:
            ends = (0.2, 0.8)
            overrides = ["DATA.NUM_FRAMES", 2 * slots, "DATA.CROP_SIZE", 16 * rows, "MASK.STRATEGY", strategy]
            overrides += ["MASK.RATIO", 0.5, "MASK.MIX.STRATEGIES", [strategy]]
            overrides += ["MASK.MIX.RATIOS_LOW", [ends[0]], "MASK.MIX.RATIOS_HIGH", [ends[1]]]
            try:
                load_config((), overrides)
            except ConfigError as error:
                assert "MASK.MIX" in str(error)
                continue
            for ratio in ends:
                mask = masks.make_mask(strategy, (slots, rows, rows), ratio)
                places = {"frame": slots, "tube": rows * rows, "random": slots * rows * rows}.get(strategy)
                if places:
                    assert int(mask.sum()) == round(places * ratio) * mask.shape[1] // places
