"""Faults injected into runs on purpose, and what became of the runs; docs/faults.md has the figures.

    python tests/soak/faults.py                     # all of them, 20 to 30 minutes of two busy cores
    python tests/soak/faults.py killed_rank nan     # those whose names begin so
    python tests/soak/faults.py --list

Every line is one fault: how long the run took to end, with which exit code, processes left behind, steps that had to be
computed again, the message, and what differs from an undisturbed run once the run has been started again and completed:
"" = not a bit of the log (clocks aside) and of the last checkpoint. Exit code 1 if anything differs or is left behind.

Parts that need root (a small /dev/shm, a small disk) say so and are left out without it. tests/soak/two_machines.py has
the faults of a network.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import tempfile
import time
from pathlib import Path

import fault_data
import fault_disk
import fault_processes
from fault_processes import Ground
from fault_runs import render

SCENARIOS = {
    name: function
    for module in (fault_processes, fault_data, fault_disk)
    for name, function in vars(module).items()
    if inspect.isgeneratorfunction(function) and not name.startswith("_")
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios whose names begin so; default: all")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--folder", type=Path, help="where the runs go, and stay; default: a temporary folder")
    arguments = parser.parse_args()
    chosen = {
        name: f for name, f in SCENARIOS.items() if not arguments.names or name.startswith(tuple(arguments.names))
    }
    if arguments.list or not chosen:
        print("\n".join(f"{name:24} {inspect.getdoc(function)}" for name, function in SCENARIOS.items()))
        return int(not chosen)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        ground = Ground(folder, render(folder / "data"))
        return int(not all([report(name, function, ground) for name, function in chosen.items()]))


def report(name: str, function, ground: Ground) -> bool:
    """Runs one scenario and prints a line for each of its faults; whether all ended as they have to."""
    good = True
    started = time.monotonic()
    for result in function(ground):
        bad = result.get("differs") or result.get("left behind") or result.get("good checkpoints lost or damaged")
        good = good and not bad
        result = {key: f"{value:.1f} s" if isinstance(value, float) else value for key, value in result.items()}
        print(f"{'WRONG' if bad else 'ok'}  {name}: {json.dumps(result, indent=2)}", flush=True)
    print(f"    {name}: {time.monotonic() - started:.0f} s", flush=True)
    return good


if __name__ == "__main__":
    sys.exit(main())
