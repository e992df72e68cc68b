"""The optimisers, their parameter groups, and the learning rate as a function of the clips seen.

Layer-wise decay of the learning rate (Clark et al., ELECTRA, 2020; for vision transformers Bao et al., BEiT, 2021)
gives the layers near the input smaller steps: the rate of layer l is ``decay ** (depth + 1 - l)`` times that of the
schedule.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from diffmae_video.engine.lars import LARS

OPTIMIZERS = ("adamw", "sgd", "lars")
# Settings that only one of the optimisers has: what tells whose state was saved.
_MARKS = {"betas": "adamw", "dampening": "sgd", "trust_coefficient": "lars"}
_EMBEDDING = ("class_token", "position", "patch_embed", "time_embed")
_LAYERS_PER_LINE = 7  # of the start log


def layer_of(name: str, depth: int) -> int:
    """The layer of a parameter of a model whose ``encoder`` has ``depth`` blocks, as BEiT and MAE number them.

    0: embeddings of patches and timestep, positions and class token; i + 1: ``encoder.blocks.i``; depth + 1: the
    encoder's last norm and everything outside of the encoder, the head above all.

    Raises:
        ValueError: a block that an encoder of this depth does not have.
    """
    if not name.startswith("encoder."):
        return depth + 1
    part, _, rest = name.removeprefix("encoder.").partition(".")
    if part in _EMBEDDING:
        return 0
    if part != "blocks":
        return depth + 1
    block = int(rest.partition(".")[0])
    if block >= depth:
        raise ValueError(f"{name} belongs to no block of an encoder with {depth} blocks")
    return block + 1


def parameter_groups(
    model: nn.Module, weight_decay: float, no_decay_names: Collection[str] = (), layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """The trainable parameters in groups: decayed, and not (biases, norms, and ``no_decay_names``).

    Biases and the scales of norms are the parameters with at most one dimension. Position embeddings and tokens have
    more, so the model names them.

    Args:
        model: with ``layer_decay`` below 1 it has an ``encoder`` with a ``depth``; names are those of the bare model.
        weight_decay: of the decayed parameters.
        no_decay_names: parameters that are not decayed whatever their shape.
        layer_decay: in (0, 1]. Below 1 there are up to two groups per layer (see :func:`layer_of`), from the input to
            the head, with the entries ``name``, ``layer`` and ``lr_scale``, which :func:`set_lr` multiplies with.

    Raises:
        ValueError: a name that is no parameter of the model, ``layer_decay`` out of range, or a model without layers.
    """
    parameters = dict(model.named_parameters())
    unknown = sorted(set(no_decay_names) - set(parameters))
    if unknown:
        raise ValueError(f"no_decay_names are not parameters of the model: {', '.join(unknown)}")
    decays = {name: not (p.dim() <= 1 or name in no_decay_names) for name, p in parameters.items()}
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    if layer_decay == 1.0:
        groups = [
            {"params": [p for name, p in trained.items() if decays[name]], "weight_decay": weight_decay},
            {"params": [p for name, p in trained.items() if not decays[name]], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]
    depth = _depth(model, layer_decay)
    layers: dict[tuple[int, bool], list[nn.Parameter]] = {}  # (layer, not decayed): sorts as documented
    for name, parameter in trained.items():
        layers.setdefault((layer_of(name, depth), not decays[name]), []).append(parameter)
    return [
        {
            "params": layers[layer, plain],
            "weight_decay": 0.0 if plain else weight_decay,
            "lr_scale": layer_decay ** (depth + 1 - layer),
            "layer": layer,
            "name": f"layer {layer}, {'not decayed' if plain else 'decayed'}",
        }
        for layer, plain in sorted(layers)
    ]


def _depth(model: nn.Module, layer_decay: float) -> int:
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be in (0, 1], got {layer_decay}")
    depth = getattr(getattr(model, "encoder", None), "depth", None)
    if depth is None:
        raise ValueError(
            f"layer_decay {layer_decay:g} needs a model with an encoder of blocks, not {type(model).__name__}"
        )
    return depth


def describe_groups(groups: Sequence[dict[str, Any]], peak: float) -> list[str]:
    """Lines for the log: the largest learning rate of every layer; none for groups without layers.

    ``peak`` is the largest learning rate of the schedule.
    """
    rates = {group["layer"]: peak * group["lr_scale"] for group in groups if "lr_scale" in group}
    if not rates:
        return []
    entries = [f"{layer}: {rate:.3g}" for layer, rate in sorted(rates.items())]
    rows = [entries[i : i + _LAYERS_PER_LINE] for i in range(0, len(entries), _LAYERS_PER_LINE)]
    title = f"peak learning rate by layer (0 = embedding, {max(rates)} = head; all follow the same schedule):"
    return [title, *(f"  {', '.join(row)}" for row in rows)]


def make_optimizer(
    name: str,
    groups: Sequence[dict[str, Any]],
    betas: tuple[float, float] = (0.9, 0.95),
    momentum: float = 0.9,
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """The optimiser ``name`` over parameters that are already on their device; the trainer sets its learning rate.

    Args:
        name: ``"adamw"``, ``"sgd"`` (plain momentum, not Nesterov's) or ``"lars"``.
        groups: of :func:`parameter_groups`.
        betas, eps: of AdamW.
        momentum: of SGD and LARS.

    Raises:
        ValueError: another name.
    """
    if name == "adamw":
        return make_adamw(groups, betas, eps)
    if name == "sgd":
        return torch.optim.SGD(_copies(groups), lr=0.0, momentum=momentum)
    if name == "lars":
        return LARS(_copies(groups), momentum=momentum)
    raise ValueError(f"unknown optimizer {name!r}: choose one of {', '.join(OPTIMIZERS)}")


def make_adamw(
    groups: Sequence[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8
) -> torch.optim.AdamW:
    """AdamW: one fused kernel per group, which reads everything once, on CUDA and CPU; batched operations elsewhere."""
    fused = all(parameter.device.type in ("cuda", "cpu") for group in groups for parameter in group["params"])
    return torch.optim.AdamW(_copies(groups), lr=0.0, betas=tuple(betas), eps=eps, fused=fused, foreach=not fused)


def _copies(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """An optimiser writes its defaults into the groups that it is given: these stay the caller's."""
    return [dict(group) for group in groups]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group: ``lr`` times its ``lr_scale``, 1 where it has none.

    The scale multiplies the whole rate, so a layer ends at ``min_lr * lr_scale`` and not at ``min_lr``: as in MAE's
    ``adjust_learning_rate``, in VideoMAE and in timm.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads the moments and step counts of a saved ``optimizer.state_dict()``.

    Settings (weight decay, betas, lr_scale, fused ...) stay those of ``optimizer``: they come from the configuration of
    this run, and a fused state may go on on a CPU.

    Raises:
        ValueError: another kind of optimiser, or groups of another number, name or size.
    """
    saved, current = state["param_groups"], optimizer.param_groups
    if len(saved) != len(current):
        raise ValueError(f"{len(saved)} parameter groups were saved, this optimizer has {len(current)}")
    for then, now in zip(saved, current, strict=True):
        if _kind(then) != _kind(now):
            raise ValueError(f"the optimizer saved is {_kind(then)}, this run's is {_kind(now)}")
        if then.get("name") != now.get("name"):
            raise ValueError(f"parameter group {then.get('name')!r} was saved, this optimizer has {now.get('name')!r}")
    groups = [{**now, "params": then["params"]} for now, then in zip(current, saved, strict=True)]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


def _kind(group: dict[str, Any]) -> str:
    return next((kind for mark, kind in _MARKS.items() if mark in group), "of another kind")


@dataclass(frozen=True)
class LrSchedule:
    """Linear warm-up from 0 to ``peak``, then half a cosine down to ``min_lr``; progress in clips seen.

    Counting clips keeps the schedule when the batch size or the number of processes changes.

    Attributes:
        peak: largest learning rate.
        warmup_clips, total_clips: lengths of the warm-up and of the whole run.
        min_lr: learning rate at ``total_clips`` and after; groups with an ``lr_scale`` end at its multiple, see
            :func:`set_lr`.
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
