"""The rules of DATA.MIX, and of flips for data that tells left from right."""

from __future__ import annotations

import pytest

from diffmae_video.config import ConfigError, is_mix, load_config

MIX = ["DATA.MIX.PATHS", "[/a, /b]", "DATA.MIX.NUM_FRAMES", "[16, 1]"]


def refused(*overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config((), overrides)
    return str(caught.value)


def test_a_mix_is_accepted():
    cfg = load_config((), [*MIX, "DATA.MIX.WEIGHTS", "[3, 1]", "DATA.MIX.FORMATS", "[auto, class_folders]"])
    assert is_mix(cfg) and cfg.DATA.MIX.WEIGHTS == [3.0, 1.0]
    assert not is_mix(load_config())


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["DATA.PATH_TO_DATA_DIR", "/c"], "the data comes from DATA.MIX.PATHS"),
        (["DATA.MIX.WEIGHTS", "[1, 2, 3]"], "needs 1 element, or 2"),
        (["DATA.MIX.WEIGHTS", "[1, 0]"], "must be in (0, inf)"),
        (["DATA.MIX.FORMATS", "[auto, zip]"], "names ['zip']"),
        (["DATA.MIX.PATHS", "[/a, ' ']"], "every source needs a path"),
        (["DATA.MIX.NUM_FRAMES", "[16, 3]"], "has 3: choose 1, or a multiple of MODEL.PATCH_SIZE[0] = 2"),
        (["DATA.MIX.NUM_FRAMES", "[16, 32]"], "has 32"),
        (["DATA.MIX.NUM_FRAMES", "[8, 1]"], "lower the latter to the longest of them"),
        (["MASK.STRATEGY", "frame", "MASK.RATIO", "0.5"], "have only one: choose another strategy"),
        (["DATA.MIX.FORMATS", "[auto, ssv2]"], "DATA.HORIZONTAL_FLIP is True for Something-Something"),
    ],
)
def test_what_a_mix_refuses(overrides, part):
    assert part in refused(*MIX, *overrides)


def test_something_something_is_never_flipped():
    assert "tell left from right" in refused("DATA.FORMAT", "ssv2")
    assert load_config((), ["DATA.FORMAT", "ssv2", "DATA.HORIZONTAL_FLIP", "False"]).DATA.FORMAT == "ssv2"
