"""The configurations that ``benchmark.py scaling`` compares, and what is counted of each without computing it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from fvcore.common.config import CfgNode
from memory_tracking import Answers, hidden_tokens, step_memory
from torch._subclasses.fake_tensor import FakeTensorMode

from diffmae_video.build import build_model
from diffmae_video.config import load_config, resolve_encoder
from diffmae_video.config.sizes import ENCODER_SIZES
from diffmae_video.engine import PretrainTask
from diffmae_video.engine.flops import flops_per_clip
from diffmae_video.models import DECODERS

TITLES = {
    "frames": "frames",
    "resolution": "resolution",
    "ratio": "hidden ratio",
    "size": "encoder",
    "decoder": "decoder and frames",
}
X_LABELS = {
    "frames": "frames of a clip",
    "resolution": "height and width, pixels",
    "ratio": "share of the tokens that is seen",
    "size": "parameters with decoder, millions",
    "decoder": "frames of a clip",
}


class Point(NamedTuple):
    """A configuration on a curve.

    Attributes:
        label: what is varied, for the table.
        x: place on the horizontal axis; None = the model's parameters in millions.
        overrides: of the recipe, KEY, VALUE and so on.
        line: the line that it is part of, where a factor has several.
    """

    label: str
    x: float | None
    overrides: list[str]
    line: str = ""


class Curve(NamedTuple):
    """One factor's points, and the number of the one that the others are compared with."""

    factor: str
    points: list[Point]
    base: int


class Counted(NamedTuple):
    """Of one configuration.

    Attributes:
        flops: operations of forward and backward pass per clip.
        parameters: of the model.
        visible, hidden: tokens of a clip.
        memory: bytes that weights, gradients and the step of a batch take at most; 0 = not counted.
    """

    flops: float
    parameters: int
    visible: int
    hidden: int
    memory: int


def base_overrides(options: argparse.Namespace) -> list[str]:
    """The encoder's ``--size``, then what the user says."""
    return ["MODEL.ENCODER.SIZE", options.size, *options.overrides]


def load_recipe(options: argparse.Namespace, overrides: Sequence[str] = ()) -> CfgNode:
    """The configuration of the base point, changed by ``overrides``.

    Raises:
        ConfigError: what ``load_config`` refuses.
        ValueError: no recipe of pre-training with a decoder.
    """
    cfg = load_config([options.cfg], [*base_overrides(options), *overrides])
    if cfg.TASK != "pretrain" or cfg.MODEL.NAME == "LatentDAE":
        raise ValueError(f"{options.cfg} trains no masked autoencoder: choose a pre-training recipe of DiffMAE or MAE")
    return cfg


def curves(cfg: CfgNode, options: argparse.Namespace) -> list[Curve]:
    """The ``--curves`` around the base point, whose value is added where the options lack it.

    Args:
        cfg: of the base point.
        options: of ``benchmark.py scaling``.
    """
    frames, crop, ratio = cfg.DATA.NUM_FRAMES, cfg.DATA.CROP_SIZE, cfg.MASK.RATIO
    made = {
        "frames": lambda: _numbers("frames", "DATA.NUM_FRAMES", options.frames, frames),
        "resolution": lambda: _numbers("resolution", "DATA.CROP_SIZE", options.resolutions, crop),
        "ratio": lambda: _ratios(options.ratios, ratio),
        "size": lambda: _sizes(cfg, options.sizes, options.size),
        "decoder": lambda: _decoders(cfg, options.frames, options.decoder_crop),
    }
    return [made[factor]() for factor in options.curves]


def _numbers(factor: str, key: str, values: Iterable[int], base: int) -> Curve:
    values = sorted({*values, base})
    return Curve(factor, [Point(str(value), value, [key, str(value)]) for value in values], values.index(base))


def _ratios(values: Iterable[float], base: float) -> Curve:
    values = sorted({*values, base})
    points = [Point(f"{value:g}", round(1 - value, 6), ["MASK.RATIO", str(value)]) for value in values]
    return Curve("ratio", points, values.index(base))


def encoder_overrides(size: str) -> list[str]:
    """A whole encoder by its name, even where the recipe has dimensions of its own."""
    own = "".join(f" MODEL.ENCODER.{key} 0" for key in ("WIDTH", "DEPTH", "HEADS")).split()
    return ["MODEL.ENCODER.SIZE", size, *own]


def _sizes(cfg: CfgNode, names: Iterable[str], base: str) -> Curve:
    """Encoders by name; the base point is as it is."""
    names = sorted({*names, base}, key=list(ENCODER_SIZES).index)
    points = [Point(name, None, encoder_overrides(name)) for name in names if name != base]
    label = base if resolve_encoder(cfg) == ENCODER_SIZES[base] else "the recipe's own"
    points.insert(names.index(base), Point(label, None, []))
    return Curve("size", points, names.index(base))


def _decoders(cfg: CfgNode, frames: Iterable[int], crop: int) -> Curve:
    values, base = sorted({*frames, cfg.DATA.NUM_FRAMES}), (cfg.MODEL.DECODER.TYPE, cfg.DATA.NUM_FRAMES)
    pairs = [(decoder, value) for decoder in DECODERS for value in values]
    points = [
        Point(
            f"{decoder}, {value} frames",
            value,
            ["DATA.CROP_SIZE", str(crop), "DATA.NUM_FRAMES", str(value), "MODEL.DECODER.TYPE", decoder],
            decoder,
        )
        for decoder, value in pairs
    ]
    return Curve("decoder", points, pairs.index(base))


def count(cfg: CfgNode, batch: int = 0) -> Counted:
    """Counts a model and its step on tensors without values: seconds, whatever its size.

    ``batch``: clips of the step whose memory is counted; 0 = it is not.

    Raises:
        ValueError: the step cannot be counted; the log says why.
    """
    with FakeTensorMode():
        with Answers(truth=False):  # initialisation draws until no value is out of range
            model = build_model(cfg).train()
        hidden, task = hidden_tokens(model), PretrainTask(cfg.DIFFUSION.STEPS)
        with Answers(truth=True, number=hidden):  # all clips of a batch hide as many tokens
            flops = flops_per_clip(model, task, model.clip_shape, cfg.TRAIN.PRECISION)
            peak = step_memory(model, task, batch, cfg.TRAIN.PRECISION, with_gradients=True).peak if batch else 0
        weights = sum(value.numel() * value.element_size() for value in (*model.parameters(), *model.buffers()))
        parameters = sum(p.numel() for p in model.parameters())
    if flops is None:
        raise ValueError("the operations of a step could not be counted, see above")
    tokens = torch.Size(model.grid).numel()
    return Counted(flops, parameters, tokens - hidden, hidden, weights + peak if batch else 0)
