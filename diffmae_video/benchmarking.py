"""Fair timing: what is compared takes turns in one run, on one core, and is reported with its spread."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple


class Spread(NamedTuple):
    """Median and quartiles of repeated measurements."""

    median: float
    low: float  # a quarter of the measurements lies below
    high: float  # a quarter lies above

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = sorted(values)
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        digits = 1 if self.median >= 10 else 2
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} - {self.high:.{digits}f})"


def interleave(
    candidates: Mapping[str, Callable[[int], object]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds that every candidate took in every round.

    In a round each candidate runs once, so that whatever else the machine does meets all of them; every round starts
    with another one. Compare the entries of one round with each other: the ratio of two medians is noisier.

    Args:
        candidates: name -> function of the round's number (from 0; warm-up rounds have negative numbers).
        rounds: how often each runs and is timed, >= 1.
        warmup: rounds before that, not timed.

    Raises:
        ValueError: no rounds or no candidates.
    """
    if rounds < 1 or not candidates:
        raise ValueError("a benchmark needs at least one round and one candidate")
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warmup, rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            started = time.perf_counter()
            candidates[name](number)
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def pin_to_one_core() -> int | None:
    """One core and one thread for this process and the processes it starts; the core's number, None where unknown."""
    import torch  # here, because tables and reports need no torch

    torch.set_num_threads(1)
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))  # interrupts mostly go to the first one
    os.sched_setaffinity(0, {core})
    return core


def describe_machine(packages: Sequence[str]) -> dict[str, object]:
    """Processor, cores, operating system and the versions of Python and ``packages`` (None = not installed)."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    machine = {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()}
    return {"machine": machine, "versions": versions, "command": " ".join(["python", *sys.argv])}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def format_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with aligned columns: the first to the left, the others to the right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in (cells[0], rule, *cells[1:])
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_report(path: str | os.PathLike[str], report: Mapping[str, object]) -> None:
    """A JSON file; ``Spread`` values become objects with ``median``, ``low`` and ``high``."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(_plain(report), indent=2) + "\n")


def _plain(value: object) -> object:
    if isinstance(value, Spread):
        return value._asdict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
