"""The processes of a run: which of them this is, the group that they form, and who of them has gone.

The launcher (``torchrun``, ``NUM_GPUS``, ``slurm/submit.py``) starts the processes and tells each, in its environment,
RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. One process without these is a world of its own and forms no
group: it takes the same way through the code.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from textwrap import shorten
from typing import Any

import torch
from torch import distributed, nn

from diffmae_video.engine.errors import PeerGone, RunError, TrainingInterrupted, one_line
from diffmae_video.engine.meeting import own_place

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
BEAT_SECONDS = 2.0  # between two signs of life
PART_SECONDS = 30.0  # that the first process waits at the end for the others to have read what it said last
SILENT_BEATS = 5  # so many missed ones, and a process counts as gone
ANSWER_SECONDS = 10.0  # a store that takes longer does not answer
ADVICE = "The run goes on from its newest checkpoint when it is started again"


@dataclass(frozen=True)
class World:
    """A process of a run.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local_rank: its number among those of its own machine: which GPU is its own.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and log lines for all."""
        return self.rank == 0


def world_from_environment(environment: Mapping[str, str] = os.environ) -> World:
    """What the launcher said; a world of one where it said nothing.

    Raises:
        RunError: some of the variables only, or values that are none.
    """
    given = [name for name in NAMES if name in environment]
    if "RANK" not in given and "WORLD_SIZE" not in given:
        return World()
    missing = [name for name in NAMES if name not in given]
    if missing:
        raise RunError(
            f"the environment has {', '.join(given)} but not {', '.join(missing)}: start the processes with torchrun, "
            "NUM_GPUS or slurm/submit.py, which set all of them, or unset RANK and WORLD_SIZE for a single process"
        )
    try:
        world = World(*(int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except ValueError as error:
        raise RunError(f"RANK, WORLD_SIZE and LOCAL_RANK are whole numbers, got {error}") from error
    if not 0 <= world.rank < world.size:
        raise RunError(f"RANK is {world.rank}, but there are {world.size} processes: ranks count from 0")
    return world


@contextlib.contextmanager
def joined(world: World, device: torch.device, timeout: float) -> Iterator[Peers]:
    """The processes form a group inside this context: gloo on the CPU, NCCL for tensors on a GPU.

    Args:
        world: of this process.
        device: where its model is.
        timeout: seconds after which a sum over processes that does not come is an error.

    Raises:
        RunError: the others were not found.
    """
    if world.size == 1:
        yield Peers()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        limit = timedelta(seconds=timeout)
        store, rank, size = next(distributed.rendezvous("env://", world.rank, world.size, timeout=limit))
        store = own_place(store, rank, size, timeout)
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"rank {world.rank} of {world.size} could not join the others at {where} within {timeout:g} s: "
            f"{one_line(error)}. Expected all {world.size} processes to run, and that address to be reachable from "
            "every machine"
        ) from error
    peers = Peers(world, distributed.distributed_c10d._get_default_store())
    try:
        yield peers
        peers.part()
    except TrainingInterrupted:  # of all of them, after the same step
        peers.part()
        raise
    except Exception as error:
        peers.leave(error)
        raise
    finally:
        peers.close()
        distributed.destroy_process_group()


class Peers:
    """The processes of a run, and signs of life of all of them, on the store that they met at.

    A thread of every process writes there every ``BEAT_SECONDS``. Where a sum over processes fails, the one that is
    silent is the one that has gone: :meth:`explain` names it. :meth:`wait_for` waits as long as a process works, and
    no longer than it lives, where a sum would run into the timeout.

    Args:
        world: of this process; a world of one by default, whose methods do nothing.
        store: where they met.
    """

    def __init__(self, world: World = World(), store: distributed.Store | None = None):  # noqa: B008 - it is frozen
        self.world, self._store = world, None if store is None else store.clone()
        self._ended = threading.Event()
        self._said: Counter[str] = Counter()  # how often each thing was said here: names may come again
        if self._store is not None:
            self._store.set(self._key("who", world.rank), _this_process())
            self._store.add(self._key("beats", world.rank), 1)
            threading.Thread(target=self._run, name="signs of life", daemon=True).start()

    def say(self, name: str) -> None:
        """Tells the others that this process, if it is the first one, has done ``name``."""
        if self._store is not None and self.world.rank == 0:
            self._said[name] += 1
            self._ask("set", self._key("said", name, self._said[name]), "1")

    def wait_for(self, name: str) -> None:
        """The first process says ``name``, the others wait until it has: all of them call this.

        Raises:
            PeerGone: it is gone.
        """
        if self._store is None:
            return
        if self.world.rank == 0:
            self.say(name)
            return
        self._said[name] += 1
        key, watch, looked = self._key("said", name, self._said[name]), None, time.monotonic()
        try:
            while not self._ask("check", [key]):
                watch = watch or _Watch(self, [0])
                if time.monotonic() - looked > BEAT_SECONDS / 2:
                    self._check_first(watch)
                    looked = time.monotonic()
                time.sleep(0.02)
        except (RuntimeError, ValueError) as error:  # the store is gone
            if isinstance(error, PeerGone):
                raise
            raise self.explain(error) from error

    def share(self, model: nn.Module) -> None:
        """Every process gets the parameters and buffers of the first one's ``model``."""
        if self._store is not None:
            with torch.no_grad():
                for value in model.state_dict().values():
                    distributed.broadcast(value, 0)

    def gather(self, name: str, value: Any) -> list[Any] | None:
        """The values of all processes, in their order, on the first one; None on the others.

        Waits for all of them as long as it takes. ``name``: what the values are, another one every time.

        Raises:
            PeerGone: one of them is gone.
        """
        if self._store is None:
            return [value]
        self._store.add(self._key("ready", name), 1)
        watch = _Watch(self, [rank for rank in range(self.world.size) if rank != self.world.rank])
        while self._store.add(self._key("ready", name), 0) < self.world.size:
            gone = watch.silent()
            if gone:
                raise PeerGone(self._sentence(gone))
            time.sleep(0.05)
        values = [None] * self.world.size if self.world.is_first else None
        distributed.gather_object(value, values)
        return values

    def leave(self, error: BaseException) -> None:
        """Tells the others, whose next sum over processes will fail, why this process ends."""
        if self._store is not None:
            with contextlib.suppress(RuntimeError, ValueError):
                lines = str(error).strip().splitlines() or [""]  # the last one says it, where a traceback stands above
                self._ask(
                    "set", self._key("left", self.world.rank), f"{type(error).__name__}: {shorten(lines[-1], 300)}"
                )

    def explain(self, error: BaseException) -> PeerGone:
        """What a failed sum over processes means: who has left with what error, or has not been heard of since."""
        others = [rank for rank in range(self.world.size) if rank != self.world.rank]
        try:
            if left := self._left(others):
                return PeerGone(f"{left}. {ADVICE}")
            watch = _Watch(self, others)
            time.sleep(BEAT_SECONDS * (SILENT_BEATS + 1))
            gone = watch.silent()
            if gone:
                return PeerGone(self._sentence(gone))
        except (RuntimeError, ValueError):  # the store went with the process that had it, or cannot be reached
            return PeerGone(
                f"rank {self.world.rank} ({_this_process()}): the connection to the other processes is lost, that to "
                f"the store too, which the launcher or rank 0 has ({one_line(error)}). Was it killed, is "
                f"{os.environ.get('MASTER_ADDR', 'its machine')} down, or the network cut? {ADVICE}"
            )
        return PeerGone(
            f"rank {self.world.rank}: a sum over processes failed although all {self.world.size} still run "
            f"({one_line(error)}): one of them may be stuck, or has stopped with an error of its own above. {ADVICE}"
        )

    def part(self) -> None:
        """The end of all: the first process, which may have the store, goes when the others need it no more."""
        if self._store is None:
            return
        deadline = time.monotonic() + PART_SECONDS
        with contextlib.suppress(RuntimeError, ValueError):
            parted = self._ask("add", self._key("parted"), 0 if self.world.is_first else 1)
            while self.world.is_first and parted < self.world.size - 1 and time.monotonic() < deadline:
                time.sleep(0.02)
                parted = self._ask("add", self._key("parted"), 0)

    def close(self) -> None:
        self._ended.set()
        self._store = None

    def beats(self, rank: int) -> int:
        """Signs of life that process ``rank`` has given."""
        return self._ask("add", self._key("beats", rank), 0)

    def _check_first(self, watch: _Watch) -> None:
        """Raises PeerGone if the first process, which is waited for, has ended with an error, or is silent."""
        if left := self._left([0]):
            raise PeerGone(f"{left}. {ADVICE}")
        if watch.silent():
            raise PeerGone(self._sentence([0]))

    def _left(self, ranks: list[int]) -> str:
        """Of those who have ended with an error: who, and with what; "" = none has."""
        keys = {rank: self._key("left", rank) for rank in ranks}
        why = {rank: self._ask("get", key).decode() for rank, key in keys.items() if self._ask("check", [key])}
        return " and ".join(f"{self._who(rank)} of {self.world.size} has ended ({why[rank]})" for rank in why)

    def _who(self, rank: int) -> str:
        return f"rank {rank} ({self._ask('get', self._key('who', rank)).decode()})"

    def _ask(self, method: str, *arguments: object) -> Any:
        """Calls a method of the store, which by itself waits for an answer for ever where the network is cut.

        Raises:
            RuntimeError: the store is gone, or has not answered within ``ANSWER_SECONDS``.
        """
        answer: list[tuple[bool, Any]] = []

        def ask(store: distributed.Store) -> None:
            try:
                answer.append((True, getattr(store, method)(*arguments)))
            except (RuntimeError, ValueError) as error:
                answer.append((False, error))

        thread = threading.Thread(target=ask, args=(self._store,), name="question to the store", daemon=True)
        thread.start()
        thread.join(ANSWER_SECONDS)
        if not answer:
            raise RuntimeError(f"the store has not answered within {ANSWER_SECONDS:g} s")
        good, value = answer[0]
        if not good:
            raise value
        return value

    def _run(self) -> None:
        store = self._store.clone()  # a connection of its own: no other call of this process holds it up
        while not self._ended.wait(BEAT_SECONDS):
            try:
                store.add(self._key("beats", self.world.rank), 1)
            except RuntimeError:
                return  # the store has gone; the next sum over processes says so

    def _sentence(self, gone: list[int]) -> str:
        who = [self._who(rank) for rank in gone]
        return (
            f"{' and '.join(who)} of {self.world.size} {'has' if len(who) == 1 else 'have'} gone: no sign of life for "
            f"{BEAT_SECONDS * SILENT_BEATS:g} s. Killed for lack of memory, a machine that is down, a network that is "
            f"cut? {ADVICE}"
        )

    @staticmethod
    def _key(*parts: object) -> str:
        return "/".join(["peers", *map(str, parts)])


class _Watch:
    """Which of some processes have not given a sign of life lately."""

    def __init__(self, peers: Peers, ranks: list[int]):
        self.peers = peers
        now = time.monotonic()
        self.last = {rank: (peers.beats(rank), now) for rank in ranks}

    def silent(self) -> list[int]:
        now = time.monotonic()
        for rank, (beats, _) in self.last.items():
            current = self.peers.beats(rank)
            if current != beats:
                self.last[rank] = current, now
        return [rank for rank, (_, since) in self.last.items() if now - since > BEAT_SECONDS * SILENT_BEATS]


def _this_process() -> str:
    return f"{os.uname().nodename}, process {os.getpid()}"


def is_connection_error(error: BaseException) -> bool:
    """Whether a sum over processes failed because of another process or the network between them."""
    if isinstance(error, distributed.DistError):
        return True
    text = str(error).lower()
    signs = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out waiting", "tcpstore")
    return any(sign in text for sign in signs)
