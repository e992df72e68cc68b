"""``benchmark.py loader``: from H.264 files to training clips, this project and others taking turns on one core."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from benchmark_rivals import decode_only, mae_st, videomae
from benchmark_videos import FPS, prepare

from diffmae_video.benchmarking import (
    Spread,
    describe_machine,
    format_table,
    interleave,
    pin_to_one_core,
    write_report,
)
from diffmae_video.build import build_dataset
from diffmae_video.config import load_config
from diffmae_video.data import ClipDataset
from diffmae_video.data.decoders.index import VideoIndex, read_index
from diffmae_video.data.sampling import dense_indices
from diffmae_video.data.seeding import generator_from

FRAMES, RATE, SIZE, REPEATS = 16, 4, 224, 4
# Files read before the clock starts, so that libraries are loaded and caches of the processor are warm.
WARMUP = 2

METHODS = {
    "ours": "this project, one clip per read",
    "ours x4": "this project, repeated sampling 4",
    "VideoMAE": "decord, PIL, float, normalised; one clip per read",
    "MAE-ST": "PyAV, float, normalised; one clip per read",
    "MAE-ST x4": "the same, repeated sampling 4",
    "floor": "decoding alone, the frames of ours",
    "floor x4": "decoding alone, the frames of ours x4",
}


class Goal(NamedTuple):
    """How many times as many clips per second ``fast`` gives as ``slow``: (kind of file, method)."""

    name: str
    fast: tuple[str, str]
    slow: tuple[str, str]
    at_least: float


GOALS = [
    Goal("light: ours / VideoMAE", ("light", "ours"), ("light", "VideoMAE"), 2.0),
    Goal("light: ours x4 / VideoMAE", ("light", "ours x4"), ("light", "VideoMAE"), 4.0),
    Goal("light: ours x4 / MAE-ST x4", ("light", "ours x4"), ("light", "MAE-ST x4"), 1.0),
    Goal("heavy: ours / floor", ("heavy", "ours"), ("heavy", "floor"), 0.9),
    Goal("heavy: ours x4 / floor x4", ("heavy", "ours x4"), ("heavy", "floor x4"), 0.9),
    Goal("ours: reencoded / heavy", ("reencoded", "ours"), ("heavy", "ours"), 3.0),
    Goal("ours x4: reencoded / heavy", ("reencoded", "ours x4"), ("heavy", "ours x4"), 3.0),
]


def clips_per_read(method: str) -> int:
    return REPEATS if method.endswith(" x4") else 1


class Film:
    """One file under many names: as in an epoch, no read profits from what was learnt of the file before."""

    def __init__(self, file: Path, names: int, frames: int, seed: int) -> None:
        self.index: VideoIndex = read_index(str(file))
        if self.index.frames != frames:
            raise SystemExit(
                f"error: {file} has {self.index.frames} frames instead of {frames}; delete it and try again"
            )
        self.links = [file.with_name(f"{file.stem}_{number:04d}{file.suffix}") for number in range(names)]
        for link in self.links:
            if not link.exists():
                link.hardlink_to(file)
        listing = file.with_name("benchmark.csv")
        listing.write_text("".join(f"{link.name}\n" for link in self.links))
        self.datasets = {repeats: _dataset(listing, repeats, seed) for repeats in (1, REPEATS)}
        self.seed = seed

    def path(self, draw: int) -> Path:
        return self.links[draw % len(self.links)]

    def numbers(self, draw: int, repeats: int) -> list[np.ndarray]:
        """The frames that the dataset takes for the clips of a draw, from the same random numbers."""
        generators = [generator_from(self.seed, draw, 0, repeat) for repeat in range(repeats)]
        return [dense_indices(self.index.frames, FRAMES, RATE, generator) for generator in generators]


def _dataset(listing: Path, repeats: int, seed: int) -> ClipDataset:
    """The dataset of a training run with default settings."""
    settings = {
        "DATA.PATH_TO_DATA_DIR": str(listing),
        "DATA.NUM_FRAMES": FRAMES,
        "DATA.SAMPLING_RATE": RATE,
        "DATA.CROP_SIZE": SIZE,
        "DATA.REPEATED_SAMPLING": repeats,
        "SEED": seed,
    }
    return build_dataset(load_config([], [str(item) for pair in settings.items() for item in pair]), "train")


def candidates_of(film: Film) -> dict[str, Callable[[int], object]]:
    """Method -> function of the round."""
    draw_of = partial(_draw, names=len(film.links))

    def ours(number: int, repeats: int) -> None:
        draw = draw_of(number)
        sample = film.datasets[repeats][(draw, draw)]
        if sample.failures or sample.clips.shape != (repeats, 3, FRAMES, SIZE, SIZE):
            raise RuntimeError(f"clips {tuple(sample.clips.shape)}, failures {sample.failures}")

    def floor(number: int, repeats: int) -> None:
        draw = draw_of(number)
        numbers = np.concatenate(film.numbers(draw, repeats))
        keyframe = film.index.keyframes[np.searchsorted(film.index.keyframes, numbers.min(), side="right") - 1]
        times = film.index.timestamps
        decode_only(film.path(draw), int(times[keyframe] - times[0]), int(times[numbers.max()]))

    def rival_videomae(number: int) -> None:
        draw = draw_of(number)
        videomae(film.path(draw), film.numbers(draw, 1)[0].tolist(), SIZE, random.Random(number))

    def rival_mae_st(number: int, repeats: int) -> None:
        draw = draw_of(number)
        generator = torch.Generator().manual_seed(draw)
        mae_st(film.path(draw), [n.tolist() for n in film.numbers(draw, repeats)], SIZE, FPS, generator)

    return {
        "ours": partial(ours, repeats=1),
        "ours x4": partial(ours, repeats=REPEATS),
        "VideoMAE": rival_videomae,
        "MAE-ST": partial(rival_mae_st, repeats=1),
        "MAE-ST x4": partial(rival_mae_st, repeats=REPEATS),
        "floor": partial(floor, repeats=1),
        "floor x4": partial(floor, repeats=REPEATS),
    }


def _draw(number: int, names: int) -> int:
    """Rounds 0, 1, ... and the warm-up rounds -1, -2, ... behind them."""
    return number % names


def compare(seconds: dict[tuple[str, str], list[float]]) -> list[dict[str, object]]:
    """Every goal: the spread of the ratio within a round, and whether its median reaches the goal."""
    ratios = []
    for goal in GOALS:
        share = clips_per_read(goal.fast[1]) / clips_per_read(goal.slow[1])
        pairs = zip(seconds[goal.fast], seconds[goal.slow], strict=True)
        ratio = Spread.of(share * slow / fast for fast, slow in pairs)
        met = ratio.median >= goal.at_least
        ratios.append({"name": goal.name, "goal": goal.at_least, "ratio": ratio, "met": met})
    return ratios


def run(rounds: int, cache: Path, output: Path, frames: int, seed: int) -> int:
    """Measures, prints two tables and writes the report; returns the exit code."""
    core = pin_to_one_core()
    files = prepare(cache, frames)
    films = {kind: Film(file, rounds + WARMUP, frames, seed) for kind, file in files.items()}
    candidates = {
        (kind, method): function for kind, film in films.items() for method, function in candidates_of(film).items()
    }
    seconds = interleave(candidates, rounds, WARMUP)
    figures = {
        kind: {
            method: Spread.of(clips_per_read(method) / second for second in seconds[kind, method]) for method in METHODS
        }
        for kind in films
    }
    ratios = compare(seconds)
    rows = [[method, *(figures[kind][method] for kind in films)] for method in METHODS]
    print(f"clips per second and core, median (quartiles) of {rounds} rounds\n")
    print(format_table(["method", *films], rows))
    print()
    verdicts = [[r["name"], r["goal"], r["ratio"], "yes" if r["met"] else "no"] for r in ratios]
    print(format_table(["ratio within a round", "goal", "median (quartiles)", "met"], verdicts))
    report = {
        "benchmark": "loader",
        **describe_machine(["torch", "numpy", "av", "decord", "pillow"]),
        "config": {
            "frames": FRAMES, "sampling_rate": RATE, "size": SIZE, "repeats": REPEATS, "rounds": rounds,
            "video_frames": frames, "seed": seed, "core": core, "threads": torch.get_num_threads(),
        },
        "methods": METHODS,
        "files": {kind: _describe(file, films[kind].index) for kind, file in files.items()},
        "figures": figures,
        "ratios": ratios,
    }  # fmt: skip
    write_report(output, report)
    print(f"\n{output}")
    return 0


def _describe(file: Path, index: VideoIndex) -> dict[str, object]:
    size = file.stat().st_size
    return {
        "bytes": size,
        "kilobits_per_second": round(size * 8 / index.duration / 1000),
        "frames": index.frames,
        "keyframes": len(index.keyframes),
        "width": index.width,
        "height": index.height,
    }
