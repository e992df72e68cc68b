"""What tools/extract_features.py takes from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from diffmae_video.data.decoding import BACKENDS
from diffmae_video.data.manifest import FORMATS

# As diffmae_video.features and .data.sampling have them, whose import takes longer than an answer may; tests compare.
OUTPUTS, PRECISIONS = ("pooled", "dense"), ("fp32", "bf16")
FITS, SAMPLINGS = ("crop", "stretch"), ("dense", "segment")

STRICT_EXIT = 3


def parse(arguments: Sequence[str] | None, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", required=True, help="checkpoint file, or the folder of a run (its newest one)")
    add("--input", required=True, type=Path, help="video, image, list, or folder (what DATA.PATH_TO_DATA_DIR takes)")
    add("--output", required=True, help="file .npz or .safetensors, or folder/ for a file per video")
    add("--output-type", choices=OUTPUTS, default="pooled", help="one vector per window, or all its tokens")
    add("--layer", type=int, default=-1, help="block, counted from the end: -1 (default) the last, -2 the one before")
    add("--views", choices=("mean", "each"), help="mean over a video's windows (default of pooled), or a row for each")
    add("--window-stride", type=int, help="frames from window to window (default: a window's span, so that they touch)")
    add("--sampling", choices=SAMPLINGS, help="windows along the video, or one over all of it (default: the model's)")
    add("--sampling-rate", type=int, help="distance between two frames of a window (default: the model's)")
    add("--fit", choices=FITS, help="central square, or whole frame squeezed to a square (default: the model's)")
    add("--size", type=int, help="height and width of the clips, pixels (default: the model's); positions are resized")
    add("--batch-size", type=int, default=8, help="windows of a video that are encoded at once (default 8)")
    add("--device", default="auto", help="auto (default: CUDA where there is one), cpu, cuda, cuda:1")
    add("--precision", choices=PRECISIONS, default="fp32", help="of the computation (default fp32)")
    add("--dtype", choices=("float32", "float16"), default="float32", help="of the features (default float32)")
    add("--file-type", choices=("npz", "safetensors"), default="npz", help="with a folder as --output (default npz)")
    add("--decoder", choices=BACKENDS, default="auto")
    add("--timeout", type=float, default=60, help="seconds to decode a batch in; then it is unreadable (0 = no limit)")
    add("--split", default="train", help="of a dataset that has several (default train)")
    add("--format", choices=FORMATS, default="auto", help="of a list or folder, as DATA.FORMAT")
    add("--prefix", default="", help="folder of a list's videos, as DATA.PATH_PREFIX")
    add("--labels", default="", help="file of class names and numbers, as DATA.LABELS")
    add("--fold", type=int, default=1, help="of UCF101 and HMDB51, as DATA.FOLD")
    add("--restart", action="store_true", help="begin anew: drop what an earlier call has left or written")
    add("--strict", action="store_true", help=f"exit code {STRICT_EXIT} if a video was unreadable")
    return parser.parse_args(arguments)
