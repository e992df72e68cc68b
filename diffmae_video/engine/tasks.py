"""What differs between the kinds of training: a task turns a batch into a loss.

A task is any object with this method::

    loss(model, batch, generators, shared) -> (loss, metrics)

``model`` is what the trainer was given (wrapped or not), ``batch`` a batch of the loader with its tensors on the
device, ``generators`` one ``torch.Generator`` per clip, ``shared`` one more, on the CPU, for what the clips of a
micro-batch have in common, in every process the same. ``loss`` is the mean over the batch's clips, a scalar tensor.
``metrics`` maps names to tensors (2,) of (sum, count), so that averages over micro-batches, steps and processes are
exact and a metric that no clip of a batch contributes to is simply not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from diffmae_video.data import Mixing, RandomErasing
from diffmae_video.engine.randomness import mix
from diffmae_video.engine.wrapping import unwrap
from diffmae_video.models import MaskMix

Metrics = dict[str, torch.Tensor]  # name -> (2,) sum and count

BUCKETS = 4


class Task(Protocol):
    """See the module's description."""

    def loss(
        self, model: nn.Module, batch: Any, generators: Sequence[torch.Generator], shared: torch.Generator
    ) -> tuple[torch.Tensor, Metrics]: ...


class PretrainTask:
    """Reconstruction: the model hides or noises, predicts and compares by itself.

    With diffusion, the metrics ``loss_t_q1`` ... ``loss_t_q4`` are the losses at little to much noise: the timesteps
    [0, steps) in four quarters. They move long before their mean does. With a mix of masks, ``loss_mask_tube`` and so
    on are the losses under each strategy; where the loss is a sum, ``loss_pixels`` and so on are its parts.

    Args:
        timesteps: number of timesteps of the model's noise schedule; not used by a model without diffusion.
        mask_mix: draws strategy and ratio of every micro-batch; None = the model's own.
        teacher: for a model with a ``feature_width``: another network's features (B, N, F) of pixels (B, C, T, H, W),
            which it sees whole; see ``clip_features.ClipTeacher``.
    """

    def __init__(
        self,
        timesteps: int = 1000,
        mask_mix: MaskMix | None = None,
        teacher: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        self.timesteps, self.mask_mix, self.teacher = timesteps, mask_mix, teacher

    def loss(
        self, model: nn.Module, batch: Any, generators: Sequence[torch.Generator], shared: torch.Generator
    ) -> tuple[torch.Tensor, Metrics]:
        clips, mask, metrics = unwrap(model).normalize(batch.clips), None, {}
        choice = None if self.mask_mix is None else self.mask_mix.draw(shared)
        if choice is not None:
            # From the clips' generators, as forward would: they go on to draw the same timesteps and noise.
            mask = unwrap(model).make_mask(len(clips), generators, clips.shape[2], choice)
        given = {} if mask is None else {"mask": mask}
        if self.teacher is not None:
            given["features"] = self.teacher(batch.clips)
        if getattr(unwrap(model), "num_classes", 0):  # a denoising model that is told the classes
            given["labels"] = batch.labels
        output = model(clips, generator=generators, **given)
        per_clip = output.per_clip_loss.detach()
        if choice is not None:
            metrics |= mask_metrics(per_clip, choice.strategy, self.mask_mix.strategies)
        if output.t is not None:
            metrics |= timestep_metrics(per_clip, output.t, self.timesteps)
        metrics |= {f"loss_{name}": mean_metric(part.detach()) for name, part in output.parts.items()}
        return output.loss, metrics


def mean_metric(per_clip: torch.Tensor) -> torch.Tensor:
    """Values (B,) -> (2,), their sum and their number."""
    total = per_clip.sum()
    return torch.stack((total, torch.full_like(total, len(per_clip))))


def timestep_metrics(per_clip_loss: torch.Tensor, t: torch.Tensor, timesteps: int) -> Metrics:
    """Losses (B,) by the quarter of [0, timesteps) in which their timesteps (B,) lie -> ``loss_t_q1`` ... ``_q4``."""
    quarter = (t * BUCKETS) // timesteps
    member = quarter == torch.arange(BUCKETS, device=t.device)[:, None]  # (BUCKETS, B)
    sums = torch.where(member, per_clip_loss, 0.0).sum(dim=1)
    counts = member.sum(dim=1).to(sums.dtype)
    return {f"loss_t_q{q + 1}": torch.stack((sums[q], counts[q])) for q in range(BUCKETS)}


def mask_metrics(per_clip_loss: torch.Tensor, strategy: str, strategies: Sequence[str]) -> Metrics:
    """Losses (B,) of clips all masked by ``strategy`` -> ``loss_mask_<its name>``; the others' count is 0."""
    own = mean_metric(per_clip_loss)
    return {f"loss_mask_{name}": own if name == strategy else torch.zeros_like(own) for name in strategies}


class ClassifyTask:
    """Class scores against labels, for fine-tuning and for probes: cross-entropy with (soft) targets.

    Boxes are erased, and clips and targets mixed, on the device and on normalised pixels. The metric ``train_top1``,
    the share of the clips whose label has the highest score, is counted where clips are not mixed with others.

    Args:
        mixing: Mixup, CutMix and label smoothing; its ``num_classes`` is the model's.
        erasing: None = off.
    """

    def __init__(self, mixing: Mixing, erasing: RandomErasing | None = None):
        self.mixing, self.erasing = mixing, erasing
        self._mixes = mixing.probability > 0 and max(mixing.mixup_alpha, mixing.cutmix_alpha) > 0

    def loss(
        self, model: nn.Module, batch: Any, generators: Sequence[torch.Generator], shared: torch.Generator
    ) -> tuple[torch.Tensor, Metrics]:
        # Mixing and erasing decide on the host, where nothing waits for the device; the seeds are there.
        seeds = [generator.initial_seed() for generator in generators]
        clips = unwrap(model).normalize(batch.clips)
        if self.erasing is not None:
            erased = zip(clips, seeds, strict=True)
            clips = torch.stack([self.erasing(clip, _host_generator("erase", seed)) for clip, seed in erased])
        clips, targets = self.mixing(clips, batch.labels, _host_generator("mix", seeds[0]))
        logits = model(clips).float()
        loss = F.cross_entropy(logits, targets)
        if self._mixes:
            return loss, {}
        correct = (logits.detach().argmax(dim=1) == batch.labels).sum()
        return loss, {"train_top1": torch.stack((correct, torch.full_like(correct, len(logits))))}


def _host_generator(purpose: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(mix(purpose, seed))
