"""What tools/export.py takes from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def parse(arguments: Sequence[str] | None, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", required=True, help="checkpoint, folder of a run (its newest one), or weights file")
    add("--output", required=True, type=Path, help="folder; made if it is not there")
    add("--name", help="of the model, for its card (default: the name of the folder)")
    add("--license", help="of the weights, as the hub abbreviates it: apache-2.0, cc-by-nc-4.0, ...")
    add("--trained-on", help="what the card says of the training data (default: the name of its folder)")
    add("--encoder-only", action="store_true", help="leave out the decoder or the head")
    add("--torch-export", action="store_true", help="also encoder.pt2, for torch.export.load")
    add("--onnx", action="store_true", help="also encoder.onnx")
    add("--num-frames", type=int, help="frames that these two take (default: the model's); 1 = images")
    add("--overwrite", action="store_true", help="replace what an earlier call has written")
    return parser.parse_args(arguments)
