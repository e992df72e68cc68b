from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from diffmae_video.config import (
    ENCODER_SIZES,
    ConfigError,
    defaults,
    get_cfg,
    load_config,
    resolve_encoder,
    validate,
    validation,
)


def leaves(node: CfgNode, prefix: str = "") -> dict:
    found = {}
    for key, value in node.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value}
    return found


def refused(*overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config((), overrides)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------- the tables


def test_tables_cover_every_declared_key():
    """A new key must get a range, a choice, or a place among the few that take anything."""
    declared = leaves(get_cfg())
    tables = [validation.CHOICES, validation.LENGTHS, validation.RANGES, dict.fromkeys(validation.NOT_EMPTY)]
    for table in tables:
        assert not set(table) - set(declared), "a rule for a key that does not exist"
    free_text = {"OUTPUT_DIR", "DEVICE", "DATA.PATH_TO_DATA_DIR", "DATA.PATH_PREFIX", "DATA.PAGE", "DATA.LABELS"}
    free_text |= {
        "MODEL.WEIGHTS",
        "MODEL.CLIP.WEIGHTS",
        "MODEL.LDAE.VAE_PATH",
        "AUGMENT.RAND_AUGMENT",
        "TEST.SPLIT",
        "TRAIN.WANDB_PROJECT",
    }  # paths; what RandAugment itself parses; a name
    lists = {f"INPAINT.{key}" for key in ("MASKS", "SAMPLERS", "FILLS", "COMPARE")}  # rules of their own
    free_text |= lists | {f"INPAINT.{key}" for key in ("LPIPS_BACKBONE", "LPIPS_HEADS", "FEATURE_WEIGHTS")}
    any_length = (
        lists | {"INPAINT.STEPS"} | {key for key in declared if ".MIX." in key}
    )  # as many as there are sources, or mask strategies
    free_text |= {"DATA.MIX.PATHS", "DATA.MIX.PREFIXES", "DATA.MIX.FORMATS", "MASK.MIX.STRATEGIES"}  # own rules
    for key, default in declared.items():
        if isinstance(default, str):
            assert key in validation.CHOICES or key in free_text, f"{key} needs an entry in CHOICES"
        elif not isinstance(default, bool) and key not in free_text:
            assert key in validation.RANGES, f"{key} needs an entry in RANGES"
        if isinstance(default, list) and key not in any_length:
            assert key in validation.LENGTHS, f"{key} needs an entry in LENGTHS"


def test_every_declared_key_has_a_comment():
    lines = Path(defaults.__file__).read_text().splitlines()
    tree = ast.parse("\n".join(lines))
    for statement in tree.body:
        if not isinstance(statement, ast.Assign) or "Node()" in lines[statement.lineno - 1]:
            continue
        line, above = lines[statement.end_lineno - 1], lines[statement.lineno - 2]
        assert re.search(r"  # \S", line) or above.lstrip().startswith("#"), f"no comment: {line}"


def test_every_declared_key_is_used():
    """A key that nothing reads is a dead flag. (DATA.PAGE and others are read as cfg.DATA.PAGE or data.PAGE.)"""
    package = Path(defaults.__file__).parents[1]
    files = [*package.glob("build/*.py"), *package.parent.glob("tools/*.py"), *package.glob("config/sizes.py")]
    files += [package / "config" / "masks.py"]
    text = "\n".join(path.read_text() for path in files)
    unused = [key for key in leaves(get_cfg()) if not re.search(rf"\.{key.rsplit('.', 1)[-1]}\b", text)]
    assert not unused, f"declared, but read neither by build/ nor by the tools: {unused}"


def test_wrong_choice_lists_the_choices():
    for key, names in validation.CHOICES.items():
        listed = ", ".join(name or '""' for name in names)
        assert refused(key, "nonsense") == f"{key} is 'nonsense': choose one of {listed}"


@pytest.mark.parametrize("key", sorted(validation.RANGES))
def test_values_outside_their_range(key):
    interval = validation.RANGES[key]
    default = leaves(get_cfg())[key]
    element = default[0] if isinstance(default, list) else default
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    wrong = ([low - 1] if low > -1e9 else []) + ([low] if interval[0] == "(" else [])
    wrong += [high + 1] if high < 1e9 else []
    wrong += [high] if interval[-1] == ")" and high < 1e9 else []
    for value in wrong:
        value = type(element)(value)
        whole = [value] + default[1:] if isinstance(default, list) else value
        assert f"{key} is {whole}: it must be in {interval}" in refused(key, whole)


@pytest.mark.parametrize("key", sorted(validation.LENGTHS))
def test_lists_of_a_wrong_length(key):
    default = leaves(get_cfg())[key]
    for wrong in (default[:-1], default + default[:1], []):
        assert f"it needs {len(default)} elements" in refused(key, wrong)


def test_device_and_paths():
    assert "cuda:<number>" in refused("DEVICE", "gpu")
    assert load_config((), ["DEVICE", "cuda:3"]).DEVICE == "cuda:3"
    assert refused("OUTPUT_DIR", " ").startswith("OUTPUT_DIR is empty")
    assert refused("TRAIN.WANDB_PROJECT", "").startswith("TRAIN.WANDB_PROJECT is empty")


# ---------------------------------------------------------------------------------------------- values together


@pytest.mark.parametrize(
    "overrides, parts",
    [
        (["DATA.NUM_FRAMES", 15], ["MODEL.PATCH_SIZE[0] = 2", "DATA.NUM_FRAMES = 15", "14 or 16"]),
        (["DATA.NUM_FRAMES", 1], ["MODEL.PATCH_SIZE[0] = 2", "set DATA.NUM_FRAMES to 2,"]),
        (["DATA.CROP_SIZE", 100], ["MODEL.PATCH_SIZE[1]", "MODEL.PATCH_SIZE[2]", "96 or 112"]),
        (["DATA.CROP_SCALE", [1.0, 0.5]], ["DATA.CROP_SCALE", "lower end comes first"]),
        (["DATA.CROP_ASPECT", [1.4, 0.7]], ["DATA.CROP_ASPECT", "lower end comes first"]),
        (["MODEL.ENCODER.HEADS", 7], ["MODEL.ENCODER.HEADS = 7", "MODEL.ENCODER.WIDTH = 1024", "WIDTH from SIZE"]),
        (["MODEL.ENCODER.WIDTH", 200], ["MODEL.ENCODER.HEADS = 16", "(HEADS from SIZE 'large')"]),
        (
            ["MODEL.ENCODER.WIDTH", 30, "MODEL.ENCODER.HEADS", 3, "MODEL.ENCODER.POSITION", "sincos"],
            ["MODEL.ENCODER.WIDTH = 30", "multiple of 4"],
        ),
        (["MODEL.ENCODER.MLP_RATIO", 1e-4], ["MODEL.ENCODER.MLP_RATIO"]),
        (["MODEL.DECODER.HEADS", 3], ["MODEL.DECODER.HEADS = 3", "MODEL.DECODER.WIDTH = 512"]),
        (["MODEL.DECODER.DEPTH", 25], ["MODEL.DECODER.DEPTH = 25", "24 blocks", '"joint"']),
        (["MODEL.DECODER.DEPTH", 13, "MODEL.DECODER.TYPE", "cross", "MODEL.ENCODER.SIZE", "base"], ["12 blocks"]),
        (["MODEL.DECODER.DEPTH", 3, "MODEL.ENCODER.DEPTH", 2], ["the encoder's 2 blocks"]),
        (["MODEL.DECODER.WIDTH", 6, "MODEL.DECODER.HEADS", 1], ["MODEL.DECODER.WIDTH = 6", "multiple of 4"]),
        (["MODEL.DECODER.WIDTH", 7, "MODEL.DECODER.HEADS", 1, "MODEL.DECODER.POSITION", "separable"], ["must be even"]),
        (["MODEL.DECODER.MLP_RATIO", 1e-4], ["MODEL.DECODER.MLP_RATIO"]),
        (["MASK.RATIO", 0.999], ["MASK.RATIO = 0.999", "196 of 196 spatial places", "'tube'", "and 0.995"]),
        (["MASK.RATIO", 0.001], ["hides 0 of 196 spatial places", "between 0.0051"]),
        (["MASK.RATIO", 1e-4, "MASK.STRATEGY", "random"], ["hides 0 of 1568 tokens"]),
        (["MASK.STRATEGY", "frame", "MASK.RATIO", 0.95], ["8 of 8 time slots"]),
        (["MASK.STRATEGY", "frame", "DATA.NUM_FRAMES", 2], ["at least 2 time slots", "1 x 14 x 14"]),
        (["DATA.CROP_SIZE", 16], ["'tube' needs at least 2 spatial places", "8 x 1 x 1"]),
        (["DATA.CROP_SIZE", 16, "MASK.STRATEGY", "center"], ["'center' needs at least 2 spatial places"]),
        (["DATA.CROP_SIZE", 16, "DATA.NUM_FRAMES", 2, "MASK.STRATEGY", "block"], ["'block' needs at least 2 tokens"]),
        (["MODEL.NAME", "MAE", "MODEL.PREDICTION", "eps"], ["MODEL.PREDICTION is 'eps'", "MAE"]),
        (["MODEL.TARGET", "normalized", "TRAIN.VISUALIZE_PERIOD", 5], ["MODEL.TARGET", "TRAIN.VISUALIZE_PERIOD to 0"]),
        (["MODEL.NAME", "MAE", "MODEL.TARGET", "normalized", "TRAIN.VISUALIZE_PERIOD", 5], ["VISUALIZE_PERIOD to 0"]),
        (["DATA.MEAN", [0.485, 0.456, 0.406]], ["DATA.MEAN", "[-1, 1]", "0.5"]),
        (["DATA.STD", [0.2, 0.2, 0.2]], ["DATA.STD", "[-1, 1]"]),
        (["DIFFUSION.STEPS", 10, "TRAIN.VISUALIZE_PERIOD", 5], ["TRAIN.VISUALIZE_STEPS = 20", "DIFFUSION.STEPS = 10"]),
        (["SOLVER.BATCH_SIZE", 10, "DATA.REPEATED_SAMPLING", 4], ["SOLVER.BATCH_SIZE = 10", "multiple of 4"]),
        (["SOLVER.ACCUMULATION_STEPS", 3], ["SOLVER.BATCH_SIZE = 64", "multiple of 3"]),
        (["SOLVER.EPOCHS", 10], ["SOLVER.WARMUP_EPOCHS = 40", "SOLVER.EPOCHS = 10"]),
        (["SOLVER.MIN_LR", 1.0], ["SOLVER.MIN_LR = 1", "3.75e-05"]),
    ],
)
def test_values_that_cannot_work_together(overrides, parts):
    message = refused(*overrides)
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    "overrides",
    [
        ["DATA.NUM_FRAMES", 1, "MODEL.PATCH_SIZE", [1, 16, 16], "DATA.SAMPLING_RATE", 1],
        ["MODEL.DECODER.DEPTH", 40, "MODEL.DECODER.TYPE", "joint"],
        ["MODEL.NAME", "MAE", "MODEL.TARGET", "normalized", "DATA.MEAN", [0.4, 0.4, 0.4], "DATA.STD", [0.2, 0.2, 0.2]],
        ["MODEL.TARGET", "normalized", "DATA.MEAN", [0.4, 0.4, 0.4]],
        [
            "MODEL.NAME",
            "MAE",
            "MODEL.DECODER.POSITION",
            "separable",
            "MODEL.DECODER.WIDTH",
            7,
            "MODEL.DECODER.HEADS",
            7,
        ],
        ["SOLVER.MAX_STEPS", 5, "SOLVER.EPOCHS", 1],
        ["MASK.STRATEGY", "frame", "MASK.RATIO", 0.5, "DATA.NUM_FRAMES", 4],
        ["MASK.STRATEGY", "center", "MASK.RATIO", 0.25],
        ["MODEL.NAME", "MAE", "TRAIN.VISUALIZE_PERIOD", 5, "DIFFUSION.STEPS", 1],
        ["MODEL.ENCODER.WIDTH", 48, "MODEL.ENCODER.DEPTH", 8, "MODEL.ENCODER.HEADS", 2],
    ],
)
def test_values_that_do_work_together(overrides):
    load_config((), overrides)


def test_all_problems_at_once():
    message = refused("DATA.NUM_FRAMES", 15, "MODEL.DECODER.HEADS", 3, "SOLVER.ACCUMULATION_STEPS", 3)
    assert message.startswith("3 problems")
    message = refused("TASK", "x", "SEED", -1, "SOLVER.BETAS", [0.9])
    assert message.startswith("3 problems")


def test_validate_takes_a_config_changed_by_hand():
    cfg = get_cfg()
    validate(cfg)
    cfg.MODEL.PATCH_SIZE = (2, 15, 16)
    with pytest.raises(ConfigError, match="does not divide"):
        validate(cfg)


def test_masks_agree_with_validation():
    """The strategies and the room they need are those of the mask functions themselves."""
    masks = pytest.importorskip("diffmae_video.models.masks")
    assert set(masks.STRATEGIES) == set(validation.CHOICES["MASK.STRATEGY"])
    for strategy in masks.STRATEGIES:
        for slots, rows in ((1, 1), (1, 2), (2, 1), (2, 2)):
            overrides = ["MASK.STRATEGY", strategy, "MASK.RATIO", 0.5, "DATA.NUM_FRAMES", 2 * slots]
            overrides += ["DATA.CROP_SIZE", 16 * rows]
            try:
                masks.make_mask(strategy, (slots, rows, rows), 0.5)
            except ValueError:
                assert f"{strategy!r} needs at least 2" in refused(*overrides)
            else:
                load_config((), overrides)


def test_choices_agree_with_the_code():
    models = pytest.importorskip("diffmae_video.models")
    from diffmae_video.diffusion import SCHEDULES
    from diffmae_video.engine.wrapping import PRECISIONS
    from diffmae_video.models.diffmae import PREDICTIONS
    from diffmae_video.models.dual_mask import PATTERNS
    from diffmae_video.models.masked_autoencoder import FEATURE_LOSSES
    from diffmae_video.models.positions import POSITIONS
    from diffmae_video.models.targets import TARGET_FRAMES, TARGETS

    assert set(models.DECODERS) == set(validation.CHOICES["MODEL.DECODER.TYPE"])
    assert set(SCHEDULES) == set(validation.CHOICES["DIFFUSION.SCHEDULE"])
    assert set(PREDICTIONS) == set(validation.CHOICES["MODEL.PREDICTION"])
    assert set(TARGETS) == set(validation.CHOICES["MODEL.TARGET"])
    assert set(TARGET_FRAMES) == set(validation.CHOICES["MODEL.TARGET_FRAMES"])
    assert set(PATTERNS) == set(validation.CHOICES["MODEL.DECODER.PREDICT_PATTERN"])
    assert set(FEATURE_LOSSES) == set(validation.CHOICES["MODEL.CLIP.LOSS"])
    assert set(PRECISIONS) == set(validation.CHOICES["TRAIN.PRECISION"])
    assert set(POSITIONS) == set(validation.CHOICES["MODEL.ENCODER.POSITION"])


# ------------------------------------------------------------------------------------------------------------- sizes


def test_resolve_encoder():
    for name, size in ENCODER_SIZES.items():
        assert resolve_encoder(load_config((), ["MODEL.ENCODER.SIZE", name])) == size
    overrides = ["MODEL.ENCODER.SIZE", "tiny", "MODEL.ENCODER.WIDTH", 96, "MODEL.ENCODER.DEPTH", 8]
    assert resolve_encoder(load_config((), overrides)) == (96, 8, 3)
