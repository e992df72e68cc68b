"""The rules of INPAINT, and that the rules of the model hold for what it measures."""

from __future__ import annotations

import pytest

from diffmae_video.build.inpainting import FILLS
from diffmae_video.config import ConfigError, load_config
from diffmae_video.config import inpaint as rules
from diffmae_video.config.validation import CHOICES
from diffmae_video.diffusion import SAMPLERS, SPACINGS
from diffmae_video.inpainting import OVERLAPS


def problems(*overrides) -> str:
    try:
        load_config([], [*map(str, overrides)])
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("refused", "parts", "accepted"),
    [
        (["INPAINT.SAMPLERS", ["dddim"]], ["INPAINT.SAMPLERS", "'dddim'", "dpmpp_2m"], ["INPAINT.SAMPLERS", ["ddpm"]]),
        (["INPAINT.FILLS", ["blur"]], ["INPAINT.FILLS", "'blur'", "opencv"], ["INPAINT.FILLS", []]),
        (["INPAINT.MASKS", [""]], ["INPAINT.MASKS", "at least one"], ["INPAINT.MASKS", ["center", "frames:2-3"]]),
        (["INPAINT.STEPS", []], ["INPAINT.STEPS", "at least one"], ["INPAINT.STEPS", [1, 5]]),
        (["INPAINT.STEPS", [5, 5]], ["INPAINT.STEPS", "once"], ["INPAINT.STEPS", [5]]),
        (["INPAINT.STEPS", [0]], ["INPAINT.STEPS", "[1, inf)"], ["INPAINT.STEPS", [1000]]),
        (["INPAINT.STEPS", [2000]], ["2000", "DIFFUSION.STEPS = 1000"], ["INPAINT.STEPS", [999]]),
        (["INPAINT.LPIPS_HEADS", "a"], ["LPIPS_BACKBONE", "set both"], ["INPAINT.RATIO", 0.5]),
        (["TEST.NUM_ENSEMBLE_VIEWS", 3], ["TEST.NUM_ENSEMBLE_VIEWS = 3", "one clip"], ["TEST.NUM_SPATIAL_CROPS", 1]),
        (["AUGMENT.MIXUP", 0.8], ["'inpaint_eval', which has no labels"], ["INPAINT.SAMPLES", 4]),
        (["MODEL.DECODER.HEADS", 3], ["MODEL.DECODER.HEADS"], ["INPAINT.THRESHOLD", 0.99]),
    ],
)
def test_one_refused_one_accepted(refused, parts, accepted):
    message = problems("TASK", "inpaint_eval", *refused)
    assert all(part in message for part in parts), message
    assert problems("TASK", "inpaint_eval", *accepted) == ""


def test_other_tasks_do_not_care():
    assert problems("INPAINT.STEPS", [2000], "INPAINT.LPIPS_HEADS", "a") == ""


def test_names_agree_with_the_code():
    assert set(rules.SAMPLERS) == set(SAMPLERS)
    assert set(rules.FILLS) == set(FILLS)
    assert set(CHOICES["INPAINT.SPACING"]) == set(SPACINGS)
    assert set(CHOICES["INPAINT.OVERLAP"]) == set(OVERLAPS)
