"""What the fault scripts share: a tiny run in processes of its own, looked into, disturbed, and compared.

A run is `tools/run_net.py` on eight rendered clips, as a person would start it, or `fault_inside.py` in its place where
the fault has to happen at an exact step. All processes of a run carry a mark in their environment: so those of one rank
are found, and those that are left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from diffmae_video.data.writing import write_video
from diffmae_video.engine import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "run_net.py"
INSIDE = Path(__file__).with_name("fault_inside.py")
MARK = "FAULT_RUN"
STEPS = 24
CONFIG = """
DATA: {NUM_FRAMES: 4, SAMPLING_RATE: 2, CROP_SIZE: 32, REPEATED_SAMPLING: 2, DECODE_TIMEOUT: 0}
DATA_LOADER: {NUM_WORKERS: 0, PIN_MEMORY: False}
MODEL:
  PATCH_SIZE: [2, 8, 8]
  ENCODER: {WIDTH: 24, DEPTH: 2, HEADS: 2, DROP_PATH: 0.2}
  DECODER: {WIDTH: 24, DEPTH: 1, HEADS: 2}
MASK: {RATIO: 0.75}
SOLVER: {BATCH_SIZE: 8, ACCUMULATION_STEPS: 2, BASE_LR: 0.05}
TRAIN: {LOG_PERIOD: 1, CHECKPOINT_PERIOD: 2, TENSORBOARD: False, EMA_DECAY: 0.9, PEAK_TFLOPS: 1.0}
DISTRIBUTED: {TIMEOUT: 60}
DEVICE: cpu
"""
# Fields of log.jsonl that are read off a clock; all others have to be the same numbers.
CLOCKS = ("clips_per_second", "step_seconds", "data_wait_share", "wall_seconds", "tflops", "mfu")


def render(folder: Path, clips: int = 8) -> Path:
    """A folder with so many H.264 clips of 24 frames, 64 x 64, and the list of them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(clips):
        rows, columns = np.indices((64, 64))
        background = np.stack([2 * rows + 20 * number, 2 * columns, 200 - rows - columns], -1).astype(np.uint8)
        frames = np.repeat(background[None], 24, axis=0)
        for moment, frame in enumerate(frames):
            frame[24:38, 2 * moment : 2 * moment + 14] = (250, 240, 30 * number)
        write_video(folder / f"clip_{number}.mp4", frames, fps=12)
        lines.append(f"clip_{number}.mp4 {number % 2}\n")
    (folder / "train.csv").write_text("".join(lines))
    return folder


class Run:
    """A run and its processes.

    Args:
        folder: of the run; made.
        data: what ``render`` made.
        processes: how many; each reads its own part of every step.
        launcher: who starts them: ``"num_gpus"`` or ``"torchrun"``.
        overrides: KEY VALUE pairs.
        faults: for ``fault_inside.py``, see there; by default the tool itself runs.
        environment: variables besides.
        before: a command that the whole command line is given to.
        torchrun: options of torchrun's; by default one machine.
    """

    def __init__(
        self,
        folder: Path,
        data: Path,
        processes: int = 1,
        launcher: str = "num_gpus",
        overrides: Sequence[str] = (),
        faults: str = "",
        environment: Mapping[str, str] = {},  # noqa: B006 - never changed
        before: Sequence[str] = (),
        torchrun: Sequence[str] = ("--standalone",),
    ):
        self.folder, self.mark = folder, uuid.uuid4().hex
        self.alone = processes == 1 and launcher == "num_gpus"
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "tiny.yaml"
        config.write_text(CONFIG)
        tool = str(INSIDE if faults else TOOL)
        keys = ["DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(folder / "run"), "SOLVER.MAX_STEPS", str(STEPS)]
        keys += [*map(str, overrides)]
        if launcher == "torchrun":
            command = [sys.executable, "-m", "torch.distributed.run", *torchrun, f"--nproc-per-node={processes}"]
            command += [tool, "--cfg", str(config), *keys]
        else:
            command = [sys.executable, tool, "--cfg", str(config), *keys, "NUM_GPUS", str(processes)]
        self.command = [*before, *command]
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", MARK: self.mark, "FAULTS": faults} | environment
        self.process: subprocess.Popen | None = None
        self.started = 0.0

    def start(self) -> Run:
        self.started = time.monotonic()
        with (self.folder / "output.txt").open("w") as output:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )
        return self

    def wait(self, seconds: float = 240) -> int:
        """The exit code; a run that has not ended by then is ended with all its processes.

        Raises:
            TimeoutError: that was so.
        """
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise TimeoutError(f"not ended after {seconds:g} s: {self.folder}; {self.output[-2000:]}") from None

    def end(self) -> None:
        """SIGKILL to all processes."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text(errors="replace")

    def lines_with(self, *words: str) -> list[str]:
        """The lines of the output in which all of the words are."""
        return [line for line in self.output.splitlines() if all(word in line for word in words)]

    @property
    def last_step(self) -> int:
        """The last one that this start has told of; 0 = none."""
        return max(map(int, re.findall(r"step (\d+) \| clips", self.output)), default=0)

    @property
    def log(self) -> list[dict]:
        return read_log(self.folder / "run")

    def wait_for_step(self, step: int, seconds: float = 180) -> None:
        """Until the output of this start has the line of that step.

        Raises:
            TimeoutError: it does not come, or the run has ended.
        """
        self.wait_until(lambda: self.last_step >= step, seconds, f"step {step}")

    def wait_until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Until a condition holds; TimeoutError if it does not in that time, or the run ends before."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise TimeoutError(f"no {what} (exit code {self.process.poll()}): {self.output[-3000:]}")
            time.sleep(0.02)

    # ------------------------------------------------------------------------------------------------ its processes

    def pids(self) -> list[int]:
        """All that live."""
        wanted = f"{MARK}={self.mark}".encode()
        return [pid for pid in all_pids() if wanted in environment_of(pid) and is_running(pid)]

    def main_of(self, rank: int) -> int:
        """The process of a rank, not its loader workers and not the launcher."""
        if self.alone:
            return self.process.pid
        found = [pid for pid in self.pids() if f"RANK={rank}".encode() in environment_of(pid)]
        return next(pid for pid in found if parent_of(pid) not in found)

    def workers_of(self, pid: int) -> list[int]:
        """Loader workers of a process, in the order of their start."""
        return sorted(child for child in self.pids() if parent_of(child) == pid and not is_helper(child))

    def helpers_of(self, pid: int) -> list[int]:
        """Decoding processes beside a process."""
        return [child for child in self.pids() if parent_of(child) == pid and is_helper(child)]

    def left_behind(self, seconds: float = 10) -> list[int]:
        """Processes that are still there so long after the run has ended."""
        deadline = time.monotonic() + seconds
        while (pids := self.pids()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return pids


def read_log(folder: Path) -> list[dict]:
    """The lines of a run's log without what depends on a clock; a line that is being written is left out."""
    lines = []
    with contextlib.suppress(FileNotFoundError):
        for text in (folder / "log.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
    clocks = {name for line in lines for name in line if name in CLOCKS or name.startswith(("rank_", "slowest_"))}
    return [{name: value for name, value in line.items() if name not in clocks} for line in lines]


def differences(one: Path, other: Path) -> str:
    """What differs between the logs and the last checkpoints of two runs; "" = not a bit."""
    logs = [read_log(folder / "run") for folder in (one, other)]
    if len(logs[0]) != len(logs[1]):
        return f"{len(logs[0])} lines of the log, not {len(logs[1])}"
    if wrong := [line["step"] for line, expected in zip(*logs, strict=True) if line != expected]:
        return f"the log differs from step {wrong[0]} on"
    states = [load_checkpoint(folder / "run" / "checkpoints" / f"step_{STEPS:08d}.pt") for folder in (one, other)]
    wrong = [
        name
        for part in ("model", "ema")
        for name, value in states[0][part].items()
        if not torch.equal(value, states[1][part][name])
    ]
    return f"the last checkpoints differ in {wrong[0]}" if wrong else ""


def newest_step(folder: Path) -> int:
    """Of the newest checkpoint of a run; 0 = none."""
    names = [path.stem for path in (folder / "run" / "checkpoints").glob("step_*.pt")]
    return max((int(name.removeprefix("step_")) for name in names), default=0)


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def is_helper(pid: int) -> bool:
    try:
        return b"watchdog.serve" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
