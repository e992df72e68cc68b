"""The training loop. What is trained on what is the task's business; the trainer counts, steps, saves and goes on."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import nn

from diffmae_video.engine.checkpoint import FORMAT, config_changes
from diffmae_video.engine.checkpoint_manager import CheckpointManager
from diffmae_video.engine.disk import write_text
from diffmae_video.engine.ema import ExponentialMovingAverage, resume_average
from diffmae_video.engine.errors import CheckpointError, DataFailed, RunError, TooManyUnreadable, TrainingInterrupted
from diffmae_video.engine.evaluation import Evaluator, evaluation
from diffmae_video.engine.full_state import (
    full_state,
    load_full_model_state,
    load_full_optimizer_state,
    places,
    sharded_state,
    whole_model,
)
from diffmae_video.engine.interrupts import Interrupts
from diffmae_video.engine.monitor import Monitor, StepReport
from diffmae_video.engine.optimizer import LrSchedule, describe_groups, set_lr
from diffmae_video.engine.rank_times import RankTimes
from diffmae_video.engine.stepping import Stepper, StepResult, check_finite
from diffmae_video.engine.tasks import Task
from diffmae_video.engine.unreadable import UnreadableFiles
from diffmae_video.engine.world import Peers, is_connection_error
from diffmae_video.engine.wrapping import autocast, unwrap

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run has come, over all processes.

    Attributes:
        step: optimiser steps done.
        clips: clips seen.
        draws: videos drawn from the data order; a run goes on with draw number ``draws``.
        unreadable: draws that hit an unreadable file (each was replaced by another one).
    """

    step: int = 0
    clips: int = 0
    draws: int = 0
    unreadable: int = 0


class Trainer:
    """Runs optimiser steps until ``total_steps * clips_per_step`` clips were seen.

    A run that is killed at any moment and started again goes on from its newest checkpoint and computes the same
    numbers as one that was not: data order, crops, masks, noise and drop path depend on the seed and on the number of
    the draw or step alone.

    Args:
        model: on its device, wrapped from outside or not.
        task: turns a batch into a loss; see ``tasks.py``.
        optimizer: over the model's trainable parameters; its learning rate is set at every step, see ``set_lr``.
        schedule: clips seen before a step -> learning rate of that step.
        make_loader: first draw -> iterable of batches that never ends, this process's part of them; see
            ``data.ClipBatch``.
        total_steps: length of the run.
        clips_per_step, draws_per_step: clips (videos) of one optimiser step, over all processes and micro-batches.
        accumulation: micro-batches per optimiser step and process.
        precision: ``"bf16"`` (autocast) or ``"fp32"``.
        clip_grad_norm: largest L2 norm of the gradient; 0 = no clipping. The norm is logged in any case.
        checkpoints: of this run.
        checkpoint_period: optimiser steps between two checkpoints; one more is written at the end.
        monitor: where progress goes.
        evaluators: run on their schedules; see ``evaluation.py``.
        device: where the model is.
        seed: of the run.
        max_unreadable_fraction: the run stops when more of its draws were unreadable.
        output_dir: folder of the run, for ``config.yaml``, ``unreadable.txt`` and ``nonfinite_step_*.txt``.
        config_text: YAML of the resolved configuration, stored beside the run and in every checkpoint.
        weights_from: where the model's weights came from, for the log.
        extra_description: lines for the log of the start, after the trainer's own.
        ema_decay: decay of a running average of the weights, which evaluators then see and every checkpoint also holds;
            0 = no average. See ``ema.py``.
        auto_resume: go on from the newest checkpoint; False refuses a folder that holds one.
        peers: the processes of the run, of which this is one; only rank 0 writes (all append to ``unreadable.txt``).
            None = this one alone.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        task: Task,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[float], float],
        make_loader: Callable[[int], Iterable[Any]],
        total_steps: int,
        clips_per_step: int,
        draws_per_step: int,
        accumulation: int,
        precision: str,
        clip_grad_norm: float,
        checkpoints: CheckpointManager,
        checkpoint_period: int,
        monitor: Monitor,
        device: torch.device,
        seed: int,
        max_unreadable_fraction: float,
        output_dir: str | Path,
        config_text: str,
        evaluators: Sequence[Evaluator] = (),
        weights_from: str = "random initialisation",
        extra_description: Sequence[str] = (),
        ema_decay: float = 0.0,
        auto_resume: bool = True,
        peers: Peers | None = None,
    ):
        self.peers = Peers() if peers is None else peers
        rank, world_size = self.peers.world.rank, self.peers.world.size
        # Several processes stop together, after a step: see ``StepResult.stop``.
        self._interrupts = Interrupts(deferred=world_size > 1)
        self.stepper = Stepper(
            model=model,
            task=task,
            optimizer=optimizer,
            clips_per_step=clips_per_step,
            accumulation=accumulation,
            precision=precision,
            clip_grad_norm=clip_grad_norm,
            device=device,
            seed=seed,
            interrupts=self._interrupts,
            rank=rank,
            world_size=world_size,
        )
        self.model, self.optimizer, self.schedule, self.make_loader = model, optimizer, schedule, make_loader
        self.total_clips = total_steps * clips_per_step
        self.clips_per_step, self.draws_per_step, self.accumulation = clips_per_step, draws_per_step, accumulation
        self.checkpoints, self.checkpoint_period, self.auto_resume = checkpoints, checkpoint_period, auto_resume
        self.monitor, self.evaluators = monitor, evaluators
        self.device, self.precision, self.rank, self.world_size = device, precision, rank, world_size
        self.output_dir, self.config_text, self.weights_from = Path(output_dir), config_text, weights_from
        self.extra_description = tuple(extra_description)
        self.ema = ExponentialMovingAverage(unwrap(model), ema_decay) if ema_decay else None
        self.unreadable = UnreadableFiles(self.output_dir / "unreadable.txt", max_unreadable_fraction)
        self.progress = Progress()
        self._rank_times = RankTimes(device, rank, world_size)
        self._batches: Iterator[Any] | None = None
        self._saved_step = 0

    def run(self) -> Progress:
        """Trains from the newest checkpoint, or from the start, to the end.

        Raises:
            NonFiniteLoss: the loss or gradient of a step is NaN or infinite; nothing of that step was applied or saved.
            TooManyUnreadable: see ``max_unreadable_fraction``; the state was saved.
            DataFailed: the loader cannot go on; a single process has saved its state.
            TrainingInterrupted: Ctrl-C, SIGTERM, SIGUSR1 or SIGUSR2, to any of the processes; the state after the last
                complete step was saved.
            PeerGone: another process of the run is gone; the newest checkpoint is whole.
            CheckpointError: the checkpoints found do not fit, or none is whole.
        """
        with self._interrupts:
            try:
                if self._complete():
                    return self.progress
                self._save(last=True)
            finally:
                # After the state is on the disk: what watches the run may be slow to end.
                self.monitor.close()
        raise TrainingInterrupted(
            f"interrupted after step {self.progress.step}; newest checkpoint: {self.checkpoints.latest() or 'none'}. "
            "To go on, run the same command again (with TRAIN.AUTO_RESUME True, the default)",
            exit_code=128 + (self._interrupts.signal_number or signal.SIGINT),
        )

    def _complete(self) -> bool:
        """Trains to the end, or until the run is asked to stop: False. Then its state is still to be saved.

        That is done by the caller, where the interrupted frames are gone, and with them the loader's workers: their end
        is reported by an error that could fall into the middle of saving.
        """
        try:
            self._start()
            self._train()
            return True
        except KeyboardInterrupt:
            self._interrupts.end()
            if self.ema is not None:
                self.ema.restore()
            logger.info("stopping after step %d ...", self.progress.step)
            return False
        except TooManyUnreadable:
            self._save()
            raise
        except DataFailed:
            # Of several processes it ends this one alone: the others wait for its part of a step, not to save.
            if self.world_size == 1:
                self._save()
            raise
        except RunError:
            raise
        except RuntimeError as error:
            if self.world_size > 1 and is_connection_error(error):
                raise self.peers.explain(error) from error
            raise
        finally:
            self._batches = None
            self.checkpoints.wait()

    # ---------------------------------------------------------------------------------------------------- the loop

    def _train(self) -> None:
        if self.progress.clips >= self.total_clips:
            logger.info("this run is complete: nothing to do")
            return
        self.model.train()
        self._batches = iter(self.make_loader(self.progress.draws))
        while self.progress.clips < self.total_clips:
            self._step(self._batches)
            last = self.progress.clips >= self.total_clips
            self._evaluate(last)
            if last or self._checkpoint_is_due():
                self._save(last)
        if self._saved_step != self.progress.step:
            raise RunError(
                "training is complete but its last checkpoint could not be written: free some space and run the same "
                "command again; it goes on from the newest checkpoint"
            )
        logger.info("training is complete: checkpoint %s", self.checkpoints.path(self.progress.step))

    def _step(self, batches: Iterator[Any]) -> None:
        """One optimiser step: gradient, check, update, report."""
        started = time.perf_counter()
        lr = self.schedule(self.progress.clips)
        set_lr(self.optimizer, lr)
        result = self.stepper.gradient(batches, self.progress.step)
        latest = self.checkpoints.latest
        check_finite(result, self.progress.step + 1, self.output_dir, latest, self.rank, self.world_size)

        # From here the state is between two steps: a signal waits until parameters, counts and log agree again.
        with self._interrupts.held():
            step, clips = self.progress.step + 1, self.progress.clips + self.clips_per_step
            line_is_due = self.monitor.line_is_due(step, clips)
            line: dict[str, Any] = dict(self.stepper.update(measured=line_is_due))
            if self.ema is not None:
                self.ema.update()
            self.progress.step, self.progress.clips = step, clips
            self.progress.draws += self.draws_per_step
            self.progress.unreadable += result.failures
            seconds = time.perf_counter() - started
            self._rank_times.add(seconds, result.data_seconds, result.own_seconds)
            if line_is_due:
                line |= self._rank_times.gather()
            if self.rank == 0:
                self.monitor.record(self._report(result, lr, seconds, line))
            self.unreadable.record(result.unreadable)
        self.unreadable.check(self.progress.unreadable, self.progress.draws)
        if result.stop is not None:
            self._interrupts.signal_number = result.stop
            raise KeyboardInterrupt

    def _report(self, result: StepResult, lr: float, seconds: float, line: dict[str, Any]) -> StepReport:
        return StepReport(
            step=self.progress.step,
            clips=self.progress.clips,
            unreadable=self.progress.unreadable,
            loss=result.loss,
            grad_norm=result.grad_norm,
            lr=lr,
            step_clips=self.clips_per_step,
            seconds=seconds,
            data_seconds=result.data_seconds,
            metrics=result.metrics,
            line=line,
        )

    def _evaluate(self, last: bool) -> None:
        for evaluator in self.evaluators:
            if not last and self.progress.step % evaluator.period:
                continue
            with whole_model(self.model, self.ema, self.device, first=self.rank == 0) as model:
                if model is not None:
                    with evaluation(model, self.device), autocast(self.precision, self.device):
                        values = evaluator.evaluate(model, self.progress.step, self.monitor)
                    self.monitor.record_evaluation(evaluator.name, self.progress.step, values)
            # As long as it takes, where a sum over processes would time out.
            self.peers.wait_for(f"{evaluator.name} at step {self.progress.step}")

    # ------------------------------------------------------------------------------------------ start, save, stop

    def _start(self) -> None:
        """Restores the newest checkpoint if there is one, opens the log, and says what is about to run."""
        source = self.weights_from
        if self.rank != 0:  # the first process puts damaged files aside: the others find what is left
            self.peers.wait_for("the newest checkpoint")
        found = self.checkpoints.load_latest(places(self.model, self.optimizer)) if self.auto_resume else None
        self.peers.say("the newest checkpoint")
        if not self.auto_resume and self.checkpoints.latest() is not None:
            raise CheckpointError(
                f"{self.checkpoints.folder} holds the checkpoints of another run and TRAIN.AUTO_RESUME is False: "
                "choose another OUTPUT_DIR, move that folder away, or set TRAIN.AUTO_RESUME True to go on from there"
            )
        if found is not None:
            state, path = found
            with self._interrupts.held():
                self._restore(state, path)
            source = f"{path} (step {self.progress.step}, {self.progress.clips} clips)"
        for line in self._describe(source):
            logger.info("%s", line)
        if self.rank == 0:
            write_text(self.output_dir / "config.yaml", self.config_text)
            self.monitor.open(self.progress.step, self.progress.clips)

    def _describe(self, source: str) -> list[str]:
        parameters = list(unwrap(self.model).parameters())
        count = sum(p.numel() for p in parameters) / 1e6
        trained = sum(p.numel() for p in parameters if p.requires_grad) / 1e6
        steps = math.ceil((self.total_clips - self.progress.clips) / self.clips_per_step)
        micro = self.stepper.local_clips // self.accumulation
        return [
            f"output: {self.output_dir}",
            f"model: {type(unwrap(self.model)).__name__}, {count:.2f} M parameters, {trained:.2f} M of them trained, "
            f"{self.precision} on {self.device}",
            f"effective batch: {self.clips_per_step} clips per step = {micro} per micro-batch x {self.accumulation} "
            f"accumulated x {self.world_size} processes, from {self.draws_per_step} videos",
            f"length: {self.total_clips // self.clips_per_step} steps, {self.total_clips} clips; {steps} steps to go",
            f"optimizer: {type(self.optimizer).__name__}, learning rate: {self.schedule}",
            *self._describe_options(),
            f"starts from: {source}",
            *self.extra_description,
        ]

    def _describe_options(self) -> list[str]:
        """Lines about what most runs do without."""
        lines = []
        if isinstance(self.schedule, LrSchedule):
            lines += describe_groups(self.optimizer.param_groups, self.schedule.peak)
        if self.ema is not None:
            lines.append(f"averaged weights: decay {self.ema.decay:g}; evaluations use them, checkpoints hold both")
        return lines

    def _restore(self, state: dict[str, Any], path: Path) -> None:
        try:
            load_full_model_state(self.model, state["model"])
            load_full_optimizer_state(self.optimizer, state["optimizer"])
            resume_average(self.ema, state, path)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path} does not fit this run's model and optimizer: {shorten(str(error), 500)}. Choose another "
                "OUTPUT_DIR, or use the configuration that is stored beside it"
            ) from error
        for change in config_changes(state["config"], self.config_text):
            logger.warning("the configuration differs from the checkpoint's: %s", change)
        self.progress = Progress(**state["progress"])
        self.monitor.load_state_dict(state["monitor"])
        torch.set_rng_state(state["rng"]["cpu"])
        self._saved_step = self.progress.step

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on, and that ``checkpoint.py`` lists.

        All processes call this. What the first one gets is written, or every one's part: see ``full_state.py``.
        """
        collect = sharded_state if self.checkpoints.sharded else full_state
        return {
            "format": FORMAT,
            **collect(self.model, self.optimizer, self.ema),
            "progress": asdict(self.progress),
            "monitor": self.monitor.state_dict(),
            "config": self.config_text,
            "rng": {"cpu": torch.get_rng_state()},
        }

    def _checkpoint_is_due(self) -> bool:
        periods = (self.checkpoint_period, self.checkpoints.keep_period)
        return any(period and self.progress.step % period == 0 for period in periods)

    def _save(self, last: bool = False) -> None:
        """Writes a checkpoint of the last complete step, unless there is one or the disk is full.

        ``last``: it is on the disk when this returns, also where the run need not wait for others.
        """
        with self._interrupts.held():
            if self._saved_step != self.progress.step:
                if self.rank == 0:
                    self.monitor.sync()
                if self.checkpoints.save(self.state_dict(), self.progress.step) is not None:
                    self._saved_step = self.progress.step
            if last and not self.checkpoints.wait():
                self._saved_step = -1
            # Nobody goes on, or ends, before it is on the disk: launchers stop all when one of them has ended.
            self.peers.wait_for(f"checkpoint of step {self.progress.step}")
