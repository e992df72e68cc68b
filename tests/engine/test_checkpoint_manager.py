"""Which checkpoints are kept, what a full disk costs, and what is said of a save that failed in the background."""

import errno
import os
import shutil
import subprocess
import threading

import pytest
import torch
from engine_fakes import log_lines, make_trainer
from saving_processes import make_manager, make_state

from diffmae_video.build.training import build_checkpoints
from diffmae_video.config import load_config
from diffmae_video.engine import checkpoint_manager, sharded_checkpoints
from diffmae_video.engine.checkpoint_manager import CheckpointManager
from diffmae_video.engine.errors import DamagedCheckpoint, DiskFull, RunError
from diffmae_video.engine.sharded_checkpoints import ShardedCheckpoints
from diffmae_video.engine.world import World

KINDS = ("file", "sharded", "background")


def names(manager) -> list[str]:
    return sorted(name.removesuffix(".pt") for name in os.listdir(manager.folder) if name.startswith("step_"))


def save(manager, *steps: int) -> None:
    for step in steps:
        assert manager.save(make_state(step), step) == manager.path(step)
        assert manager.wait()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("keep_last", "keep_period", "kept"), [(1, 0, [70]), (3, 0, [50, 60, 70]), (2, 30, [30, 60, 70])]
)
def test_the_newest_and_those_of_the_period_are_kept(tmp_path, kind, keep_last, keep_period, kept):
    manager = make_manager(tmp_path, kind, keep_last=keep_last, keep_period=keep_period)
    save(manager, *range(10, 80, 10))
    assert names(manager) == [f"step_{step:08d}" for step in kept]
    assert (tmp_path / "latest").read_text().strip() == manager.path(70).name


def test_at_least_the_newest_is_kept(tmp_path):
    with pytest.raises(ValueError, match="at least the newest"):
        CheckpointManager(tmp_path, keep_last=0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_reads_back_differently_costs_no_older_checkpoint(tmp_path, kind, monkeypatch):
    """A disk that takes what it is given and keeps something else."""
    manager = make_manager(tmp_path, kind, keep_last=1)
    save(manager, 10)
    if kind == "file":
        monkeypatch.setattr(checkpoint_manager, "save_checkpoint", lambda path, state: path.write_bytes(b"PK nonsense"))
        with pytest.raises(DamagedCheckpoint):
            manager.save(make_state(20), 20)
    else:
        monkeypatch.setattr("diffmae_video.engine.sharded.size_and_sum", lambda path: [0, ""])
        if kind == "sharded":
            with pytest.raises(OSError, match="does not hold what was just written"):
                manager.save(make_state(20), 20)
        else:
            assert manager.save(make_state(20), 20) and not manager.wait()
    monkeypatch.undo()
    state, path = make_manager(tmp_path, kind).load_latest()
    assert path == manager.path(10) and state["progress"]["step"] == 10


def test_processes_but_the_first_write_and_remove_nothing(tmp_path):
    (tmp_path / ".step_00000001.pt.tmp").write_bytes(b"being written by the first process")
    (tmp_path / "step_00000002").mkdir()
    other = CheckpointManager(tmp_path, world=World(1, 2, 1))
    assert other.save(make_state(10), 10) == other.path(10)
    assert sorted(os.listdir(tmp_path)) == [".step_00000001.pt.tmp", "step_00000002"]
    first = CheckpointManager(tmp_path, world=World(0, 2, 0))
    assert os.listdir(tmp_path) == []
    save(first, 10, 20)
    first.path(20).write_bytes(b"PK nonsense")
    assert other.load_latest()[1] == first.path(10) and first.path(20).exists()  # not renamed
    assert first.load_latest()[1] == first.path(10) and not first.path(20).exists()


def test_a_run_can_change_the_format_of_its_checkpoints(tmp_path):
    """Both kinds are read, counted and deleted by either."""
    file, folder = make_manager(tmp_path, "file"), make_manager(tmp_path, "sharded")
    save(file, 10, 20)
    assert folder.load_latest()[1] == file.path(20)
    save(folder, 30)
    assert file.load_latest()[1] == folder.path(30) and names(file) == ["step_00000020", "step_00000030"]
    save(file, 40)
    assert folder.load_latest()[0]["progress"]["step"] == 40
    save(folder, 50)
    assert sorted(os.listdir(tmp_path)) == ["latest", "step_00000040.pt", "step_00000050"]


# -------------------------------------------------------------------------------------------------------- full disk


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 256 KiB, which only root can make."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system; the tests with errors that are made up cover the rest")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk):
    """Up to 12 KiB, less than half a checkpoint."""
    (disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(disk).free - 12 * 1024))


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_is_really_full(tiny_disk, kind, caplog):
    manager = make_manager(tiny_disk / "checkpoints", kind)
    save(manager, 10, 20)
    fill(tiny_disk)
    path = manager.save(make_state(30), 30)
    assert not manager.wait() if kind == "background" else path is None
    assert "the checkpoint of step 30 was NOT saved" in caplog.text and "MiB are needed" in caplog.text
    assert "The newest checkpoint is step_00000020" in caplog.text
    assert names(manager) == ["step_00000010", "step_00000020"]  # and nothing half-written takes up room
    assert manager.load_latest()[0]["progress"]["step"] == 20
    (tiny_disk / "ballast").unlink()
    save(manager, 40)

    fill(tiny_disk)
    manager.stop_when_full = True
    if kind == "background":
        manager.save(make_state(50), 50)  # whose failure is known by the next one
    with pytest.raises(DiskFull, match=r"disk of .* is full.*ON_FULL_DISK continue"):
        manager.save(make_state(60), 60)
    assert manager.load_latest()[0]["progress"]["step"] == 40


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_a_full_disk_goes_on_or_stops(tmp_path, kind, monkeypatch):
    """With exit code 2, which run_net.py has for every RunError."""
    real, full = os.write, [False]

    def write(descriptor, data):
        if full[0] and len(data) > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    def trained(name: str, stop: bool):
        checkpoints = make_manager(tmp_path / name / "checkpoints", kind, stop_when_full=stop)
        trainer = make_trainer(tmp_path / name, steps=9, checkpoints=checkpoints)
        update = trainer.stepper.update

        def until_full(*arguments, **keywords):  # from step 5 to step 7: the checkpoint of step 6 has no room
            # What is written in the background ends first: step 3 before the disk is full, step 6 while it is.
            pending = getattr(checkpoints, "_pending", None)
            if pending is not None:
                pending[0].exception()
            full[0] = trainer.progress.step in (4, 5, 6)
            return update(*arguments, **keywords)

        trainer.stepper.update = until_full
        return trainer

    monkeypatch.setattr(os, "write", write)
    trained("goes on", stop=False).run()
    assert log_lines(tmp_path / "goes on")[-1]["step"] == 9
    assert {"step_00000003", "step_00000009"} <= set(names(CheckpointManager(tmp_path / "goes on" / "checkpoints")))
    stopping = trained("stops", stop=True)
    with pytest.raises(RunError, match="is full"):
        stopping.run()
    assert stopping.progress.step in (6, 9)  # in the background the next checkpoint is the first to know
    assert stopping.checkpoints.load_latest()[0]["progress"]["step"] == 3


# --------------------------------------------------------------------------------------------------- in the background


def test_the_state_is_that_of_the_moment_of_saving(tmp_path, monkeypatch):
    """The run changes its tensors while they are written."""
    goes, real = threading.Event(), sharded_checkpoints.save_sharded
    monkeypatch.setattr(sharded_checkpoints, "save_sharded", lambda *a: goes.wait(30) and real(*a))
    manager, state = make_manager(tmp_path, "background"), make_state(10)
    state["ema"] = state["model"]
    assert manager.save(state, 10) == manager.path(10) and manager.latest() is None
    for value in (*state["model"].values(), state["optimizer"]["state"][0]["exp_avg"], state["rng"]["cpu"]):
        value.zero_()
    state["progress"]["step"], state["optimizer"]["param_groups"][0]["betas"] = 11, (0, 0)
    goes.set()
    assert manager.wait() and manager.latest() == manager.path(10)
    found, expected = manager.load_latest()[0], make_state(10)
    for entry in ("model", "ema"):
        assert all(torch.equal(found[entry][name], value) for name, value in expected["model"].items())
    assert found["progress"] == expected["progress"] and torch.equal(found["rng"]["cpu"], expected["rng"]["cpu"])
    assert found["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]


def test_a_failure_in_the_background_is_raised_by_the_next_save_or_logged_at_the_end(tmp_path, monkeypatch, caplog):
    manager = make_manager(tmp_path, "background")
    save(manager, 10)

    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    assert manager.save(make_state(20), 20) is not None
    with pytest.raises(OSError, match="Input/output error"):
        manager.save(make_state(30), 30)
    assert manager.wait()  # it was told once
    assert manager.save(make_state(40), 40) is not None
    assert not manager.wait() and "Input/output error" in caplog.text
    monkeypatch.undo()
    assert names(manager) == ["step_00000010"] and manager.load_latest()[0]["progress"]["step"] == 10


def test_another_process_that_has_gone_is_no_reason_to_lose_the_error_that_says_so(tmp_path, monkeypatch, caplog):
    """The run waits for its checkpoint at the end, whatever ended it; a failed sum there must not hide that."""

    def fail(*arguments):
        raise RuntimeError("Connection closed by peer\nwith a second line")

    monkeypatch.setattr(sharded_checkpoints, "save_sharded", fail)
    manager = make_manager(tmp_path, "background")
    manager.save(make_state(10), 10)
    assert not manager.wait()
    assert "was not completed: Connection closed by peer with a second line" in caplog.text


def test_a_run_that_ends_waits_for_its_last_checkpoint_and_says_when_it_failed(tmp_path, monkeypatch):
    checkpoints = make_manager(tmp_path / "good" / "checkpoints", "background")
    make_trainer(tmp_path / "good", steps=3, checkpoints=checkpoints).run()
    assert checkpoints.latest() == checkpoints.path(3)

    def fail(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sharded_checkpoints, "save_sharded", fail)
    checkpoints = make_manager(tmp_path / "bad" / "checkpoints", "background")
    with pytest.raises(RunError, match="its last checkpoint could not be written"):
        make_trainer(tmp_path / "bad", steps=3, checkpoints=checkpoints).run()


# ------------------------------------------------------------------------------------------------------- from a config


def test_a_config_says_which(tmp_path):
    def built(*overrides: str) -> CheckpointManager:
        return build_checkpoints(load_config([], ["OUTPUT_DIR", str(tmp_path), *overrides]), World())

    manager = built()
    assert type(manager) is CheckpointManager and (manager.keep_last, manager.keep_period) == (2, 0)
    assert not manager.stop_when_full and manager.folder == tmp_path / "checkpoints"
    manager = built("TRAIN.KEEP_LAST", "5", "TRAIN.KEEP_PERIOD", "100", "TRAIN.ON_FULL_DISK", "stop")
    assert manager.keep_last == 5 and manager.keep_period == 100 and manager.stop_when_full
    sharded = built("TRAIN.CHECKPOINT_FORMAT", "sharded", "TRAIN.KEEP_LAST", "3")
    assert type(sharded) is ShardedCheckpoints and not sharded.background and sharded.keep_last == 3
    assert built("TRAIN.CHECKPOINT_FORMAT", "sharded", "TRAIN.CHECKPOINT_ASYNC", "True").background
