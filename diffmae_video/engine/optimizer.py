"""AdamW with its parameter groups, and the learning rate as a function of the clips seen."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


def parameter_groups(
    model: nn.Module, weight_decay: float, no_decay_names: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The trainable parameters in two groups: decayed, and not (biases, norms, and ``no_decay_names``).

    Biases and the scales of norms are the parameters with at most one dimension. Position embeddings and tokens have
    more, so the model names them.

    Raises:
        ValueError: a name that is no parameter of the model.
    """
    parameters = dict(model.named_parameters())
    unknown = sorted(set(no_decay_names) - set(parameters))
    if unknown:
        raise ValueError(f"no_decay_names are not parameters of the model: {', '.join(unknown)}")
    decayed, plain = [], []
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            (plain if parameter.dim() <= 1 or name in no_decay_names else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_adamw(
    groups: Sequence[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8
) -> torch.optim.AdamW:
    """AdamW over parameter groups that are already on their device; the trainer sets the learning rate at every step.

    One fused kernel per group on CUDA, batched tensor operations elsewhere.
    """
    fused = all(parameter.is_cuda for group in groups for parameter in group["params"])
    return torch.optim.AdamW(list(groups), lr=0.0, betas=tuple(betas), eps=eps, fused=fused, foreach=not fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads the moments and step counts of a saved ``optimizer.state_dict()``.

    Settings (weight decay, betas, fused ...) stay those of ``optimizer``: they come from the configuration of this run,
    and a fused state may go on on a CPU.

    Raises:
        ValueError: groups of another number or size.
    """
    saved, current = state["param_groups"], optimizer.param_groups
    if len(saved) != len(current):
        raise ValueError(f"{len(saved)} parameter groups were saved, this optimizer has {len(current)}")
    groups = [{**now, "params": then["params"]} for now, then in zip(current, saved, strict=True)]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


@dataclass(frozen=True)
class LrSchedule:
    """Linear warm-up from 0 to ``peak``, then half a cosine down to ``min_lr``; progress in clips seen.

    Counting clips keeps the schedule when the batch size or the number of processes changes.

    Attributes:
        peak: largest learning rate.
        warmup_clips, total_clips: lengths of the warm-up and of the whole run.
        min_lr: learning rate at ``total_clips`` and after.
        rule: how the peak came about, for the log.
    """

    peak: float
    warmup_clips: float
    total_clips: float
    min_lr: float = 0.0
    rule: str = ""

    @classmethod
    def from_base(
        cls,
        base_lr: float,
        batch_size: int,
        base_batch_size: int,
        warmup_clips: float,
        total_clips: float,
        min_lr: float = 0.0,
    ) -> LrSchedule:
        """Linear scaling rule: peak = base_lr * batch_size / base_batch_size, the batch counted in clips per step."""
        rule = f" = {base_lr:g} x batch {batch_size} / {base_batch_size}"
        return cls(base_lr * batch_size / base_batch_size, warmup_clips, total_clips, min_lr, rule)

    def __call__(self, clips: float) -> float:
        """The learning rate of a step that starts after ``clips`` clips."""
        if clips < self.warmup_clips:
            return self.peak * clips / self.warmup_clips
        progress = min(1.0, (clips - self.warmup_clips) / max(self.total_clips - self.warmup_clips, 1e-9))
        return self.min_lr + (self.peak - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))

    def __str__(self) -> str:
        return (
            f"peak {self.peak:.4g}{self.rule}, warm-up {self.warmup_clips:.0f} clips, "
            f"cosine to {self.min_lr:g} at {self.total_clips:.0f} clips"
        )
