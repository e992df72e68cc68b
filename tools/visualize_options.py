"""What tools/visualize.py takes from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from inpaint_options import add_input, add_mask, add_sampling, check_files, check_numbers

# As diffmae_video.diffusion and .features have them, whose import takes longer than an answer may; tests compare.
SCHEDULES = ("linear", "cosine", "quadratic", "linear_gamma", "linear_sigma")
FITS = ("crop", "stretch")


def parse(arguments: Sequence[str] | None, description: str) -> argparse.Namespace:
    """The options; ``picture`` is the subcommand, a key of ``PICTURES``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    pictures = parser.add_subparsers(dest="picture", required=True)
    for name, (add_arguments, summary) in PICTURES.items():
        own = pictures.add_parser(name, help=summary, description=summary)
        what = ".png" if name == "schedules" else ".png or .mp4"
        own.add_argument("--output", required=True, type=Path, help=f"file to write: {what}")
        add_arguments(own)
    return parser.parse_args(arguments)


def add_inpainting(parser: argparse.ArgumentParser, several: bool = False) -> None:
    add_input(parser, several)
    add_mask(parser)
    add_sampling(parser)


def add_sheet(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--columns", type=int, default=6, help=".png: frames that are shown at most (default 6)")
    add("--size", type=int, default=128, help=".png: smaller frames are enlarged to about so many pixels (default 128)")


def add_trajectory(parser: argparse.ArgumentParser) -> None:
    add_inpainting(parser)
    parser.add_argument("--shown", type=int, default=8, help="steps that are shown (default 8)")
    parser.add_argument("--frame", type=int, help=".png: number of the frame, of those taken (default: a middle one)")


def add_comparison(parser: argparse.ArgumentParser) -> None:
    add_inpainting(parser, several=True)
    add_sheet(parser)
    parser.add_argument("--titles", nargs="+", help="one for each of --weights (default: the models' names)")
    parser.add_argument("--samples", type=int, default=1, help="seeds of every DiffMAE, from --seed on (default 1)")


def add_seeds(parser: argparse.ArgumentParser) -> None:
    add_inpainting(parser)
    add_sheet(parser)
    parser.add_argument("--samples", type=int, default=4, help="seeds, from --seed on (default 4)")


def add_features(parser: argparse.ArgumentParser) -> None:
    add_input(parser)
    add_sheet(parser)
    parser.add_argument("--layer", type=int, default=-1, help="block, from the end: -1 (default) the last")
    parser.add_argument("--fit", choices=FITS, help="central square, or whole frame squeezed (default: the model's)")


def add_schedules(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--schedule", nargs="+", choices=SCHEDULES, default=list(SCHEDULES), help="(default: all)")
    add("--rho", nargs="+", type=float, default=[1.0], help="exponents of beta, each for every schedule (default 1)")
    add("--steps", type=int, default=1000, help="timesteps (default 1000)")


def check(options: argparse.Namespace) -> None:
    """Everything that can be known to be wrong before a model and the video are read."""
    suffixes = (".png",) if options.picture == "schedules" else (".png", ".mp4")
    if options.output.suffix.lower() not in suffixes:
        raise ValueError(f"--output {options.output}: expected a name that ends in {' or '.join(suffixes)}")
    if options.picture == "schedules":
        return
    check_files(options, options.output)
    check_numbers(options, samples=2 if options.picture == "seeds" else 1, shown=2, columns=1, size=1)
    titles = getattr(options, "titles", None)
    if titles is not None and len(titles) != len(options.weights):
        raise ValueError(f"--titles: expected {len(options.weights)}, one for each of --weights, got {len(titles)}")


# name -> (what adds its arguments, summary)
PICTURES = {
    "trajectory": (add_trajectory, "the denoising of a clip, from t = T to 0"),
    "compare": (add_comparison, "what two or more models make of one mask"),
    "seeds": (add_seeds, "several samples for one mask, and where they differ"),
    "features": (add_features, "principal components of the encoder's tokens as colours"),
    "schedules": (add_schedules, "noise schedules as curves"),
}
