"""Data parallelism as far as this machine can show it: the same clips in each of 1, 2, 4 processes, in turns."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from scaling_points import base_overrides

from diffmae_video.benchmarking import Spread
from diffmae_video.engine.launch import STOPPED, launch

WORKER = Path(__file__).with_name("scaling_worker.py")


def measure_processes(options: argparse.Namespace, device: torch.device) -> dict[int, list[float] | str]:
    """Median seconds of a step in every round, by the number of processes; or why these were not run.

    Every round starts all numbers one after the other, so that whatever else the machine does meets all of them.
    """
    places = torch.cuda.device_count() if device.type == "cuda" else None
    seconds: dict[int, list[float] | str] = {}
    for number in sorted({1, *options.processes}):
        seconds[number] = [] if places is None or number <= places else f"{places} GPUs here"
    for _ in range(options.rounds):
        for number, times in seconds.items():
            if isinstance(times, list):
                taken = time_steps(options, number)
                seconds[number] = [*times, taken] if isinstance(taken, float) else taken
    return seconds


def time_steps(options: argparse.Namespace, processes: int) -> float | str:
    """Median seconds of the timed steps of so many processes; or why they failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "seconds.json"
        numbers = ["--batch", str(options.batch), "--steps", str(options.steps), "--report", str(report)]
        recipe = ["--cfg", str(options.cfg), "--", *base_overrides(options)]
        code = launch([sys.executable, str(WORKER), *numbers, *recipe], processes)
        if code in STOPPED:  # they were, because this process was: the signal went on to them
            raise KeyboardInterrupt
        if code:
            return f"failed with exit code {code}, see above"
        return Spread.of(json.loads(report.read_text())["seconds"]).median


HEADER = ("processes", "cores for each", "seconds per step", "clips/s", "efficiency", "at most")


def efficiency(own: Sequence[float], alone: Sequence[float]) -> Spread:
    """Of processes with as many clips each as one alone has: its seconds / theirs, within rounds."""
    return Spread.of(one / several for several, one in zip(own, alone, strict=True))


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rows(seconds: dict[int, list[float] | str], batch: int, on_cpu: bool) -> list[list[object]]:
    """A row per number of processes; *at most* is what cores that are shared leave of an efficiency of 1."""
    lines, alone = [], seconds[1]
    for number, times in seconds.items():
        each = min(cores() / number, 1) if on_cpu else 1.0
        if isinstance(times, str) or isinstance(alone, str):
            lines.append([number, f"{each:g}", times if isinstance(times, str) else "-", "-", "-", f"{each:.2f}"])
            continue
        speed = Spread.of(number * batch / second for second in times)
        lines.append([number, f"{each:g}", Spread.of(times), speed, efficiency(times, alone), f"{each:.2f}"])
    return lines


def figures(seconds: dict[int, list[float] | str], batch: int) -> list[dict[str, object]]:
    """The same for the report."""
    made, alone = [], seconds[1]
    for number, times in seconds.items():
        if isinstance(times, str):
            made.append({"processes": number, "skipped": times})
            continue
        speed = Spread.of(number * batch / second for second in times)
        share = None if isinstance(alone, str) else efficiency(times, alone)
        made.append({"processes": number, "seconds": Spread.of(times), "clips_per_second": speed, "efficiency": share})
    return made
