"""Executes the runs of ``evidence.py`` in worker processes, so that it can be killed at any moment and started again.

A worker imports torch once and calls ``run_net.run`` for one run after the other. What a run prints goes to ``run.log``
in its folder. Unfinished runs go on from their checkpoints, as those of ``run_net.py`` do.
"""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

from evidence_records import finish, has_weights, new_record, read_record, remove_weights, write_record
from evidence_studies import PRETRAIN, Run

logger = logging.getLogger(__name__)

LOG = "run.log"
STOP_SECONDS = 60  # that a worker has to save its state before it is ended
# One thread each; the other as in run_net.py. Read when torch is imported.
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "10000"}
ATTEMPTS = 2  # of a run whose worker died: its death may have been another's fault


class Failure(NamedTuple):
    """A run that is not complete, and why."""

    run: Run
    reason: str


# ---------------------------------------------------------------------------------------------- in a worker process


def start_worker(stop: Event) -> None:
    """Prepares a worker: one thread, everything imported, and an end with its parent's, or when ``stop`` is set."""
    import torch

    import diffmae_video.build  # noqa: F401 - now, so that no run's time holds it

    torch.set_num_threads(1)
    # Ctrl-C on a terminal reaches the workers too. A training run takes the signal for itself; else the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(stop, multiprocessing.parent_process()), daemon=True).start()


def _end_with(stop: Event, parent: multiprocessing.process.BaseProcess) -> None:
    while not stop.wait(0.5) and parent.is_alive():
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # a training run saves its state
    time.sleep(STOP_SECONDS)
    os._exit(1)


def work(run: Run, configs: Sequence[str]) -> str:
    """One run from where it stands to its end; returns "", or why it is not complete."""
    import run_net

    run.folder.mkdir(parents=True, exist_ok=True)
    with _locked(run.folder / ".evidence.lock"):
        record = read_record(run.folder) or new_record(run, configs)
        if record["finished"]:
            return ""  # by another command, which this one has waited for
        write_record(run.folder, record)
        cpu, started = sum(os.times()[:4]), time.perf_counter()
        with _output_to(run.folder / LOG):
            try:
                status = run_net.run(run.files, run.overrides, print_config=False)
            except Exception:
                logger.exception("the run ended with a fault of the program")
                status = 1
        record["cpu_seconds"] += sum(os.times()[:4]) - cpu
        record["wall_seconds"] += time.perf_counter() - started
        reason = f"exit code {status}" if status else finish(run, record)
        write_record(run.folder, record)
        return reason


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Waits until no other process works in this folder: a worker of a killed command may still be saving its state."""
    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


@contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """Sends standard output and error to the end of ``file``, those of subprocesses and of C++ too."""
    saved = [os.dup(1), os.dup(2)]
    with file.open("ab", buffering=0) as opened:
        for descriptor in (1, 2):
            os.dup2(opened.fileno(), descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, original in zip((1, 2), saved, strict=True):
            os.dup2(original, descriptor)
            os.close(original)


# --------------------------------------------------------------------------------------------------- in this process


def is_finished(run: Run) -> bool:
    record = read_record(run.folder)
    return record is not None and record["finished"]


def to_do(runs: Sequence[Run]) -> list[Run]:
    """The runs to do: those that are not finished, and those of which one needs weights that are not there."""
    todo = {run.folder for run in runs if not is_finished(run)}
    for run in reversed(runs):  # what a run starts from comes before it
        if run.folder in todo and run.after is not None and not has_weights(run.after):
            todo.add(run.after)
            if (record := read_record(run.after)) is not None:
                write_record(run.after, record | {"finished": False})
    return [run for run in runs if run.folder in todo]


def execute(
    runs: Sequence[Run],
    configs: Mapping[Path, Sequence[str]],
    jobs: int,
    keep_checkpoints: bool = False,
    later: Sequence[Run] = (),
    say: Callable[[str], None] = print,
) -> list[Failure]:
    """Does all runs that are not finished, ``jobs`` at a time; returns those that failed, while the others went on.

    Args:
        runs: in an order in which a run comes after what it starts from, which is among them.
        configs: of every run, by its folder; see ``evidence_records.configurations``.
        jobs: worker processes, >= 1.
        keep_checkpoints: False deletes those of recognition runs that no unfinished run, ``later`` ones included,
            starts from.
        later: runs that are not to be done now.
        say: told about every run that starts or ends.
    """
    for name, value in WORKER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    todo = to_do(runs)
    say(f"{len(runs)} runs, {len(runs) - len(todo)} of them finished before, {jobs} at a time")
    scheduler = _Scheduler((*runs, *later), todo, configs, keep_checkpoints, say)
    while todo and not scheduler.done:
        try:
            scheduler.work_with(jobs)
        except BrokenProcessPool:
            scheduler.requeue()
    return scheduler.failures


class _Scheduler:
    """Which run is next, and what became of the others."""

    def __init__(
        self,
        runs: Sequence[Run],
        todo: Sequence[Run],
        configs: Mapping[Path, Sequence[str]],
        keep_checkpoints: bool,
        say: Callable[[str], None],
    ):
        self.runs, self.configs, self.keep_checkpoints, self.say = runs, configs, keep_checkpoints, say
        self.waiting, self.total, self.ended = list(todo), len(todo), 0
        self.running: dict[Future[str], Run] = {}
        self.attempts: dict[Path, int] = {}
        self.failures: list[Failure] = []

    @property
    def done(self) -> bool:
        return not self.waiting and not self.running

    def work_with(self, jobs: int) -> None:
        """Until all is done; raises BrokenProcessPool when a worker was killed."""
        context = multiprocessing.get_context("spawn")  # a fork of a process that has used torch may hang
        stop = context.Event()
        pool = ProcessPoolExecutor(min(jobs, self.total), context, initializer=start_worker, initargs=(stop,))
        try:
            while not self.done:
                while len(self.running) < jobs and (run := self._next()) is not None:
                    self.say(f"{run.name} ...")
                    self.attempts[run.folder] = self.attempts.get(run.folder, 0) + 1
                    self.running[pool.submit(work, run, self.configs[run.folder])] = run
                if self.running:
                    ended, _ = wait(self.running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        reason = future.result()
                        self._end(self.running.pop(future), reason)
        except BaseException:
            stop.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def requeue(self) -> None:
        """After the death of a worker: what was running is tried again, but not for ever."""
        for run in list(self.running.values()):
            if is_finished(run):
                self._end(run, "")
            elif self.attempts[run.folder] < ATTEMPTS:
                self.waiting.insert(0, run)
            else:
                self._end(run, "its process was killed; is there enough memory?")
        self.running = {}

    def _next(self) -> Run | None:
        """The first waiting run whose weights are there; those that wait for a failed one fail."""
        failed = {failure.run.folder for failure in self.failures}
        for run in [run for run in self.waiting if run.after in failed]:
            self.waiting.remove(run)
            self._end(run, f"{run.after} has failed, from which it starts")
            return self._next()
        busy = {run.folder for run in (*self.waiting, *self.running.values())}
        ready = next((run for run in self.waiting if run.after not in busy), None)
        if ready is not None:
            self.waiting.remove(ready)
        return ready

    def _end(self, run: Run, reason: str) -> None:
        self.ended += 1
        if reason:
            self.failures.append(Failure(run, reason))
            self.say(f"[{self.ended}/{self.total}] {run.name} FAILED: {reason}")
            return
        record = read_record(run.folder) or {}
        result = f"top-1 {record['top1']:.1%}" if "top1" in record else f"{record.get('clips', 0)} clips"
        self.say(f"[{self.ended}/{self.total}] {run.name}: {result} in {record.get('wall_seconds', 0):.0f} s")
        if not self.keep_checkpoints:
            remove_unneeded(self.runs)


def remove_unneeded(runs: Sequence[Run]) -> None:
    """Deletes the checkpoints of finished recognition runs that no unfinished one of ``runs`` starts from."""
    finished = {run.folder for run in runs if is_finished(run)}
    needed = {run.after for run in runs if run.folder not in finished}
    for run in runs:
        if run.task != PRETRAIN and run.folder in finished - needed:
            remove_weights(run.folder)
