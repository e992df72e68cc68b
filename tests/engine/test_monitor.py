import io
import json
import logging
import sys

import numpy as np
import pytest
from rich.console import Console

from diffmae_video.engine import monitor as monitor_module
from diffmae_video.engine.disk import JsonLines
from diffmae_video.engine.errors import RunError
from diffmae_video.engine.flops import Compute
from diffmae_video.engine.monitor import Monitor, StepReport, configure_logging


def report(step: int, loss: float = 1.0, **values) -> StepReport:
    defaults = {"grad_norm": 2.0, "lr": 1e-3, "step_clips": 8, "seconds": 0.5, "data_seconds": 0.1, "unreadable": 0}
    return StepReport(step=step, clips=8 * step, loss=loss, **{**defaults, **values})


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def make_monitor(tmp_path):
    made = []

    def make(**options):
        arguments = {"total_clips": 80, "clips_per_epoch": 20, "log_period": 2, "terminal": False}
        made.append(Monitor(tmp_path, **{**arguments, **options}))
        return made[-1]

    yield make
    for monitor in made:
        monitor.close()


def test_a_line_per_interval_with_means_over_it(make_monitor, tmp_path, caplog):
    caplog.set_level(logging.INFO, "diffmae_video")
    monitor = make_monitor()
    monitor.open(0, 0)
    monitor.record(report(1, loss=1.0, metrics={"quarter": (3.0, 1.0), "never": (0.0, 0.0)}))
    monitor.record(report(2, loss=2.0, metrics={"quarter": (3.0, 2.0), "never": (0.0, 0.0)}))
    monitor.record(report(3, loss=5.0, unreadable=4))
    (line,) = lines(tmp_path)
    assert line.pop("wall_seconds") > 0
    assert line == {
        "step": 2, "clips": 16, "epoch": 0.8, "lr": 1e-3, "loss": 1.5, "grad_norm": 2.0, "clips_per_second": 16.0,
        "step_seconds": 0.5, "data_wait_share": 0.2, "quarter": 2.0, "unreadable": 0,
    }  # fmt: skip
    assert "step 2 | clips 16/80 | epoch 0.80 | grad norm 2 | loss 1.5000 | lr 1.00e-03 | 16.0 clips/s" in caplog.text
    assert "data wait 20% | ETA 0:00:04" in caplog.text


def test_what_is_measured_once_per_line_is_in_it(make_monitor, tmp_path, caplog):
    """Norms and times of several processes come with the step that writes a line; the utilisation is of all steps."""
    caplog.set_level(logging.INFO, "diffmae_video")
    monitor = make_monitor(compute=Compute(flops_per_clip=1e9, peak=1e11))
    monitor.open(0, 0)
    assert [step for step in range(1, 12) if monitor.line_is_due(step, 8 * step)] == [2, 4, 6, 8, 10, 11]
    monitor.record(report(1))
    monitor.record(report(2, line={"update_norm": 0.5, "rank_data_wait": [0.1, 0.2]}))
    (line,) = lines(tmp_path)
    assert (line["update_norm"], line["rank_data_wait"]) == (0.5, [0.1, 0.2])
    assert line["tflops"] == pytest.approx(0.016) and line["mfu"] == pytest.approx(0.16)
    assert "data wait 20% | MFU 16.0% | ETA" in caplog.text


def test_the_last_step_ends_an_interval(make_monitor, tmp_path):
    monitor = make_monitor(log_period=4, total_clips=40)
    monitor.open(0, 0)
    for step in range(1, 6):
        monitor.record(report(step, loss=step))
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(4, 2.5), (5, 5.0)]


def test_a_resumed_log_has_every_step_once(make_monitor, tmp_path):
    monitor = make_monitor(log_period=1)
    monitor.open(0, 0)
    for step in range(1, 6):
        monitor.record(report(step, loss=step))
    monitor.record_evaluation("probe", 2, {"accuracy": 0.5})
    monitor.record_evaluation("probe", 4, {"accuracy": 0.6})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    resumed = make_monitor(log_period=1)
    resumed.open(3, 24)
    resumed.record(report(4, loss=40.0))
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    assert (tmp_path / "evaluations.jsonl").read_text() == '{"step": 2, "evaluator": "probe", "accuracy": 0.5}\n'


def test_the_interval_in_progress_travels_with_a_checkpoint(make_monitor, tmp_path):
    first = make_monitor(log_period=3)
    first.open(0, 0)
    first.record(report(1, loss=0.1, metrics={"m": (1.0, 1.0)}))
    state = first.state_dict()
    first.record(report(2, loss=100.0, metrics={"m": (100.0, 1.0)}))  # lost with the process
    second = make_monitor(log_period=3)
    second.load_state_dict(json.loads(json.dumps(state)))
    second.open(1, 8)
    second.record(report(2, loss=0.2, metrics={"m": (2.0, 1.0)}))
    second.record(report(3, loss=0.3))
    (line,) = lines(tmp_path)
    assert line["loss"] == (0.1 + 0.2 + 0.3) / 3 and line["m"] == 1.5
    assert line["wall_seconds"] >= state["wall_seconds"]


def test_progress_bar_on_a_terminal(make_monitor, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "diffmae_video")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160, color_system=None)
    monkeypatch.setattr("rich.console.Console", lambda: console)
    monkeypatch.setattr(monitor_module, "REFRESH_SECONDS", 0.0)
    monitor = make_monitor(terminal=True)
    monitor.open(0, 0)
    monitor.record(report(1, loss=0.25))
    assert "loss 0.2500 lr 1.00e-03 16.0 clips/s data wait 20% ETA 0:00:04" in screen.getvalue()
    monitor.record(report(2))
    monitor.close()
    assert "step 2 |" not in caplog.text  # no log lines beside the bar
    assert sys.stdout is sys.__stdout__ or "rich" not in type(sys.stdout).__module__


def test_tensorboard_has_scalars_and_pictures_and_forgets_what_a_resume_repeats(make_monitor, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start, loss in ((0, 1.0), (2, 7.0)):
        monitor = make_monitor(tensorboard=True, log_period=1)
        monitor.open(start, 8 * start)
        for step in range(start + 1, 5):
            monitor.record(report(step, loss=loss))
        monitor.record_image("sheet", np.zeros((4, 6, 3), np.uint8), 4)
        monitor.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 1.0), (3, 7.0), (4, 7.0)]
    assert events.Images("sheet")[-1].width == 6


def test_a_missing_tensorboard_is_named_before_the_run(make_monitor, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RunError, match="pip install tensorboard"):
        make_monitor(tensorboard=True)
    make_monitor(tensorboard=False)


def test_a_full_disk_costs_a_line_and_not_the_run(tmp_path, caplog):
    path = tmp_path / "log.jsonl"
    log = JsonLines(path, keep_up_to=0)
    log.append({"step": 1})
    whole, log._file = log._file, FullDisk(log._file)
    log.append({"step": 2, "loss": 0.5})
    log._file = whole
    log.append({"step": 3})
    log.close()
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'
    assert "no space left" in caplog.text


class FullDisk:
    """A file with room for three more bytes."""

    def __init__(self, file):
        self.file, self.room = file, 3

    def write(self, data):
        if not self.room:
            raise OSError(28, "No space left on device")
        written = self.file.write(data[: self.room])
        self.room -= written
        return written

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_logging_goes_to_standard_output_once(capsys):
    package = logging.getLogger("diffmae_video")
    before = package.handlers[:], package.propagate, package.level
    package.handlers = []
    try:
        configure_logging()
        configure_logging()
        logging.getLogger("diffmae_video.engine.test").info("hello")
        assert capsys.readouterr().out.count("hello") == 1
    finally:
        package.handlers, package.propagate, package.level = before
