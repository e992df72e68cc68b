"""The largest batch of a training step that fits into the memory of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

LARGEST = 1 << 13  # more clips are not tried
SHARE = 0.9  # of a GPU's memory that a batch may fill: what is free is never in one piece


@contextmanager
def margin(device: torch.device) -> Iterator[None]:
    """Inside, a GPU has no more than ``SHARE`` of its memory; another device is as it was."""
    if device.type != "cuda":
        yield
        return
    number = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.set_per_process_memory_fraction(SHARE, number)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, number)


def largest_batch(try_step: Callable[[int], object], release: Callable[[], object]) -> int:
    """The largest of 1, 2, 3, 4, 6, 8, 12, ... clips whose step fits; 0 = not even one.

    Args:
        try_step: takes a step on so many clips, or raises ``torch.OutOfMemoryError``.
        release: gives back what a step left; called after every one.
    """
    found = 0
    while (size := max(2 * found, 1)) <= LARGEST and _fits(try_step, release, size):
        found = size
    between = found + found // 2
    return between if between > found and _fits(try_step, release, between) else found


def _fits(try_step: Callable[[int], object], release: Callable[[], object], size: int) -> bool:
    try:
        try_step(size)
        fits = True
    except torch.OutOfMemoryError:
        fits = False
    release()  # here, and not where the error still holds the tensors of its step
    return fits
