"""Starts the processes of a run on this machine, and sees that they end together.

What ``torchrun`` does on one machine, for ``NUM_GPUS``: the command is started once per process with torchrun's
environment variables. If one of them dies, the others are stopped within ``GRACE_SECONDS`` and the message names it.
The store at which they meet listens on the loopback interface, on a port of the system's choice, and lives in this
process: it outlasts every one of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial

from torch.distributed import TCPStore

from diffmae_video.data.watchdog import end_with_parent

logger = logging.getLogger(__name__)

GRACE_SECONDS = 30.0  # from asking the others to stop until they are killed
SAVING_SECONDS = 900.0  # that a run which was asked to stop has to save its state
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
STOPPED = {128 + number for number in FORWARDED}  # exit codes of processes that were asked to stop, and did
HOST = "127.0.0.1"


def launch(command: Sequence[str], processes: int, grace: float = GRACE_SECONDS) -> int:
    """Runs ``command`` as ``processes`` processes and waits for all of them.

    Args:
        command: program and arguments, the same for all.
        processes: how many, at least 1.
        grace: seconds that the others have to stop by themselves once one has failed.

    Returns:
        The exit code of the run: 0, or that of the process that failed first; 128 + the signal's number if it was
        killed by one.
    """
    # Given a socket, the store listens there; left to itself it would on every interface, whatever its host's name.
    listening = socket.create_server((HOST, 0))
    port = listening.getsockname()[1]
    store = TCPStore(HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
    children = [_start(command, rank, processes, store.port) for rank in range(processes)]
    with _forwarding(children):
        failed = _first_failure(children)
        if failed is not None:
            code = children[failed].returncode
            rest = [child for child in children if child.poll() is None]
            if code in STOPPED:  # all were asked to, and the first one is still saving
                _wait(rest, SAVING_SECONDS)
            else:
                pid, how = children[failed].pid, _how(code)
                logger.error("rank %d of %d (process %d) %s; stopping the others", failed, processes, pid, how)
                for child in rest:
                    child.terminate()
                _wait(rest, grace)
            return code if code > 0 else 128 - code
    return 0


def _start(command: Sequence[str], rank: int, size: int, port: int) -> subprocess.Popen:
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
        # The store is there already: rank 0 joins it, as the others do. (torchrun says it the same way.)
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    if sys.platform == "linux":
        # Sums between processes of one machine need no other interface either.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        environment.setdefault("NCCL_SOCKET_IFNAME", "lo")
    # One thread per process unless asked otherwise, as torchrun does: the default is all cores for each of them.
    environment.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // size, 1)))
    # Sessions of their own: Ctrl-C on the terminal reaches this process alone, which hands it on, once.
    return subprocess.Popen(
        command, env=environment, start_new_session=True, preexec_fn=partial(end_with_parent, signal.SIGTERM)
    )


@contextlib.contextmanager
def _forwarding(children: Sequence[subprocess.Popen]) -> Iterator[None]:
    """Signals to this process go to all children inside this context."""

    def forward(number: int, _: object) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _first_failure(children: Sequence[subprocess.Popen]) -> int | None:
    """Waits until all have ended well, or one has not: its number."""
    while True:
        codes = [child.poll() for child in children]
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            # Processes that were killed come before those that only noticed it.
            return min(failed, key=lambda rank: (codes[rank] > 0, rank))
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.1)


def _wait(children: Sequence[subprocess.Popen], seconds: float) -> None:
    """Until all have ended; those that have not after so many seconds are killed."""
    deadline = time.monotonic() + seconds
    for child in children:
        try:
            child.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _how(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = ", perhaps for lack of memory" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
