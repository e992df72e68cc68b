"""What is put around a model from outside: device, precision, and the sums over processes.

The model knows none of it. A wrapper (``DistributedDataParallel``, ``torch.compile``) is applied before the model is
handed to the trainer, which calls the wrapped one and reaches the model itself through ``unwrap``.
"""

from __future__ import annotations

import torch
from torch import nn

from diffmae_video.engine.errors import RunError

PRECISIONS = ("bf16", "fp32")


def select_device(name: str) -> torch.device:
    """``"auto"`` (CUDA where there is one, else CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` ... -> the device.

    Raises:
        RunError: a device that this machine does not have.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if available else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RunError(f"unknown device {name!r}: expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= available:
        raise RunError(f"device {name!r} is asked for, but torch sees {available} CUDA devices here: use DEVICE auto")
    return device


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of a forward pass: ``"bf16"`` (matrix products in bfloat16, weights in float32) or ``"fp32"``."""
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside ``DistributedDataParallel`` and ``torch.compile``; a bare model itself."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):  # what torch.compile returns
            model = model._orig_mod
        else:
            return model


def sum_over_ranks(values: torch.Tensor, world_size: int) -> torch.Tensor:
    """``values`` summed over all processes, in place; with one process, ``values``."""
    if world_size > 1:
        torch.distributed.all_reduce(values)
    return values
