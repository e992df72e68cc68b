"""Weights & Biases: with its own package where it is installed, and with one that records or fails where it is not."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from diffmae_video.engine import sinks
from diffmae_video.engine.errors import RunError
from diffmae_video.engine.monitor import Monitor, StepReport
from diffmae_video.engine.sinks import WeightsAndBiases

PICTURE = np.zeros((4, 6, 3), np.uint8)


class FakeRun:
    """What ``wandb.init`` gives back: it remembers, or fails at a certain call."""

    def __init__(self, fail_at: int | None = None):
        self.logged, self.fail_at, self.finished = [], fail_at, False

    def log(self, values, step):
        if len(self.logged) == self.fail_at:
            raise ConnectionError("the service has gone")
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def package(monkeypatch):
    """A package ``wandb`` whose runs are in ``runs`` and their arguments in ``calls``."""
    module = SimpleNamespace(runs=[], calls=[], fail_at=None, Image=lambda array: ("image", array.shape))

    def init(**arguments):
        module.calls.append(arguments)
        module.runs.append(FakeRun(module.fail_at))
        return module.runs[-1]

    module.init, module.Settings = init, lambda **options: options
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def make(folder, mode="offline") -> WeightsAndBiases:
    return WeightsAndBiases(folder, mode, "films", {"SEED": 3})


def test_numbers_and_pictures_arrive(package, tmp_path):
    sink = make(tmp_path)
    sink.open(0)
    sink.scalars("train", {"loss": 0.5, "rank_data_wait": [0.1, 0.2], "evaluator": "test"}, 10)
    sink.image("sheet", PICTURE, 20)
    sink.close()
    (run,), (call,) = package.runs, package.calls
    assert run.logged == [(10, {"train/loss": 0.5}), (20, {"sheet": ("image", (4, 6, 3))})] and run.finished
    assert (call["project"], call["mode"], call["dir"]) == ("films", "offline", str(tmp_path))
    assert call["config"] == {"SEED": 3} and call["name"] == tmp_path.name


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_run_that_goes_on_has_the_same_id(package, tmp_path, mode):
    for folder in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
        folder.mkdir(exist_ok=True)
        sink = make(folder, mode)
        sink.open(5)
        sink.close()
    first, again, other = (call["id"] for call in package.calls)
    assert first == again != other and (tmp_path / "a" / "wandb_run_id.txt").read_text() == f"{first}\n"
    assert [call.get("resume") for call in package.calls] == ["allow" if mode == "online" else None] * 3


def test_a_failure_is_told_once_and_training_goes_on(package, tmp_path, caplog):
    package.fail_at = 1
    monitor = Monitor(tmp_path, 80, 20, log_period=1, terminal=False, sinks=[make(tmp_path)])
    monitor.open(0, 0)
    for step in range(1, 6):
        report = {"unreadable": 0, "loss": 1.0, "grad_norm": 1.0, "lr": 0.1, "seconds": 1.0, "data_seconds": 0.0}
        monitor.record(StepReport(step=step, clips=8 * step, step_clips=8, **report))
    monitor.record_image("sheet", PICTURE, 5)
    monitor.close()
    assert caplog.text.count("training goes on: ConnectionError: the service has gone") == 1
    assert len(package.runs[0].logged) == 1 and len((tmp_path / "log.jsonl").read_text().splitlines()) == 5


def test_a_service_that_does_not_start_is_left_out(package, tmp_path, caplog):
    def refuse(**_):
        raise TimeoutError("no answer")

    package.init = refuse
    sink = make(tmp_path, "online")
    sink.open(0)
    sink.scalars("train", {"loss": 0.5}, 1)
    sink.close()
    assert caplog.text.count("W&B failed") == 1


def test_an_end_that_hangs_holds_nothing_up(package, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sinks, "WANDB_END_SECONDS", 0.01)
    sink, answer = make(tmp_path), threading.Event()
    sink.open(0)
    package.runs[0].finish = answer.wait
    sink.close()
    answer.set()
    assert "did not finish" in caplog.text


def test_a_missing_package_is_named_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RunError, match=r"TRAIN.WANDB is 'online' but .* pip install wandb, or set TRAIN.WANDB \"\""):
        make(tmp_path, "online")
    with pytest.raises(ValueError, match="unknown mode 'sometimes'"):
        make(tmp_path, "sometimes")


def test_the_real_package_offline(tmp_path, monkeypatch):
    """Files appear without a network, and the second part of a run has the id of the first."""
    pytest.importorskip("wandb", reason="wandb is not installed (pip install wandb)")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for start in (0, 2):
        sink = make(tmp_path)
        sink.open(start)
        sink.scalars("train", {"loss": 0.5, "step": start}, start)
        sink.image("sheet", PICTURE, start)
        sink.close()
    name = (tmp_path / "wandb_run_id.txt").read_text().strip()
    files = list((tmp_path / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert files and all(file.stat().st_size > 0 for file in files)
