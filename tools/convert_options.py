"""What tools/convert_weights.py takes from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

# As diffmae_video.conversion has them, whose import takes longer than an answer may; tests compare.
FAMILIES = ("mae_st", "videomae", "mae", "timm", "hf_videomae")


def parse(arguments: Sequence[str] | None, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--from", dest="family", choices=FAMILIES, required=True, help="program of the weights")
    add("--input", type=Path, required=True, help="a file of torch.save, or .safetensors; of hf_videomae also a folder")
    add("--output", type=Path, required=True, help="file .safetensors; must not exist")
    add("--heads", type=int, help="attention heads of the encoder")
    add("--decoder-heads", type=int, help="attention heads of the decoder")
    add("--frames", type=int, help="frames of a clip, of VideoMAE, and of MAE-ST where no shape shows it (default 16)")
    add("--image-size", type=int, help="height and width of a clip in pixels, of VideoMAE (default 224)")
    add("--pixel-mean", type=float, nargs=3, metavar=("R", "G", "B"), help="on the [0, 1] scale")
    add("--pixel-std", type=float, nargs=3, metavar=("R", "G", "B"), help="on the [0, 1] scale")
    add("--target", choices=("normalized", "raw"), help="what MAE or MAE-ST predicts (default normalized)")
    add(
        "--target-frames",
        choices=("linspace", "first"),
        help="which frame of a patch MAE-ST predicts (default: linspace, PySlowFast's first)",
    )
    add("--encoder-only", action="store_true", help="leave the decoder out")
    add("--check", action=argparse.BooleanOptionalAction, default=True, help="compute a forward pass before writing")
    add("--source", help="where the weights come from, for the file's notes (default: --input and --from)")
    add("--license", help="of the weights, for the file's notes")
    return parser.parse_args(arguments)
