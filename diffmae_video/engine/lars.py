"""LARS: momentum with a step per layer that is a fixed fraction of the layer's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from diffmae_video.engine.sharding import local, norms


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., 2017, arXiv 1708.03888), as MAE's linear probe uses it.

    For parameters w with two or more dimensions and their gradient g::

        u = g + weight_decay * w
        v = momentum * v + trust_coefficient * |w| / |u| * u        (the factor is 1 where |w| or |u| is 0)
        w = w - lr * v

    Norms and biases (one dimension) get neither weight decay nor the factor. Two things differ from the paper's
    algorithm 1, as in MAE's ``util/lars.py``: the norm in the denominator is that of u, not |g| + weight_decay * |w|,
    and the learning rate is applied after the momentum, so that a change of it takes effect at once.

    Args:
        params: parameters or groups of them.
        lr: learning rate, >= 0.
        momentum: in [0, 1).
        weight_decay: >= 0.
        trust_coefficient: > 0.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
    ):
        if lr < 0 or not 0 <= momentum < 1 or weight_decay < 0 or trust_coefficient <= 0:
            raise ValueError(
                f"LARS needs lr >= 0, 0 <= momentum < 1, weight_decay >= 0 and trust_coefficient > 0, got lr {lr}, "
                f"momentum {momentum}, weight_decay {weight_decay}, trust_coefficient {trust_coefficient}"
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """One update; returns what ``closure`` returns, None without one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        velocities = [local(self.state[p]["momentum_buffer"]) for p in parameters]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, _directions(parameters, group["weight_decay"], group["trust_coefficient"]))
        torch._foreach_add_([local(p) for p in parameters], velocities, alpha=-group["lr"])


def _directions(parameters: list[torch.Tensor], weight_decay: float, trust_coefficient: float) -> list[torch.Tensor]:
    """What enters the momentum of every parameter: its gradient, or the scaled ``u`` of the class's description.

    Of sharded parameters, this process's part of it.
    """
    directions = [local(p.grad) for p in parameters]
    scaled = [i for i, p in enumerate(parameters) if p.dim() > 1]
    if not scaled:
        return directions
    weights = [parameters[i] for i in scaled]
    updates = torch._foreach_add([directions[i] for i in scaled], [local(w) for w in weights], alpha=weight_decay)
    weight_norms, update_norms = norms(weights, like=weights), norms(updates, like=weights)
    usable = (weight_norms > 0) & (update_norms > 0)
    factors = torch.where(usable, trust_coefficient * weight_norms / update_norms, 1.0)
    torch._foreach_mul_(updates, list(factors.unbind()))
    for i, update in zip(scaled, updates, strict=True):
        directions[i] = update
    return directions
