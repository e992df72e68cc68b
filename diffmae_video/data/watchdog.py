"""Run a function in a helper process that is killed when it takes too long.

Decoding happens in C code. A decoder that waits or spins there returns no control to Python: an exception raised by a
signal handler waits with it, and a thread can be abandoned but not ended. Only the end of its process ends it for
sure, and with it frees its memory, its files and its core. A worker of a DataLoader cannot be that process, because
the loader stops when a worker dies. So every thread that asks gets a small helper of its own:

- a fresh interpreter, not a fork: it inherits neither threads, nor locks, nor the GPU; it imports no torch unless the
  function does, and lives as long as its owner, so that its start (some tenths of a second) is paid once;
- what it returns is pickled, except that arrays are written to memory which both processes map: the owner gets arrays
  on that memory without another copy. The memory is used again when those arrays are gone; while they are not,
  results are sent through the pipe, so that nobody's frames change under his hands;
- it is killed (SIGKILL) when the time is up, when the owner is interrupted while waiting, and when the owner's thread
  ends. If the owner itself is killed, Linux kills the helper too; elsewhere it sees its pipe closed, and in case it
  hangs at that moment, an alarm with the system's own action, which needs no cooperation of Python, ends it shortly
  after the time limit.

A function that crashes the interpreter (a decoder's segmentation fault) is reported like one that hangs, and the next
call starts a new helper. The cost per call is two messages and one copy of the result: see docs/decoders.md.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import math
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

START_TIMEOUT = 300  # seconds for a new interpreter and its imports: a cold network disk takes a minute
TRIES = 3  # of a call whose helper somebody else kills
ALARM_DELAY = 5  # seconds after the time limit at which a helper ends itself, if nobody did
SMALL_ARRAYS = 1 << 16  # bytes, for what is returned beside the frames
IGNORED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # by a helper
KILLED = (-signal.SIGKILL, *(-number for number in IGNORED))  # exit codes that are somebody else's doing
KEPT_BYTES = 64 << 20  # of shared memory, between two calls; a larger result gives back the rest afterwards


class HelperDied(RuntimeError):
    """The function did not return: cut off by the time limit, or its process crashed."""


class _HelperKilled(HelperDied):
    """Its process was killed by somebody else, as the system does when memory runs out."""


def run(function: Callable[..., Any], *arguments: Any, timeout: float, setup: Callable[[], Any] | None = None) -> Any:
    """``function(*arguments)`` in this thread's helper process, started where there is none.

    Args:
        function, arguments: must be picklable; the function by its name, so one at the top level of a module.
        timeout: seconds, > 0.
        setup: called once in a new helper, without counting as time of the call (imports).

    Raises:
        HelperDied: no result within ``timeout``, or the helper crashed; the message says which. One that is killed from
            outside is no fault of the function's, which is called again, ``TRIES`` times in all: what is too large for
            the machine's memory is killed every time.
        RuntimeError: the helper does not start.
        Anything that ``function`` raises.
    """
    for _ in range(TRIES - 1):
        with contextlib.suppress(_HelperKilled):
            return _own_helper(setup).call(function, arguments, timeout)
    return _own_helper(setup).call(function, arguments, timeout)


def _own_helper(setup: Callable[[], Any] | None) -> _Helper:
    helper = getattr(_local, "helper", None)
    if helper is None or not helper.alive:
        helper = _local.helper = _Helper(setup)
    return helper


def close() -> None:
    """Ends this thread's helper, if there is one; the next call starts another."""
    helper = getattr(_local, "helper", None)
    if helper is not None:
        _local.helper = None
        helper.close()


class _Helper:
    """A helper process, as its owner sees it."""

    def __init__(self, setup: Callable[[], Any] | None) -> None:
        self.alive = True
        self._mapped: mmap.mmap | None = None
        self._idle_references = 0
        self._memory = _anonymous_file()
        self._pipe, theirs = Pipe()
        code = f"from diffmae_video.data import watchdog; watchdog.serve({theirs.fileno()}, {self._memory})"
        # -P: as in this process, the current folder is on the path only if somebody put it there.
        # A scheduler's signals reach every process of a job: what they mean is the owner's business, from the start on.
        deaf = f"import signal, sys; [signal.signal(number, signal.SIG_IGN) for number in {[*map(int, IGNORED)]}]"
        command = [sys.executable, "-P", "-c", f"{deaf}; sys.path[:] = {sys.path!r}; {code}"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), self._memory),
            process_group=0,  # Ctrl-C is for the owner, who decides what becomes of the helper
        )
        theirs.close()
        _all.add(self)
        try:
            self.call(setup or _nothing, (), START_TIMEOUT)
        except _HelperKilled:
            raise
        except HelperDied as error:
            raise RuntimeError(f"the decoding process does not start ({error}); its own message stands above") from None

    def call(self, function: Callable[..., Any], arguments: tuple, timeout: float) -> Any:
        try:
            self._pipe.send_bytes(pickle.dumps((function, arguments, timeout, self._memory_is_free())))
            if not self._pipe.poll(timeout):
                raise HelperDied(f"took longer than {timeout:g} s and was cut off")
            reply, ranges, capacity, returned = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionError):
            self._kill()
            code = self._process.returncode
            raise (_HelperKilled if code in KILLED else HelperDied)(_how_it_ended(code)) from None
        except BaseException:  # Ctrl-C too: the answer to this call must not be taken for that to the next
            self._kill()
            raise
        value = pickle.loads(reply, buffers=self._buffers(ranges, capacity))
        if not returned:
            raise value
        return value

    def _memory_is_free(self) -> bool:
        """Whether no array lies on the shared memory any more: a buffer of an array holds a reference to the map."""
        return self._mapped is None or sys.getrefcount(self._mapped) == self._idle_references

    def _buffers(self, ranges: list[tuple[int, int]], capacity: int) -> list[memoryview]:
        """The arrays' memory; mapped anew only where its size changed, so that its pages are touched once."""
        if not ranges:
            return []
        if self._mapped is None or len(self._mapped) != capacity:
            self._mapped = mmap.mmap(self._memory, capacity)
            self._idle_references = sys.getrefcount(self._mapped)
        return [memoryview(self._mapped)[start : start + size] for start, size in ranges]

    def _kill(self) -> None:
        self._process.kill()
        self.close()

    def close(self) -> None:
        """Ends the process, which is idle or killed, and waits for it; arrays that it returned stay valid."""
        if not self.alive:
            return
        self.alive = False
        self._pipe.close()
        os.close(self._memory)
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            # Busy, though nobody waits for it; or stuck in the kernel (a dead network disk), where even SIGKILL waits.
            self._process.kill()

    def abandon(self) -> None:
        """In a forked child: the process belongs to the parent."""
        self.alive = False
        self._pipe.close()
        os.close(self._memory)
        self._process.returncode = 0  # not ours to wait for

    def __del__(self) -> None:
        if getattr(self, "alive", False) and hasattr(self, "_process"):
            self.close()


_local = threading.local()
_all: weakref.WeakSet[_Helper] = weakref.WeakSet()


def _close_all() -> None:
    for helper in list(_all):
        helper.close()


def _abandon_all() -> None:
    for helper in list(_all):
        if helper.alive:
            helper.abandon()
    _all.clear()
    _local.__dict__.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_abandon_all)


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """This process gets a signal when the thread that has started it ends, however that happens; Linux only."""
    if sys.platform == "linux":
        parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(parent_death_signal, number)


def _nothing() -> None:
    pass


def _padded(size: int) -> int:
    return -(-size // 64) * 64  # arrays start at cache lines


def _anonymous_file() -> int:
    """A descriptor of memory that can be shared: no name, gone with its last user, not limited by /dev/shm."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("decoded-frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _how_it_ended(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return f"crashed the decoding process ({signal.Signals(-returncode).name})"
    return f"ended the decoding process (exit code {returncode})"


# ------------------------------------------------------------------------------------------------ in the helper process


def serve(pipe_descriptor: int, memory: int) -> None:
    """What a helper does all its life: answer calls until its owner closes the pipe."""
    end_with_parent()
    pipe = Connection(pipe_descriptor)
    global _block
    block = _block = _Block(memory)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while True:
        try:
            function, arguments, timeout, memory_is_free = pickle.loads(pipe.recv_bytes())
            signal.setitimer(signal.ITIMER_REAL, timeout + ALARM_DELAY)
            block.begin(memory_is_free)
            reply = block.pack(*_outcome(function, arguments))
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send_bytes(reply)
        except (EOFError, ConnectionError):
            return


def _outcome(function: Callable[..., Any], arguments: tuple) -> tuple[Any, bool]:
    try:
        return function(*arguments), True
    except Exception as error:  # noqa: BLE001 - raised again by the owner
        return error, False


class _Block:
    """The shared memory, as the helper sees it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mapped: mmap.mmap | None = None
        self._is_free = False
        self._used = 0  # bytes of the array that this call allocated in it

    def begin(self, is_free: bool) -> None:
        """Before a call: ``is_free`` says whether the owner holds no array of an earlier one."""
        self._is_free, self._used = is_free, 0

    def allocate(self, size: int) -> memoryview | None:
        """Memory for the one array of this call that is large; None where that is not possible."""
        if not self._is_free or self._used or not size:
            return None
        self._reserve(_padded(size) + SMALL_ARRAYS)
        self._used = _padded(size)
        return memoryview(self._mapped)[:size]

    def pack(self, value: Any, returned: bool) -> bytes:
        """The reply: pickled, the arrays in the memory where they fit."""
        buffers: list[pickle.PickleBuffer] = []
        reply = pickle.dumps(value, protocol=5, buffer_callback=buffers.append if self._is_free else None)
        raw = [buffer.raw() for buffer in buffers]
        places = self._place(raw)
        if places is None:
            reply, raw, places = pickle.dumps(value, protocol=5), [], []
        ranges = [(place, len(buffer)) for place, buffer in zip(places, raw, strict=True)]
        return pickle.dumps((reply, ranges, len(self._mapped or b""), returned))

    def _place(self, buffers: list[memoryview]) -> list[int] | None:
        """Where in the memory the arrays are, copied there where they were not; None where they do not fit."""
        base = _address(memoryview(self._mapped)) if self._used else 0
        inside = [bool(self._used) and _address(buffer) == base for buffer in buffers]
        needed = self._used + sum(
            _padded(len(b)) for b, is_inside in zip(buffers, inside, strict=True) if not is_inside
        )
        if self._used and needed > len(self._mapped):
            return None
        if not self._used:
            self._reserve(needed)
        places, start = [], self._used
        for buffer, is_inside in zip(buffers, inside, strict=True):
            places.append(0 if is_inside else start)
            if not is_inside:
                self._mapped[start : start + len(buffer)] = buffer
                start += _padded(len(buffer))
        return places

    def _reserve(self, size: int) -> None:
        held = len(self._mapped) if self._mapped else 0
        if size > held or held > KEPT_BYTES >= size > 0:
            os.ftruncate(self._descriptor, size)
            self._mapped = mmap.mmap(self._descriptor, size)


def _address(buffer: memoryview) -> int:
    return np.frombuffer(buffer, np.uint8).__array_interface__["data"][0] if len(buffer) else 0


_block: _Block | None = None  # of this process, if it is a helper


def empty(shape: tuple[int, ...]) -> np.ndarray:
    """Like ``numpy.empty`` of uint8, for the frames that a helper will return: written once, where the owner reads."""
    memory = _block.allocate(math.prod(shape)) if _block is not None else None
    return np.empty(shape, np.uint8) if memory is None else np.frombuffer(memory, np.uint8).reshape(shape)
