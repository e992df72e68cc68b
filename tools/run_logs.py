"""The numbers that training runs left behind: ``log.jsonl`` and ``evaluations.jsonl``, for tools that look at runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path
from typing import Any

import numpy as np

Line = dict[str, Any]

X_FIELDS = {"step": ("step", 1), "clips": ("clips", 1), "epoch": ("epoch", 1), "hours": ("wall_seconds", 3600)}
LOWER_IS_BETTER = ("loss", "mse", "mae", "error", "lpips", "frechet", "fvd")  # parts of names of metrics


class LogError(ValueError):
    """There is nothing to show; the message says why."""


@dataclass(frozen=True)
class RunLog:
    """A run's lines, in the order of its steps.

    Attributes:
        name: short, and different from that of the other runs.
        folder: of the run.
        lines: of log.jsonl; not empty.
        evaluations: of evaluations.jsonl.
    """

    name: str
    folder: Path
    lines: list[Line]
    evaluations: list[Line]

    def metrics(self) -> list[str]:
        """Names that :meth:`series` knows: fields of the log, and ``evaluator/value``."""
        fields = {key for line in self.lines for key, value in line.items() if is_number(value)}
        measured = {f"{line.get('evaluator')}/{key}" for line in self.evaluations for key in values_of(line)}
        return sorted(fields) + sorted(measured)

    def series(self, metric: str, x: str) -> tuple[np.ndarray, np.ndarray]:
        """(xs, ys) of a metric over ``X_FIELDS``; empty where the run does not have it.

        An evaluation's value can be named without its evaluator.
        """
        pairs = [(line["step"], line[metric]) for line in self.lines if is_number(line.get(metric))]
        if not pairs:
            pairs = [
                (line["step"], value)
                for line in self.evaluations
                for key, value in values_of(line).items()
                if metric in (key, f"{line.get('evaluator')}/{key}")
            ]
        steps, ys = np.array(pairs, np.float64).reshape(-1, 2).T
        return self._places(steps, x), ys

    def _places(self, steps: np.ndarray, x: str) -> np.ndarray:
        """Where steps lie on an axis: between two lines of the log, evenly."""
        field, unit = X_FIELDS[x]
        known = [(line["step"], line[field]) for line in self.lines if is_number(line.get(field))]
        if not known:
            raise LogError(f"{self.folder / 'log.jsonl'} has no field {field!r}: choose another --x")
        known_steps, places = np.array(known, np.float64).T
        return np.interp(steps, known_steps, places) / unit


def find_runs(paths: Sequence[Path]) -> list[RunLog]:
    """The runs in some folders: the folders themselves, or, where one is no run, all runs below it.

    Raises:
        LogError: a folder in which there is none, or a log without a whole line.
    """
    folders: list[Path] = []
    for path in paths:
        found = [path] if (path / "log.jsonl").is_file() else sorted(f.parent for f in path.rglob("log.jsonl"))
        if not found:
            reason = "has no log.jsonl, nor has a folder below it" if path.is_dir() else "is no folder"
            raise LogError(f"{path} {reason}: expected the OUTPUT_DIR of a run that has written its first line")
        folders += [folder for folder in found if folder not in folders]
    runs = []
    for name, folder in zip(_names(folders), folders, strict=True):
        lines = read_lines(folder / "log.jsonl")
        if not lines:
            raise LogError(f"{folder / 'log.jsonl'} has no whole line yet: wait for TRAIN.LOG_PERIOD steps")
        runs.append(RunLog(name, folder, lines, read_lines(folder / "evaluations.jsonl")))
    return runs


def read_lines(file: Path) -> list[Line]:
    """Whole lines with a step, later ones replacing earlier ones only by order; a half-written one is passed over."""
    if not file.is_file():
        return []
    lines = []
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and is_number(line.get("step")):
            lines.append(line)
    return sorted(lines, key=lambda line: line["step"])


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def values_of(evaluation: Line) -> dict[str, float]:
    """The numbers of a line of evaluations.jsonl."""
    return {key: value for key, value in evaluation.items() if key != "step" and is_number(value)}


def best_evaluation(run: RunLog) -> tuple[str, float, int] | None:
    """(name, value, step) of the best value of the run's first evaluated number; None without evaluations."""
    measured = [line for line in run.evaluations if values_of(line)]
    if not measured:
        return None
    evaluator, key = measured[0].get("evaluator"), next(iter(values_of(measured[0])))
    same = [line for line in measured if line.get("evaluator") == evaluator and is_number(line.get(key))]
    sign = 1 if any(part in key.lower() for part in LOWER_IS_BETTER) else -1
    best = min(same, key=lambda line: sign * line[key])
    return f"{evaluator}/{key}", best[key], best["step"]


def smoothed(values: np.ndarray, weight: float) -> np.ndarray:
    """Exponential moving average, ``weight`` in [0, 1) of what was before; the first values are not drawn to zero."""
    result, average = np.empty(len(values)), 0.0
    for number, value in enumerate(values):
        average = weight * average + (1 - weight) * value
        result[number] = average / (1 - weight ** (number + 1))
    return result


def _names(folders: Sequence[Path]) -> list[str]:
    """Paths from the deepest folder that all have in common; of one run, its folder's name."""
    resolved = [folder.resolve() for folder in folders]
    if len(resolved) == 1:
        return [resolved[0].name]
    shared = commonpath(resolved)
    return [str(folder.relative_to(shared)) for folder in resolved]
