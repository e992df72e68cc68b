"""One optimiser step: the gradient of all its micro-batches, a look at whether it is finite, then the update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffmae_video.engine.disk import tolerate_full_disk, write_text
from diffmae_video.engine.errors import NonFiniteLoss
from diffmae_video.engine.interrupts import SIGNALS, Interrupts
from diffmae_video.engine.norms import copies, update_norms
from diffmae_video.engine.randomness import clip_generators, seed_step, shared_generator
from diffmae_video.engine.rank_times import OwnTime
from diffmae_video.engine.sharding import clip, total_norm
from diffmae_video.engine.tasks import Task
from diffmae_video.engine.unreadable import check_loader_error
from diffmae_video.engine.wrapping import autocast, sum_over_ranks, without_sum

PATHS_SHOWN = 5  # of a broken batch, in the error message; the file next to it lists all


@dataclass
class StepResult:
    """What is known of a step once its gradient is complete, before the parameters change.

    Attributes:
        loss: mean over the clips of all micro-batches and processes.
        grad_norm: L2 norm of the gradient, before clipping.
        failures: unreadable draws, all processes.
        metrics: name -> (sum, count) over all micro-batches and processes.
        paths: files of this process's clips.
        unreadable: (path, message) of this process's unreadable draws.
        data_seconds: time this process waited for the loader.
        own_seconds: time until it met the others, see ``OwnTime``.
        stop: number of the signal by which a process was asked to stop before this step was summed up; None = none was.
            Every process has the same.
        nonfinite_ranks: processes whose own loss is not finite.
    """

    loss: float
    grad_norm: float
    failures: int
    metrics: dict[str, tuple[float, float]]
    paths: list[str]
    unreadable: list[tuple[str, str]]
    data_seconds: float
    own_seconds: float
    stop: int | None = None
    nonfinite_ranks: tuple[int, ...] = ()


@dataclass
class _Sums:
    """Running sums over the micro-batches of a step, in this process."""

    loss: torch.Tensor
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)
    clips: int = 0
    paths: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    data_seconds: float = 0.0


class Stepper:
    """Computes gradients and updates; arguments as in :class:`~diffmae_video.engine.trainer.Trainer`.

    Raises:
        ValueError: clips that cannot be split evenly over processes and micro-batches.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        task: Task,
        optimizer: torch.optim.Optimizer,
        clips_per_step: int,
        accumulation: int,
        precision: str,
        clip_grad_norm: float,
        device: torch.device,
        seed: int,
        interrupts: Interrupts,
        rank: int = 0,
        world_size: int = 1,
    ):
        if clips_per_step % (world_size * accumulation):
            raise ValueError(
                f"{clips_per_step} clips per step cannot be split evenly over {world_size} processes with "
                f"{accumulation} micro-batches each"
            )
        self.model, self.task, self.optimizer = model, task, optimizer
        self.accumulation, self.precision, self.clip_grad_norm = accumulation, precision, clip_grad_norm
        self.device, self.seed, self.interrupts = device, seed, interrupts
        self.rank, self.world_size = rank, world_size
        self.local_clips = clips_per_step // world_size
        self._norm = torch.zeros(())
        self._own_time = OwnTime(device)

    def gradient(self, batches: Iterator[Any], step: int) -> StepResult:
        """Leaves the gradient of optimiser step number ``step`` (from 0) in the parameters.

        Raises:
            DataFailed: the loader cannot give this process's part of the step.
            ValueError: the loader ended, or gave another number of clips than a step has.
        """
        self._own_time.start()
        seed_step(self.seed, step, self.rank)
        self.optimizer.zero_grad(set_to_none=True)
        sums = _Sums(loss=torch.zeros((), device=self.device, dtype=torch.float64))
        for micro_batch in range(self.accumulation):
            shared = shared_generator(self.seed, step, micro_batch)
            batch, last = self._next(batches, sums), micro_batch == self.accumulation - 1
            with nullcontext() if last else without_sum(self.model):
                self._accumulate(batch, shared, sums)
        if sums.clips != self.local_clips:
            raise ValueError(f"the loader gave {sums.clips} clips for a step of {self.local_clips}")
        self._norm = total_norm(self._gradients())
        return self._result(sums)

    def update(self, measured: bool = False) -> dict[str, float]:
        """Clips the gradient, if asked to, and applies it.

        ``measured``: returns the norms of ``update_norms``, for which it takes a copy of the parameters; else nothing.
        """
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        before = copies(parameters) if measured else None
        if self.clip_grad_norm > 0:
            clip(self._gradients(), self.clip_grad_norm, self._norm)
        self.optimizer.step()
        return {} if before is None else update_norms(parameters, before)

    def _gradients(self) -> list[torch.Tensor]:
        return [p.grad for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None]

    def _next(self, batches: Iterator[Any], sums: _Sums) -> Any:
        waiting = time.perf_counter()
        try:
            # A batch that is cut off on its way from a worker leaves that worker complaining.
            with self.interrupts.held(patience=1):
                batch = next(batches, None)
        except (RuntimeError, OSError) as error:
            if self.interrupts.signal_number is not None:
                # The signal reached the loader's workers as well, and ended them.
                raise KeyboardInterrupt from None
            check_loader_error(error)
            raise
        if batch is None:
            raise ValueError("the loader ended before the run did: training needs one that never ends")
        sums.data_seconds += time.perf_counter() - waiting
        return batch

    def _accumulate(self, batch: Any, shared: torch.Generator, sums: _Sums) -> None:
        """Adds the gradient and the sums of one micro-batch."""
        # From the ids on the host: reading them back from the device would wait for everything it still has to do.
        generators = clip_generators(self.seed, batch.clip_ids, self.device)
        with autocast(self.precision, self.device):
            loss, metrics = self.task.loss(self.model, batch.to(self.device), generators, shared)
        self._own_time.stop()
        # Weighted by the micro-batch's share of this process's clips, so that the sum of the gradients is that of one
        # large batch. A wrapper for several processes then averages the gradients over these.
        share = len(batch.clip_ids) / self.local_clips
        (loss * share).backward()
        sums.loss += loss.detach().double() * share / self.world_size
        for name, value in metrics.items():
            value = value.detach().double()
            sums.metrics[name] = sums.metrics[name] + value if name in sums.metrics else value
        sums.clips += len(batch.clip_ids)
        sums.paths += batch.paths
        sums.unreadable += batch.failures

    def _result(self, sums: _Sums) -> StepResult:
        """Sums over the processes, and everything to the host in one copy: a copy waits for the device."""
        names = sorted(sums.metrics)
        asked = self.interrupts.signal_number if self.interrupts.deferred else None
        counts = [float(len(sums.unreadable)), *(float(asked == number) for number in SIGNALS)]
        counts = torch.tensor(counts, device=self.device, dtype=torch.float64)
        broken = torch.zeros(self.world_size, device=self.device, dtype=torch.float64)
        broken[self.rank] = (~sums.loss.isfinite()).double()
        metrics = [value for name in names for value in sums.metrics[name]]
        packed = torch.cat([sums.loss.reshape(1), counts, broken, torch.stack(metrics) if metrics else counts[:0]])
        packed = sum_over_ranks(packed, self.world_size)
        norm = self._norm.detach().to(packed).reshape(1)
        loss, failed, *flat, grad_norm = torch.cat([packed, norm]).tolist()
        stops, flat = flat[: len(SIGNALS)], flat[len(SIGNALS) :]
        ranks, flat = flat[: self.world_size], flat[self.world_size :]
        return StepResult(
            loss=loss,
            grad_norm=grad_norm,
            failures=round(failed),
            metrics={name: (flat[2 * i], flat[2 * i + 1]) for i, name in enumerate(names)},
            paths=sums.paths,
            unreadable=sums.unreadable,
            data_seconds=sums.data_seconds,
            own_seconds=self._own_time.seconds(),
            stop=next((int(number) for number, asked in zip(SIGNALS, stops, strict=True) if asked), None),
            nonfinite_ranks=tuple(rank for rank, value in enumerate(ranks) if value),
        )


def check_finite(
    result: StepResult,
    step: int,
    output_dir: Path,
    newest: Callable[[], Path | None],
    rank: int = 0,
    world_size: int = 1,
) -> None:
    """Stops a run before a loss or gradient that is no number spoils the parameters.

    Args:
        result: of the gradient of optimiser step number ``step`` (from 1).
        output_dir: where ``nonfinite_step_*.txt`` with the files of the batch goes.
        newest: gives the run's newest checkpoint, for the message.
        rank, world_size: of this process. Every one lists the files of its own part of the batch.

    Raises:
        NonFiniteLoss: the loss or the gradient norm is NaN or infinite.
    """
    if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
        return
    unique = sorted(set(result.paths))
    listing = output_dir / f"nonfinite_step_{step:08d}{f'_rank_{rank}' if rank else ''}.txt"
    ranks = ", ".join(map(str, result.nonfinite_ranks))
    whose = f" The loss is not finite on rank {ranks}." if ranks and world_size > 1 else ""
    if world_size > 1 and not ranks:
        whose = " The loss of every rank is finite; whose gradient is not, their sum does not tell."
    with tolerate_full_disk(str(listing)):
        write_text(listing, "".join(f"{path}\n" for path in unique))
    more = ", ..." if len(unique) > PATHS_SHOWN else ""
    raise NonFiniteLoss(
        f"step {step}: the loss is {result.loss:g} and the gradient norm {result.grad_norm:g}.{whose} The step was not "
        f"applied or saved, and every checkpoint is kept (newest: {newest() or 'none'}). The batch's {len(unique)} "
        f"files, all listed in {listing}: {', '.join(unique[:PATHS_SHOWN])}{more}. A lower SOLVER.BASE_LR, "
        "SOLVER.CLIP_GRAD_NORM 1.0 or TRAIN.PRECISION fp32 may help"
    )
