"""Values that cannot work, alone or together: found before any data is read or any model is built.

``validate`` reports all problems at once; each names the keys, their values, and what to change. To add a rule, add it
to ``tables.py``, or yield a sentence from the ``_check_*`` function of its section.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fvcore.common.config import CfgNode

from diffmae_video.config.defaults import get_cfg
from diffmae_video.config.errors import ConfigError
from diffmae_video.config.inpaint import check_inpaint
from diffmae_video.config.latent import check_latent, is_latent_dae
from diffmae_video.config.masks import check_masks
from diffmae_video.config.mix import check_mix, data_formats
from diffmae_video.config.objectives import check_objective
from diffmae_video.config.saving import check_saving
from diffmae_video.config.scaling import check_scaling
from diffmae_video.config.sizes import resolve_encoder
from diffmae_video.config.tables import CHOICES, CLASSIFIERS_ONLY, LENGTHS, NOT_EMPTY, RANGES
from diffmae_video.config.tasks import AUTOENCODER_TASKS

# Formats of datasets in which a mirrored video is another class; the data room has the same list.
ORIENTED_FORMATS = {"ssv2"}
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def validate(cfg: CfgNode) -> None:
    """Checks every value by itself, then, where those are sound, values against each other.

    Raises ConfigError, listing all problems.
    """
    problems = list(_check_values(cfg))
    if not problems:
        for check in CHECKS:
            problems += check(cfg)
    if problems:
        raise ConfigError.from_problems(problems)


# ---------------------------------------------------------------------------------------------------- one value alone


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a full dotted key."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _check_values(cfg: CfgNode) -> Iterator[str]:
    for key, names in CHOICES.items():
        if value_of(cfg, key) not in names:
            choices = ", ".join(name or '""' for name in names)
            yield f"{key} is {value_of(cfg, key)!r}: choose one of {choices}"
    for key, length in LENGTHS.items():
        if len(value_of(cfg, key)) != length:
            yield f"{key} is {value_of(cfg, key)}: it needs {length} elements"
    for key, interval in RANGES.items():
        value = value_of(cfg, key)
        if not all(_inside(element, interval) for element in (value if isinstance(value, (list, tuple)) else [value])):
            yield f"{key} is {value}: it must be in {interval}"
    for key in NOT_EMPTY:
        if not value_of(cfg, key).strip():
            yield f"{key} is empty: give a path or a name"
    if not DEVICE.fullmatch(cfg.DEVICE):
        yield f'DEVICE is {cfg.DEVICE!r}: it must be "auto", "cpu", "cuda" or "cuda:<number>"'


def _inside(value: float, interval: str) -> bool:
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value > low if interval[0] == "(" else value >= low
    below = value < high if interval[-1] == ")" else value <= high
    return above and below


# ---------------------------------------------------------------------------------------------------- values together


def _check_data(cfg: CfgNode) -> Iterator[str]:
    for key in ("CROP_SCALE", "CROP_ASPECT"):
        low, high = cfg.DATA[key]
        if low > high:
            yield f"DATA.{key} is [{low}, {high}]: the lower end comes first"
    names = ("DATA.NUM_FRAMES", "DATA.CROP_SIZE", "DATA.CROP_SIZE")
    for axis, (name, patch) in enumerate(zip(names, cfg.MODEL.PATCH_SIZE, strict=True)):
        size = value_of(cfg, name)
        if size % patch:
            below, above = size // patch * patch, (size // patch + 1) * patch
            nearest = f"{below} or {above}" if below else f"{above}"
            yield (
                f"MODEL.PATCH_SIZE[{axis}] = {patch} does not divide {name} = {size}: set {name} to {nearest}, or "
                f"choose a patch that divides {size}"
            )
    if data_formats(cfg) & ORIENTED_FORMATS and cfg.DATA.HORIZONTAL_FLIP:
        yield (
            "DATA.HORIZONTAL_FLIP is True for Something-Something, whose classes tell left from right: a mirrored "
            '"pushing something from left to right" would carry the label of another class. Set it to False'
        )


def _check_encoder(cfg: CfgNode) -> Iterator[str]:
    encoder = cfg.MODEL.ENCODER
    width, _, heads = resolve_encoder(cfg)
    if width % heads:
        origin = [f"{key} from SIZE {encoder.SIZE!r}" for key in ("WIDTH", "HEADS") if not encoder[key]]
        yield (
            f"MODEL.ENCODER.HEADS = {heads} does not divide MODEL.ENCODER.WIDTH = {width}"
            + (f" ({', '.join(origin)})" if origin else "")
            + ": set one of them so that it does"
        )
    yield from _check_position("MODEL.ENCODER", width, encoder.POSITION)
    if int(width * encoder.MLP_RATIO) < 1:
        yield f"MODEL.ENCODER.MLP_RATIO = {encoder.MLP_RATIO} leaves the MLP no hidden unit at width {width}"


def _check_position(node: str, width: int, position: str) -> Iterator[str]:
    multiple = {"sincos": 4, "sincos_1d": 2}.get(position, 1)
    if width % multiple:
        yield f'{node}.WIDTH = {width} must be a multiple of {multiple} for {node}.POSITION "{position}"'


def _check_head(cfg: CfgNode) -> Iterator[str]:
    head = cfg.MODEL.HEAD
    if cfg.TASK in AUTOENCODER_TASKS:
        return
    if head.POOL == "class_token" and not cfg.MODEL.ENCODER.CLASS_TOKEN:
        yield 'MODEL.HEAD.POOL is "class_token", but MODEL.ENCODER.CLASS_TOKEN is False: there is none. Use "mean"'
    width, _, heads = resolve_encoder(cfg)
    if cfg.TASK == "attentive" and width % (head.PROBE_HEADS or heads):
        yield f"MODEL.HEAD.PROBE_HEADS = {head.PROBE_HEADS} does not divide the encoder's width {width}"


def _check_recognition(cfg: CfgNode) -> Iterator[str]:
    """Keys that only classifiers read, and what classifiers cannot do."""
    if cfg.TASK in AUTOENCODER_TASKS:
        defaults = get_cfg()
        told = {"MODEL.NUM_CLASSES"} if cfg.MODEL.LDAE.CLASS_CONDITIONING else set()
        for key in CLASSIFIERS_ONLY:
            if key not in told and value_of(cfg, key) != value_of(defaults, key):
                yield f"{key} is {value_of(cfg, key)!r}, but TASK is {cfg.TASK!r}, which has no labels: leave it out"
        return
    if cfg.TASK == "linear" and cfg.SOLVER.BATCH_SIZE == cfg.SOLVER.ACCUMULATION_STEPS:
        yield (
            f"SOLVER.BATCH_SIZE = {cfg.SOLVER.BATCH_SIZE} in SOLVER.ACCUMULATION_STEPS = "
            f"{cfg.SOLVER.ACCUMULATION_STEPS} parts leaves one clip in each, but a linear probe normalises over the "
            "clips of a part: set the latter to a smaller number, or the former to a larger one"
        )
    if cfg.TASK in ("test", "knn") and cfg.TRAIN.EMA_DECAY:
        yield f"TRAIN.EMA_DECAY is set, but TASK {cfg.TASK!r} trains nothing: leave it out"


def _check_fit(cfg: CfgNode) -> Iterator[str]:
    if cfg.DATA.FIT == "stretch" and cfg.TEST.NUM_SPATIAL_CROPS > 1:
        yield (
            f'TEST.NUM_SPATIAL_CROPS = {cfg.TEST.NUM_SPATIAL_CROPS}, but with DATA.FIT "stretch" every crop would be '
            "the whole frame: set it to 1"
        )
    if cfg.DATA.FIT == "stretch" and cfg.AUGMENT.CROP == "multi_scale":
        yield 'AUGMENT.CROP "multi_scale" cuts near-squares: with DATA.FIT "stretch" use "random_resized"'


def _check_decoder(cfg: CfgNode) -> Iterator[str]:
    decoder = cfg.MODEL.DECODER
    if cfg.TASK not in AUTOENCODER_TASKS or is_latent_dae(cfg):  # whose decoder is made of the encoder's blocks
        return
    _, encoder_depth, _ = resolve_encoder(cfg)
    if decoder.WIDTH % decoder.HEADS:
        yield (
            f"MODEL.DECODER.HEADS = {decoder.HEADS} does not divide MODEL.DECODER.WIDTH = {decoder.WIDTH}: "
            "set one of them so that it does"
        )
    if decoder.TYPE != "joint" and decoder.DEPTH > encoder_depth:
        yield (
            f"MODEL.DECODER.DEPTH = {decoder.DEPTH} is more than the encoder's {encoder_depth} blocks: decoder block i "
            f"of type {decoder.TYPE!r} reads the encoder's i-th block from the end; set it to at most {encoder_depth}, "
            'or MODEL.DECODER.TYPE to "joint"'
        )
    unfit = list(_check_position("MODEL.DECODER", decoder.WIDTH, decoder.POSITION))
    yield from unfit
    if not unfit and cfg.MODEL.NAME == "DiffMAE" and decoder.WIDTH % 2:
        yield f"MODEL.DECODER.WIDTH = {decoder.WIDTH} must be even: half of it embeds the timestep as sines"
    if int(decoder.WIDTH * decoder.MLP_RATIO) < 1:
        yield f"MODEL.DECODER.MLP_RATIO = {decoder.MLP_RATIO} leaves the MLP no hidden unit at width {decoder.WIDTH}"


def _check_target(cfg: CfgNode) -> Iterator[str]:
    model = cfg.MODEL
    if cfg.TASK not in AUTOENCODER_TASKS:
        return
    samples = cfg.TRAIN.VISUALIZE_PERIOD > 0
    if model.NAME == "MAE" and model.PREDICTION != "x0":
        yield f'MODEL.PREDICTION is {model.PREDICTION!r}, but MAE sees no noise to predict: set it to "x0"'
    if model.TARGET != "raw" and samples:
        yield (
            f'MODEL.TARGET "{model.TARGET}" cannot be turned back into pixels without the hidden patches\' own mean '
            f"and variance, so there are no reconstructions to write: set TRAIN.VISUALIZE_PERIOD to 0 (it is "
            f'{cfg.TRAIN.VISUALIZE_PERIOD}), or MODEL.TARGET to "raw"'
        )
    to_unit_range = all(value == 0.5 for value in (*cfg.DATA.MEAN, *cfg.DATA.STD))
    if model.NAME == "DiffMAE" and model.TARGET == "raw" and not to_unit_range:
        yield (
            f"DATA.MEAN = {cfg.DATA.MEAN} and DATA.STD = {cfg.DATA.STD} do not map pixels onto [-1, 1], the range in "
            "which DiffMAE adds noise to raw pixels and samples them: set all of them to 0.5, or MODEL.TARGET to "
            '"normalized" (recognition only)'
        )
    if model.NAME == "DiffMAE" and samples and cfg.TRAIN.VISUALIZE_STEPS > cfg.DIFFUSION.STEPS:
        yield (
            f"TRAIN.VISUALIZE_STEPS = {cfg.TRAIN.VISUALIZE_STEPS} is more than the DIFFUSION.STEPS = "
            f"{cfg.DIFFUSION.STEPS} noise levels that exist: set it to at most {cfg.DIFFUSION.STEPS}"
        )


def _check_solver(cfg: CfgNode) -> Iterator[str]:
    solver, repeats = cfg.SOLVER, cfg.DATA.REPEATED_SAMPLING
    unit = repeats * solver.ACCUMULATION_STEPS
    if solver.BATCH_SIZE % unit:
        yield (
            f"SOLVER.BATCH_SIZE = {solver.BATCH_SIZE} clips is not a multiple of DATA.REPEATED_SAMPLING = {repeats} x "
            f"SOLVER.ACCUMULATION_STEPS = {solver.ACCUMULATION_STEPS}: set it to a multiple of {unit}, or lower those"
        )
    if solver.MAX_STEPS == 0 and solver.WARMUP_EPOCHS > solver.EPOCHS:
        yield (
            f"SOLVER.WARMUP_EPOCHS = {solver.WARMUP_EPOCHS:g} is longer than SOLVER.EPOCHS = {solver.EPOCHS:g}, "
            "so the peak learning rate would never be reached: lower the first or raise the second"
        )
    peak = solver.BASE_LR * solver.BATCH_SIZE / solver.BASE_BATCH_SIZE
    if solver.MIN_LR > peak:
        yield (
            f"SOLVER.MIN_LR = {solver.MIN_LR:g} is above the peak learning rate {peak:g} = SOLVER.BASE_LR * BATCH_SIZE "
            "/ BASE_BATCH_SIZE: lower it"
        )


CHECKS = (
    _check_data,
    check_mix,
    _check_encoder,
    _check_head,
    _check_decoder,
    check_masks,
    check_latent,
    _check_target,
    check_objective,
    _check_solver,
    _check_recognition,
    _check_fit,
    check_inpaint,
    check_scaling,
    check_saving,
)
