"""What the benchmarks of ``benchmark.py`` take from the command line; those of scaling are in scaling_options.py."""

from __future__ import annotations

import argparse
from pathlib import Path

# Whole numbers from 1 on.
COUNTS = ("rounds", "frames", "images", "batch", "steps")
DEMO, RECIPE = Path("configs/demo/pretrain.yaml"), Path("configs/K400/ViT_B.yaml")
PRECISIONS = ("fp32", "bf16")


def add_step(parser: argparse.ArgumentParser) -> None:
    add = _of_a_recipe(parser, RECIPE, 5, "step")
    add("--batch", type=int, default=2, help="clips per step (default 2); 0 = the most that fit into a GPU")
    add("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="(default: both)")
    add("--ways", nargs="+", default=[], metavar="PATTERN", help="parts of names, such as 'joint 384' (default: all)")
    add("--compile", action="store_true", help="every way once more with torch.compile")
    add("--optimizer-step", action="store_true", help="whole optimiser steps, not forward and backward pass alone")
    add("--profile", action="store_true", help="also where the time of a step goes")


def add_loader(parser: argparse.ArgumentParser) -> None:
    add = _with_files(parser, 40, "loader", "videos")
    add("--frames", type=int, default=300, help="length of the videos at 30 per second (default 300)")
    add("--seed", type=int, default=0, help="of the clips that are drawn (default 0)")


def add_images(parser: argparse.ArgumentParser) -> None:
    add = _with_files(parser, 10, "images", "images")
    add("--images", type=int, default=1000, help="images of every size (default 1000)")
    add("--seed", type=int, default=0, help="of the crops (default 0)")


def add_sampler(parser: argparse.ArgumentParser) -> None:
    add = _of_a_recipe(parser, RECIPE, 5, "sampler")
    add("--batch", type=int, default=1, help="clips at a time (default 1)")
    add("--steps", type=int, default=20, help="sampling steps (default 20)")
    add("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="(default: both)")
    add("--sampler", choices=("ddim", "ddpm", "dpmpp_2m"), default="ddim", help="(default ddim)")
    add("--seed", type=int, default=0, help="of clips, masks and noise (default 0)")


def add_monitor(parser: argparse.ArgumentParser) -> None:
    add = _of_a_recipe(parser, DEMO, 100, "monitor")
    add("--batch", type=int, default=16, help="clips per step (default 16)")


def add_startup(parser: argparse.ArgumentParser) -> None:
    _of_a_recipe(parser, DEMO, 5, "startup")


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends with a message for a number that cannot be."""
    for name in (*COUNTS, "seed"):
        least = 0 if name == "seed" or (options.benchmark, name) == ("step", "batch") else 1
        if getattr(options, name, least) < least:
            parser.error(f"--{name} must be at least {least}")


def _of_a_recipe(parser: argparse.ArgumentParser, recipe: Path, rounds: int, name: str):
    parser.add_argument("--cfg", type=Path, default=recipe, help=f"of pre-training (default {recipe})")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="of the configuration")
    return _reported(parser, rounds, name)


def _with_files(parser: argparse.ArgumentParser, rounds: int, name: str, kind: str):
    cache = Path(f"runs/benchmark_{kind}")
    parser.add_argument("--cache", type=Path, default=cache, help=f"folder for the {kind} (default {cache})")
    return _reported(parser, rounds, name)


def _reported(parser: argparse.ArgumentParser, rounds: int, name: str):
    output = Path(f"runs/benchmark_{name}.json")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"how often all is measured (default {rounds})")
    parser.add_argument("--output", type=Path, default=output, help=f"the report (default {output})")
    return parser.add_argument
