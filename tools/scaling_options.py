"""What ``benchmark.py scaling`` and ``benchmark.py memory`` take from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

SIZES = ("tiny", "small", "base", "large", "huge")
CURVES = ("frames", "resolution", "ratio", "size", "decoder")
CHECKPOINTING = ("none", "selective", "full")
RECIPE = Path("configs/K400/ViT_B.yaml")
MEASURED, PAPER = Path("runs/benchmark_scaling.json"), Path("runs/benchmark_scaling_paper.json")
# Clips per second of a core, by docs/performance.md: 5 Mb/s files as they are, and after datasets/reencode.py.
LOADERS = ["ours=4.47", "ours_x4=11.8", "ours_reencoded=28.5", "ours_x4_reencoded=50.2"]


def add_scaling(parser: argparse.ArgumentParser) -> None:
    """The options of ``scaling``."""
    add = parser.add_argument
    _add_recipe(parser)
    add("--rounds", type=int, default=3, help="how often everything is measured (default 3)")
    add("--batch", type=int, default=1, help="clips of a step (default 1)")
    add("--size", choices=SIZES, default="small", help="encoder of what is measured (default small)")
    add("--curves", nargs="*", choices=CURVES, default=list(CURVES), help="what is varied (default: all)")
    add("--frames", nargs="+", type=int, default=[8, 16, 32, 64], help="(default 8 16 32 64)")
    add("--resolutions", nargs="+", type=int, default=[112, 160, 224, 320, 448], help="(default 112 160 224 320 448)")
    add("--ratios", nargs="+", type=float, default=[0.5, 0.75, 0.9, 0.95], help="hidden (default 0.5 0.75 0.9 0.95)")
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES[:4]), help="encoders (default: all but huge)")
    add("--decoder-crop", type=int, default=112, help="pixels of the clips that decoders are compared on (default 112)")
    add("--limit", type=float, default=60.0, help="seconds; what a step is expected to exceed is skipped (default 60)")
    add("--processes", nargs="*", type=int, default=[1, 2, 4], help="that train together (default 1 2 4)")
    add("--steps", type=int, default=2, help="timed steps of these in every round, after one that is not (default 2)")
    add("--plot", type=Path, default=Path("runs/benchmark_scaling.png"), help="the picture of the curves")
    add("--output", type=Path, help=f"the report (default {MEASURED}; with --paper-only {PAPER})")
    _add_paper(parser.add_argument_group("paper model", "computed, not measured; the defaults are assumptions"))


def _add_paper(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--paper-only", action="store_true", help="measure nothing")
    add("--paper-sizes", nargs="+", choices=SIZES, default=list(SIZES[2:]), help="encoders (default base large huge)")
    add("--gpus", nargs="+", type=int, default=[8, 16, 64, 128, 256, 512], help="(default 8 16 64 128 256 512)")
    add("--clips-per-gpu", type=int, default=64, help="of a step, and at most at a time (default 64)")
    add("--videos", type=int, default=240_000, help="of the training set: Kinetics-400 has 240,000 (default)")
    add("--peak-tflops", type=float, default=989.0, help="of a GPU: H100 SXM, dense bfloat16 (default 989)")
    add("--utilisation", type=float, default=0.5, help="share of the peak that a step reaches alone (default 0.5)")
    add("--memory-gbs", type=float, default=3350.0, help="GB/s of a GPU's memory: H100 SXM (default 3350)")
    add("--nvlink-gbs", type=float, default=450.0, help="GB/s each way inside a node (default 450)")
    add("--network-gbs", type=float, default=50.0, help="GB/s per GPU between nodes: 400 Gb/s (default 50)")
    add("--gpus-per-node", type=int, default=8, help="(default 8)")
    add("--latency-us", type=float, default=10.0, help="microseconds of a hop of an all-reduce (default 10)")
    add("--overlap", type=float, default=0.8, help="share of it that the backward pass can hide (default 0.8)")
    add("--gradient-bytes", type=int, choices=(2, 4), default=4, help="4: float32, 2: bfloat16 (default 4)")
    add(
        "--clips-per-core",
        nargs="+",
        metavar="NAME=NUMBER",
        default=LOADERS,
        help=f"clips per second that a core loads (default {' '.join(LOADERS)})",
    )


def add_memory(parser: argparse.ArgumentParser) -> None:
    """The options of ``memory``."""
    add = parser.add_argument
    _add_recipe(parser)
    add("--batch", nargs="+", type=int, default=[1, 2, 4, 8], help="clips of a step (default 1 2 4 8)")
    add("--size", choices=SIZES, default="small", help="encoder (default small)")
    add("--crop", type=int, default=160, help="pixels of a clip's sides (default 160)")
    add("--checkpointing", nargs="+", choices=CHECKPOINTING, default=list(CHECKPOINTING), help="(default: all)")
    add("--output", type=Path, default=Path("runs/benchmark_memory.json"), help="the report")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", type=Path, default=RECIPE, help="of pre-training (default: K400/ViT_B)")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="of the configuration")


def check_scaling(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends with a message for values that cannot be, and fills in the report's path."""
    counts = ("rounds", "batch", "frames", "resolutions", "decoder_crop", "processes", "steps", "gpus", "clips_per_gpu")
    _at_least_one(parser, options, (*counts, "videos", "gpus_per_node"))
    for name in ("limit", "peak_tflops", "memory_gbs", "nvlink_gbs", "network_gbs"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
    if not 0 < options.utilisation <= 1 or not 0 <= options.overlap <= 1 or options.latency_us < 0:
        parser.error("--utilisation must be in (0, 1], --overlap in [0, 1] and --latency-us at least 0")
    options.output = options.output or (PAPER if options.paper_only else MEASURED)


def check_memory(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends with a message for values that cannot be; ``--crop`` goes in front of the user's own overrides."""
    _at_least_one(parser, options, ("batch", "crop"))
    options.overrides = ["DATA.CROP_SIZE", str(options.crop), *options.overrides]


def _at_least_one(parser: argparse.ArgumentParser, options: argparse.Namespace, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(options, name)
        if min(value if isinstance(value, list) else [value], default=1) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
