"""Random tensors whose rows can each have a generator of their own.

With one generator per row, what a clip gets does not depend on the batch it happens to be in: the same clip has the
same mask, timestep and noise on one process or eight, and the same sample alone or in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Generators = torch.Generator | Sequence[torch.Generator] | None


def _per_row(draw: Callable, shape: Sequence[int], generator: Generators) -> torch.Tensor:
    if generator is None or isinstance(generator, torch.Generator):
        return draw(tuple(shape), generator)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}: give one, or one per clip")
    return torch.stack([draw(tuple(shape[1:]), row_generator) for row_generator in generator])


def randn(shape: Sequence[int], generator: Generators = None, device: torch.device | str = "cpu") -> torch.Tensor:
    """Standard normal float32 tensor of ``shape``; ``generator``: None, one, or one per row of ``shape[0]``."""
    return _per_row(lambda s, g: torch.randn(s, generator=g, device=device), shape, generator)


def rand(shape: Sequence[int], generator: Generators = None, device: torch.device | str = "cpu") -> torch.Tensor:
    """Uniform [0, 1) float32 tensor of ``shape``; ``generator`` as in :func:`randn`."""
    return _per_row(lambda s, g: torch.rand(s, generator=g, device=device), shape, generator)


def randint(
    high: int, shape: Sequence[int], generator: Generators = None, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Uniform int64 tensor with values in [0, high) of ``shape``; ``generator`` as in :func:`randn`."""
    return _per_row(lambda s, g: torch.randint(high, s, generator=g, device=device), shape, generator)
