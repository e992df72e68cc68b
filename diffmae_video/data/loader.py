"""From a dataset to batches: the order of the videos, and the processes that read them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info

from diffmae_video.data.dataset import ClipDataset, ClipSample
from diffmae_video.data.seeding import generator_from
from diffmae_video.data.watchdog import end_with_parent
from diffmae_video.data.workers import SteadyLoader


class DrawSampler(Sampler):
    """Endless batches of (draw, index): which videos a run reads, in which order, on which process.

    Draws are numbered through a whole run. Draw d takes the (d modulo size)-th video of a permutation that depends
    on the seed and the epoch d // size alone: not on the number of workers, processes or videos per step. Step s
    uses the draws [s * videos_per_step, (s + 1) * videos_per_step); each of ``world_size`` processes takes a
    contiguous share of them, in ``micro_batches`` consecutive batches. A run that stopped before step s goes on,
    also in the middle of an epoch, with ``start_draw = s * videos_per_step``.

    Args:
        size: number of videos; may be smaller than a batch.
        videos_per_step: over all processes and micro-batches.
        seed: >= 0.
        start_draw: the first draw.
        rank, world_size: this process, and how many there are.
        micro_batches: batches per step on this process.
        order: gives the permutation of an epoch, int64 (size,), in place of a uniformly random one; for tar shards.

    Raises:
        ValueError: ``videos_per_step`` is not a multiple of ``world_size * micro_batches``, or a number is out of
            its range.
    """

    def __init__(
        self,
        size: int,
        videos_per_step: int,
        seed: int = 0,
        start_draw: int = 0,
        rank: int = 0,
        world_size: int = 1,
        micro_batches: int = 1,
        order: Callable[[int], torch.Tensor] | None = None,
    ) -> None:
        if min(size, videos_per_step, world_size, micro_batches) < 1 or start_draw < 0 or not 0 <= rank < world_size:
            raise ValueError(
                f"size {size}, videos_per_step {videos_per_step}, world_size {world_size} and micro_batches "
                f"{micro_batches} must be at least 1, start_draw {start_draw} at least 0, rank {rank} below world_size"
            )
        if videos_per_step % (world_size * micro_batches):
            raise ValueError(
                f"{videos_per_step} videos per step cannot be shared by {world_size} processes with {micro_batches} "
                f"micro-batches each: choose a multiple of {world_size * micro_batches}"
            )
        self.size = size
        self.videos_per_step = videos_per_step
        self.seed = seed
        self.start_draw = start_draw
        self.rank = rank
        self.world_size = world_size
        self.micro_batches = micro_batches
        self._permutation = order or self._random_permutation
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.videos_per_step // self.world_size
        batch = share // self.micro_batches
        first = self.start_draw + self.rank * share
        while True:
            for start in range(first, first + share, batch):
                yield [(draw, self._index(draw)) for draw in range(start, start + batch)]
            first += self.videos_per_step

    def _index(self, draw: int) -> int:
        epoch, place = divmod(draw, self.size)
        if epoch != self._epoch:
            self._order = self._permutation(epoch)
            self._epoch = epoch
        return int(self._order[place])

    def _random_permutation(self, epoch: int) -> torch.Tensor:
        return torch.randperm(self.size, generator=generator_from(self.seed, epoch))


# 2^64 divided by the golden ratio: the multiples of this number are spread more evenly over [0, 2^64) than chance does.
GOLDEN_STEP = np.uint64(0x9E3779B97F4A7C15)


class MixSampler(DrawSampler):
    """Endless batches over several sources, every step from one of them, so that its clips have one length.

    Which source a step takes depends on the seed and the step's number alone; after any number of steps, each source
    has had its share of them to within a few. A source goes through its own permutations, epoch by epoch: none of its
    videos comes again before all have come. Draws are numbered over all sources together, and a run goes on with
    ``start_draw`` as it does with a ``DrawSampler``, on any number of processes.

    Args:
        sizes: number of videos of every source; the indices of a source follow those of the one before.
        weights: shares of the steps, > 0; their sum does not matter.
        orders: an ``order`` of ``DrawSampler`` for every source, or None where its permutations are uniformly random.
        others: as for ``DrawSampler``.

    Raises:
        ValueError: as ``DrawSampler``; also weights that do not fit the sizes, and a ``start_draw`` inside a step: the
            number of videos per step cannot change between two parts of a run.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        videos_per_step: int,
        seed: int = 0,
        start_draw: int = 0,
        rank: int = 0,
        world_size: int = 1,
        micro_batches: int = 1,
        orders: Sequence[Callable[[int], torch.Tensor] | None] | None = None,
    ) -> None:
        super().__init__(min(sizes, default=0), videos_per_step, seed, start_draw, rank, world_size, micro_batches)
        if len(weights) != len(sizes) or min(weights) <= 0:
            raise ValueError(f"{len(sizes)} sources need as many weights above 0, got {list(weights)}")
        if start_draw % videos_per_step:
            raise ValueError(
                f"a mix goes on at the beginning of a step, but draw {start_draw} is not a multiple of "
                f"{videos_per_step} videos per step: keep the batch size with which the run was started"
            )
        self.sizes = list(sizes)
        self._own_orders = list(orders or [None] * len(self.sizes))
        self.offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist()
        self.shares = np.cumsum(weights) / np.sum(weights)
        self._start = np.uint64(torch.randint(2**62, (), generator=generator_from(seed, 0)))
        self._source = 0
        self._before = [0] * len(self.sizes)  # steps that every source had before the present one
        self._orders: dict[int, tuple[int, torch.Tensor]] = {}  # source -> its epoch and that epoch's permutation

    def sources(self, first_step: int, last_step: int) -> np.ndarray:
        """Numbers of the sources of the steps [first_step, last_step), int64."""
        steps = np.arange(first_step, last_step, dtype=np.uint64)
        places = (self._start + steps * GOLDEN_STEP) / 2.0**64  # the product wraps around, as it should
        return np.minimum(np.searchsorted(self.shares, places, side="right"), len(self.sizes) - 1)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.start_draw // self.videos_per_step
        # A source's own draws go on from there.
        self._before = np.bincount(self.sources(0, step), minlength=len(self.sizes)).tolist()
        batches = super().__iter__()
        while True:
            self._source = int(self.sources(step, step + 1)[0])
            for _ in range(self.micro_batches):
                yield next(batches)
            self._before[self._source] += 1
            step += 1

    def _index(self, draw: int) -> int:
        source = self._source
        own_draw = self._before[source] * self.videos_per_step + draw % self.videos_per_step
        epoch, place = divmod(own_draw, self.sizes[source])
        if self._orders.get(source, (-1,))[0] != epoch:
            self._orders[source] = epoch, self._permute(source, epoch)
        return self.offsets[source] + int(self._orders[source][1][place])

    def _permute(self, source: int, epoch: int) -> torch.Tensor:
        own = self._own_orders[source]
        if own is not None:
            return own(epoch)
        return torch.randperm(self.sizes[source], generator=generator_from(self.seed, epoch, source))


class ClipBatch(NamedTuple):
    """A batch of B clips; the clips of one video stand together."""

    clips: torch.Tensor  # uint8 (B, C, T, H, W)
    labels: torch.Tensor  # int64 (B,); -1 = none
    clip_ids: torch.Tensor  # int64 (B,): draw * R + r; no two clips of a run have the same
    paths: list[str]  # B, the video of every clip
    failures: list[tuple[str, str]]  # (path, message) of every unreadable video met

    def to(self, device: torch.device | str) -> ClipBatch:
        """The batch with its tensors on ``device``; the copy does not wait where the memory is page-locked."""
        return self._replace(
            clips=self.clips.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            clip_ids=self.clip_ids.to(device, non_blocking=True),
        )


def collate(samples: Sequence[ClipSample]) -> ClipBatch:
    """Join samples of equal size into a batch."""
    repeats = samples[0].clips.shape[0]
    draws = torch.tensor([sample.draw for sample in samples])
    clips = torch.cat([sample.clips for sample in samples])
    if get_worker_info() is not None:
        # Here and not on its way to the training process, where an error (no shared memory left) would only be printed,
        # and the batch be missing for ever.
        clips.share_memory_()
    return ClipBatch(
        clips=clips,
        labels=torch.tensor([sample.label for sample in samples]).repeat_interleave(repeats),
        clip_ids=(draws[:, None] * repeats + torch.arange(repeats)).flatten(),
        paths=[sample.path for sample in samples for _ in range(repeats)],
        failures=[failure for sample in samples for failure in sample.failures],
    )


def make_loader(
    dataset: ClipDataset,
    sampler: Sampler | Sequence[list[tuple[int, int]]],
    num_workers: int,
    prefetch_factor: int = 2,
    pin_memory: bool = False,
) -> Iterable[ClipBatch]:
    """Yields ``ClipBatch``, in the order of ``sampler`` whatever the number of workers, also when workers die.

    Args:
        dataset: the clips.
        sampler: gives batches of (draw, index): a ``DrawSampler``, or a finite list of lists.
        num_workers: decoding processes; 0 = decode in this one.
        prefetch_factor: batches that every worker prepares ahead.
        pin_memory: page-locked batches, for copies to a GPU that do not wait; ignored where there is none.

    Raises:
        WorkersDied: (iterating) the workers cannot work here, see ``SteadyLoader``.
    """

    def make(batches: Iterable[list[tuple[int, int]]]) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor if num_workers > 0 else None,
            pin_memory=pin_memory and torch.cuda.is_available(),
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # of the seeds that torch gives its workers, which nobody uses
            # fork: workers start at once, share the manifest's memory, and a script needs no `__name__ == "__main__"`.
            # It is safe here because a worker inherits nothing in use: files are opened and closed within a call, and
            # it runs one thread and never touches the GPU. Elsewhere fork does not exist or is unsafe by the system.
            multiprocessing_context="fork" if num_workers > 0 and sys.platform == "linux" else None,
        )

    return SteadyLoader(make, sampler) if num_workers > 0 else make(sampler)


def start_worker(worker: int) -> None:
    """What a worker does first: it ends with its parent, has one thread, and leaves signals to the parent."""
    # When the training process is killed; torch's own watch misses a kill in the first moments.
    end_with_parent()
    if os.getppid() != multiprocessing.parent_process().pid:  # killed before that
        os._exit(1)
    torch.set_num_threads(1)  # there is a worker for every core already
    # Ctrl-C reaches all processes of the terminal, a scheduler's signal all those of the job: the main one ends the
    # workers when it has finished its step, without a traceback from each. They do not outlive it, see above.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
