"""What the tools that inpaint take from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

# As diffmae_video.diffusion and .inpainting have them, whose import takes longer than an answer may; tests compare.
SAMPLERS, SPACINGS = ("ddim", "ddpm", "dpmpp_2m"), ("trailing", "karras")
FITS, OVERLAPS = ("resize", "native"), ("time", "all", "none")

SUFFIXES = (".mp4", ".gif", ".png")


def parse(arguments: Sequence[str] | None, description: str) -> argparse.Namespace:
    """The options of tools/inpaint.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", required=True, type=Path, help="file to write: .mp4, .gif or .png")
    add_input(parser)
    add_mask(parser)
    add_sampling(parser)
    add("--samples", type=int, default=1, help="results of as many seeds, from --seed on (default 1)")
    add("--sheet", type=Path, help="also write a contact sheet: .png")
    add("--metrics", type=Path, help="also write the PSNR values to a .json file")
    add("--only-result", action="store_true", help="write just the inpainted video or image")
    add("--baselines", action="store_true", help="show the two baseline fills as panels too")
    return parser.parse_args(arguments)


def add_input(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Weights (``several``: a list of them), frames and device."""
    add = parser.add_argument
    what = "checkpoint files, or folders of runs" if several else "checkpoint file, or the folder of a run"
    add("--weights", required=True, nargs="+" if several else None, help=f"{what} (its newest one)")
    add("--input", required=True, type=Path, help="video, image, or folder of images (the frames)")
    add("--start-frame", type=int, default=0, help="first frame taken (default 0)")
    add("--num-frames", type=int, help="frames taken at most (default: all)")
    add(
        "--stride",
        type=int,
        default=1,
        help="take every so-manieth frame; a model sees motion as in training if this is its DATA.SAMPLING_RATE "
        "(default 1)",
    )
    add("--device", default="auto", help="auto (default: CUDA where there is one), cpu, cuda, cuda:1")


def add_mask(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--mask",
        help="strategy, region (right-half, left-half, top-half, bottom-half, every-second-frame), frames:8-15, box, "
        'moving box "0:x0,y0,x1,y1 15:x0,y0,x1,y1", mask picture, folder of mask pictures, or mask video; see '
        "docs/inpainting.md",
    )
    what.add_argument("--box", help="x0,y0,x1,y1 in pixels, or as shares of width and height (0.25,0.25,0.75,0.75)")
    add = parser.add_argument
    add(
        "--object",
        help="of mask pictures with several objects, hide these palette indices or grey values: 1 or 1,3",
    )
    add("--invert", action="store_true", help="hide what the mask leaves visible, and keep the rest")
    add(
        "--grow",
        type=int,
        default=0,
        help="also hide what is at most so many pixels away from a hidden one: soft edges, shadows and halos around an "
        "object (default 0)",
    )
    add(
        "--ratio",
        type=float,
        help="share of patches that a strategy hides (default: as the model was trained with this strategy, else 0.75 "
        "for tube and random, 0.5 frame, 0.25 block and center)",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--steps", type=int, default=50, help="sampling steps (default 50)")
    add("--sampler", choices=SAMPLERS, default="ddim")
    add("--spacing", choices=SPACINGS, default="trailing", help="of the timesteps (default trailing)")
    add("--eta", type=float, default=0.0, help="noise between the steps of ddim, 0 (default) to 1 (that of ddpm)")
    add("--threshold", type=float, help="share of the values that dynamic thresholding keeps in range, such as 0.995")
    add("--no-impute", action="store_true", help="visible pixels of hidden patches do not steer the sampling")
    add(
        "--overlap",
        choices=OVERLAPS,
        default="time",
        help="of patches: in time, against jumps (default); all, against seams in space too; none, faster",
    )
    add("--feather", type=int, default=0, help="fade into the original over so many pixels around the mask (default 0)")
    add("--seed", type=int, default=0, help="of the noise, and of a random mask (default 0)")
    add("--fit", choices=FITS, default="resize", help="size at which it is worked on (default resize)")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of the matrix products (default fp32)")


def sampling_of(options: argparse.Namespace) -> dict[str, object]:
    """The keyword arguments of ``inpaint_video`` that :func:`add_sampling` and --fit give, but for the seed."""
    return {
        "steps": options.steps,
        "sampler": options.sampler,
        "spacing": options.spacing,
        "eta": options.eta,
        "threshold": options.threshold,
        "impute": not options.no_impute,
        "overlap": options.overlap,
        "feather": options.feather,
        "fit": options.fit,
    }


def check_numbers(options: argparse.Namespace, **least: int) -> None:
    """Raises ValueError for an option that is below what is given for it, or for the ones that all tools share."""
    shared = {"steps": 1, "stride": 1, "start_frame": 0, "num_frames": 1, "grow": 0, "feather": 0}
    for name, smallest in {**shared, **least}.items():
        value = getattr(options, name, None)
        if value is not None and value < smallest:
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected at least {smallest}")
    if not 0 <= getattr(options, "eta", 0) <= 1:
        raise ValueError(f"--eta {options.eta}: expected a number from 0 to 1")
    if getattr(options, "threshold", None) is not None and not 0 < options.threshold <= 1:
        raise ValueError(f"--threshold {options.threshold}: expected a share above 0, at most 1, such as 0.995")


def check_files(options: argparse.Namespace, *outputs: Path | None) -> None:
    """Raises for an input that is not there, or that an output would overwrite."""
    if not options.input.exists():
        raise FileNotFoundError(f"--input {options.input}: there is no such file or folder")
    for path in outputs:
        if path is not None and path.resolve() == options.input.resolve():
            raise ValueError(f"{path} is the input itself, which would be overwritten; choose another name")


def check(options: argparse.Namespace) -> None:
    """Everything about tools/inpaint.py that can be known to be wrong before the model and the video are read."""
    if options.output.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--output {options.output}: expected a name that ends in {', '.join(SUFFIXES)}")
    if options.sheet is not None and options.sheet.suffix.lower() != ".png":
        raise ValueError(f"--sheet {options.sheet}: expected a name that ends in .png")
    check_files(options, options.output, options.sheet)
    if options.only_result and options.samples > 1:
        raise ValueError("--only-result writes one result, but --samples asks for several; leave one of them out")
    check_numbers(options, samples=1)
