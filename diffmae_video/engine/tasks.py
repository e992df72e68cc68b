"""What differs between the kinds of training: a task turns a batch into a loss.

A task is any object with this method::

    loss(model, batch, generators) -> (loss, metrics)

``model`` is what the trainer was given (wrapped or not), ``batch`` a batch of the loader with its tensors on the
device, ``generators`` one ``torch.Generator`` per clip. ``loss`` is the mean over the batch's clips, a scalar tensor.
``metrics`` maps names to tensors (2,) of (sum, count), so that averages over micro-batches, steps and processes are
exact and a metric that no clip of a batch contributes to is simply not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn

from diffmae_video.engine.wrapping import unwrap

Metrics = dict[str, torch.Tensor]  # name -> (2,) sum and count

BUCKETS = 4


class Task(Protocol):
    """See the module's description."""

    def loss(
        self, model: nn.Module, batch: Any, generators: Sequence[torch.Generator]
    ) -> tuple[torch.Tensor, Metrics]: ...


class PretrainTask:
    """Masked reconstruction: the model hides, predicts and compares by itself.

    With diffusion, the metrics ``loss_t_q1`` ... ``loss_t_q4`` are the losses at little to much noise: the timesteps
    [0, steps) in four quarters. They move long before their mean does.

    Args:
        timesteps: number of timesteps of the model's noise schedule; not used by a model without diffusion.
    """

    def __init__(self, timesteps: int = 1000):
        self.timesteps = timesteps

    def loss(self, model: nn.Module, batch: Any, generators: Sequence[torch.Generator]) -> tuple[torch.Tensor, Metrics]:
        output = model(unwrap(model).normalize(batch.clips), generator=generators)
        if output.t is None:
            return output.loss, {}
        return output.loss, timestep_metrics(output.per_clip_loss.detach(), output.t, self.timesteps)


def timestep_metrics(per_clip_loss: torch.Tensor, t: torch.Tensor, timesteps: int) -> Metrics:
    """Losses (B,) by the quarter of [0, timesteps) in which their timesteps (B,) lie -> ``loss_t_q1`` ... ``_q4``."""
    quarter = (t * BUCKETS) // timesteps
    member = quarter == torch.arange(BUCKETS, device=t.device)[:, None]  # (BUCKETS, B)
    sums = torch.where(member, per_clip_loss, 0.0).sum(dim=1)
    counts = member.sum(dim=1).to(sums.dtype)
    return {f"loss_t_q{q + 1}": torch.stack((sums[q], counts[q])) for q in range(BUCKETS)}
