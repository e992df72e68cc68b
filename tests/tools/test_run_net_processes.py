"""run_net.py as several processes on one machine: the same numbers, stopped and killed, and tests in parts."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = str(ROOT / "tools" / "run_net.py")
EXACT = ("epoch", "lr", "loss", "grad_norm", "unreadable")
TINY = """
DATA: {NUM_FRAMES: 4, SAMPLING_RATE: 2, CROP_SIZE: 32, DECODE_TIMEOUT: 0}
DATA_LOADER: {NUM_WORKERS: 0, PIN_MEMORY: False}
MODEL:
  PATCH_SIZE: [2, 8, 8]
  ENCODER: {WIDTH: 24, DEPTH: 2, HEADS: 2}
  DECODER: {WIDTH: 24, DEPTH: 1, HEADS: 2}
MASK: {RATIO: 0.75}
SOLVER: {BATCH_SIZE: 8, ACCUMULATION_STEPS: 2, MAX_STEPS: 6, BASE_LR: 0.05, CLIP_GRAD_NORM: 0.5}
TRAIN: {LOG_PERIOD: 1, CHECKPOINT_PERIOD: 2, TENSORBOARD: False, PRECISION: fp32}
DEVICE: cpu
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(TINY)
    return path


def arguments(config: Path, data: Path, output: Path, *overrides: object) -> list[str]:
    pairs = ["DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", output, *overrides]
    return [TOOL, "--cfg", str(config), *map(str, pairs)]


def start(*command: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run(*command: str) -> str:
    process = start(*command)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def numbers(folder: Path) -> list[dict]:
    """The log without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name.startswith(EXACT)} for line in lines]


def until_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    """Waits until the log has got to a step."""
    log = folder / "log.jsonl"
    while not log.is_file() or len(log.read_text().splitlines()) < step:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(config, sample_videos, tmp_path_factory) -> Path:
    """A run of 60 steps as two processes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(*arguments(config, sample_videos, folder, "NUM_GPUS", 2, "SOLVER.MAX_STEPS", 60))
    return folder


def test_two_processes_compute_what_one_does(config, sample_videos, tmp_path):
    run(*arguments(config, sample_videos, tmp_path / "one"))
    output = run(*arguments(config, sample_videos, tmp_path / "two", "NUM_GPUS", 2))
    assert "= 2 per micro-batch x 2 accumulated x 2 processes" in output
    assert output.count("training is complete") == 1  # one of them speaks
    for alone, together in zip(numbers(tmp_path / "one"), numbers(tmp_path / "two"), strict=True):
        assert alone["loss"] == pytest.approx(together["loss"], rel=1e-5)
        assert alone["grad_norm"] == pytest.approx(together["grad_norm"], rel=1e-4)


def test_torchrun_starts_the_same_run(config, sample_videos, tmp_path, undisturbed):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--rdzv-backend", "c10d"]
    launcher += ["--rdzv-endpoint", "127.0.0.1:0"]
    run(*launcher, *arguments(config, sample_videos, tmp_path, "SOLVER.MAX_STEPS", 60))
    assert numbers(tmp_path) == numbers(undisturbed)


@pytest.mark.parametrize("rank, number", [(None, signal.SIGINT), (1, signal.SIGUSR2)])
def test_asked_to_stop_they_stop_after_one_step_and_go_on(config, sample_videos, tmp_path, undisturbed, rank, number):
    """On the launcher, or on any of its processes."""
    command = arguments(config, sample_videos, tmp_path, "NUM_GPUS", 2, "SOLVER.MAX_STEPS", 60)
    process = start(*command)
    until_step(tmp_path, 5, process)
    os.kill(process.pid if rank is None else child_of(process, rank), number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number and output.count("interrupted after step") == 1, output
    assert "Traceback" not in output and "gone" not in output
    run(*command)
    assert numbers(tmp_path) == numbers(undisturbed)


def test_one_that_is_killed_ends_the_run_which_goes_on(config, sample_videos, tmp_path, undisturbed):
    command = arguments(config, sample_videos, tmp_path, "NUM_GPUS", 2, "SOLVER.MAX_STEPS", 60)
    process = start(*command)
    until_step(tmp_path, 5, process)
    os.kill(child_of(process, 1), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert "rank 1 of 2" in output and "was killed by SIGKILL" in output and "Traceback" not in output, output
    run(*command)
    assert numbers(tmp_path) == numbers(undisturbed)


def child_of(process: subprocess.Popen, rank: int) -> int:
    """The process of a rank, by what the launcher gave it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    wanted = f"RANK={rank}".encode()
    return next(int(pid) for pid in children if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))


def test_a_batch_that_cannot_be_shared_is_refused(config, sample_videos, tmp_path):
    process = start(*arguments(config, sample_videos, tmp_path, "NUM_GPUS", 3))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in output
    assert "SOLVER.BATCH_SIZE = 8 clips cannot be shared evenly by 3 processes" in output
    assert "multiple of 6" in output


@pytest.mark.parametrize("task", ["test", "knn"])
def test_a_measurement_in_parts_is_the_whole(config, sample_videos, tmp_path, undisturbed, task):
    """Five videos, one of them unreadable, by two processes."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "broken.mp4").write_bytes(b"no video")
    lines = [f"{sample_videos}/{line}" for line in (sample_videos / "train.csv").read_text().splitlines()]
    (data / "train.csv").write_text("\n".join(lines) + "\n")
    (data / "val.csv").write_text("\n".join([*lines[:2], f"{data}/broken.mp4 1", *lines[2:4]]) + "\n")
    options = ["TASK", task, "MODEL.WEIGHTS", undisturbed, "SOLVER.ACCUMULATION_STEPS", 1]
    if task == "test":
        options[3] = tmp_path / "finetune"
        run(*arguments(config, data, tmp_path / "finetune", "TASK", "finetune", "SOLVER.MAX_STEPS", 1))
    rows = {}
    for count in (1, 2):
        output = run(*arguments(config, data, tmp_path / str(count), *options, "NUM_GPUS", count))
        assert "1 more" in output or "unreadable" in output
        with (tmp_path / str(count) / task / "predictions.csv").open() as file:
            rows[count] = list(csv.DictReader(file))
    assert len(rows[1]) >= 4 and rows[1] == rows[2]
    evaluations = [(tmp_path / str(count) / "evaluations.jsonl").read_text() for count in (1, 2)]
    assert json.loads(evaluations[0]) == pytest.approx(json.loads(evaluations[1]))
