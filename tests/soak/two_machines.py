"""Two machines, one process of a run on each, and a cable that is cut. Needs root and `ip`, on Linux.

    python tests/soak/two_machines.py                    # both machines in turn, a few minutes
    python tests/soak/two_machines.py --timeout 60       # DISTRIBUTED.TIMEOUT of the run

The machines are two network namespaces of this one, each with an address of its own on a pair of virtual cards: neither
reaches the other by anything else. `torchrun --nnodes 2` runs on both. In the middle of the run the card of one goes
down: no packet arrives any more, and nobody is told. Both have to end by themselves; then the cable is put back, the
same commands are given again, and the completed run has to be, bit for bit, that of two processes on one machine.
The namespaces are removed at the end, whatever happens.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fault_runs import Run, differences, newest_step, render

ADDRESSES = ("10.213.7.1", "10.213.7.2")
PORT = 29417
LIMIT = 300  # seconds, for both to end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout", type=float, default=20, help="DISTRIBUTED.TIMEOUT, seconds")
    parser.add_argument("--folder", type=Path, help="where the runs go, and stay; default: a temporary folder")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it has set up is removed
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        data = render(folder / "data")
        undisturbed = Run(folder / "undisturbed", data, 2).start()
        undisturbed.wait()
        good = [cut(folder, data, machine, arguments.timeout) for machine in (0, 1)]
    return int(not all(good))


def cut(folder: Path, data: Path, machine: int, timeout: float) -> bool:
    """Runs, cuts that machine off, runs again; prints what happened, and whether all is as it has to be."""
    own = folder / f"cut_off_{machine}"
    with machines() as names, contextlib.ExitStack() as ends:
        runs = [start(own, data, names, number, timeout, faults="slow:0:1:0.05") for number in (0, 1)]
        for run in runs:
            ends.callback(run.end)
        runs[0].wait_for_step(8)
        link(names[machine], "down")
        at = time.monotonic()
        ended: dict[int, float] = {}
        while len(ended) < 2 and time.monotonic() - at < LIMIT:
            time.sleep(0.1)
            for number, run in enumerate(runs):
                if number not in ended and run.process.poll() is not None:
                    ended[number] = time.monotonic() - at
        for run in runs:
            run.end()
        reached, saved = runs[0].last_step, newest_step(own / "0")
        for number, run in enumerate(runs):
            seconds = f"{ended[number]:.1f} s" if number in ended else f"NOT within {LIMIT} s"
            print(f"machine {machine} cut off: machine {number} ended after {seconds} ({run.process.returncode})")
            print("\n".join(f"    {line}" for line in run.lines_with("error:")))
        link(names[machine], "up")
        runs = [start(own, data, names, number, timeout) for number in (0, 1)]
        codes = [run.wait() for run in runs]
    wrong = differences(own / "0", folder / "undisturbed") if not any(codes) else runs[0].output[-2000:]
    print(f"    started again: exit codes {codes}, steps repeated: {reached - saved}, differs: {wrong!r}", flush=True)
    return len(ended) == 2 and not wrong


def start(
    folder: Path, data: Path, names: tuple[str, str], number: int, timeout: float, faults: str = ""
) -> Run:  # fmt: skip
    """One machine's part of the run; what it writes is in the first machine's folder, which both see."""
    options = ("--nnodes=2", f"--node-rank={number}", f"--master-addr={ADDRESSES[0]}", f"--master-port={PORT}")
    keys = ("DISTRIBUTED.TIMEOUT", timeout, "OUTPUT_DIR", folder / "0" / "run")
    card = {"GLOO_SOCKET_IFNAME": "cable"}
    inside = ("ip", "netns", "exec", names[number])
    return Run(folder / str(number), data, 1, "torchrun", keys, faults, card, inside, options).start()


@contextlib.contextmanager
def machines() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a cable, and their names."""
    names = (f"machine0_{os.getpid()}", f"machine1_{os.getpid()}")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "lo", "up")
            link(name, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)


def link(name: str, state: str) -> None:
    ip("-n", name, "link", "set", "cable", state)


def ip(*arguments: str) -> None:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"ip {' '.join(arguments)}: {result.stderr.strip()} (this needs root, and a kernel with namespaces)")


if __name__ == "__main__":
    sys.exit(main())
