"""Tensors of which every process holds a part, as FSDP's parameters and what an optimiser keeps for them are.

They are ``DTensor`` of one mesh of processes. Everything else, and everything in a run of one process, is whole in
every process: these functions then give back what they got, or compute what they would of one process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import distributed


def is_part(tensor: torch.Tensor) -> bool:
    """Whether processes hold parts of ``tensor``: it is a DTensor.

    Asked without importing them, which takes half a second: where nobody has, there is none.
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of ``tensor``, in the same memory; may have no elements."""
    return tensor.to_local() if is_part(tensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of ``tensor``: of a sharded one, in the memory of the first process's host.

    All processes call this for the same tensor; those that are not the first one get an empty tensor.
    """
    if not is_part(tensor):
        return tensor
    tensor = tensor.detach()
    # A part that lies in the host's memory (CPU offload) travels between GPUs all the same.
    full = tensor.to(tensor.device_mesh.device_type).full_tensor()
    return full.cpu() if distributed.get_rank() == 0 else full.new_empty(0, device="cpu")


def part_of(full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``full``, which every process has, sharded as ``like`` is; nothing is sent."""
    if not is_part(like):
        return full
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)


def norms(tensors: Sequence[torch.Tensor], like: Sequence[torch.Tensor]) -> torch.Tensor:
    """L2 norms (n,) of n tensors, the parts of sharded ones summed over the processes in one go.

    ``like``: as many tensors that are sharded in the same way, for ``tensors`` that are this process's parts already.
    """
    values = torch.stack(torch._foreach_norm([local(tensor) for tensor in tensors]))
    return _over_processes(values, like)


def total_norm(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """L2 norm () of all tensors as one vector; 0 where there are none."""
    return _over_processes(torch.nn.utils.get_total_norm([local(tensor) for tensor in tensors]), tensors)


def _over_processes(norm: torch.Tensor, like: Sequence[torch.Tensor]) -> torch.Tensor:
    """Norms of this process's parts of tensors, which are all sharded or all whole -> norms of the tensors."""
    if not like or not is_part(like[0]):
        return norm
    mesh = like[0].device_mesh
    squares = norm.to(mesh.device_type).square()
    distributed.all_reduce(squares, group=mesh.get_group())
    return squares.sqrt().to(norm.device)


def clip(gradients: Sequence[torch.Tensor], largest: float, norm: torch.Tensor) -> None:
    """Scales gradients, whose norm as one vector is ``norm``, so that it is at most ``largest``; in place.

    The factor is that of ``torch.nn.utils.clip_grad_norm_``.
    """
    parts = [local(gradient) for gradient in gradients]
    if parts:
        factor = torch.clamp(largest / (norm.to(parts[0].device) + 1e-6), max=1.0)
        torch._foreach_mul_(parts, factor)
