"""``benchmark.py scaling``: what a pre-training step costs as clips, masks and models grow, and with more processes.

* curves: forward and backward pass against frames, resolution, hidden ratio, encoder and decoder, one factor at a time
  around a base point, beside the operations that are counted for it; where the two part, the machine does not keep up;
* processes: optimiser steps of 1, 2, 4 processes on one thread each, with the same clips in every process;
* paper model: 8 to 512 GPUs, by scaling_paper.py. Computed, not measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import scaling_curves
import scaling_parallel
import torch
from fvcore.common.config import CfgNode
from scaling_paper import Paper
from scaling_points import TITLES, Curve, curves, load_recipe

from diffmae_video.benchmarking import describe_machine, format_table, write_report
from diffmae_video.engine import select_device


def run(options: argparse.Namespace) -> int:
    """Measures, prints tables, writes picture and report; ``options``: see scaling_options.py. Returns the exit code.

    Raises:
        ConfigError, ValueError: before anything is measured.
    """
    cfg, report = load_recipe(options), {}
    paper = Paper.of(cfg, options)
    if not options.paper_only:
        report |= _measured(cfg, options)
    for paragraph in paper.lines():
        print(paragraph)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    head = {"benchmark": "scaling", **describe_machine(["torch", "numpy"]), "config": settings}
    write_report(options.output, {**head, **report, "paper": paper.figures()})
    print(f"\n{options.output}")
    return 0


def _measured(cfg: CfgNode, options: argparse.Namespace) -> dict[str, Any]:
    """Prints the measured parts; theirs of the report."""
    device, report = select_device(cfg.DEVICE), {}
    made = curves(cfg, options)
    for point in (point for curve in made for point in curve.points):
        load_recipe(options, point.overrides)  # a value that cannot be is told before minutes are spent
    if made:
        scaling_curves.check_plot()
        report = _curves(cfg, options, made, device)
    if options.processes:
        report["processes"] = _processes(options, device)
    return report


def _curves(cfg: CfgNode, options: argparse.Namespace, made: list[Curve], device: torch.device) -> dict[str, Any]:
    data = cfg.DATA
    title = (
        f"{options.cfg}, encoder {options.size}, {data.NUM_FRAMES} x {data.CROP_SIZE} x {data.CROP_SIZE}, "
        f"{cfg.MASK.RATIO:.0%} hidden, batch {options.batch}, {cfg.TRAIN.PRECISION} on {device}, "
        f"{torch.get_num_threads()} threads, {options.rounds} rounds"
    )
    print(f"{title}\nmeasured and counted: times the base point, which stands at 1")
    report, measured = {"device": str(device), "threads": torch.get_num_threads(), "curves": {}}, []
    for curve in made:
        results = scaling_curves.measure(curve, options, device)
        measured.append((curve, results))
        rows = scaling_curves.rows(results, curve.base, options.batch)
        print(f"\n{format_table([TITLES[curve.factor], *scaling_curves.HEADER], rows)}", flush=True)
        report["curves"][curve.factor] = scaling_curves.figures(results, curve.base)
    scaling_curves.draw(options.plot, measured, title)
    print(f"\n{options.plot}")
    return report


def _processes(options: argparse.Namespace, device: torch.device) -> list[dict[str, object]]:
    seconds = scaling_parallel.measure_processes(options, device)
    on_cpu = device.type == "cpu"
    where = f"{scaling_parallel.cores()} cores, one thread per process, gloo" if on_cpu else f"{device.type}, NCCL"
    print(f"\noptimiser steps, clips in each of several processes: {options.batch}; DDP, {where}\n")
    print(format_table(scaling_parallel.HEADER, scaling_parallel.rows(seconds, options.batch, on_cpu)))
    return scaling_parallel.figures(seconds, options.batch)
