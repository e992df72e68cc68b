"""What is put around a model from outside: device, precision, and everything that spreads its work or saves memory.

The model knows none of it. :func:`wrap` has one order, from the inside out::

    activation checkpointing    a block computes its forward pass again in the backward pass, and keeps its input only
    torch.compile               a block's forward pass, that recomputation included, is compiled
    DDP or FSDP2                every process has all parameters and sums gradients, or has a part of everything

The first two replace the ``forward`` of single blocks, so that no parameter changes its name. The trainer calls the
wrapped model and reaches the model itself through ``unwrap``.
"""

from __future__ import annotations

import copy
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from diffmae_video.engine.errors import RunError
from diffmae_video.engine.sharding import is_part
from diffmae_video.engine.world import World
from diffmae_video.models.blocks import Block, CrossBlock

PRECISIONS = ("bf16", "fp32")
ACTIVATION_CHECKPOINTING = ("none", "full", "selective")
COMPILE = ("none", "blocks")
PARALLEL = ("ddp", "fsdp")

# Of a sharded model, in the first process: a copy with whole parameters, for evaluations. It is no attribute of the
# model, among whose parameters its own would then be.
_WHOLE_COPIES: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def select_device(name: str, local_rank: int | None = None) -> torch.device:
    """``"auto"`` (CUDA where there is one, else CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` ... -> the device.

    Args:
        name: see above.
        local_rank: of one of several processes on this machine: "auto" and "cuda" are then the GPU of that number.

    Raises:
        RunError: a device that this machine does not have, or several processes on the same named GPU.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if available else "cpu"
    if local_rank is not None and name.startswith("cuda"):
        if name != "cuda":
            raise RunError(f"DEVICE {name!r} would put all processes onto one GPU: use DEVICE auto, one GPU for each")
        name = f"cuda:{local_rank}"
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


@dataclass(frozen=True)
class WrapPlan:
    """What :func:`wrap` is to do; by default, where there are several processes, DDP and nothing else.

    Attributes:
        activation_checkpointing: ``"none"``, ``"full"`` (all transformer blocks) or ``"selective"`` (every
            ``checkpoint_every``-th of them, from the first one on).
        checkpoint_every: see there.
        compile: ``"none"`` or ``"blocks"``.
        compile_backend: of ``torch.compile``.
        parallel: ``"ddp"`` or ``"fsdp"``, where there are several processes.
        fsdp_precision: of the blocks' parameters while they are whole: ``"fp32"``, or ``"bf16"``, for autocast runs:
            half the memory and half the traffic. Gradients are summed, and everything is kept, in float32 either way.
        cpu_offload: with FSDP the parts of parameters, gradients and optimiser are in the memory of the host.

    Raises:
        ValueError: a choice that does not exist.
    """

    activation_checkpointing: str = "none"
    checkpoint_every: int = 2
    compile: str = "none"
    compile_backend: str = "inductor"
    parallel: str = "ddp"
    fsdp_precision: str = "fp32"
    cpu_offload: bool = False

    def __post_init__(self):
        choices = {
            "activation_checkpointing": ACTIVATION_CHECKPOINTING,
            "compile": COMPILE,
            "parallel": PARALLEL,
            "fsdp_precision": PRECISIONS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: choose one of {', '.join(known)}")
        if self.checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be at least 1, got {self.checkpoint_every}")

    def describe(self, processes: int) -> list[str]:
        """Lines for the log, about what most runs do without."""
        lines = []
        if self.activation_checkpointing != "none":
            which = "all blocks" if self.activation_checkpointing == "full" else f"one block in {self.checkpoint_every}"
            lines.append(f"activation checkpointing: {which}")
        if self.compile != "none":
            lines.append(f"torch.compile: every block, {self.compile_backend}; the first steps take minutes")
        if processes > 1 and self.parallel == "fsdp":
            where = ", parts in the memory of the host" if self.cpu_offload else ""
            lines.append(f"FSDP over {processes} processes, whole blocks in {self.fsdp_precision}{where}")
        return lines


def wrap(model: nn.Module, plan: WrapPlan, device: torch.device, world: World) -> nn.Module:
    """The model as the trainer calls it; see the module's description for the order.

    The optimiser is made for the parameters of what is returned: FSDP replaces them. A wrapped model is not copied.

    Args:
        model: bare, on ``device``, the same in every process. It is changed.
        plan: what to do.
        device: where it computes.
        world: one process wraps nothing for parallelism; of several, all call this, in their group.

    Raises:
        ValueError: something is to be done to the transformer blocks of a model that has none.
    """
    sharded = world.size > 1 and plan.parallel == "fsdp"
    blocks = transformer_blocks(model)
    if not blocks and (plan.activation_checkpointing != "none" or plan.compile != "none"):
        raise ValueError(f"{type(model).__name__} has no transformer blocks to compute again or to compile")
    bare = copy.deepcopy(model).cpu() if sharded and world.rank == 0 else None

    _wrap_blocks(blocks, plan)
    if world.size == 1:
        return model
    if not sharded:
        device_ids = [device.index] if device.type == "cuda" else None
        wrapped = nn.parallel.DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)
        # No buffer changes in training, but for the statistics of a linear probe's norm: the first process's are saved.
        # (As an argument this has another name in every version of torch.)
        wrapped.broadcast_buffers = False
        return wrapped
    _shard(model, blocks, plan, device, world)
    if bare is not None:
        _WHOLE_COPIES[model] = bare
    return model


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of encoder, decoder and probe, in this order."""
    return [module for module in model.modules() if isinstance(module, (Block, CrossBlock))]


def _wrap_blocks(blocks: list[nn.Module], plan: WrapPlan) -> None:
    """Activation checkpointing and compilation; see :func:`wrap`."""
    if plan.activation_checkpointing != "none":
        every = 1 if plan.activation_checkpointing == "full" else plan.checkpoint_every
        for block in blocks[::every]:
            block.forward = partial(_recomputed, block.forward)
    if plan.compile == "blocks":
        # Blocks share one code object, and every kind of call is a version of it: training and evaluation, with drop
        # path and without, any number of tokens. Beyond the limit, calls run as if nothing had been asked for.
        limit = torch._dynamo.config.recompile_limit
        torch._dynamo.config.recompile_limit = max(limit, 4 * len(blocks))
        for block in blocks:
            block.forward = torch.compile(block.forward, backend=plan.compile_backend)


def _recomputed(forward: Any, *inputs: Any) -> torch.Tensor:
    """``forward`` with activation checkpointing; random numbers (drop path) come out the same when it is repeated."""
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False)


def _shard(model: nn.Module, blocks: list[nn.Module], plan: WrapPlan, device: torch.device, world: World) -> None:
    """FSDP2: every block is a group whose parameters are whole only while it computes; the rest is one more group."""
    # Imported here: it takes half a second, and most runs are not sharded.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    # It warns of outputs that are views, as those of linear layers are: none of them is changed in place here.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (world.size,))
    offload = CPUOffloadPolicy(pin_memory=device.type == "cuda") if plan.cpu_offload else OffloadPolicy()
    # What goes into a block stays as autocast has it. Embeddings, norms and heads outside of the blocks are float32.
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    of_blocks = half if plan.fsdp_precision == "bf16" else MixedPrecisionPolicy()
    for block in blocks:
        if isinstance(block, CrossBlock):  # keys and values are computed before the block runs, see CrossDecoder
            fully_shard(block.cross.kv, mesh=mesh, mp_policy=of_blocks, offload_policy=offload)
        fully_shard(block, mesh=mesh, mp_policy=of_blocks, offload_policy=offload)
        if plan.fsdp_precision == "bf16":
            norms_in_float(block)
    fully_shard(model, mesh=mesh, offload_policy=offload)


def norms_in_float(block: nn.Module) -> None:
    """Norms with bfloat16 parameters compute in float32: CUDA's autocast has them do so, that of CPUs does not."""
    for norm in block.modules():
        if isinstance(norm, nn.LayerNorm):
            norm.forward = partial(_norm_in_float, norm)


def _norm_in_float(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    weight, bias = (None if value is None else value.float() for value in (norm.weight, norm.bias))
    return F.layer_norm(x.float(), norm.normalized_shape, weight, bias, norm.eps)


def is_sharded(model: nn.Module) -> bool:
    """Whether every process holds a part of the parameters only."""
    return any(is_part(parameter) for parameter in unwrap(model).parameters())


def whole_copy(model: nn.Module) -> nn.Module:
    """Of a sharded model, in the first process: one with whole parameters, on the CPU, whose values are old ones."""
    return _WHOLE_COPIES[model]


def without_sum(model: nn.Module) -> AbstractContextManager:
    """Gradients are added up in this process alone inside this context: for all micro-batches of a step but the last.

    FSDP sums every time: a gradient that is not yet summed would be whole, and need the memory that was to be saved.
    """
    return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()


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
