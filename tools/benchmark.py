"""Measures the speed of this project beside that of others.

    python tools/benchmark.py loader [--rounds 40] [--cache runs/benchmark_videos] [--output runs/benchmark_loader.json]

``loader``: clips per second and core from H.264 files to training clips (16 frames x stride 4, 224 x 224), against the
ways of VideoMAE and MAE-ST, on files that it renders itself. docs/performance.md explains the figures.

``sampler``: seconds per inpainted clip, against doing at every step what can be done once; --cfg is a recipe
of pre-training, whose network gets random weights. docs/performance.md has the figures.

``images``: images per second and core from tar shards, plain files and webdataset; datasets/shards.md has the figures.

``monitor``: what watching a run costs, as a share of its steps; docs/monitoring.md has the figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    loader = commands.add_parser("loader", help="reading clips for training")
    loader.add_argument("--rounds", type=int, default=40, help="how often everything is measured (default 40)")
    loader.add_argument("--cache", type=Path, default=Path("runs/benchmark_videos"), help="folder for the videos")
    loader.add_argument("--output", type=Path, default=Path("runs/benchmark_loader.json"), help="the report")
    loader.add_argument("--frames", type=int, default=300, help="length of the videos at 30 per second (default 300)")
    loader.add_argument("--seed", type=int, default=0, help="of the clips that are drawn (default 0)")
    images = commands.add_parser("images", help="reading images from tar shards and from plain files")
    images.add_argument("--rounds", type=int, default=10, help="how often everything is measured (default 10)")
    images.add_argument("--cache", type=Path, default=Path("runs/benchmark_images"), help="folder for the images")
    images.add_argument("--output", type=Path, default=Path("runs/benchmark_images.json"), help="the report")
    images.add_argument("--images", type=int, default=1000, help="images of every size (default 1000)")
    images.add_argument("--seed", type=int, default=0, help="of the crops (default 0)")
    sampler = commands.add_parser("sampler", help="inpainting by a DiffMAE")
    sampler.add_argument("--cfg", type=Path, default=Path("configs/K400/ViT_B.yaml"), help="default: K400/ViT_B")
    sampler.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default 5)")
    sampler.add_argument("--batch", type=int, default=1, help="clips at a time (default 1)")
    sampler.add_argument("--steps", type=int, default=20, help="sampling steps (default 20)")
    sampler.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    sampler.add_argument("--sampler", choices=("ddim", "ddpm", "dpmpp_2m"), default="ddim")
    sampler.add_argument("--output", type=Path, default=Path("runs/benchmark_sampler.json"), help="the report")
    sampler.add_argument("--seed", type=int, default=0, help="of clips, masks and noise (default 0)")
    sampler.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="of the configuration")
    monitor = commands.add_parser("monitor", help="watching a training run")
    monitor.add_argument("--cfg", type=Path, default=Path("configs/demo/pretrain.yaml"), help="default: demo/pretrain")
    monitor.add_argument("--rounds", type=int, default=100, help="how often everything is measured (default 100)")
    monitor.add_argument("--batch", type=int, default=16, help="clips per step (default 16)")
    monitor.add_argument("--output", type=Path, default=Path("runs/benchmark_monitor.json"), help="the report")
    monitor.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="of the configuration")
    parsed = parser.parse_args(arguments)
    counts = [getattr(parsed, name, 1) for name in ("rounds", "frames", "images", "batch", "steps")]
    if min(counts) < 1 or getattr(parsed, "seed", 0) < 0:
        parser.error("--rounds, --frames, --images, --batch and --steps must be at least 1, --seed at least 0")
    return parsed


def main() -> int:
    options = parse_arguments()
    # Imported here, so that --help and a wrong option answer at once.
    if options.benchmark == "loader":
        from benchmark_loader import run

        return run(options.rounds, options.cache, options.output, options.frames, options.seed)
    if options.benchmark == "images":
        from benchmark_images import run

        return run(options.rounds, options.cache, options.output, options.images, options.seed)
    return _of_a_config(options)


def _of_a_config(options: argparse.Namespace) -> int:
    """Benchmarks whose configuration may be wrong, which one line then says."""
    from diffmae_video.config import ConfigError
    from diffmae_video.engine import RunError

    o = options
    try:
        if o.benchmark == "monitor":
            from benchmark_monitor import run

            return run(o.cfg, o.overrides, o.rounds, o.batch, o.output)
        from benchmark_sampler import run

        return run(o.cfg, o.overrides, o.rounds, o.batch, o.steps, o.sampler, o.precisions, o.output, o.seed)
    except (ConfigError, RunError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
