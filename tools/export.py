"""A trained model as files to hand on: for this project, for the Hugging Face hub, and for programs without either.

    python tools/export.py --weights runs/demo --output exported/demo
    python tools/export.py --weights runs/demo --output exported/encoder --encoder-only --onnx --torch-export

The folder has model.safetensors (the weights and their configuration), config.json and README.md, a model card. With
--onnx and --torch-export it also has the encoder as encoder.onnx and encoder.pt2, which are compared with the model
before they are put there. Where the run kept a moving average of its weights, that is what is exported.
docs/export.md has the details.

Exit codes: 0 done; 2 it could not be done; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from export_options import parse

if __name__ == "__main__":
    parse(None, __doc__)  # before all that follows is imported, so that --help and a wrong option answer at once

from diffmae_video.build.model_card import UNKNOWN_LICENSE
from diffmae_video.build.model_folder import FILES, PretrainedParts, read_parts, write_parts
from diffmae_video.engine.errors import RunError
from diffmae_video.engine.weights_file import ENCODER_PART
from diffmae_video.export import (
    ONNX_FILE,
    PROGRAM_FILE,
    EncoderGraph,
    check_onnx,
    differences,
    read_onnx,
    read_program,
    write_onnx,
    write_program,
)

# All that this tool ever writes, and so all that --overwrite removes.
OWN_FILES = (*FILES, ONNX_FILE, f"{ONNX_FILE}.data", PROGRAM_FILE)
UNFINISHED = ".unfinished"  # folder in the output; there only while the files are made, or after a kill
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def check(options: argparse.Namespace) -> None:
    """Everything that can be known to be wrong before the model is read."""
    output = options.output
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is there already, and is no folder")
    found = sorted(path.name for path in output.iterdir() if path.name != UNFINISHED) if output.is_dir() else []
    if found and not options.overwrite:
        raise ValueError(f"--output {output} is not empty ({found[0]}): choose another folder, or pass --overwrite")
    if options.license is not None and not LICENSE.fullmatch(options.license):
        raise ValueError(f"--license {options.license!r}: expected an abbreviation such as apache-2.0")
    if options.num_frames is not None and not (options.onnx or options.torch_export):
        raise ValueError("--num-frames is for --onnx and --torch-export; the other files are of the whole model")
    if options.onnx:
        check_onnx()


def named(parts: PretrainedParts, options: argparse.Namespace) -> PretrainedParts:
    """With what the command line says of the model, and a new card."""
    given = {"license": options.license, "trained_on": options.trained_on}
    notes = parts.notes | {name: text for name, text in given.items() if text is not None}
    return PretrainedParts(parts.model, notes, card=None)


def write_graph(parts: PretrainedParts, options: argparse.Namespace, folder: Path) -> None:
    """Writes the encoder in the forms that were asked for, and prints how far each is from the model."""
    graph = EncoderGraph(parts.model, options.num_frames)
    kinds: list[tuple[bool, str, Callable, Callable]] = [
        (options.torch_export, PROGRAM_FILE, write_program, read_program),
        (options.onnx, ONNX_FILE, write_onnx, read_onnx),
    ]
    for wanted, name, write, read in kinds:
        if not wanted:
            continue
        write(graph, folder / name)
        for batch, values in differences(graph, read(folder / name)).items():
            listed = ", ".join(f"{output} {value:.1e}" for output, value in values.items())
            print(f"{name}, batch {batch}: largest difference from the model: {listed}")


@contextmanager
def complete_or_nothing(output: Path) -> Iterator[Path]:
    """A folder to write into, whose files come to ``output`` together when all of them are whole.

    Of what an earlier call left there, everything but the weights goes first and the weights are replaced in one step:
    at no moment are there files of two models, or half of one.
    """
    unfinished = output / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for name in OWN_FILES[1:]:
            (output / name).unlink(missing_ok=True)
        for name in OWN_FILES:
            if (unfinished / name).exists():
                os.replace(unfinished / name, output / name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def local_paths(value: object) -> list[str]:
    """Values in a configuration that are paths from the root, which name folders of this machine."""
    if isinstance(value, (dict, list, tuple)):
        inner = value.values() if isinstance(value, dict) else value
        return list(dict.fromkeys(path for item in inner for path in local_paths(item)))
    return [value] if isinstance(value, str) and os.path.isabs(value) else []


def run(options: argparse.Namespace) -> None:
    check(options)
    parts = named(read_parts(options.weights, options.encoder_only), options)
    model, notes = parts.model, parts.notes
    known = ["encoder only"] if notes.get("part") == ENCODER_PART else []
    known += [f"{name} {notes[name]}" for name in ("weights", "step", "clips", "source") if name in notes]
    print(f"{options.weights}: {', '.join([type(model).__name__, *known])}")
    with complete_or_nothing(options.output) as folder:
        write_parts(folder, parts, options.name or options.output.resolve().name)
        write_graph(parts, options, folder)
    for path in (options.output / name for name in OWN_FILES):
        if path.exists():
            print(f"wrote {path} ({path.stat().st_size / 1e6:.3g} MB)")
    if paths := local_paths(model.cfg):
        print(f"note: the configuration in these files names paths of this machine: {', '.join(paths)}")
    if notes.get("license", UNKNOWN_LICENSE) == UNKNOWN_LICENSE:
        print('note: the card says "license: unknown"; --license sets it')


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments, __doc__)
    try:
        run(options)
    except (ValueError, OSError, ImportError, RunError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
