"""Batches from worker processes that may die: killed for lack of memory, or by what they call.

torch ends a run whose worker dies, and it does so wherever the training process happens to be, in the middle of an
update too. Here the workers are started anew, and the batches that had not come back are handed out again, in their
order. What is read depends on (draw, index) alone: nothing is lost, and no number changes.
"""

from __future__ import annotations

import logging
import os
import signal
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data._utils.signal_handling import _remove_worker_pids

from diffmae_video.data.folder_watch import DataFolderGone, LoadingFailed

logger = logging.getLogger(__name__)

DEATHS = 3  # in a row without a batch between them: then it is the batch, or the machine, and not an accident
DYING_SECONDS = 2.0  # between a broken connection to a worker and its end
SHARED_MEMORY = "/dev/shm"
LESS_MEMORY = "Lower DATA_LOADER.NUM_WORKERS or DATA_LOADER.PREFETCH_FACTOR"


class WorkersDied(LoadingFailed):
    """Worker processes could not do their work, and starting them anew does not help; the message says why."""


class SteadyLoader:
    """A DataLoader with workers that goes on when one of them dies.

    Every iteration starts workers of its own, which end with it.

    Args:
        make: a batch sampler -> a DataLoader with at least one worker, and with a generator of its own: the global one
            belongs to the step in the middle of which workers may be started.
        batches: what the batch sampler gives, of whatever kind; iterated once per iteration.

    Raises:
        WorkersDied: (iterating) workers died ``DEATHS`` times in a row at the same place, or have no shared memory.
    """

    def __init__(self, make: Callable[[Iterable[Any]], DataLoader], batches: Iterable[Any]) -> None:
        self._make, self._batches = make, batches

    def __iter__(self) -> SteadyBatches:
        return SteadyBatches(self._make, iter(self._batches))


class SteadyBatches:
    """One iteration of a :class:`SteadyLoader`.

    Attributes:
        workers: the processes that work for it now.
    """

    def __init__(self, make: Callable[[Iterable[Any]], DataLoader], batches: Iterator[Any]) -> None:
        self._make, self._handed_out = make, _HandedOut(batches)
        self.workers: list[BaseProcess] = []
        self._deaths = 0
        self._end = weakref.finalize(self, _kill, self.workers, os.getpid())
        self._current = self._start()

    def __iter__(self) -> SteadyBatches:
        return self

    def __next__(self) -> Any:
        while True:
            try:
                batch = next(self._current)
            except StopIteration:
                self._end()
                raise
            except DataFolderGone as error:  # a worker's, whose traceback the message carries
                raise DataFolderGone(str(error).strip().splitlines()[-1].partition(": ")[2]) from None
            except Exception as error:
                if "unable to allocate shared memory" in str(error):
                    raise WorkersDied(_no_shared_memory()) from None
                dead = self._dead(patience=DYING_SECONDS if isinstance(error, (OSError, EOFError)) else 0)
                if not dead:
                    raise  # what a worker that lives raised
                self._replace(dead)
                continue
            self._deaths = 0
            self._handed_out.has_come_back()
            return batch

    def _start(self) -> Iterator[Any]:
        batches = iter(self._make(self._handed_out))
        # torch would raise an error in this process whenever a worker dies, wherever it is: between the parameters that
        # are updated and those that are not. It does not watch these; a death is noticed here, when a batch is late.
        if batches._worker_pids_set:
            _remove_worker_pids(id(batches))
            batches._worker_pids_set = False
        self.workers[:] = batches._workers  # the only place where torch has them
        return batches

    def _dead(self, patience: float) -> list[BaseProcess]:
        """Workers that have died; where a connection to one broke, it may still be about to."""
        deadline = time.monotonic() + patience
        while not (dead := [worker for worker in self.workers if worker.exitcode]) and time.monotonic() < deadline:
            time.sleep(0.02)
        return dead

    def _replace(self, dead: list[BaseProcess]) -> None:
        """New workers in place of all that there are: one that died may have held a lock that the others wait for."""
        self._deaths += 1
        how = ", ".join(f"process {worker.pid} {_how(worker.exitcode)}" for worker in dead)
        if any(worker.exitcode == -signal.SIGBUS for worker in dead):
            raise WorkersDied(f"a loader worker died: {how}. {_no_shared_memory()}")
        if self._deaths == DEATHS:
            raise WorkersDied(
                f"loader workers died {DEATHS} times in a row at the same place, the last time {how}. Killed for lack "
                f"of memory (`dmesg` says so)? {LESS_MEMORY}. By a decoder? DATA.DECODE_TIMEOUT above 0 keeps decoders "
                "in a process of their own"
            )
        logger.warning("a loader worker died (%s); the workers are started anew and nothing is lost", how)
        _kill(self.workers, os.getpid())
        self._current = None  # before the new ones: what torch still has of the old ones goes
        self._current = self._start()


class _HandedOut:
    """A batch sampler that remembers what has not come back, and hands it out again first when iterated again."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._rest = batches
        self._waiting: deque[Any] = deque()  # handed out, in this order
        self._again: deque[Any] = deque()  # to be handed out once more, before the rest

    def __iter__(self) -> Iterator[Any]:
        self._again.extendleft(reversed(self._waiting))
        self._waiting.clear()
        while self._again:
            yield self._waits(self._again.popleft())
        for batch in self._rest:
            yield self._waits(batch)

    def has_come_back(self) -> None:
        """The first one that is waited for: batches come in the order in which they were handed out."""
        self._waiting.popleft()

    def _waits(self, batch: Any) -> Any:
        self._waiting.append(batch)
        return batch


def _kill(workers: list[BaseProcess], owner: int) -> None:
    """Ends workers at once: they have nothing to finish, and one that waits for a lock would not end by itself."""
    if os.getpid() != owner:
        return  # a forked child has copies of its parent's objects
    for worker in workers:
        if worker.exitcode is None:
            worker.kill()


def _how(exit_code: int) -> str:
    return f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"


def _no_shared_memory() -> str:
    """What to do where the workers' batches do not fit into shared memory."""
    try:
        status = os.statvfs(SHARED_MEMORY)
        size = f"{SHARED_MEMORY} has {status.f_blocks * status.f_frsize / 2**20:.0f} MB"
    except OSError:
        size = f"{SHARED_MEMORY} does not answer"
    return (
        f"There is no shared memory left for the batches of the loader's workers: {size}, and it has to hold "
        f"PREFETCH_FACTOR + 1 batches of every worker. {LESS_MEMORY}, or make it larger: docker run --shm-size=8g (or "
        "--ipc=host), in Kubernetes an emptyDir of medium Memory"
    )
