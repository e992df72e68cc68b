"""Curves of one or several training runs, and a table of where they stand; docs/monitoring.md says how to read both.

    python tools/plot_run.py runs/demo --output runs/demo/curves.png
    python tools/plot_run.py runs/mae runs/diffmae --metric loss psnr_hidden --x hours --smooth 0.9 --output plot.png
    python tools/plot_run.py runs/sweep          # every run below that folder; the table alone

A run may be going on. --metric takes fields of log.jsonl and values of evaluations.jsonl; a panel for each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from run_logs import X_FIELDS, LogError, RunLog, best_evaluation, find_runs, smoothed

from diffmae_video.benchmarking import format_table
from diffmae_video.data.writing import write_image
from diffmae_video.visualize import Panel, line_plot

X_LABELS = {"step": "optimiser steps", "clips": "clips", "epoch": "epochs", "hours": "hours of training"}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="OUTPUT_DIR of a run, or a folder of runs")
    parser.add_argument("--metric", nargs="+", default=["loss"], help="what to draw, a panel each (default: loss)")
    parser.add_argument("--x", choices=tuple(X_FIELDS), default="step", help="the horizontal axis (default: step)")
    parser.add_argument(
        "--smooth",
        type=float,
        default=0.0,
        metavar="W",
        help="weight of the past in a moving average, < 1; 0 = off",
    )
    parser.add_argument("--log", action="store_true", help="logarithmic vertical axes")
    parser.add_argument("--output", type=Path, help="picture to write, such as plot.png; without it, the table alone")
    parsed = parser.parse_args(arguments)
    if not 0 <= parsed.smooth < 1:
        parser.error(f"--smooth {parsed.smooth}: expected a weight in [0, 1)")
    return parsed


def panel_of(runs: Sequence[RunLog], metric: str, x: str, weight: float, log_y: bool) -> Panel:
    """One metric of all runs that have it.

    Raises:
        LogError: none has it; the message lists what they have.
    """
    series = {run.name: points for run in runs if len((points := run.series(metric, x))[0])}
    if not series:
        known = dict.fromkeys(name for run in runs for name in run.metrics())
        raise LogError(f"--metric {metric}: no run has it. They have {', '.join(known)}")
    if not weight:
        return Panel(series, title=metric, x_label=X_LABELS[x], log_y=log_y)
    lines = {name: (xs, smoothed(ys, weight)) for name, (xs, ys) in series.items()}
    return Panel(lines, faint=series, title=metric, x_label=X_LABELS[x], log_y=log_y)


def summary(runs: Sequence[RunLog]) -> str:
    """A table with a row per run; speeds are medians over the lines, data wait the mean over time."""
    header = ("run", "steps", "epochs", "hours", "loss", "best evaluation", "clips/s", "data wait", "MFU", "unreadable")
    rows = []
    for run in runs:
        last, best = run.lines[-1], best_evaluation(run)
        rows.append(
            (
                run.name,
                last["step"],
                _shown(last.get("epoch"), ".2f"),
                _shown(last.get("wall_seconds", float("nan")) / 3600, ".2f"),
                _shown(last.get("loss"), ".4g"),
                "-" if best is None else f"{best[0]} {best[1]:.4g} at step {best[2]}",
                _shown(_median(run, "clips_per_second"), ".1f"),
                _shown(_data_wait(run), ".0%"),
                _shown(_median(run, "mfu"), ".1%"),
                _shown(last.get("unreadable"), "d"),
            )
        )
    return format_table(header, rows)


def _median(run: RunLog, field: str) -> float | None:
    values = [line[field] for line in run.lines if field in line]
    return statistics.median(values) if values else None


def _data_wait(run: RunLog) -> float | None:
    """Of the process that waits longest."""
    lines = [line for line in run.lines if "data_wait_share" in line]
    waits = [line.get("rank_data_wait_max", line["data_wait_share"]) for line in lines]
    steps = np.diff([0, *(line["step"] for line in lines)])
    seconds = [count * line.get("step_seconds", 1.0) for count, line in zip(steps, lines, strict=True)]
    return float(np.average(waits, weights=seconds)) if lines and sum(seconds) else None


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None or value != value else format(value, form)


def main() -> int:
    options = parse_arguments()
    try:
        runs = find_runs(options.runs)
        print(summary(runs))
        if options.output is not None:
            panels = [panel_of(runs, metric, options.x, options.smooth, options.log) for metric in options.metric]
            options.output.parent.mkdir(parents=True, exist_ok=True)
            write_image(options.output, line_plot(panels))
            print(f"wrote {options.output}")
        return 0
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
