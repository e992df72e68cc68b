"""Measures the speed of this project beside that of others, and what things cost.

    python tools/benchmark.py step --ways "joint 384"
    python tools/benchmark.py loader --rounds 40

Every benchmark prints a table and writes a report, with the machine, versions, configuration, and ratios within rounds
in which all that is compared takes turns. docs/performance.md has the figures of all but two and explains them; those
of ``images`` are in datasets/shards.md, those of ``monitor`` in docs/monitoring.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # of torch's profiler, which reports its start and end otherwise

import argparse
import sys
from collections.abc import Sequence

from benchmark_options import add_images, add_loader, add_monitor, add_sampler, add_startup, add_step, check
from scaling_options import add_memory, add_scaling, check_memory, check_scaling

# Name -> what it measures, its options, their check
BENCHMARKS = {
    "step": ("a pre-training step, against VideoMAE of transformers", add_step, check),
    "loader": ("from video files to training clips, against the ways of VideoMAE and MAE-ST", add_loader, check),
    "images": ("reading images from tar shards and from plain files", add_images, check),
    "sampler": ("inpainting, against doing at every step what can be done once", add_sampler, check),
    "scaling": ("cost against frames, resolution, hidden share, size; several processes", add_scaling, check_scaling),
    "memory": ("memory of a step against its batch, with activation checkpointing", add_memory, check_memory),
    "startup": ("from a command to its first step", add_startup, check),
    "monitor": ("what watching a run costs, as a share of its steps", add_monitor, check),
}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, (title, add, _) in BENCHMARKS.items():
        add(commands.add_parser(name, help=title, description=title))
    options = parser.parse_args(arguments)
    BENCHMARKS[options.benchmark][2](parser, options)
    return options


def run(options: argparse.Namespace) -> int:
    """The benchmark; its code is imported here, so that --help and a wrong option answer at once."""
    o = options
    if o.benchmark == "step":
        from benchmark_step import run

        switches = (o.compile, o.optimizer_step, o.profile)
        return run(o.cfg, o.overrides, o.rounds, o.batch, o.precisions, o.ways, *switches, o.output)
    if o.benchmark == "loader":
        from benchmark_loader import run

        return run(o.rounds, o.cache, o.output, o.frames, o.seed)
    if o.benchmark == "images":
        from benchmark_images import run

        return run(o.rounds, o.cache, o.output, o.images, o.seed)
    if o.benchmark == "sampler":
        from benchmark_sampler import run

        return run(o.cfg, o.overrides, o.rounds, o.batch, o.steps, o.sampler, o.precisions, o.output, o.seed)
    if o.benchmark == "scaling":
        from benchmark_scaling import run

        return run(o)
    if o.benchmark == "memory":
        from benchmark_memory import run

        return run(o)
    if o.benchmark == "startup":
        from benchmark_startup import run

        return run(o.cfg, o.overrides, o.rounds, o.output)
    from benchmark_monitor import run

    return run(o.cfg, o.overrides, o.rounds, o.batch, o.output)


def main() -> int:
    options = parse_arguments()
    from diffmae_video.config import ConfigError
    from diffmae_video.engine import RunError

    try:
        return run(options)
    except (ConfigError, RunError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
