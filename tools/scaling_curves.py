"""Times the points of a curve, round by round, and puts them beside what was counted: table, report, picture."""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from benchmark_sampler import now
from fvcore.common.config import CfgNode
from scaling_points import TITLES, X_LABELS, Counted, Curve, Point, count, load_recipe

from diffmae_video.benchmarking import Spread, interleave
from diffmae_video.build import build_model
from diffmae_video.build.training import build_wrap_plan
from diffmae_video.data import ClipBatch
from diffmae_video.data.writing import write_image
from diffmae_video.engine import PretrainTask
from diffmae_video.engine.randomness import clip_generators, shared_generator
from diffmae_video.engine.world import World
from diffmae_video.engine.wrapping import autocast, wrap
from diffmae_video.visualize import Panel, line_plot

GIB = 2**30
SPARE_MEMORY = 0.1  # share of what is free that no step is planned to take
FIRST_PASS = 2  # a pass of a model that has just been made may take so many times the limit
CAP, MARGIN = 1.03, 1.3  # of the picture: half the width of a bar's ends, and above and below the lines; factors

Run = Callable[[int], None]


class Result(NamedTuple):
    """A point and its ``seconds`` in every round; there are none where ``skipped`` says why."""

    point: Point
    counted: Counted
    seconds: list[float]
    skipped: str = ""


def make_batch(shape: Sequence[int], batch: int, device: torch.device, first: int = 0) -> ClipBatch:
    """Random clips of (C, T, H, W), numbered from ``first``."""
    pixels = torch.randint(256, (batch, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    ids = torch.arange(first, first + batch)
    return ClipBatch(pixels.to(device), torch.full_like(ids, -1, device=device), ids, ["clip.mp4"] * batch, [])


def make_run(cfg: CfgNode, batch: int, device: torch.device) -> Run:
    """A candidate: forward and backward pass of a batch, wrapped as the recipe says."""
    model = build_model(cfg).to(device).train()
    wrapped = wrap(model, build_wrap_plan(cfg), device, World())
    task, sample = PretrainTask(cfg.DIFFUSION.STEPS), make_batch(model.clip_shape, batch, device)

    def go(_: int) -> None:
        with autocast(cfg.TRAIN.PRECISION, device):
            generators = clip_generators(0, range(batch), device)
            loss, _metrics = task.loss(wrapped, sample, generators, shared_generator(0, 0, 0))
        loss.backward()
        model.zero_grad(set_to_none=True)
        now(device)

    return go


def measure(curve: Curve, options: argparse.Namespace, device: torch.device) -> list[Result]:
    """Every point of a curve that fits, in ``--rounds`` interleaved rounds after one pass each that is not timed.

    A point is skipped that does not fit into memory, or whose operations at the base point's speed take longer than
    ``--limit``, or whose first pass takes twice that; the base point never is.
    """
    configs = [load_recipe(options, point.overrides) for point in curve.points]
    counted = [count(cfg, options.batch) for cfg in configs]
    speed, runs, skipped = 0.0, {}, {}
    order = sorted(range(len(configs)), key=lambda number: (number != curve.base, counted[number].flops))
    for number in order:
        if number == curve.base:
            runs[number] = make_run(configs[number], options.batch, device)
            runs[number](0)  # what is done once is no part of the speed
            speed = counted[number].flops / _seconds(runs[number])
            continue
        why = too_much(counted[number], speed, options.limit, free_bytes(device))
        why = why or _first_pass(runs, number, configs[number], options, device)
        if why:
            skipped[number] = why
    seconds = interleave(runs, options.rounds, warmup=0)
    return [
        Result(point, counted[number], seconds.get(number, []), skipped.get(number, ""))
        for number, point in enumerate(curve.points)
    ]


def too_much(counted: Counted, speed: float, limit: float, free: float) -> str:
    """Why a point is not even tried, or "".

    Args:
        counted: of the point.
        speed: of the base point, FLOPs of a clip / seconds of a batch.
        limit: seconds that a batch may take.
        free: bytes.
    """
    expected = counted.flops / speed
    if expected > limit:
        return f"{_shown(expected)} s expected, above --limit"
    if counted.memory > free * (1 - SPARE_MEMORY):
        return f"needs {counted.memory / GIB:.1f} GiB, {free / GIB:.1f} are free"
    return ""


def _shown(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"


def _first_pass(
    runs: dict[int, Run], number: int, cfg: CfgNode, options: argparse.Namespace, device: torch.device
) -> str:
    """Adds a candidate to ``runs`` and runs it once; why it was not added, or ""."""
    try:
        run = make_run(cfg, options.batch, device)
        seconds = _seconds(run)
    except RuntimeError as error:  # of the CPU's allocator; torch's OutOfMemoryError is one, too
        if "memory" not in str(error):
            raise
        return "out of memory"
    if seconds > FIRST_PASS * options.limit:
        return f"{_shown(seconds)} s taken at first, above --limit"
    runs[number] = run
    return ""


def _seconds(run: Run) -> float:
    started = time.perf_counter()
    run(0)
    return time.perf_counter() - started


def free_bytes(device: torch.device) -> float:
    """Memory of the device that nothing uses; infinite where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]  # in KiB
    return found[0] * 1024 if found else math.inf


def ratios(results: Sequence[Result], base: int) -> list[tuple[Spread | None, float]]:
    """(measured, counted) of every point relative to the base point; measured within rounds, None where skipped."""
    first = results[base]
    pairs = []
    for result in results:
        times = zip(result.seconds, first.seconds, strict=True) if result.seconds else []
        measured = [own / reference for own, reference in times]
        pairs.append((Spread.of(measured) if measured else None, result.counted.flops / first.counted.flops))
    return pairs


HEADER = ("visible + hidden", "GFLOP per clip", "seconds", "GFLOP/s", "measured", "counted", "measured / counted")


def rows(results: Sequence[Result], base: int, batch: int) -> list[list[object]]:
    """A row per point, under its factor's name and ``HEADER``; the last three are relative to the base point."""
    lines = []
    for result, (measured, expected) in zip(results, ratios(results, base), strict=True):
        counted = result.counted
        start = [result.point.label, f"{counted.visible} + {counted.hidden}", f"{counted.flops / 1e9:.4g}"]
        if measured is None:
            lines.append([*start, result.skipped, "-", "-", f"{expected:.2f}", "-"])
            continue
        speed = Spread.of(counted.flops * batch / second / 1e9 for second in result.seconds)
        share = Spread(*(value / expected for value in measured))
        lines.append([*start, Spread.of(result.seconds), f"{speed.median:.0f}", measured, f"{expected:.2f}", share])
    return lines


def figures(results: Sequence[Result], base: int) -> list[dict[str, object]]:
    """The same for the report."""
    return [
        {
            "label": result.point.label,
            **result.counted._asdict(),
            "seconds": Spread.of(result.seconds) if result.seconds else None,
            "measured": measured,
            "counted": expected,
            "skipped": result.skipped,
        }
        for result, (measured, expected) in zip(results, ratios(results, base), strict=True)
    ]


def panel(curve: Curve, results: Sequence[Result]) -> Panel:
    """Measured medians with pale bars from quartile to quartile, and what was counted as a dashed line; log axes."""
    solid, dashed, bars = {}, {}, {}
    lines = defaultdict(list)
    for result, pair in zip(results, ratios(results, curve.base), strict=True):
        x = result.point.x
        if x is None:
            x = float(f"{result.counted.parameters / 1e6:.3g}")  # stands at the axis
        lines[result.point.line].append((x, *pair))
    for line, points in lines.items():
        name, timed = line or "measured", [(x, measured) for x, measured, _ in points if measured is not None]
        dashed[name] = ([x for x, _, _ in points], [expected for _, _, expected in points])
        if timed:
            solid[name] = ([x for x, _ in timed], [measured.median for _, measured in timed])
            strokes = [stroke for x, measured in timed for stroke in _bar(x, measured)]
            bars[name] = ([x for x, _ in strokes], [y for _, y in strokes])
    texts = {"title": TITLES[curve.factor], "x_label": X_LABELS[curve.factor], "y_label": "times the base point"}
    return Panel(solid, dashed, **texts, log_x=True, log_y=True, keys=("measured", "counted"), faint=bars)


def _bar(x: float, measured: Spread) -> list[tuple[float, float]]:
    """A line from quartile to quartile with a short one across at both ends, after which the pen is lifted."""
    left, right = x / CAP, x * CAP
    low, high = measured.low, measured.high
    return [(left, low), (right, low), (x, low), (x, high), (left, high), (right, high), (math.nan, math.nan)]


def check_plot() -> None:
    """Raises ValueError where no picture can be drawn, which is better known before the measurements than after."""
    if find_spec("matplotlib") is None:
        raise ValueError("--plot needs the package matplotlib: pip install matplotlib, or give --curves no name")


def draw(path: Path, measured: Sequence[tuple[Curve, list[Result]]], title: str) -> None:
    """A panel for every curve, side by side and on one scale."""
    panels = [panel(curve, results) for curve, results in measured]
    ys = [y for one in panels for lines in (one.series, one.dashed) for _, values in lines.values() for y in values]
    scale = (min(*ys, 0.1) / MARGIN, max(*ys, 10.0) * MARGIN)  # of at most a decade, ticks would be odd numbers
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, line_plot([replace(one, y_range=scale) for one in panels], title))
