"""Inpaint a video or an image with a trained model.

    python tools/inpaint.py --weights runs/demo --input clip.mp4 --mask center --output out.mp4 --sheet out.png

The mask is a strategy (tube, random, frame, block, center), a region, a box that may move, a painted picture (not
black = hidden), a folder with a picture per frame or a video; docs/inpainting.md has all forms. The output has the size
of the input and pixels outside the mask are those of the input. The input may have any size and length: it is scaled so
that its shorter side is the model's (--fit resize) or left at its own resolution (--fit native), and worked on in
overlapping clips of the model's size. A .mp4 or .gif shows masked input | inpainted | original side by side
(--only-result: just the inpainted video), a .png a few frames of them.
"""

from __future__ import annotations

import os

# How long a waiting OpenMP thread spins before it sleeps (GNU's runtime, which torch on Linux uses). By default so long
# that training which shares its CPU, with its own loader even, gets several times slower; this costs nothing on an idle
# one. Read once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inpaint_options import check, parse, sampling_of

if __name__ == "__main__":
    parse(None, __doc__)  # before all that follows is imported, so that --help and a wrong option answer at once

import numpy as np
import torch

from diffmae_video import load_model
from diffmae_video.baselines import mean_fill, nearest_patch_fill
from diffmae_video.config import trained_ratio
from diffmae_video.data import UnreadableVideo, read_frames, video_info
from diffmae_video.data.writing import write_gif, write_image, write_video
from diffmae_video.engine.errors import RunError
from diffmae_video.engine.wrapping import autocast
from diffmae_video.inpainting import inpaint_video
from diffmae_video.mask_input import object_numbers, patch_in_pixels, picture_files, read_mask
from diffmae_video.quality import psnr
from diffmae_video.visualize import contact_sheet, evenly_spaced, masked_frames, side_by_side

# Share of hidden patches where neither --ratio nor the model's own training mask says it.
DEFAULT_RATIO = {"tube": 0.75, "random": 0.75, "frame": 0.5, "block": 0.25, "center": 0.25}
FOLDER_FPS = 25.0
SHEET_COLUMNS = 6


@dataclass
class Input:
    """Frames to inpaint, and where they are from."""

    frames: np.ndarray  # uint8 (T, H, W, 3)
    indices: range  # their numbers in the file or folder
    total: int  # frames of the file or folder
    fps: float  # of these frames


def chosen_device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ValueError(f"--device {name}: expected auto, cpu, cuda or cuda:<number>")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: torch finds {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return name


def read_input(path: Path, start: int, count: int | None, stride: int) -> Input:
    """Frames start, start + stride, ... of a video, an image or a folder of images."""
    files: list[Path] = []
    if path.is_dir():
        files = picture_files(path)
        if not files:
            raise ValueError(f"--input {path}: the folder holds no images")
        total, fps = len(files), FOLDER_FPS
    else:
        info = video_info(path)
        total, fps = info.frames, info.fps or 1.0
    indices = range(start, total, stride)[:count]
    if not indices:
        raise ValueError(f"--start-frame {start}: the input has frames 0 to {total - 1}")
    if files:
        images = [read_frames(files[i], [0])[0] for i in indices]
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise ValueError(f"--input {path}: the images differ in size: {sorted(sizes)}")
        frames = np.stack(images)
    else:
        frames = read_frames(path, indices)
    return Input(frames, indices, total, fps / stride)


def hidden_ratio(options: argparse.Namespace, model: torch.nn.Module) -> float:
    """The share of patches to hide; of no consequence for masks that are no strategy."""
    if options.ratio is not None:
        return options.ratio
    return trained_ratio(model.cfg, options.mask) or DEFAULT_RATIO.get(options.mask, 0.5)


def mask_of(options: argparse.Namespace, source: Input, model: torch.nn.Module) -> np.ndarray:
    """The mask of --mask or --box, bool (T, H, W); a strategy's follows the patches of the model."""
    shape = source.frames.shape[:3]
    return read_mask(
        options.mask or options.box,
        shape,
        patch_in_pixels(shape, model.clip_shape[1:], model.patch_size, options.fit),
        hidden_ratio(options, model),
        options.seed,
        source.indices,
        source.total,
        objects=object_numbers(options.object) if options.object else None,
        invert=options.invert,
        grow=options.grow,
    )


def inpaint_samples(
    model: torch.nn.Module, frames: np.ndarray, mask: np.ndarray, options: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Title -> inpainted frames, one per seed."""
    results = {}
    for sample in range(options.samples):
        title = "inpainted" if options.samples == 1 else f"inpainted, seed {options.seed + sample}"

        def show(done: int, total: int, title: str = title) -> None:
            if sys.stderr.isatty():
                print(f"\r{title}: step {done} of {total}", end="\n" if done == total else "", file=sys.stderr)

        with autocast(options.precision, model.pixel_mean.device):
            results[title] = inpaint_video(
                model, frames, mask, seed=options.seed + sample, progress=show, **sampling_of(options)
            )
    return results


def baseline_fills(frames: np.ndarray, mask: np.ndarray, patch: tuple[float, float, float]) -> dict[str, np.ndarray]:
    """Title -> frames filled without a network."""
    fills = {"mean colour": mean_fill(frames, mask)}
    # Where no patch of several frames is whole, as with every second frame missing, one of a single frame may be.
    for size in (patch, (1.0, *patch[1:])):
        try:
            fills["nearest visible patch"] = nearest_patch_fill(frames, mask, size)
            break
        except ValueError:  # nor is that
            continue
    return fills


def write_output(path: Path, panels: dict[str, np.ndarray], source: Input, only: np.ndarray | None) -> None:
    """The file ``path`` in the format of its suffix; ``only`` = the result that is to be written alone."""
    if path.suffix.lower() == ".png":
        write_image(path, sheet_of(panels, source) if only is None else only[0])
    else:
        write = write_gif if path.suffix.lower() == ".gif" else write_video
        write(path, side_by_side(panels) if only is None else only, source.fps)


def sheet_of(panels: dict[str, np.ndarray], source: Input) -> np.ndarray:
    columns = evenly_spaced(len(source.indices), SHEET_COLUMNS)
    captions = [f"frame {source.indices[i]}" for i in columns]
    return contact_sheet([video[columns] for video in panels.values()], list(panels), captions)


def report_psnr(frames: np.ndarray, mask: np.ndarray, fills: dict[str, np.ndarray], metrics: Path | None) -> None:
    values = {title: psnr(filled, frames, mask) for title, filled in fills.items()}
    print("PSNR inside the mask, against the original (dB, higher is better):")
    for title, value in values.items():
        print(f"  {title:<28} {value:6.2f}")
    if metrics is not None:
        metrics.parent.mkdir(parents=True, exist_ok=True)
        metrics.write_text(json.dumps({"psnr": values, "hidden": float(mask.mean())}, indent=2) + "\n")


def run(options: argparse.Namespace) -> None:
    check(options)
    device = chosen_device(options.device)
    source = read_input(options.input, options.start_frame, options.num_frames, options.stride)
    frames = source.frames
    if options.only_result and options.output.suffix.lower() == ".png" and len(frames) > 1:
        raise ValueError(
            f"--only-result with {options.output}: a picture holds one frame and {len(frames)} are taken; "
            "write an .mp4 or .gif, or add --num-frames 1"
        )
    model = load_model(options.weights, device=device)
    patch = patch_in_pixels(frames.shape[:3], model.clip_shape[1:], model.patch_size, options.fit)
    mask = mask_of(options, source, model)
    print(f"{options.input}: {len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}, {mask.mean():.1%} hidden")
    results = inpaint_samples(model, frames, mask, options)
    baselines = baseline_fills(frames, mask, patch)
    report_psnr(frames, mask, {**results, **baselines}, options.metrics)
    panels = {"masked input": masked_frames(frames, mask), **results}
    panels |= baselines if options.baselines else {}
    panels["original"] = frames
    only = next(iter(results.values())) if options.only_result else None
    write_output(options.output, panels, source, only)
    print(f"wrote {options.output}" + ("" if only is not None else f" ({' | '.join(panels)})"))
    if options.sheet is not None:
        write_image(options.sheet, sheet_of(panels, source))
        print(f"wrote {options.sheet}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments, __doc__)
    try:
        run(options)
    except (ValueError, OSError, ImportError, UnreadableVideo, RunError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
