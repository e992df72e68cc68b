"""The quick ones of the faults that tests/soak/faults.py injects into whole runs; docs/faults.md has all."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from diffmae_video.build.training import warn_of_short_timeout
from diffmae_video.config import load_config
from diffmae_video.engine import World

SOAK = Path(__file__).parent / "soak"
PARTS = ("fault_runs", "fault_processes", "fault_data", "fault_disk")  # in the order in which they import each other


@pytest.fixture(scope="module")
def parts() -> Iterator[dict[str, ModuleType]]:
    """The modules of the fault scripts by name; no folder of the repository is on ``sys.path``."""
    for name in PARTS:
        specification = importlib.util.spec_from_file_location(name, SOAK / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(sys.modules[name])
    yield {name: sys.modules[name] for name in PARTS}
    for name in PARTS:
        del sys.modules[name]


@pytest.fixture(scope="module")
def ground(parts, sample_videos, tmp_path_factory):
    """Where the runs go; six videos, of which an epoch ends inside a step."""
    return parts["fault_processes"].Ground(tmp_path_factory.mktemp("faults"), sample_videos)


@pytest.fixture
def run_of(parts) -> Iterator:
    """Starts runs; whatever happens in a test, none of their processes outlives it."""
    runs = []

    def start(*arguments, **options):
        runs.append(parts["fault_runs"].Run(*arguments, **options).start())
        return runs[-1]

    yield start
    for run in runs:
        run.end()


def test_a_killed_process_ends_the_run_which_then_goes_on_exactly(parts, ground, run_of):
    folder = ground.folder / "killed_process"
    run = run_of(folder, ground.data, 2, faults="kill:1:9", environment={"FAULT_MARKS": str(folder)})
    assert run.wait() == 128 + signal.SIGKILL
    assert run.lines_with("rank 1 of 2 (process", "was killed by SIGKILL", "stopping the others")
    assert run.lines_with("error: rank 1 (", "of 2 has gone", "newest checkpoint")
    assert not run.left_behind() and parts["fault_runs"].newest_step(folder) == 8
    assert ground.finish(folder) == ""


def test_a_loss_that_is_no_number_names_the_process_and_leaves_the_checkpoints(parts, ground, run_of):
    folder = ground.folder / "not_a_number"
    run = run_of(folder, ground.data, 2, faults="nan:1:5")
    assert run.wait() == 2
    for who in ("[rank 1] error:", "error: step 5"):
        assert run.lines_with(who, "step 5: the loss is nan", "not finite on rank 1", "step_00000004.pt")
    assert sorted(path.name for path in (folder / "run").glob("nonfinite*")) == [
        "nonfinite_step_00000005.txt",
        "nonfinite_step_00000005_rank_1.txt",
    ]
    assert parts["fault_runs"].newest_step(folder) == 4 and not run.left_behind()


def test_killed_workers_and_a_folder_that_is_away_cost_a_run_nothing(parts, ground, run_of):
    data = shutil.copytree(ground.data, ground.folder / "data_that_goes")
    folder = ground.folder / "disturbed_data"
    workers = ("DATA_LOADER.NUM_WORKERS", 2, "DATA.DECODE_TIMEOUT", 30)
    run = run_of(folder, data, overrides=workers, faults="slow:0:1:0.05")
    run.wait_for_step(3)
    os.kill(run.workers_of(run.main_of(0))[1], signal.SIGKILL)
    run.wait_until(lambda: run.lines_with("a loader worker died", "SIGKILL", "nothing is lost"), 60, "word of it")
    data.rename(elsewhere := data.with_name("elsewhere"))
    run.wait_until(lambda: run.lines_with(f"the data folder {data} does not answer", "waiting"), 60, "word of it")
    elsewhere.rename(data)
    assert run.wait() == 0 and run.lines_with("is back after") and not run.left_behind()
    assert parts["fault_runs"].differences(folder, ground.undisturbed(1)) == ""
    assert not (folder / "run" / "unreadable.txt").exists()


def test_a_folder_that_stays_away_ends_the_run_after_a_checkpoint(parts, ground, run_of):
    data = shutil.copytree(ground.data, ground.folder / "data_that_is_gone")
    folder = ground.folder / "gone_data"
    keys = ("DATA.ROOT_TIMEOUT", 1, "TRAIN.CHECKPOINT_PERIOD", 100)
    run = run_of(folder, data, overrides=keys, faults="slow:0:1:0.05")
    run.wait_for_step(3)
    data.rename(data.with_name("gone"))
    assert run.wait() == 2
    assert run.lines_with("error: the data folder", str(data), "DATA.ROOT_TIMEOUT")
    assert parts["fault_runs"].newest_step(folder) == run.last_step


def test_what_of_two_runs_differs_is_seen(parts, ground):
    """The comparison that all of this rests on."""
    runs = parts["fault_runs"]
    whole = ground.undisturbed(1)
    copies = [shutil.copytree(whole, ground.folder / f"copy_{number}") for number in range(3)]
    log = copies[0] / "run" / "log.jsonl"
    log.write_text(log.read_text().replace('"clips": 40', '"clips": 41'))
    log = copies[1] / "run" / "log.jsonl"
    log.write_text("".join(itertools.islice(log.read_text().splitlines(keepends=True), 9)))
    assert runs.differences(copies[0], whole) == "the log differs from step 5 on"
    assert runs.differences(copies[1], whole) == "9 lines of the log, not 24"
    assert runs.differences(copies[2], whole) == ""
    last = copies[2] / "run" / "checkpoints" / f"step_{runs.STEPS:08d}.pt"
    shutil.copy(last.with_name("step_00000022.pt"), last)
    assert "the last checkpoints differ" in runs.differences(copies[2], whole)


def test_processes_that_wait_for_less_time_than_one_may_need_are_told(caplog):
    cfg = load_config([], ["DISTRIBUTED.TIMEOUT", "60"])
    for world in (World(), World(1, 2, 1)):
        warn_of_short_timeout(cfg, world)
    warn_of_short_timeout(load_config([], []), World(0, 2, 0))
    assert not caplog.text
    warn_of_short_timeout(cfg, World(0, 2, 0))
    assert "DISTRIBUTED.TIMEOUT is 60 s and DATA.ROOT_TIMEOUT 300 s" in caplog.text
