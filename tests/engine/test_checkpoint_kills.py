"""A process that is killed while it saves leaves its last complete checkpoint, whatever it was doing."""

import random
import signal
import time
from pathlib import Path

import pytest
import saving_processes
import torch
from engine_fakes import finish, run_in_process

from diffmae_video.engine.checkpoint import step_files

FILE = saving_processes.__file__
# Calls that two saves or so make, and some more: in the middle of a part, before and after a name or a manifest is
# there, between a checkpoint and ``latest``, half-way through the deletion of an older one.
SPOTS = {
    "file": {"write": 60, "fsync": 12, "replace": 6, "unlink": 3},
    "sharded": {"write": 60, "fsync": 24, "replace": 6, "unlink": 12, "rmdir": 3},
    "background": {"write": 60, "fsync": 24, "replace": 6, "unlink": 12, "rmdir": 3},
}


def reported(report: Path) -> list[int]:
    """Steps whose save had returned; a line that a kill has cut off counts as none."""
    text = report.read_text() if report.exists() else ""
    return [int(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.parametrize("kind", ["file", "sharded", "background"])
def test_the_last_complete_one_survives_a_kill_at_any_moment(tmp_path, kind):
    folder, report, moments = tmp_path / "checkpoints", tmp_path / "report", random.Random(kind)
    for number in range(20 if kind != "background" else 8):
        before = len(reported(report))
        spot = moments.choice(sorted(SPOTS[kind]))
        kill = None if number % 2 else (spot, moments.randint(1, SPOTS[kind][spot]))
        process = run_in_process("save_until_killed", str(folder), kind, str(report), kill, wait=False, file=FILE)
        if kill is None:
            deadline = time.monotonic() + 30
            while len(reported(report)) == before and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.08))
            process.kill()
        finish(process)
        assert process.exitcode == -signal.SIGKILL, kill

        complete = max(reported(report), default=0)
        found = saving_processes.make_manager(folder, kind).load_latest()
        if found is None:
            assert complete == 0
            continue
        state, path = found
        step = state["progress"]["step"]
        assert step >= complete, f"step {complete} was complete, and {path} is the newest; killed at {kill}"
        expected = saving_processes.make_state(step)
        for name, value in expected["model"].items():
            assert torch.equal(state["model"][name], value), (kill, name)
        assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], expected["optimizer"]["state"][0]["exp_avg"])
        assert state["config"] == expected["config"] and torch.equal(state["rng"]["cpu"], expected["rng"]["cpu"])
        assert not list(folder.glob("*.damaged"))  # a kill damages nothing: what is not complete has no name
    assert max(reported(report)) > 10

    manager = saving_processes.make_manager(folder, kind)
    manager.save(saving_processes.make_state(10**6), 10**6)
    assert manager.wait() and len(step_files(folder)) == 2  # what kills had left undeleted is gone
