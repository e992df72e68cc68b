"""The state of a run, the same whatever is wrapped around its model: a checkpoint fits any wrapper and any number of
processes.

Under FSDP every process holds a part of the parameters, of what the optimiser keeps for them, and of their averages.
Going out they are put together in the first process; coming in, every process has read all of it and takes its part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from diffmae_video.engine.ema import ExponentialMovingAverage
from diffmae_video.engine.optimizer import restore_optimizer
from diffmae_video.engine.sharding import part_of, whole
from diffmae_video.engine.wrapping import is_sharded, unwrap, whole_copy


def full_model_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The ``state_dict`` that the bare model would have in a run of one process.

    All processes call this. Of sharded parameters the first one gets all (on the CPU), the others get empty tensors;
    everything else is the model's own tensor.
    """
    return {name: whole(value) for name, value in unwrap(model).state_dict().items()}


def load_full_model_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Loads what :func:`full_model_state` gave the first process; every process has read it.

    Raises:
        RuntimeError: a name is missing or unknown, or a shape is another.
    """
    bare = unwrap(model)
    own = bare.state_dict()
    bare.load_state_dict({name: part_of(value, own.get(name, value)) for name, value in state.items()})


def full_optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The ``state_dict`` that the optimiser would have in a run of one process; as :func:`full_model_state`."""
    state = optimizer.state_dict()
    entries = {
        number: {key: whole(value) if isinstance(value, torch.Tensor) else value for key, value in entry.items()}
        for number, entry in state["state"].items()
    }
    return {**state, "state": entries}


def load_full_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads what :func:`full_optimizer_state` gave the first process; see :func:`restore_optimizer`.

    Raises:
        ValueError: another kind of optimiser, or groups of another number, name or size.
    """
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # Groups of another size are refused below.
    owners = dict(zip(numbers, parameters, strict=False))
    entries = {
        number: {key: _like_owner(value, owners.get(number)) for key, value in entry.items()}
        for number, entry in state["state"].items()
    }
    restore_optimizer(optimizer, {**state, "state": entries})


def _like_owner(value: Any, parameter: torch.Tensor | None) -> Any:
    """Moments are sharded as their parameter is; a count of steps is not."""
    if parameter is None or not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    return part_of(value, parameter)


def full_average_state(average: ExponentialMovingAverage, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The ``state_dict`` that the average would have in a run of one process; as :func:`full_model_state`.

    ``weights``: what that gave. What has no average is the same tensor as there.
    """
    state, own = average.state_dict(), average.names
    entries = {name: whole(value) if name in own else weights[name] for name, value in state["ema"].items()}
    return {**state, "ema": entries}


def full_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: ExponentialMovingAverage | None
) -> dict[str, Any]:
    """The entries of a checkpoint that have tensors, as a run of one process would have them; all processes call this.

    The first one gets all, as of :func:`full_model_state`.
    """
    weights = full_model_state(model)
    averages = {} if average is None else full_average_state(average, weights)
    return {"model": weights, "optimizer": full_optimizer_state(optimizer), **averages}


def sharded_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: ExponentialMovingAverage | None
) -> dict[str, Any]:
    """The entries of a checkpoint that have tensors, of which every process has its part: nothing is put together."""
    averages = {} if average is None else average.state_dict()
    return {"model": unwrap(model).state_dict(), "optimizer": optimizer.state_dict(), **averages}


def places(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """How the tensors of :func:`sharded_state` lie on the processes of this run; see ``load_sharded``.

    What an optimiser keeps for a parameter, and an average, lie as the parameter does.
    """
    weights = unwrap(model).state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {"model": weights, "ema": weights, "optimizer": {"state": dict(enumerate(parameters))}}


@contextmanager
def whole_model(
    model: nn.Module, average: ExponentialMovingAverage | None, device: torch.device, first: bool
) -> Iterator[nn.Module | None]:
    """The bare model to look at, with the averaged weights where there are any; None in processes but the first one.

    All processes enter this: the parts of a sharded model come together. The first one's copy is on ``device`` only
    inside this context. Of any other model it is the model itself, whose weights are back afterwards.

    Args:
        model: what is trained.
        average: of its weights; None = its own ones.
        device: where it is to compute.
        first: whether this is the first process.
    """
    bare = unwrap(model)
    if not is_sharded(bare):
        with nullcontext() if average is None or not first else average.applied():
            yield bare if first else None
        return
    state = full_model_state(bare)
    if average is not None:
        state = full_average_state(average, state)["ema"]
    if not first:
        yield None
        return
    copy = whole_copy(bare)
    copy.load_state_dict(state)
    try:
        yield copy.to(device)
    finally:
        copy.cpu()
