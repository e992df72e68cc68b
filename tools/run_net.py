"""Runs what a configuration describes.

    python tools/run_net.py --cfg configs/demo/pretrain.yaml
    python tools/run_net.py --cfg configs/K400/ViT_L.yaml more.yaml DATA.PATH_TO_DATA_DIR /data/k400 SOLVER.EPOCHS 100
    python tools/run_net.py --cfg configs/K400/ViT_L.yaml DATA.PATH_TO_DATA_DIR /data/k400 NUM_GPUS 8
    torchrun --nnodes 4 --nproc-per-node 8 ... tools/run_net.py --cfg configs/K400/ViT_L.yaml ...

On SLURM, slurm/submit.py takes the same --cfg and KEY VALUE pairs. docs/scaling.md has the rest.

Exit codes: 0 the run is complete; 2 it cannot go on, and one line says why; 130 Ctrl-C (143 SIGTERM, 138 SIGUSR1, 140
SIGUSR2), state saved.
"""

from __future__ import annotations

import os

# How long a waiting OpenMP thread spins before it sleeps (GNU's runtime, which torch on Linux uses). By default so long
# that training which shares its CPU, with its own loader even, gets several times slower; this costs nothing on an idle
# one. Read once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import argparse
import contextlib
import gc
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """``files``, ``overrides`` and ``print_config`` from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cfg",
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE",
        help="YAML files, merged in this order; KEY VALUE pairs that follow them override single keys",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="the same pairs, given before --cfg")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    parsed = parser.parse_args(arguments)
    # argparse gives everything after --cfg to it; the files are what comes before the first KEY.
    is_file = [item.endswith((".yaml", ".yml")) for item in parsed.cfg] + [False]
    parsed.files, tail = parsed.cfg[: is_file.index(False)], parsed.cfg[is_file.index(False) :]
    parsed.overrides += tail
    if not parsed.files:
        parser.error(f"--cfg {parsed.cfg[0]}: expected a .yaml file")
    return parsed


def run(files: Sequence[str], overrides: Sequence[str], print_config: bool) -> int:
    """Loads the configuration and runs its task; returns the exit code."""
    # Imported here, so that --help and a wrong option answer at once; a wrong key does without torch.
    from diffmae_video.config import ConfigError, dump, load_config

    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    who = "" if rank == "0" else f"[rank {rank}] "
    try:
        cfg = load_config(files, overrides)
    except (ConfigError, OSError) as error:
        print(f"{who}error: {error}", file=sys.stderr)
        return 2
    if print_config:
        print(dump(cfg), end="")
        return 0
    command = [sys.executable, os.path.abspath(__file__), "--cfg", *files, *map(str, overrides)]
    return run_task(cfg, command, who)


@contextlib.contextmanager
def imports_for_good() -> Iterator[None]:
    """Imports in here are not interrupted by the garbage collector, which then leaves what they have made alone.

    They make nearly 200,000 objects that stay. To look for garbage among them takes a sixth of the imports' time, is a
    pause whenever it happens later, and costs memory: loader workers get their own copy of a page that is written to.
    Where the package was imported before, the collector stays as it is: there may be garbage of earlier runs.
    """
    if "diffmae_video.build" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def run_task(cfg: CfgNode, command: Sequence[str], who: str) -> int:
    """Runs the task, in this process or in ``NUM_GPUS`` that run ``command``; ``who`` begins this process's errors."""
    with imports_for_good():
        from diffmae_video.build import build_run
        from diffmae_video.config import ConfigError
        from diffmae_video.data import UnreadableVideo
        from diffmae_video.engine import RunError, TrainingInterrupted, configure_logging, joined, launch, select_device
        from diffmae_video.engine.world import world_from_environment

    try:
        world = world_from_environment()
        configure_logging(rank=world.rank)
        if cfg.NUM_GPUS > 1 and world.size == 1:
            return launch(command, cfg.NUM_GPUS)
        device = select_device(cfg.DEVICE, world.local_rank if world.size > 1 else None)
        with joined(world, device, cfg.DISTRIBUTED.TIMEOUT) as peers:
            build_run(cfg, peers).run()
        return 0
    except TrainingInterrupted as stop:
        if not who:
            print(stop, file=sys.stderr)
        return stop.exit_code
    except (ConfigError, RunError, UnreadableVideo, OSError) as error:
        # What a user can act on; anything else is a fault of the program and keeps its traceback.
        print(f"{who}error: {error}", file=sys.stderr)
        return 2


def main() -> int:
    arguments = parse_arguments()
    try:
        return run(arguments.files, arguments.overrides, arguments.print_config)
    except KeyboardInterrupt:
        print("interrupted before training had started", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
