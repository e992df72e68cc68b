"""What a run tells while it goes: progress bar or log lines, JSON lines, and what ``sinks.py`` has.

``log.jsonl`` has one line per interval of ``log_period`` steps; docs/monitoring.md says what each field is good for::

    step, clips           optimiser steps and clips since the start of the run
    epoch                 clips / videos in the training set
    lr                    of the interval's last step
    loss, grad_norm       means over the interval (grad_norm before clipping)
    param_norm            L2 norm of the trained parameters after the interval's last step
    update_norm           L2 norm of what that step changed in them
    clips_per_second      clips / time spent in training steps, waiting for data included
    step_seconds          mean duration of a step
    data_wait_share       share of that time in which the first process waited for its loader, 0 to 1
    tflops, mfu           10^12 operations per second, and their share of the peak, see ``flops.py``; if counted
    unreadable            unreadable draws since the start of the run
    wall_seconds          time since the start of the run, all its processes together, time between them left out
    (names of metrics)    means over the clips of the interval that they apply to

and, of several processes, or on a GPU, since the last line or the last start::

    rank_seconds_min, rank_seconds_max, slowest_rank    own time of a step (``rank_times.py``): least, most, and whose
    rank_data_wait, rank_data_wait_max                  data_wait_share of every process, and the largest
    gpu_memory_allocated, gpu_memory_reserved           GiB, the most that any process had

``evaluations.jsonl`` has one line per evaluation that gave numbers: step, evaluator, and its values.
"""

from __future__ import annotations

import copy
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from diffmae_video.engine.disk import JsonLines
from diffmae_video.engine.sinks import Sink, TensorBoard

if TYPE_CHECKING:
    from rich.progress import Progress

    from diffmae_video.engine.flops import Compute

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 0.1  # the bar is drawn at most this often


@dataclass
class StepReport:
    """One optimiser step, as the trainer saw it.

    Attributes:
        step, clips, unreadable: totals of the run after this step.
        loss, grad_norm, lr: of this step; grad_norm before clipping.
        step_clips: clips of this step.
        seconds, data_seconds: duration of the step, and the part of it spent waiting for data.
        metrics: name -> (sum, count) over this step's clips.
        line: fields that are measured only where a line is written, see ``Monitor.line_is_due``.
    """

    step: int
    clips: int
    unreadable: int
    loss: float
    grad_norm: float
    lr: float
    step_clips: int
    seconds: float
    data_seconds: float
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    line: dict[str, Any] = field(default_factory=dict)


class Interval:
    """Sums over the steps since the last line. They are part of a checkpoint: a resumed interval has the same means."""

    def __init__(self) -> None:
        self.steps = 0
        self.loss = self.grad_norm = self.seconds = self.data_seconds = 0.0
        self.clips = 0
        self.metrics: dict[str, list[float]] = {}

    def add(self, report: StepReport) -> None:
        self.steps += 1
        self.loss += report.loss
        self.grad_norm += report.grad_norm
        self.clips += report.step_clips
        self.seconds += report.seconds
        self.data_seconds += report.data_seconds
        for name, (total, count) in report.metrics.items():
            sums = self.metrics.setdefault(name, [0.0, 0.0])
            sums[0] += total
            sums[1] += count

    def means(self) -> dict[str, float]:
        """Loss, gradient norm, speed, and the metrics that something was counted for."""
        seconds = max(self.seconds, 1e-9)
        return {
            "loss": self.loss / self.steps,
            "grad_norm": self.grad_norm / self.steps,
            "clips_per_second": self.clips / seconds,
            "step_seconds": seconds / self.steps,
            "data_wait_share": self.data_seconds / seconds,
            **{name: total / count for name, (total, count) in self.metrics.items() if count},
        }


class Monitor:
    """Writes a run's progress; see the module's description.

    Args:
        output_dir: folder of the run; created when missing.
        total_clips: length of the run.
        clips_per_epoch: videos in the training set.
        log_period: optimiser steps between two lines.
        tensorboard: also write TensorBoard events to ``output_dir/tensorboard``.
        terminal: draw a progress bar instead of printing log lines; None = when standard output is a terminal.
        sinks: where numbers and pictures go besides.
        compute: for the utilisation; None = not told.
    """

    def __init__(
        self,
        output_dir: str | Path,
        total_clips: int,
        clips_per_epoch: int,
        log_period: int = 10,
        tensorboard: bool = False,
        terminal: bool | None = None,
        sinks: Sequence[Sink] = (),
        compute: Compute | None = None,
    ):
        self.output_dir = Path(output_dir)
        self.total_clips, self.clips_per_epoch, self.log_period = total_clips, clips_per_epoch, log_period
        self.terminal = sys.stdout.isatty() if terminal is None else terminal
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self._sinks = [*([TensorBoard(self.output_dir / "tensorboard")] if tensorboard else []), *sinks]
        self._compute = compute
        self._log: JsonLines | None = None
        self._evaluations: JsonLines | None = None
        self._bar: Progress | None = None
        self._drawn = 0.0
        self._interval = Interval()
        self._previous_seconds = 0.0
        self._started = time.perf_counter()

    def open(self, step: int, clips: int) -> None:
        """Opens the files for a run that goes on after ``step``: what they say about later steps is removed."""
        self._started = time.perf_counter()
        self._log = JsonLines(self.output_dir / "log.jsonl", keep_up_to=step)
        self._evaluations = JsonLines(self.output_dir / "evaluations.jsonl", keep_up_to=step)
        for sink in self._sinks:
            sink.open(step)
        if self.terminal:
            # Imported here, because runs in the background have no bar.
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            # Drawn from the training loop, not from a thread: loader workers are forked while the bar is up.
            columns = (TextColumn("{task.fields[before]}"), BarColumn(bar_width=10), TextColumn("{task.fields[after]}"))
            self._bar = Progress(*columns, console=Console(), auto_refresh=False)
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total_clips, completed=clips, before="", after="starting")

    def close(self) -> None:
        """Closes every file; safe to call twice and before ``open``."""
        self.sync()
        for part in (self._log, self._evaluations, *self._sinks):
            if part is not None:
                part.close()
        if self._bar is not None:
            self._bar.stop()
        self._log = self._evaluations = self._bar = None

    def sync(self) -> None:
        """Puts the lines written so far on the disk, before a checkpoint that relies on them."""
        for lines in (self._log, self._evaluations):
            if lines is not None:
                lines.sync()

    def line_is_due(self, step: int, clips: int) -> bool:
        """Whether the step after which the run has made ``step`` steps and seen ``clips`` clips writes a line."""
        return step % self.log_period == 0 or clips >= self.total_clips

    def record(self, report: StepReport) -> None:
        """Takes in one step; at the end of an interval, and of the run, writes its line."""
        self._interval.add(report)
        means = self._interval.means()
        values = {
            "step": report.step,
            "clips": report.clips,
            "epoch": report.clips / self.clips_per_epoch,
            "lr": report.lr,
            **means,
            **({} if self._compute is None else self._compute.values(means["clips_per_second"])),
            "unreadable": report.unreadable,
            "wall_seconds": self._wall_seconds(),
            **report.line,
        }
        self._draw(values)
        if self.line_is_due(report.step, report.clips):
            if self._log is not None:
                self._log.append(values)
            self._send("train", values, report.step)
            if not self.terminal:
                logger.info("%s", self.describe(values))
            self._interval = Interval()

    def record_evaluation(self, evaluator: str, step: int, values: dict[str, float]) -> None:
        """Writes the numbers that an evaluator returned, if any."""
        if values and self._evaluations is not None:
            self._evaluations.append({"step": step, "evaluator": evaluator, **values})
            logger.info("step %d: %s %s", step, evaluator, ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
            self._send(evaluator, values, step)

    def record_image(self, tag: str, image: np.ndarray, step: int) -> None:
        """Shows a picture, uint8 (H, W, 3), in TensorBoard and the other sinks."""
        for sink in self._sinks:
            sink.image(tag, image, step)

    def describe(self, values: dict[str, float]) -> str:
        """The log line of an interval's values."""
        return (
            f"step {values['step']} | clips {values['clips']}/{self.total_clips} | epoch {values['epoch']:.2f} | "
            f"grad norm {values['grad_norm']:.3g} | {' | '.join(self._measures(values))}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The interval in progress and the time so far, as plain values."""
        return {"interval": copy.deepcopy(vars(self._interval)), "wall_seconds": self._wall_seconds()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self._interval).update(copy.deepcopy(state["interval"]))
        self._previous_seconds = state["wall_seconds"]

    def _wall_seconds(self) -> float:
        return self._previous_seconds + time.perf_counter() - self._started

    def _send(self, group: str, values: dict[str, Any], step: int) -> None:
        for sink in self._sinks:
            sink.scalars(group, values, step)

    def _draw(self, values: dict[str, float]) -> None:
        now = time.perf_counter()
        done = values["clips"] >= self.total_clips
        if self._bar is None or (now - self._drawn < REFRESH_SECONDS and not done):
            return
        self._drawn = now
        before, after = f"step {values['step']}", " ".join(self._measures(values))
        self._bar.update(self._task, completed=values["clips"], before=before, after=after, refresh=True)

    def _measures(self, values: dict[str, float]) -> list[str]:
        remaining = (self.total_clips - values["clips"]) / max(values["clips_per_second"], 1e-9)
        return [
            f"loss {values['loss']:.4f}",
            f"lr {values['lr']:.2e}",
            f"{values['clips_per_second']:.1f} clips/s",
            f"data wait {values['data_wait_share']:.0%}",
            *([f"MFU {values['mfu']:.1%}"] if "mfu" in values else []),
            f"ETA {_duration(remaining)}",
        ]


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class _CurrentStdout(logging.StreamHandler):
    """Writes to what ``sys.stdout`` is at the moment: the progress bar replaces it to print above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stdout


def configure_logging(level: int = logging.INFO, rank: int = 0) -> None:
    """Prints the package's log messages to standard output, once however often it is called. For entry points.

    Of several processes the first tells what happens; the others, whose lines begin with their ``rank``, only warn.
    """
    package = logging.getLogger("diffmae_video")
    package.setLevel(max(level, logging.WARNING) if rank else level)
    package.propagate = False
    if not package.handlers:
        handler = _CurrentStdout()
        prefix = f"[rank {rank}] " if rank else ""
        handler.setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(message)s", datefmt="%H:%M:%S"))
        package.addHandler(handler)
