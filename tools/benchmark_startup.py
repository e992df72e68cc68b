"""``benchmark.py startup``: seconds until a command has answered, a module is imported, a run has made its first step.

Fresh processes take turns with two floors that nothing here can go below: Python itself, and ``import torch``. Files
are in the system's cache and code is compiled to bytecode; a round that is not timed sees to both.

Whose imports a run waits for is told by ``python -X importtime``, in processes whose times are in no other figure.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fvcore.common.config import CfgNode
from startup_run import MARKS

from diffmae_video.benchmarking import Spread, describe_machine, format_table, interleave, write_report
from diffmae_video.config import load_config
from diffmae_video.data import write_video

ROOT = Path(__file__).resolve().parents[1]
TORCH_ALONE = "import torch"
MODULES = ("diffmae_video", "diffmae_video.config", "diffmae_video.data", "diffmae_video.models", "diffmae_video.build")
TOOLS = (
    "tools/run_net.py", "tools/inpaint.py", "tools/extract_features.py", "tools/visualize.py", "tools/plot_run.py",
    "tools/export.py", "tools/convert_weights.py", "tools/check_dataset.py", "tools/serve_demo.py", "tools/demo.py",
    "tools/benchmark.py", "tools/estimate_memory.py", "tools/dual_masking.py", "tools/evidence.py",
    "tools/inpainting_study.py", "tools/ldae_study.py", "tools/objectives_study.py", "slurm/submit.py",
)  # fmt: skip
FIRST_STEP, TRACED = "run_net.py, a run of one step", "run_net.py, imports traced"
# What a run does before each of MARKS
PHASES = ("Python starts", "imports", "configuration, data, model", "log, loader starts", "first clips", "first step")
RENDERED, MARGIN, FPS = 8, 8, 12  # files, pixels and frames beyond what a clip needs, frames per second
PACKAGES = 10  # that are listed
IMPORT = re.compile(r"^import time:\s*(\d+) \|\s*\d+ \|\s*(\S+)$", re.MULTILINE)  # microseconds of its own; module


class Command(NamedTuple):
    """Words after ``python``, and the exit code that they are to give."""

    words: Sequence[str]
    code: int = 0

    def run(self) -> str:
        """What it printed to standard error; raises RuntimeError for another exit code."""
        done = subprocess.run([sys.executable, *self.words], cwd=ROOT, capture_output=True, text=True)
        if done.returncode != self.code:
            command = " ".join(["python", *self.words])
            raise RuntimeError(f"{command} gave exit code {done.returncode}, expected {self.code}:\n{done.stderr}")
        return done.stderr


def short_commands(config: Path) -> dict[str, Command]:
    """What answers without training: title -> command."""
    commands = {"python": Command(["-c", "pass"]), TORCH_ALONE: Command(["-c", "import torch"])}
    commands |= {f"import {module}": Command(["-c", f"import {module}"]) for module in MODULES}
    commands |= {f"{Path(tool).name} --help": Command([tool, "--help"]) for tool in TOOLS}
    of_the_run = ["--cfg", str(config.resolve())]
    commands["run_net.py, a wrong key"] = Command(["tools/run_net.py", *of_the_run, "SOLVER.BACH_SIZE", "3"], code=2)
    commands["run_net.py --print-config"] = Command(["tools/run_net.py", *of_the_run, "--print-config"])
    commands["submit.py --dry-run"] = Command(["slurm/submit.py", *of_the_run, "--dry-run"])
    return commands


def render(folder: Path, cfg: CfgNode) -> Path:
    """A folder of videos, of noise that moves, from which clips of the configuration can be cut."""
    side = cfg.DATA.CROP_SIZE + MARGIN
    frames = (max(cfg.DATA.NUM_FRAMES, *cfg.DATA.MIX.NUM_FRAMES) - 1) * cfg.DATA.SAMPLING_RATE + 1 + MARGIN
    for number in range(RENDERED):
        tile = np.random.default_rng(number).integers(0, 256, (side // 8 + 1, side // 8 + 1, 3), dtype=np.uint8)
        picture = np.kron(tile, np.ones((8, 8, 1), np.uint8))[:side, :side]
        write_video(folder / f"{number}.mp4", np.stack([np.roll(picture, t, axis=1) for t in range(frames)]), FPS)
    lists = "".join(f"{number}.mp4 {number % 2}\n" for number in range(RENDERED))
    for split in ("train", "val"):
        (folder / f"{split}.csv").write_text(lists)
    return folder


class FirstStep:
    """A run of one step as a candidate of ``interleave``; ``marks`` has what every timed run noted.

    Args:
        arguments: of run_net.py, the files and keys, with an output folder for the round's ``{}``.
        folder: for what the runs write.
    """

    def __init__(self, arguments: Sequence[str], folder: Path):
        self.arguments, self.folder, self.marks = arguments, folder, []

    def __call__(self, number: int) -> None:
        file = self.folder / f"marks_{number}.json"
        words = ["tools/startup_run.py", repr(time.monotonic()), str(file), *self.arguments]
        Command([*words, "OUTPUT_DIR", str(self.folder / f"run_{number}")]).run()
        if number >= 0:
            self.marks.append(json.loads(file.read_text()))

    def phases(self) -> dict[str, Spread]:
        """Seconds that each of ``PHASES`` took, and all of them together."""
        ends = [[0.0, *(marks[mark] for mark in MARKS)] for marks in self.marks]
        phases = {name: Spread.of(run[i + 1] - run[i] for run in ends) for i, name in enumerate(PHASES)}
        return {**phases, "all, to the end of the first step": Spread.of(run[-1] for run in ends)}


class TracedImports:
    """The same run under ``-X importtime``; ``shares`` has each package's percentage of all imports, run by run."""

    def __init__(self, arguments: Sequence[str], folder: Path):
        self.arguments, self.folder, self.runs = arguments, folder, []

    def __call__(self, number: int) -> None:
        words = ["-X", "importtime", "tools/run_net.py", *self.arguments]
        printed = Command([*words, "OUTPUT_DIR", str(self.folder / f"traced_{number}")]).run()
        if number >= 0:
            self.runs.append(imports_by_package(printed))

    def shares(self) -> dict[str, Spread]:
        """Package -> percentage of the time of all imports, the largest first."""
        totals = [sum(run.values()) for run in self.runs]
        names = set().union(*self.runs)
        shares = {
            name: Spread.of(100 * run[name] / total for run, total in zip(self.runs, totals, strict=True))
            for name in names
        }
        return dict(sorted(shares.items(), key=lambda item: (-item[1].median, item[0])))


def imports_by_package(printed: str) -> Counter[str]:
    """Top-level package -> microseconds that its own modules took, of what ``-X importtime`` has printed."""
    found: Counter[str] = Counter()
    for microseconds, module in IMPORT.findall(printed):
        found[module.partition(".")[0]] += int(microseconds)
    return found


def run(config: Path, overrides: Sequence[str], rounds: int, output: Path) -> int:
    """Measures, prints three tables and writes the report; returns the exit code."""
    cfg = load_config([config], overrides)
    if cfg.TASK != "pretrain" or cfg.NUM_GPUS > 1:
        raise ValueError(f"{config}: expected a recipe of pre-training in one process: TASK 'pretrain', NUM_GPUS 1")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        keys = ["DATA.PATH_TO_DATA_DIR", str(render(folder / "videos", cfg)), *overrides]
        arguments = ["--cfg", str(config.resolve()), *keys, "SOLVER.MAX_STEPS", "1", "TRAIN.VISUALIZE_PERIOD", "0"]
        first, traced = FirstStep(arguments, folder), TracedImports(arguments, folder)
        candidates: dict[str, Callable[[int], object]] = {
            title: partial(_answer, command) for title, command in short_commands(config).items()
        }
        seconds = interleave({**candidates, FIRST_STEP: first, TRACED: traced}, rounds)
    seconds.pop(TRACED)
    figures = {title: _against_torch(own, seconds[TORCH_ALONE]) for title, own in seconds.items()}
    phases, shares = first.phases(), traced.shares()
    print(f"{config}, {rounds} rounds\n")
    print(format_table(["process", "seconds", f"times `{TORCH_ALONE}`"], _rows(figures)))
    print("\n" + format_table(["of a run", "seconds"], phases.items()))
    print("\n" + format_table(["package", "share of all imports, %"], list(shares.items())[:PACKAGES]))
    settings = {"file": str(config), "overrides": list(overrides), "rounds": rounds, "device": cfg.DEVICE}
    write_report(
        output,
        {
            "benchmark": "startup",
            **describe_machine(["torch", "numpy", "fvcore", "tensorboard"]),
            "config": settings,
            "figures": figures,
            "first_step": phases,
            "import_shares": shares,
        },
    )
    print(f"\n{output}")
    return 0


def _answer(command: Command, _: int) -> None:
    command.run()


def _against_torch(seconds: Sequence[float], torch: Sequence[float]) -> dict[str, Spread]:
    ratio = Spread.of(own / floor for own, floor in zip(seconds, torch, strict=True))
    return {"seconds": Spread.of(seconds), "times_torch": ratio}


def _rows(figures: dict[str, dict[str, Spread]]) -> list[list[object]]:
    return [[title, figure["seconds"], figure["times_torch"]] for title, figure in figures.items()]
