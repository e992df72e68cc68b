"""A run that is killed, at whatever moment, and started again computes what one that was never killed computes."""

import random
import signal
import time

import pytest
import torch
from engine_fakes import MASKS, finish, log_lines, make_trainer, run_in_process

from diffmae_video.engine.checkpoint import load_checkpoint
from diffmae_video.engine.tasks import PretrainTask

STEPS = 12


def final_state(folder):
    return load_checkpoint(folder / "checkpoints" / f"step_{STEPS:08d}.pt")


def assert_same_run(folder, reference):
    assert log_lines(folder) == log_lines(reference)
    ours, theirs = final_state(folder), final_state(reference)
    assert ours["progress"] == theirs["progress"]
    for name, value in theirs["model"].items():
        assert torch.equal(ours["model"][name], value), name
    assert ours.keys() == theirs.keys()
    for name, value in theirs.get("ema", {}).items():
        assert torch.equal(ours["ema"][name], value), name
    assert ours.get("ema_updates") == theirs.get("ema_updates")
    for group, group_ in zip(ours["optimizer"]["param_groups"], theirs["optimizer"]["param_groups"], strict=True):
        assert group == group_
    for index, state in theirs["optimizer"]["state"].items():
        assert all(torch.equal(ours["optimizer"]["state"][index][key], state[key]) for key in state)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    assert run_in_process("train", str(folder), steps=STEPS, failing=(5, 17)).exitcode == 0
    return folder


def test_the_reference_run_learns_and_logs_every_step(straight):
    lines = log_lines(straight)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["clips"] == STEPS * 8 and lines[-1]["unreadable"] == 2
    assert lines[3]["epoch"] == pytest.approx(4 * 8 / 7)


# Checkpoints at 3, 6, 9, 12. Every kill of a row happens in one process after the other, in the same folder.
@pytest.mark.parametrize(
    ("num_workers", "kills"),
    [
        (0, [("forward", 4), ("forward", 10), ("update", 2), ("forward", 9)]),  # before any checkpoint, mid-step, ...
        (2, [("forward", 8), ("update", 5), ("forward", 12)]),
        (0, [("write", 60), ("fsync", 9), ("replace", 3), ("write", 40)]),  # inside a save, before it counts
        (0, [("replace", 5), ("unlink", 1), ("replace", 2), ("fsync", 6)]),  # between checkpoint, latest and deletion
    ],
)
def test_killed_and_resumed_is_the_same_run(straight, tmp_path, num_workers, kills):
    options = {"steps": STEPS, "failing": (5, 17), "num_workers": num_workers}
    for kill in kills:
        process = run_in_process("train", str(tmp_path), kill=kill, **options)
        assert process.exitcode == -signal.SIGKILL, kill
    assert run_in_process("train", str(tmp_path), **options).exitcode == 0
    assert_same_run(tmp_path, straight)
    assert (tmp_path / "unreadable.txt").read_text() == (straight / "unreadable.txt").read_text()


def test_killed_from_outside_at_random_moments(straight, tmp_path):
    options = {"steps": STEPS, "failing": (5, 17), "num_workers": 2, "checkpoint_period": 1}
    delays, killed = random.Random(0), 0
    for _ in range(8):
        process = run_in_process("train", str(tmp_path), wait=False, **options)
        time.sleep(delays.uniform(0.02, 0.15))
        process.kill()
        finish(process)
        killed += process.exitcode == -signal.SIGKILL
    assert killed
    assert run_in_process("train", str(tmp_path), **options).exitcode == 0
    assert_same_run(tmp_path, straight)


def test_an_interval_cut_by_a_kill_has_the_same_means(tmp_path):
    """Checkpoints at 3, 6, 9 lie inside log intervals of 4: their sums are part of the checkpoint."""
    options = {"steps": STEPS, "log_period": 4}
    run_in_process("train", str(tmp_path / "straight"), **options)
    run_in_process("train", str(tmp_path / "killed"), kill=("update", 8), **options)
    run_in_process("train", str(tmp_path / "killed"), **options)
    assert [line["step"] for line in log_lines(tmp_path / "killed")] == [4, 8, 12]
    assert_same_run(tmp_path / "killed", tmp_path / "straight")


def test_a_truncated_newest_checkpoint_costs_steps_but_changes_nothing(straight, tmp_path, caplog):
    run_in_process("train", str(tmp_path), kill=("update", 8), steps=STEPS, failing=(5, 17))
    newest = tmp_path / "checkpoints" / "step_00000006.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    make_trainer(tmp_path, steps=STEPS, failing=(5, 17)).run()
    assert_same_run(tmp_path, straight)
    assert "step_00000006.pt" in caplog.text and "step_00000003.pt" in caplog.text


def test_a_complete_run_started_again_does_nothing(straight):
    before = log_lines(straight)
    progress = make_trainer(straight, steps=STEPS, failing=(5, 17)).run()
    assert progress.step == STEPS and log_lines(straight) == before


@pytest.mark.parametrize(
    ("options", "kills"),
    [
        ({"ema_decay": 0.9}, [("average", 5), ("forward", 8), ("average", 3)]),
        ({"recognition": {}, "layer_decay": 0.65, "ema_decay": 0.7}, [("update", 5), ("average", 2), ("write", 80)]),
        ({"recognition": {"frozen": True}, "optimizer": "lars"}, [("lars", 5), ("lars", 3)]),
        ({"task": PretrainTask(1000, MASKS), "ema_decay": 0.9}, [("forward", 8), ("update", 5), ("forward", 10)]),
    ],
    ids=["average", "layer decay and average", "probe with LARS", "mix of masks and average"],
)
def test_averages_layer_rates_probes_and_masks_go_on_exactly(tmp_path, options, kills):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert run_in_process("train", str(straight), steps=STEPS, **options).exitcode == 0
    for kill in kills:
        assert run_in_process("train", str(killed), kill=kill, steps=STEPS, **options).exitcode == -signal.SIGKILL
    assert run_in_process("train", str(killed), steps=STEPS, **options).exitcode == 0
    assert_same_run(killed, straight)
