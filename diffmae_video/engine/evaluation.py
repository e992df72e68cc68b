"""How a run is looked at while it trains.

An evaluator is any object with ``name``, ``period`` (optimiser steps; it also runs after the last one) and ::

    evaluate(model, step, monitor) -> dict[str, float]

The trainer calls it with the bare model inside :func:`evaluation`: a run with an evaluator computes what one without it
does. The numbers that it returns are logged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn

from diffmae_video.engine.monitor import Monitor


class Evaluator(Protocol):
    """See the module's description."""

    name: str
    period: int

    def evaluate(self, model: nn.Module, step: int, monitor: Monitor) -> dict[str, float]: ...


@contextmanager
def evaluation(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode without gradients; afterwards every module's mode and the random state are as before."""
    training = {module: module.training for module in model.modules()}
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, was_training in training.items():
            module.training = was_training
