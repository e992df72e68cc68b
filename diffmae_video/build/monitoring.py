"""From a config to what watches a training run."""

from __future__ import annotations

import copy

import yaml
from fvcore.common.config import CfgNode
from torch import nn

from diffmae_video.build.latent import tokenizer_of
from diffmae_video.config import dump
from diffmae_video.engine import Monitor
from diffmae_video.engine.flops import Compute, flops_per_clip, measured_peak
from diffmae_video.engine.sinks import WeightsAndBiases
from diffmae_video.engine.tasks import Task


def build_monitor(
    cfg: CfgNode, model: nn.Module, task: Task, total_clips: int, videos: int, rank: int = 0, world_size: int = 1
) -> tuple[Monitor, list[str]]:
    """The monitor of a run, and lines for the log of its start.

    Args:
        cfg: of the run.
        model: on its device and not wrapped yet: its operations are counted.
        task: what it is trained on.
        total_clips: length of the run.
        videos: in the training set.
        rank, world_size: of this process; the first one alone counts and sends.

    Raises:
        RunError: a package that ``TRAIN.TENSORBOARD`` or ``TRAIN.WANDB`` needs is missing.
    """
    train, sinks, compute, lines = cfg.TRAIN, [], None, []
    if rank == 0:
        compute, lines = count_compute(cfg, model, task, world_size)
        if train.WANDB:
            sinks = [WeightsAndBiases(cfg.OUTPUT_DIR, train.WANDB, train.WANDB_PROJECT, yaml.safe_load(dump(cfg)))]
    monitor = Monitor(
        cfg.OUTPUT_DIR,
        total_clips=total_clips,
        clips_per_epoch=videos,
        log_period=train.LOG_PERIOD,
        tensorboard=train.TENSORBOARD,
        sinks=sinks,
        compute=compute,
    )
    return monitor, lines


def count_compute(cfg: CfgNode, model: nn.Module, task: Task, world_size: int) -> tuple[Compute | None, list[str]]:
    """What the utilisation is computed from, where all steps of a run need the same; arguments as above."""
    if cfg.MASK.MIX.STRATEGIES != [""] or len(set(cfg.DATA.MIX.NUM_FRAMES)) > 1:
        return None, ["compute: steps of a mix need different numbers of operations, so there is no MFU"]
    frames = cfg.DATA.MIX.NUM_FRAMES[0] or cfg.DATA.NUM_FRAMES
    channels, _, *size = model.clip_shape
    flops = flops_per_clip(_countable(model), task, (channels, frames, *size), cfg.TRAIN.PRECISION)
    if flops is None:
        return None, []
    device, given = next(model.parameters()).device, cfg.TRAIN.PEAK_TFLOPS
    peak = given * 1e12 if given else measured_peak(device, cfg.TRAIN.PRECISION)
    source = "TRAIN.PEAK_TFLOPS" if given else f"measured, matrix products in {cfg.TRAIN.PRECISION}"
    line = f"compute: {flops / 1e9:.4g} GFLOP per clip; peak {peak / 1e12:.4g} TFLOP/s per process ({source})"
    return Compute(flops, peak * world_size), [line]


def _countable(model: nn.Module) -> nn.Module:
    """The model, or a copy of one whose tokenizer is not fitted yet, since a run that goes on loads it later.

    What the tokenizer then computes has no meaning, but the right size.
    """
    tokenizer = tokenizer_of(model)
    if tokenizer is None or tokenizer.is_fitted():
        return model
    model = copy.deepcopy(model)
    tokenizer_of(model).fitted.fill_(True)
    return model
