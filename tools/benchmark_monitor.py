"""``benchmark.py monitor``: what watching a run costs, as a share of its training steps.

Single optimiser steps take turns: without any monitor, with one that writes no line after this step, and with one that
does. A line is all of it: norms of parameters and update, the times that processes compare, log.jsonl and TensorBoard.
Data is ready in memory, so that the loader, which would hide a part, hides nothing.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from diffmae_video.benchmarking import Spread, describe_machine, format_table, interleave, write_report
from diffmae_video.build import build_model
from diffmae_video.config import load_config
from diffmae_video.data import ClipBatch
from diffmae_video.engine import Monitor, PretrainTask, make_optimizer, parameter_groups, select_device
from diffmae_video.engine.flops import Compute
from diffmae_video.engine.interrupts import Interrupts
from diffmae_video.engine.monitor import StepReport
from diffmae_video.engine.rank_times import RankTimes
from diffmae_video.engine.stepping import Stepper

BARE, LINE = "no monitor", "a line after the step"
# log_period of the monitor, 0 = none
PERIODS = {BARE: 0, "no line after the step": 1 << 60, LINE: 1}


def run(config: Path, overrides: Sequence[str], rounds: int, batch: int, output: Path) -> int:
    """Measures, prints a table and writes the report; returns the exit code."""
    cfg = load_config([config], overrides)
    if cfg.TASK != "pretrain":
        raise ValueError(f"{config} has TASK {cfg.TASK!r}: choose a recipe of pre-training")
    device = select_device(cfg.DEVICE)
    model = build_model(cfg).to(device).train()
    optimizer = make_optimizer(cfg.SOLVER.OPTIMIZER, parameter_groups(model, cfg.SOLVER.WEIGHT_DECAY))
    stepper = Stepper(
        model=model,
        task=PretrainTask(cfg.DIFFUSION.STEPS),
        optimizer=optimizer,
        clips_per_step=batch,
        accumulation=1,
        precision=cfg.TRAIN.PRECISION,
        clip_grad_norm=cfg.SOLVER.CLIP_GRAD_NORM,
        device=device,
        seed=cfg.SEED,
        interrupts=Interrupts(),
    )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ends:
        candidates = {name: _steps(stepper, Path(folder) / name, period, ends) for name, period in PERIODS.items()}
        seconds = interleave(candidates, rounds)
    bare = seconds[BARE]
    costs = {
        name: Spread.of(100 * (own / base - 1) for own, base in zip(values, bare, strict=True))
        for name, values in seconds.items()
        if values is not bare
    }
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    print(
        f"{config}, {parameters:.1f} M trained parameters, {batch} clips per step, {cfg.TRAIN.PRECISION} on {device}, "
        f"{torch.get_num_threads()} threads; {rounds} rounds; {1000 * Spread.of(bare).median:.0f} ms per step\n"
    )
    print(format_table(["watched by", "costs, % of a step"], [[name, cost] for name, cost in costs.items()]))
    settings = {"file": str(config), "overrides": list(overrides), "rounds": rounds, "batch": batch}
    figures = {"step_seconds": Spread.of(bare), "cost_percent": costs}
    report = {"benchmark": "monitor", **describe_machine(["torch", "tensorboard"]), "config": settings, **figures}
    write_report(output, report)
    print(f"\n{output}")
    return 0


def _steps(stepper: Stepper, folder: Path, period: int, ends: ExitStack) -> Callable[[int], None]:
    """A candidate: an optimiser step on one batch, and the monitor's part of it; ``ends`` closes its files."""
    channels, *sizes = stepper.model.clip_shape
    batch, ids = stepper.local_clips, torch.arange(stepper.local_clips)
    clips = torch.randint(256, (batch, channels, *sizes), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batches = itertools.repeat(ClipBatch(clips, torch.full_like(ids, -1), ids, ["clip.mp4"] * batch, []))
    times, steps = RankTimes(stepper.device), itertools.count(1)
    compute = Compute(flops_per_clip=1e9, peak=1e12)
    monitor = Monitor(folder, 1 << 62, batch, period or 1, tensorboard=True, terminal=False, compute=compute)
    if period:
        monitor.open(0, 0)
        ends.callback(monitor.close)

    def go(_: int) -> None:
        step = next(steps)
        due = bool(period) and monitor.line_is_due(step, batch * step)
        result = stepper.gradient(batches, step)
        line = stepper.update(measured=due)
        if period:
            times.add(1.0, result.data_seconds, result.own_seconds)
            line = {**line, **(times.gather() if due else {})}
            counts = {"step": step, "clips": batch * step, "unreadable": 0, "step_clips": batch}
            measured = {"loss": result.loss, "grad_norm": result.grad_norm, "lr": 0.0, "metrics": result.metrics}
            monitor.record(StepReport(**counts, **measured, seconds=1.0, data_seconds=0.0, line=line))

    return go
