"""Pictures of what a model does; docs/pictures.md shows one of each.

    python tools/visualize.py trajectory --weights runs/demo --input clip.mp4 --mask tube --output trajectory.png
    python tools/visualize.py compare --weights runs/mae runs/diffmae --input clip.mp4 --mask tube --output compare.png
    python tools/visualize.py seeds --weights runs/demo --input clip.mp4 --mask center --output seeds.png
    python tools/visualize.py features --weights runs/demo --input clip.mp4 --output features.mp4
    python tools/visualize.py schedules --schedule linear cosine --rho 1 0.6 --output schedules.png

trajectory: a clip's denoising, from t = T to 0. compare: what several models make of one mask. seeds: several samples
for one mask, and where they differ. features: the encoder's tokens as colours. schedules: noise schedules as curves. A
.png is a picture of a few frames, a .mp4 all of them. Input, mask and sampling are those of tools/inpaint.py.
"""

from __future__ import annotations

import os

# As in tools/inpaint.py: waiting threads leave the CPU to others. Read once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from visualize_options import check, parse

if __name__ == "__main__":
    parse(None, __doc__)  # before all that follows is imported, so that --help and a wrong option answer at once

import numpy as np
import torch
from inpaint import Input, chosen_device, mask_of, read_input
from inpaint_options import sampling_of

from diffmae_video import load_model
from diffmae_video.data import UnreadableVideo
from diffmae_video.data.transforms import Box, center_box, crop_and_resize
from diffmae_video.data.writing import write_image, write_video
from diffmae_video.diffusion import UNSCALED, NoiseSchedule
from diffmae_video.engine.errors import RunError
from diffmae_video.engine.wrapping import autocast
from diffmae_video.features import FeatureOptions, encode_clips
from diffmae_video.inpainting import inpaint_video
from diffmae_video.inpainting.sampling import check_model
from diffmae_video.models import DiffMAE
from diffmae_video.visualize import (
    Trajectory,
    comparison_sheet,
    deviation_frames,
    feature_maps,
    feature_sheet,
    masked_frames,
    pixel_deviation,
    schedule_curves,
    seed_grid,
    side_by_side,
    trajectory_strip,
    trajectory_video,
)

WINDOWS_AT_A_TIME = 8


class Task(NamedTuple):
    """What is to be inpainted."""

    source: Input
    mask: np.ndarray  # bool (T, H, W), True = hidden
    models: list[torch.nn.Module]


def source_of(options: argparse.Namespace) -> Input:
    return read_input(options.input, options.start_frame, options.num_frames, options.stride)


def task_of(options: argparse.Namespace) -> Task:
    """Frames, mask and models; a strategy's mask follows the patches of the first model."""
    device = chosen_device(options.device)
    source = source_of(options)
    weights = options.weights if isinstance(options.weights, list) else [options.weights]
    models = [load_model(path, device=device) for path in weights]
    for model in models:
        check_model(model)
    return Task(source, mask_of(options, source, models[0]), models)


def sampled(
    task: Task,
    model: torch.nn.Module,
    seed: int,
    options: argparse.Namespace,
    on_step: Trajectory | None = None,
) -> np.ndarray:
    """Inpainted frames."""
    with autocast(options.precision, model.pixel_mean.device):
        return inpaint_video(model, task.source.frames, task.mask, seed=seed, on_step=on_step, **sampling_of(options))


def write(
    options: argparse.Namespace, fps: float, sheet: Callable[[], np.ndarray], video: Callable[[], np.ndarray]
) -> None:
    """The one of the two that the suffix of --output asks for."""
    if options.output.suffix.lower() == ".png":
        write_image(options.output, sheet())
    else:
        write_video(options.output, video(), fps)
    print(f"wrote {options.output}")


def make_trajectory(options: argparse.Namespace) -> None:
    task = task_of(options)
    if not isinstance(task.models[0], DiffMAE):
        raise ValueError(f"--weights {options.weights}: a MAE predicts in one step, there is no trajectory to show")
    trajectory = Trajectory(options.shown)
    sampled(task, task.models[0], options.seed, options, trajectory)
    write(
        options,
        task.source.fps,
        lambda: trajectory_strip(trajectory, options.frame),
        lambda: trajectory_video(trajectory, task.source.fps),
    )


def make_comparison(options: argparse.Namespace) -> None:
    if len(options.weights) < 2:
        raise ValueError("compare: expected at least two --weights; tools/inpaint.py shows what one model makes of it")
    task = task_of(options)
    titles = options.titles or model_titles(task.models, options.weights)
    results = {}
    for title, model in zip(titles, task.models, strict=True):
        for seed in range(options.seed, options.seed + (options.samples if isinstance(model, DiffMAE) else 1)):
            of_seed = options.samples > 1 and isinstance(model, DiffMAE)
            results[f"{title}, seed {seed}" if of_seed else title] = sampled(task, model, seed, options)
    frames, numbers = task.source.frames, task.source.indices
    panels = {"masked input": masked_frames(frames, task.mask), **results, "original": frames}
    write(
        options,
        task.source.fps,
        lambda: comparison_sheet(frames, task.mask, results, options.columns, numbers, options.size),
        lambda: side_by_side(panels),
    )


def model_titles(models: Sequence[torch.nn.Module], weights: Sequence[str]) -> list[str]:
    """The models' names; those that several have, with the names of their files or runs."""
    names = [model.cfg.MODEL.NAME for model in models]
    counts = Counter(names)
    titles = [
        name if counts[name] == 1 else f"{name} {Path(path).stem}" for name, path in zip(names, weights, strict=True)
    ]
    if len(set(titles)) < len(titles):
        raise ValueError(f"--weights: the models would all be called {titles[0]}; say which is which with --titles")
    return titles


def make_seeds(options: argparse.Namespace) -> None:
    task = task_of(options)
    if not isinstance(task.models[0], DiffMAE):
        raise ValueError(f"--weights {options.weights}: a MAE gives the same result for every seed")
    seeds = range(options.seed, options.seed + options.samples)
    results = {seed: sampled(task, task.models[0], seed, options) for seed in seeds}
    deviation = pixel_deviation(list(results.values()))
    print(f"standard deviation inside the mask: {deviation[task.mask].mean():.1f} of 255, mean of its pixels")
    frames, numbers = task.source.frames, task.source.indices
    panels = {
        "masked input": masked_frames(frames, task.mask),
        **{f"seed {seed}": result for seed, result in results.items()},
        "standard deviation": deviation_frames(deviation),
        "original": frames,
    }
    write(
        options,
        task.source.fps,
        lambda: seed_grid(results, frames, task.mask, options.columns, numbers, options.size),
        lambda: side_by_side(panels),
    )


def make_features(options: argparse.Namespace) -> None:
    device = chosen_device(options.device)
    source = source_of(options)
    model = load_model(options.weights, device=device)
    height, width = source.frames.shape[1:3]
    square = (options.fit or model.cfg.DATA.FIT) == "crop"
    box = center_box(height, width) if square else Box(0, 0, height, width)
    frames = source.frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
    tokens = tokens_of(model, frames, options.layer)
    what = (tokens, tokens.shape[:3], frames, model.patch_size[0])
    write(
        options,
        source.fps,
        lambda: feature_sheet(*what, options.columns, source.indices, options.size),
        lambda: feature_maps(*what),
    )


def tokens_of(model: torch.nn.Module, frames: np.ndarray, layer: int) -> torch.Tensor:
    """Tokens float32 (t, h, w, D) of frames uint8 (T, H, W, 3) of any number; t = T / pt, rounded up.

    What is too short for the last patch, or for a clip, repeats its last frame, as in training. The clips overlap by
    half, and tokens of the same place are averaged: a clip's first slots would look unlike the last ones of the clip
    before.
    """
    clip_frames, slot = model.clip_shape[1], model.patch_size[0]
    slots = -(-len(frames) // slot)
    order = np.minimum(np.arange(max(slots * slot, clip_frames)), len(frames) - 1)
    whole = Box(0, 0, *frames.shape[1:3])
    video = crop_and_resize(torch.from_numpy(frames), whole, model.clip_shape[2])[:, order]  # (C, T', S, S)
    hop = max(model.grid[0] // 2, 1) * slot
    last = len(order) - clip_frames
    starts = [*range(0, last, hop), last]
    total = torch.zeros(len(order) // slot, *model.grid[1:], model.encoder.width)
    times = torch.zeros(len(total), 1, 1, 1)
    options = FeatureOptions(sampling_rate=1, output="dense", layer=layer)
    for first in range(0, len(starts), WINDOWS_AT_A_TIME):
        own = starts[first : first + WINDOWS_AT_A_TIME]
        clips = torch.stack([video[:, start : start + clip_frames] for start in own])
        for start, tokens in zip(own, encode_clips(model, clips, options).cpu(), strict=True):
            total[start // slot :][: len(tokens)] += tokens
            times[start // slot :][: len(tokens)] += 1
    return (total / times)[:slots]


def make_schedules(options: argparse.Namespace) -> None:
    curves = {
        f"{name}, rho {rho:g}": NoiseSchedule(name, options.steps, rho).abar.numpy()
        for name in options.schedule
        for rho in options.rho
        if rho == 1 or name not in UNSCALED  # which have no betas
    }
    write_image(options.output, schedule_curves(curves))
    print(f"wrote {options.output}")


MAKERS = {
    "trajectory": make_trajectory,
    "compare": make_comparison,
    "seeds": make_seeds,
    "features": make_features,
    "schedules": make_schedules,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments, __doc__)
    try:
        check(options)
        MAKERS[options.picture](options)
    except (ValueError, OSError, ImportError, UnreadableVideo, RunError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
