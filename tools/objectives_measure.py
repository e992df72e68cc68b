"""Losses on held-out clips, for ``objectives_study.py``: of every pre-trained model, on the same clips and masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from evidence_runs import is_finished
from evidence_studies import PRETRAIN, Run, Study, plan
from objectives_studies import LEVELS

from diffmae_video.build import build_dataset, load_model
from diffmae_video.config import load_config
from diffmae_video.data import EvaluationClips
from diffmae_video.engine.disk import write_text
from diffmae_video.models import DiffMAE, MaskedAutoencoder
from diffmae_video.models.masks import mask_indices

LOSSES = "heldout.json"
CLIPS = 600  # that are measured; a smaller test set is gone through several times, under other masks
BATCH = 50


def held_out_clips(study: Study, lists: Path) -> torch.Tensor:
    """The test clips of a study, uint8 (n, C, T, H, W).

    Raises:
        OSError: one of them cannot be read.
    """
    arm = next(arm for arm in study.arms if arm.configs)
    cfg = load_config(
        [study.configs / name for name in arm.configs], ["DATA.PATH_TO_DATA_DIR", str(lists / "labelled")]
    )
    clips = EvaluationClips(build_dataset(cfg, study.test_split), BATCH)
    read = torch.cat([batch.clips for batch in clips])
    if clips.unreadable:
        raise OSError(f"{len(clips.unreadable)} test clips cannot be read, such as {': '.join(clips.unreadable[0])}")
    return read


@torch.inference_mode()
def held_out_loss(model: MaskedAutoencoder, clips: torch.Tensor, level: int | None) -> float:
    """Mean reconstruction loss over ``CLIPS`` clips at timestep ``level`` of 1 ... T; None = of a model without one.

    Every clip has a generator of its own, which draws its mask first and then its noise: all models see the same masks.
    """
    losses = []
    for start in range(0, CLIPS, BATCH):
        numbers = range(start, min(start + BATCH, CLIPS))
        batch = model.normalize(clips[[number % len(clips) for number in numbers]])
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        given = {} if level is None else {"t": torch.full((len(batch),), level - 1)}
        losses.append(model(batch, generator=generators, **given).per_clip_loss)
    return torch.cat(losses).mean().item()


@torch.inference_mode()
def floor_loss(model: MaskedAutoencoder, clips: torch.Tensor) -> float:
    """The loss of a prediction of zeros, which is every patch's mean colour, under the masks of ``held_out_loss``."""
    numbers = range(min(len(clips), CLIPS))
    masks = model.make_mask(len(numbers), [torch.Generator().manual_seed(number) for number in numbers])
    target = model.target_patches(model.normalize(clips[: len(numbers)]), mask_indices(masks)[1])
    return target.square().mean().item()


def measure(study: Study, output: Path, seeds: Sequence[int]) -> None:
    """Writes ``heldout.json`` into every finished pre-training that has none: {"floor": loss, "losses": {level: loss}}.

    Levels are those of ``LEVELS``; a model without noise has one loss, entered for the last.
    """
    clips = None
    for run in pretrainings(study, output, seeds):
        if (run.folder / LOSSES).is_file() or not is_finished(run):
            continue
        clips = held_out_clips(study, output / "lists") if clips is None else clips
        model = load_model(run.folder)
        levels = LEVELS if isinstance(model, DiffMAE) else (None,)
        losses = {str(level or LEVELS[-1]): held_out_loss(model, clips, level) for level in levels}
        write_text(run.folder / LOSSES, json.dumps({"floor": floor_loss(model, clips), "losses": losses}) + "\n")
        print(f"{run.arm}, seed {run.seed}: loss at t = T {losses[str(LEVELS[-1])]:.4f}", flush=True)


def pretrainings(study: Study, output: Path, seeds: Sequence[int]) -> list[Run]:
    return [run for run in plan(study, output, seeds) if run.task == PRETRAIN]
