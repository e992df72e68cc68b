"""``benchmark.py memory``: the most memory that forward and backward pass take, against clips and checkpointing.

Measured with the allocator of the device, beside what memory_tracking.py counts on tensors without values: activations,
gradients and the copies of weights that autocast makes. Weights, and what the optimiser keeps, come on top of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from fvcore.common.config import CfgNode
from memory_tracking import CPU, Answers, hidden_tokens, measured_peak, step_memory
from scaling_curves import free_bytes, make_run
from scaling_points import count, load_recipe
from torch._subclasses.fake_tensor import FakeTensorMode

from diffmae_video.benchmarking import describe_machine, format_table, write_report
from diffmae_video.build import build_model
from diffmae_video.build.training import build_wrap_plan
from diffmae_video.engine import PretrainTask, World, select_device
from diffmae_video.engine.wrapping import wrap

MIB = 2**20
HEADER = ("checkpointing", "clips", "counted MiB", "measured MiB", "difference", "MiB per clip", "MiB per further clip")
HEADER += ("of none",)


class Peak(NamedTuple):
    """Bytes at most of a step of ``batch`` clips; ``measured`` None = not enough is free to try."""

    checkpointing: str
    batch: int
    counted: int
    measured: int | None


def run(options: argparse.Namespace) -> int:
    """Measures, prints a table, writes the report; ``options``: see scaling_options.py. Returns the exit code.

    Raises:
        ConfigError, ValueError: before anything is measured.
    """
    configs = {kind: load_recipe(options, ["TRAIN.ACTIVATION_CHECKPOINTING", kind]) for kind in options.checkpointing}
    first = next(iter(configs.values()))
    device, data, gradients = select_device(first.DEVICE), first.DATA, 4 * count(first).parameters
    print(
        f"{options.cfg}, encoder {options.size}, {data.NUM_FRAMES} x {data.CROP_SIZE} x {data.CROP_SIZE}, "
        f"{first.MASK.RATIO:.0%} hidden, {first.TRAIN.PRECISION} on {device}; gradients of "
        f"{gradients / MIB:.1f} MiB are included, weights are not\n"
    )
    batches = sorted(set(options.batch))
    peaks = [peak(cfg, kind, batch, device) for kind, cfg in configs.items() for batch in batches]
    figures = [{**one._asdict(), **derived(one, peaks)} for one in peaks]
    print(format_table(HEADER, [_row(one) for one in figures]))
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    head = {
        "benchmark": "memory",
        **describe_machine(["torch"]),
        "config": settings,
        "device": str(device),
        "gradients": gradients,
    }
    write_report(options.output, {**head, "figures": figures})
    print(f"\n{options.output}")
    return 0


def peak(cfg: CfgNode, checkpointing: str, batch: int, device: torch.device) -> Peak:
    """Counts a step of a recipe with that checkpointing and, where there is room for it, takes it."""
    counted = counted_peak(cfg, batch)
    fits = counted < free_bytes(device)
    return Peak(checkpointing, batch, counted, taken_peak(cfg, batch, device) if fits else None)


def counted_peak(cfg: CfgNode, batch: int) -> int:
    """Bytes that a step takes at most, gradients included, counted on tensors without values."""
    with FakeTensorMode():
        with Answers(truth=False):  # initialisation draws until no value is out of range
            model = wrap(build_model(cfg), build_wrap_plan(cfg), CPU, World()).train()
        task = PretrainTask(cfg.DIFFUSION.STEPS)
        with Answers(truth=True, number=hidden_tokens(model)):  # all clips of a batch hide as many tokens
            return step_memory(model, task, batch, cfg.TRAIN.PRECISION, with_gradients=True).peak


def taken_peak(cfg: CfgNode, batch: int, device: torch.device) -> int:
    """The same as the allocator of the device reports it."""
    if device.type == "cuda":
        step = make_run(cfg, batch, device)
        step(0)  # what is made once, and stays
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step(1)
        return torch.cuda.max_memory_allocated(device) - before
    model = wrap(build_model(cfg), build_wrap_plan(cfg), device, World()).train()
    return measured_peak(model, PretrainTask(cfg.DIFFUSION.STEPS), batch, cfg.TRAIN.PRECISION)


def derived(one: Peak, peaks: Sequence[Peak]) -> dict[str, float | None]:
    """What follows from the measured peaks, None where that is nothing.

    ``per_clip``: bytes / clips; ``per_further_clip``: those that each clip adds to the next smaller batch;
    ``of_none``: share of what the same batch takes without checkpointing.
    """
    known = {(p.checkpointing, p.batch): p.measured for p in peaks if p.measured is not None}
    if one.measured is None:
        return dict.fromkeys(("per_clip", "per_further_clip", "of_none"))
    smaller = max((n for kind, n in known if kind == one.checkpointing and n < one.batch), default=None)
    further = None
    if smaller is not None:
        further = (one.measured - known[one.checkpointing, smaller]) / (one.batch - smaller)
    plain = known.get(("none", one.batch))
    share = None if plain is None else one.measured / plain
    return {"per_clip": one.measured / one.batch, "per_further_clip": further, "of_none": share}


def _row(figure: dict[str, object]) -> list[object]:
    """A row under ``HEADER``."""

    def shown(value: float | None, form: str = ".1f", unit: float = MIB) -> str:
        return "-" if value is None else format(value / unit, form)

    measured, counted = figure["measured"], figure["counted"]
    difference = "not enough is free" if measured is None else f"{counted / measured - 1:+.1%}"
    shares = (shown(figure["per_clip"]), shown(figure["per_further_clip"]), shown(figure["of_none"], ".0%", 1))
    return [figure["checkpointing"], figure["batch"], shown(counted), shown(measured), difference, *shares]
