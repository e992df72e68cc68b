"""``slurm/submit.py`` on a real SLURM of one node: jobs that end, are stopped in every way, fail, follow each other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from one_node import OneNode, missing, one_node

from diffmae_video.engine import load_checkpoint

TOOL = Path(__file__).parents[2] / "slurm" / "submit.py"
REASON = missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

# Checkpoints come from being stopped alone, so that a run which goes on shows that its state was saved.
TINY = """
OUTPUT_DIR: {output}
DATA: {{PATH_TO_DATA_DIR: {data}, NUM_FRAMES: 4, SAMPLING_RATE: 2, CROP_SIZE: 32}}
DATA_LOADER: {{NUM_WORKERS: 0, PIN_MEMORY: False}}
MODEL:
  PATCH_SIZE: [2, 8, 8]
  ENCODER: {{WIDTH: 24, DEPTH: 2, HEADS: 2, DROP_PATH: 0.2}}
  DECODER: {{WIDTH: 24, DEPTH: 1, HEADS: 2}}
SOLVER: {{BATCH_SIZE: 16, MAX_STEPS: {steps}, BASE_LR: 0.05}}
TRAIN: {{LOG_PERIOD: 1, CHECKPOINT_PERIOD: 100000}}
DEVICE: cpu
"""
PRETRAIN = TINY + "TASK: pretrain\n"
# What is compared of two runs: all that does not tell how fast they were.
NUMBERS = ("step", "clips", "epoch", "loss", "grad_norm", "lr", "unreadable")
STEPS = 220


@pytest.fixture(scope="module")
def cluster() -> Iterator[OneNode]:
    with one_node() as running:
        running.environment["OMP_NUM_THREADS"] = "1"
        yield running


def call(cluster: OneNode, folder: Path, *words: str | Path, code: int = 0) -> str:
    """Output of submit.py, typed in ``folder``."""
    command = [sys.executable, str(TOOL), *map(str, words)]
    result = subprocess.run(command, cwd=folder, env=cluster.environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


def job_ids(output: str) -> list[str]:
    return re.findall(r"^job (\S+):", output, re.MULTILINE)


def log_lines(run: Path) -> list[dict]:
    path = run / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def curve(run: Path) -> list[tuple]:
    return [tuple(line[name] for name in NUMBERS) for line in log_lines(run)]


def resumed_steps(log: str) -> list[int]:
    return [int(step) for step in re.findall(r"starts from: \S+ \(step (\d+)", log)]


def test_a_run_that_is_stopped_in_every_way_is_the_same_run(cluster, sample_videos, tmp_path):
    for name in ("whole", "stopped"):
        (tmp_path / f"{name}.yaml").write_text(PRETRAIN.format(output=f"runs/{name}", data=sample_videos, steps=STEPS))
    size = ("--tasks-per-node", "2", "--timeout-min", "60", "--partition", "main")
    whole, stopped = tmp_path / "runs" / "whole", tmp_path / "runs" / "stopped"
    (reference,) = job_ids(call(cluster, tmp_path, "--cfg", "whole.yaml", *size))
    (job,) = job_ids(call(cluster, tmp_path, "--cfg", "stopped.yaml", *size))

    def stop_after(step: int, *command: str) -> None:
        cluster.wait(f"step {step}", lambda: len(log_lines(stopped)) >= step)
        cluster.run(*command)

    def restarted(times: int) -> None:
        cluster.wait(f"restart {times}", lambda: cluster.field(job, "Restarts") == str(times))

    stop_after(20, "scontrol", "requeue", job)
    restarted(1)
    stop_after(60, "scancel", "--signal=USR2", job)  # as SLURM sends it before the time limit
    restarted(2)
    cluster.wait_for_state(reference, "COMPLETED")
    stop_after(100, "sbatch", "--partition=high", "--ntasks=4", "--output=/dev/null", "--wrap=sleep 1")  # preempts it
    restarted(3)
    log = Path(cluster.field(job, "StdOut"))
    stop_after(140, "scancel", job)
    cluster.wait_for_state(job, "CANCELLED")
    steps = resumed_steps(log.read_text())
    assert len(steps) == 3 and 20 <= steps[0] < 60 <= steps[1] < 100 <= steps[2] < 140

    (again,) = job_ids(call(cluster, tmp_path, "--cfg", "stopped.yaml", *size))
    cluster.wait_for_state(again, "COMPLETED")
    assert 140 <= resumed_steps(Path(cluster.field(again, "StdOut")).read_text())[0] < STEPS
    assert len(curve(whole)) == STEPS and curve(stopped) == curve(whole)
    states = [load_checkpoint(run / "checkpoints" / f"step_{STEPS:08d}.pt")["model"] for run in (stopped, whole)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())

    # A run that is complete is so at once.
    (more,) = job_ids(call(cluster, tmp_path, "--cfg", "stopped.yaml", *size))
    cluster.wait_for_state(more, "COMPLETED")
    assert curve(stopped) == curve(whole)
    table = call(cluster, tmp_path, "status", "runs/stopped")
    assert re.findall(r"^(\d+) +stopped +(\w+)", table, re.MULTILINE) == [
        (job, "CANCELLED"),
        (again, "COMPLETED"),
        (more, "COMPLETED"),
    ]
    assert f"step {STEPS}, {16 * STEPS} clips" in table
    assert "this run is complete" in call(cluster, tmp_path, "logs", more)


def test_a_chain_runs_in_order_from_the_weights_of_the_run_before(cluster, sample_videos, tmp_path):
    (tmp_path / "pretrain.yaml").write_text(PRETRAIN.format(output="runs/pretrain", data=sample_videos, steps=2))
    for task in ("finetune", "test"):
        steps = TINY.format(output=f"runs/{task}", data=sample_videos, steps=2)
        (tmp_path / f"{task}.yaml").write_text(f"{steps}TASK: {task}\n")
    chain = ("--chain", "finetune.yaml", "SOLVER.BATCH_SIZE", "4", "test.yaml")
    output = call(cluster, tmp_path, "--cfg", "pretrain.yaml", *chain, "--tasks-per-node", "2")
    assert "MODEL.WEIGHTS runs/pretrain" in output and "MODEL.WEIGHTS runs/finetune" in output
    jobs = job_ids(output)
    assert len(jobs) == 3
    cluster.wait_for_state(jobs[-1], "COMPLETED")
    times = [cluster.field(job, name) for job in jobs for name in ("StartTime", "EndTime")]
    assert times == sorted(times)
    logs = [Path(cluster.field(job, "StdOut")).read_text() for job in jobs]
    assert "starts from: random initialisation" in logs[0]
    assert "runs/pretrain/checkpoints/step_00000002.pt" in logs[1] and "2 processes" in logs[1]
    assert "weights: runs/finetune, finetune" in logs[2] and "test of 2 videos" in logs[2]


def test_a_failure_is_seen_by_slurm_and_nothing_follows_it(cluster, sample_videos, tmp_path):
    (tmp_path / "first.yaml").write_text(PRETRAIN.format(output="runs/first", data=tmp_path / "absent", steps=2))
    (tmp_path / "second.yaml").write_text(PRETRAIN.format(output="runs/second", data=sample_videos, steps=2))
    first, second = job_ids(call(cluster, tmp_path, "--cfg", "first.yaml", "--chain", "second.yaml"))
    cluster.wait_for_state(first, "FAILED")
    assert cluster.field(first, "ExitCode") == "2:0"
    assert f"{tmp_path / 'absent'}" in call(cluster, tmp_path, "logs", "runs/first")
    cluster.wait_for_state(second, "CANCELLED")
    assert not (tmp_path / "runs/second/log.jsonl").exists()


def test_a_sweep_is_one_array(cluster, sample_videos, tmp_path):
    (tmp_path / "tiny.yaml").write_text(PRETRAIN.format(output="runs/tiny", data=sample_videos, steps=2))
    output = call(cluster, tmp_path, "--cfg", "tiny.yaml", "--sweep", "SEED", "1", "2", "--parallel", "1")
    first, second = job_ids(output)
    assert (first, second) == (f"{first.split('_')[0]}_0", f"{first.split('_')[0]}_1")
    for job in (first, second):
        cluster.wait_for_state(job, "COMPLETED")
    assert cluster.field(second, "StartTime") >= cluster.field(first, "EndTime")
    curves = [curve(tmp_path / "runs" / "tiny" / f"SEED_{seed}") for seed in (1, 2)]
    assert len(curves[0]) == 2 and curves[0] != curves[1]
    assert f"{second} " in call(cluster, tmp_path, "status", "runs/tiny/SEED_2")
    assert "training is complete" in call(cluster, tmp_path, "logs", second)
