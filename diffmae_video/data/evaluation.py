"""Read a dataset for measuring: every video once, none in place of another, and an account of the unreadable ones."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from diffmae_video.data.dataset import ClipDataset, ClipSample
from diffmae_video.data.decoding import UnreadableVideo
from diffmae_video.data.loader import ClipBatch, collate, start_worker
from diffmae_video.data.workers import SteadyLoader


class _Failure(NamedTuple):
    """A video that could not be read."""

    index: int
    path: str
    reason: str


class _Attempts(NamedTuple):
    """What became of a few videos."""

    batch: ClipBatch | None  # of those that were read; None where none was
    read: int
    unreadable: list[_Failure]


class EvaluationClips:
    """Batches of all clips of a dataset, in order; a result is then to be given together with ``summary()``.

    A batch holds B * R clips, the R views of a video together and in order: the clip id of view r of video i is
    i * R + r. A video that cannot be read is left out, never replaced: its batch is smaller. Iterating again starts
    anew.

    Args:
        dataset: made with ``train=False``.
        batch_size: videos per batch.
        num_workers: decoding processes; 0 = decode in this one.
        indices: numbers of the videos; None = all.

    Attributes:
        dataset, indices: as passed.
        views: R, clips per video.
        unreadable: (path, message) of every video that could not be read, so far.
        unreadable_indices: their numbers in the dataset.
        read: number of videos that were read, so far.

    Raises:
        ValueError: a training dataset, which would replace what it cannot read.
    """

    def __init__(
        self, dataset: ClipDataset, batch_size: int, num_workers: int = 0, indices: Sequence[int] | None = None
    ) -> None:
        if dataset.train:
            raise ValueError("an evaluation needs a dataset made with train=False: a training dataset replaces videos")
        self.dataset, self.views = dataset, dataset.repeats
        self.indices = numbers = list(range(len(dataset)) if indices is None else indices)
        self.unreadable: list[tuple[str, str]] = []
        self.unreadable_indices: list[int] = []
        self.read = 0
        batches = [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]
        make = partial(self._make_loader, num_workers=num_workers)
        self._loader = SteadyLoader(make, batches) if num_workers > 0 else make(batches)

    def _make_loader(self, batches: Iterable[list[int]], num_workers: int) -> DataLoader:
        return DataLoader(
            _Attempted(self.dataset),
            batch_sampler=batches,
            collate_fn=_collate,
            num_workers=num_workers,
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # of the seeds that torch gives its workers, which nobody uses
            multiprocessing_context="fork" if num_workers > 0 and sys.platform == "linux" else None,
        )

    def __iter__(self) -> Iterator[ClipBatch]:
        self.unreadable, self.unreadable_indices, self.read = [], [], 0
        for attempts in self._loader:
            self.unreadable += [(failure.path, failure.reason) for failure in attempts.unreadable]
            self.unreadable_indices += [failure.index for failure in attempts.unreadable]
            self.read += attempts.read
            if attempts.batch is not None:
                yield attempts.batch

    def account(self) -> tuple[list[int], int, list[tuple[str, str]], list[int]]:
        """``indices``, ``read``, ``unreadable`` and ``unreadable_indices``: what :meth:`join` takes."""
        return self.indices, self.read, self.unreadable, self.unreadable_indices

    def join(self, accounts: Sequence[tuple[list[int], int, list[tuple[str, str]], list[int]]]) -> None:
        """Takes over the :meth:`account` of all processes that read a part of the dataset each, in their order."""
        indices, read, unreadable, numbers = zip(*accounts, strict=True)
        self.indices, self.read = sum(indices, []), sum(read)
        self.unreadable, self.unreadable_indices = sum(unreadable, []), sum(numbers, [])

    def summary(self) -> str:
        """One line for a report: how many videos were measured, how many could not be."""
        if not self.unreadable:
            return f"{self.read} videos, all readable"
        return f"{self.read} videos; {len(self.unreadable)} more are unreadable and left out"


class _Attempted(Dataset):
    """The samples of a dataset by number, an unreadable one as a ``_Failure``."""

    def __init__(self, dataset: ClipDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> ClipSample | _Failure:
        try:
            return self._dataset[(index, index)]
        except UnreadableVideo as error:
            return _Failure(index, error.path, error.reason)


def _collate(samples: list[ClipSample | _Failure]) -> _Attempts:
    read = [sample for sample in samples if isinstance(sample, ClipSample)]
    failed = [sample for sample in samples if isinstance(sample, _Failure)]
    return _Attempts(collate(read) if read else None, len(read), failed)
