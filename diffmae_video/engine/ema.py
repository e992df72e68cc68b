"""A running average of a model's weights, which is often better than the last weights of a training run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffmae_video.engine.sharding import local, part_of

logger = logging.getLogger(__name__)


class ExponentialMovingAverage:
    """Average of the trainable parameters over the optimiser steps, the newer ones weighing more (Polyak averaging)::

        average = d * average + (1 - d) * parameter,    d = min(decay, (1 + n) / (10 + n)) at update n = 0, 1, ...

    The smaller d of the first updates forgets the initial weights sooner, as in TensorFlow's
    ``ExponentialMovingAverage``. Averages are float32. What is not trained (buffers, frozen parameters) has no average
    of its own: it counts as it is in the model.

    Args:
        model: bare, on its device; the average starts from its weights. The model is only changed by ``applied``.
        decay: in (0, 1); 0.9999 averages over the last 10,000 steps or so.

    Attributes:
        decay: as given.
        updates: how often ``update`` was called.
        names: under which the model has what has an average.

    Raises:
        ValueError: ``decay`` out of range.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"the decay of averaged weights must be in (0, 1), got {decay}")
        self.model, self.decay, self.updates = model, decay, 0
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        places = {id(p): place for place, p in enumerate(self._parameters)}
        named = model.named_parameters(remove_duplicate=False)  # a shared weight has several names
        self._places = {name: places[id(p)] for name, p in named if p.requires_grad}
        self._average = [p.detach().float().clone() for p in self._parameters]
        self._originals: list[torch.Tensor] | None = None  # the weights that ``applied`` took out of the model

    @property
    def names(self) -> set[str]:
        return set(self._places)

    @torch.no_grad()
    def update(self) -> None:
        """Takes the model's weights into the average, after an optimiser step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, weights = [local(a) for a in self._average], [local(p).float() for p in self._parameters]
        torch._foreach_lerp_(averages, weights, 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def restart(self) -> None:
        """The average becomes the model's weights of now."""
        torch._foreach_copy_([local(a) for a in self._average], [local(p) for p in self._parameters])
        self.updates = 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside this context, and exactly its own ones after, whatever happens.

        Nothing is copied: the parameters point to the averages meanwhile, which therefore must not be changed. Where a
        signal can end this context at any instruction, :meth:`restore` has to follow.

        Raises:
            RuntimeError: inside another one of these contexts.
        """
        if self._originals is not None:
            raise RuntimeError("the averaged weights are in the model already")
        try:
            self._originals = [p.data for p in self._parameters]
            for parameter, average in zip(self._parameters, self._average, strict=True):
                parameter.data = average.to(parameter.dtype)
            yield
        finally:
            self.restore()

    def restore(self) -> None:
        """Gives the model its own weights back if ``applied`` was cut off before it had; can be repeated."""
        if self._originals is not None:
            for parameter, original in zip(self._parameters, self._originals, strict=True):
                parameter.data = original
            self._originals = None

    def state_dict(self) -> dict[str, Any]:
        """Two entries of a checkpoint: ``ema``, like the model's ``state_dict`` with the averages, and ``ema_updates``.

        What has no average is the model's own tensor, which ``torch.save`` writes once. Averages of sharded parameters
        are sharded; ``full_average_state`` puts them together.
        """
        averages = {name: self._average[place] for name, place in self._places.items()}
        return {"ema": {**self.model.state_dict(), **averages}, "ema_updates": self.updates}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the two entries of :meth:`state_dict` out of a checkpoint; the decay stays that of this run.

        Raises:
            ValueError: an average is missing or has another shape.
        """
        saved = {}
        for name, place in self._places.items():
            parameter = self._parameters[place]
            value = state["ema"].get(name)
            if value is None or value.shape != parameter.shape:
                found = "missing" if value is None else f"of shape {list(value.shape)}"
                raise ValueError(f"the average of {name} is {found}, expected shape {list(parameter.shape)}")
            saved[place] = value
        for place, value in saved.items():
            average = self._average[place]
            local(average).copy_(local(part_of(value, average)))
        self.updates = state["ema_updates"]


def resume_average(ema: ExponentialMovingAverage | None, state: dict[str, Any], path: Path) -> None:
    """Goes on with the averages of the checkpoint ``state`` of ``path``, whose weights are in the model already.

    Where only one of the two has averages, the log says what happens.

    Raises:
        ValueError: see :meth:`ExponentialMovingAverage.load_state_dict`.
    """
    if ema is None:
        if "ema" in state:
            logger.warning("%s has averaged weights, this run has none (TRAIN.EMA_DECAY 0): they are dropped", path)
    elif "ema" in state:
        ema.load_state_dict(state)
    else:
        ema.restart()
        logger.warning("%s has no averaged weights: the average starts from its weights", path)
