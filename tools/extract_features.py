"""Features of videos and images from a pre-trained model's encoder, for retrieval, clustering or a classifier.

    python tools/extract_features.py --weights runs/demo --input videos/ --output features.npz
    python tools/extract_features.py --weights runs/demo --input val.csv --output dense/ --output-type dense

A video is cut into windows of the model's number of frames, from its beginning to its end; each becomes one vector (the
mean over its patch tokens), or with --output-type dense the whole grid of tokens. --output is one file, .npz or
.safetensors, or with a slash at its end a folder with a file per video. After Ctrl-C or a crash the same command goes
on where it was. docs/features.md has the details.

Exit codes: 0 done, unreadable videos are listed; 2 it could not be done; 3 with --strict: done, but some videos were
unreadable; 130 Ctrl-C.
"""

from __future__ import annotations

import os

# As in tools/inpaint.py: waiting threads leave the CPU to decoding. Read once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from extract_options import STRICT_EXIT, parse

if __name__ == "__main__":
    parse(None, __doc__)  # before all that follows is imported, so that --help and a wrong option answer at once

import numpy as np
import torch
from feature_files import SUFFIXES, Rows, Video, VideoFiles, collect, is_complete, write_features

from diffmae_video import __version__, load_model
from diffmae_video.build.models import build_encoder
from diffmae_video.config import dump
from diffmae_video.data import NO_LABEL, Entry, UnreadableVideo, read_manifest
from diffmae_video.data.manifest import MEDIA_EXTENSIONS
from diffmae_video.data.packed import media_state
from diffmae_video.engine.errors import RunError
from diffmae_video.engine.wrapping import select_device
from diffmae_video.features import FeatureOptions, encode_video
from diffmae_video.models import VideoClassifier
from diffmae_video.models.fitting import fit_weights


def check(options: argparse.Namespace) -> None:
    """Everything that can be known to be wrong before the model is read; fills in what follows from other options."""
    output = Path(options.output)
    options.is_folder = options.output.endswith(("/", os.sep))
    if not options.is_folder and output.suffix not in SUFFIXES:
        raise ValueError(
            f"--output {output}: expected a name that ends in {' or '.join(SUFFIXES)}, or in / for a folder"
        )
    if output.exists() and output.is_dir() != options.is_folder:
        raise ValueError(f"--output {options.output} is there already, and is {'no ' * options.is_folder}folder")
    if not options.input.exists():
        raise FileNotFoundError(f"--input {options.input}: there is no such file or folder")
    if options.views is None:
        options.views = "mean" if options.output_type == "pooled" else "each"
    if options.views == "mean" and options.output_type == "dense":
        raise ValueError("--views mean with --output-type dense: tokens of different times have no mean; use each")
    if options.timeout < 0 or (options.size is not None and options.size < 1):
        raise ValueError("--timeout: expected at least 0, --size: at least 1")


def read_input(options: argparse.Namespace) -> list[Video]:
    """The videos, in their order."""
    source = options.input
    if source.is_file() and source.suffix.lower() in MEDIA_EXTENSIONS:
        entries = [Entry(str(source), NO_LABEL)]
    else:
        try:
            entries = read_manifest(
                source, options.split, options.prefix, options.format, options.labels, options.fold, keep_missing=True
            )
        except ValueError as error:  # its advice is for people with a configuration
            raise ValueError(str(error).replace("Set DATA.FORMAT", "Set --format")) from error
    base = os.path.abspath(source if source.is_dir() else source.parent)
    return [Video(name_of(entry.path, base), entry.path, entry.label) for entry in entries]


def name_of(path: str, base: str) -> str:
    """``path`` relative to ``base``; what lies elsewhere keeps all its folders."""
    path = os.path.abspath(path)
    inside = os.path.relpath(path, base)
    return path.lstrip(os.sep) if inside.startswith(os.pardir) or inside == os.curdir else inside


def feature_options(options: argparse.Namespace, model: torch.nn.Module) -> FeatureOptions:
    """The options of the command line, the rest as the model was trained."""
    data = model.cfg.DATA
    sampling = options.sampling or ("dense" if options.window_stride or options.sampling_rate else data.SAMPLING)
    return FeatureOptions(
        sampling_rate=data.SAMPLING_RATE if options.sampling_rate is None else options.sampling_rate,
        output=options.output_type,
        layer=options.layer,
        window_stride=options.window_stride,
        sampling=sampling,
        fit=options.fit or data.FIT,
        batch_size=options.batch_size,
        precision=options.precision,
        decoder=options.decoder,
        decode_short_side=data.DECODE_SHORT_SIDE,
        decode_timeout=options.timeout,
    )


def at_size(model: torch.nn.Module, size: int) -> torch.nn.Module:
    """A model with the same encoder for clips of another height and width; learned positions are resized.

    Raises ValueError: a size that the patch does not divide.
    """
    cfg = model.cfg.clone()
    cfg.defrost()
    cfg.DATA.CROP_SIZE = size
    kind = "finetune" if isinstance(model.encoder.norm, torch.nn.Identity) else "linear"
    with torch.random.fork_rng():
        resized = VideoClassifier(
            build_encoder(cfg), 1, kind, pixel_mean=tuple(cfg.DATA.MEAN), pixel_std=tuple(cfg.DATA.STD)
        )
    fit_weights(resized, model.state_dict(), model.grid, model.patch_size)
    resized.cfg = model.cfg
    return resized.to(model.pixel_mean.device).eval()


def recipe_of(options: argparse.Namespace, features: FeatureOptions, weights: str, size: int) -> dict[str, Any]:
    """All that the features depend on besides the videos. Rounding differs with device and batch size: they count."""
    recipe = {"weights": weights, "size": size, "views": options.views}
    recipe |= {"dtype": options.dtype, "device": options.device}
    options_of_features = asdict(features)
    del options_of_features["decode_timeout"]  # says what is unreadable, never what is read
    return recipe | options_of_features


def digest(model: torch.nn.Module) -> str:
    """Tells encoders apart: by their weights and by the configuration of the model."""
    found = hashlib.sha256(f"{model.cfg.MODEL}{model.clip_shape}".encode())
    for name, tensor in model.state_dict().items():
        if name.startswith(("encoder.", "pixel_")):
            found.update(name.encode() + tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def extract(
    videos: Sequence[Video],
    files: VideoFiles,
    model: torch.nn.Module,
    options: argparse.Namespace,
    features: FeatureOptions,
) -> dict[str, str]:
    """Fills ``files``; returns name -> reason for every video that cannot be read."""
    unreadable: dict[str, str] = {}
    distinct = {video.name: video.path for video in videos}
    earlier = 0
    for number, (name, path) in enumerate(distinct.items(), start=1):
        try:
            state = list(media_state(path))
            if files.has(name, state):
                earlier += 1
                continue
            found = encode_video(model, path, features)
        except (UnreadableVideo, OSError) as error:
            reason = error.reason if isinstance(error, UnreadableVideo) else error.strerror or str(error)
            unreadable[name] = " ".join(reason.split())
            print(f"unreadable: {path}: {unreadable[name]}", file=sys.stderr)
            continue
        rows = Rows(found.features, found.starts, found.seconds)
        if options.views == "mean":
            rows = Rows(found.features.mean(axis=0, keepdims=True), found.starts[:1], found.seconds[:1])
        files.save(name, path, state, rows._replace(features=converted(rows.features, options.dtype)))
        if sys.stderr.isatty():
            print(f"\r{number} of {len(distinct)} videos", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if earlier:
        print(f"{earlier} of {len(distinct)} videos were done by an earlier call")
    return unreadable


def converted(features: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "float16" and np.abs(features).max() > np.finfo(np.float16).max:
        raise ValueError("--dtype float16: a feature is larger than this can hold; use float32")
    return features.astype(dtype)


def row_shape(model: torch.nn.Module, output: str) -> tuple[int, ...]:
    width = model.encoder.width
    return (width,) if output == "pooled" else (*model.grid, width)


def run(options: argparse.Namespace) -> int:
    check(options)
    device = select_device(options.device)
    options.device = device.type
    output, videos = Path(options.output), read_input(options)
    model = load_model(options.weights, device=device)
    features, weights = feature_options(options, model), digest(model)
    if options.size is not None and options.size != model.clip_shape[2]:
        model = at_size(model, options.size)
    recipe = recipe_of(options, features, weights, model.clip_shape[2])
    listed = hashlib.sha256(repr([(video.path, video.label) for video in videos]).encode()).hexdigest()
    metadata = {"weights": options.weights, "recipe": recipe, "input": listed, "version": __version__}
    metadata["config"] = dump(model.cfg)
    folder = output if options.is_folder else output.with_name(f"{output.name}.parts")
    if not options.is_folder and output.exists() and not folder.exists() and not options.restart:
        if is_complete(output, metadata):
            print(f"{output} is complete already; nothing was done")
            return 0
    print(f"{options.input}: {len(videos)} videos; {features.output} features of {options.weights} on {device}")
    files = VideoFiles(folder, f".{options.file_type}" if options.is_folder else ".npz", recipe, options.restart)
    reasons = extract(videos, files, model, options, features)
    readable = [video for video in videos if video.name not in reasons]
    unreadable = [[video.path, reasons[video.name]] for video in videos if video.name in reasons]
    if options.is_folder:
        entries = [video._asdict() | {"file": video.name + files.suffix} for video in readable]
        files.write_index({**metadata, "videos": entries, "unreadable": unreadable})
        print(f"wrote {len({entry['file'] for entry in entries})} files to {output}/")
    else:
        arrays = collect(readable, files, row_shape(model, features.output), options.dtype)
        arrays["unreadable"] = unreadable
        write_features(output, arrays, metadata)
        print(f"wrote {output}: features {tuple(arrays['features'].shape)} {options.dtype}")
        if not unreadable:
            files.remove()
    if unreadable:
        kept = "" if options.is_folder else f" (the others are kept in {folder} for it)"
        print(
            f"{len(unreadable)} of {len(videos)} videos are unreadable and left out; a next call tries them again{kept}"
        )
    return STRICT_EXIT if unreadable and options.strict else 0


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments, __doc__)
    try:
        return run(options)
    except torch.OutOfMemoryError:
        print(f"error: out of memory on {options.device}; use a smaller --batch-size", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError, RunError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
