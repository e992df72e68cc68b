"""Masks over a token grid (t, h, w): bool (B, N), True = hidden, tokens t-major then row then column.

Every clip of a batch hides the same number of tokens, so that visible and hidden tokens are dense tensors; a run may
mix strategies from batch to batch (``MaskMix``).
To add a strategy: write a function with the signature of those below and enter it in ``STRATEGIES``.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from diffmae_video.diffusion.randomness import Generators, rand

Grid = tuple[int, int, int]


def _count(places: int, ratio: float) -> int:
    """How many of ``places`` to hide: the nearest to ``ratio`` that leaves at least one hidden and one visible."""
    return min(max(round(places * ratio), 1), places - 1)


def _random_subset(batch: int, places: int, ratio: float, generator: Generators, device) -> torch.Tensor:
    """(B, places) bool with the same number of True in every row, at random places."""
    order = rand((batch, places), generator, device).argsort(dim=1)
    rank = order.argsort(dim=1)
    return rank < _count(places, ratio)


def _random(grid: Grid, ratio: float, batch: int, generator: Generators, device) -> torch.Tensor:
    t, h, w = grid
    return _random_subset(batch, t * h * w, ratio, generator, device)


def _tube(grid: Grid, ratio: float, batch: int, generator: Generators, device) -> torch.Tensor:
    t, h, w = grid
    return _random_subset(batch, h * w, ratio, generator, device)[:, None].expand(-1, t, -1)


def _frame(grid: Grid, ratio: float, batch: int, generator: Generators, device) -> torch.Tensor:
    t, h, w = grid
    return _random_subset(batch, t, ratio, generator, device)[:, :, None].expand(-1, -1, h * w)


def _box(grid: Grid, extent: Grid, start: list[torch.Tensor], device) -> torch.Tensor:
    """(B, t, h, w): True inside boxes of ``extent`` that start at (B,) ``start`` positions along each axis."""
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
    for axis, (size, length, first) in enumerate(zip(grid, extent, start, strict=True)):
        place = torch.arange(size, device=device)
        inside = (place >= first[:, None]) & (place < first[:, None] + length)  # (B, size)
        mask = mask & inside.reshape(len(first), *[size if a == axis else 1 for a in range(3)])
    return mask


def _block(grid: Grid, ratio: float, batch: int, generator: Generators, device) -> torch.Tensor:
    # Equal shares of every axis; an axis of one token cannot be shared, so the others take its part. Shrunk along the
    # longest axis if rounding would hide the whole clip.
    axes = max(sum(size > 1 for size in grid), 1)
    extent = [min(max(round(size * ratio ** (1 / axes)), 1), size) for size in grid]
    if tuple(extent) == tuple(grid):
        extent[grid.index(max(grid))] -= 1
    place = rand((batch, 3), generator, device)
    start = [(place[:, a] * (grid[a] - extent[a] + 1)).long() for a in range(3)]
    return _box(grid, tuple(extent), start, device)


def _center(grid: Grid, ratio: float, batch: int, generator: Generators, device) -> torch.Tensor:
    t, h, w = grid
    # Equal margins on both sides, so that the rectangle is exactly central; a grid too small for that gives up one row
    # or column rather than hide everything.
    extent = [size - 2 * min(round(size * (1 - ratio**0.5) / 2), (size - 1) // 2) for size in (h, w)]
    if extent == [h, w]:
        extent[0 if h >= w else 1] -= 1
    start = [torch.full((batch,), first, device=device) for first in (0, (h - extent[0]) // 2, (w - extent[1]) // 2)]
    return _box(grid, (t, *extent), start, device)


STRATEGIES: dict[str, Callable[[Grid, float, int, Generators, object], torch.Tensor]] = {
    "tube": _tube,  # the same random spatial mask in every time slot
    "random": _random,  # space-time agnostic
    "frame": _frame,  # whole time slots
    "block": _block,  # one space-time block at a random place
    "center": _center,  # a central rectangle in every time slot; not random
}


def make_mask(
    strategy: str,
    grid: Grid,
    ratio: float,
    batch: int = 1,
    generator: Generators = None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """A batch of masks, bool (B, N), True = hidden, with at least one hidden and one visible token.

    Args:
        strategy: a key of ``STRATEGIES``.
        grid: tokens along time, rows, columns.
        ratio: share of tokens to hide, in (0, 1); ``block`` and ``center`` take the box whose sides round to it.
        generator: None, one, or one per clip.

    Raises:
        ValueError: unknown strategy, a ratio outside (0, 1), or a grid too small to hide and keep something.
    """
    _check_choice(strategy, ratio)
    t, h, w = grid
    places = {"tube": h * w, "center": h * w, "frame": t}.get(strategy, t * h * w)
    if places < 2:
        raise ValueError(f"mask strategy {strategy!r} has {places} place to hide or show on a token grid {grid}")
    return STRATEGIES[strategy](grid, ratio, batch, generator, device).reshape(batch, t * h * w)


def _check_choice(strategy: str, ratio: float) -> None:
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown mask strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}")
    if not 0 < ratio < 1:
        raise ValueError(f"mask ratio {ratio} is outside (0, 1): it is the share of tokens to hide")


class MaskChoice(NamedTuple):
    """How one batch is masked; see :func:`make_mask`."""

    strategy: str
    ratio: float


@dataclass(frozen=True)
class MaskMix:
    """Several mask strategies in one run: one of them, and a ratio out of its own range, for every batch.

    Clips of a batch must hide equally many tokens, so they share the choice; each still gets a mask of its own::

        choice = mix.draw(generator)
        mask = make_mask(choice.strategy, grid, choice.ratio, batch, generators)

    Attributes:
        strategies: different keys of ``STRATEGIES``.
        weights: how often each is drawn, relative to the others; their sum does not matter.
        ratios: (lowest, highest) of each, in (0, 1); drawn uniformly between them.

    Raises:
        ValueError: no strategies, an unknown one or one twice, lists of different lengths, a weight that is not above
            0, a range outside (0, 1) or with its higher end first.
    """

    strategies: tuple[str, ...]
    weights: tuple[float, ...]
    ratios: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        lengths = len(self.strategies), len(self.weights), len(self.ratios)
        if not self.strategies or len(set(lengths)) > 1:
            raise ValueError(f"a mix needs a weight and a range of ratios for every strategy, got {lengths} of them")
        if len(set(self.strategies)) < len(self.strategies):
            raise ValueError(
                f"a strategy of a mix has one range of ratios, but one of {self.strategies} is there twice"
            )
        if min(self.weights) <= 0:
            raise ValueError(f"weights of a mix are above 0, got {self.weights}: leave out what is not to be drawn")
        for strategy, (low, high) in zip(self.strategies, self.ratios, strict=True):
            _check_choice(strategy, low)
            _check_choice(strategy, high)
            if low > high:
                raise ValueError(f"mask ratios of {strategy!r} are [{low}, {high}]: the lower end comes first")

    def draw(self, generator: torch.Generator | None = None) -> MaskChoice:
        """The strategy and ratio of a batch; takes two numbers from ``generator`` (on the CPU), whatever comes out."""
        place, share = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        ends = list(itertools.accumulate(self.weights))
        number = min(bisect.bisect_right(ends, place * ends[-1]), len(ends) - 1)
        low, high = self.ratios[number]
        return MaskChoice(self.strategies[number], low + (high - low) * share)

    def __str__(self) -> str:
        rows = zip(self.strategies, self.ratios, self.weights, strict=True)
        return ", ".join(
            f"{strategy} {low:g}{'' if low == high else f' to {high:g}'} ({weight / sum(self.weights):.0%})"
            for strategy, (low, high), weight in rows
        )


def mask_indices(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of the visible (B, V) and the hidden (B, M) tokens of ``mask`` (B, N), int64, in token order.

    Raises:
        ValueError: clips of the batch hide different numbers of tokens, or hide all or none.
    """
    if mask.dtype != torch.bool or mask.dim() != 2:
        raise ValueError(f"a token mask is bool (B, N), got {mask.dtype} {tuple(mask.shape)}")
    counts = mask.sum(dim=1).tolist()  # read from the device once: that waits for all it has been given to do
    hidden = counts[0]
    if any(count != hidden for count in counts):
        raise ValueError(f"every clip of a batch must hide the same number of tokens, got {counts}")
    if hidden in (0, mask.shape[1]):
        raise ValueError(f"a mask must leave visible and hidden tokens, this one hides {hidden} of {mask.shape[1]}")
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)  # visible tokens first, each group in token order
    return order[:, : mask.shape[1] - hidden], order[:, mask.shape[1] - hidden :]


def pixel_mask_to_tokens(mask: torch.Tensor, patch_size: tuple[int, int, int]) -> torch.Tensor:
    """Pixel mask (B, T, H, W) bool -> token mask (B, N): a patch is hidden if any of its pixels is."""
    (batch, *sizes), (pt, ph, pw) = mask.shape, patch_size
    t, h, w = (size // patch for size, patch in zip(sizes, patch_size, strict=True))
    patches = mask.reshape(batch, t, pt, h, ph, w, pw)
    return patches.any(dim=6).any(dim=4).any(dim=2).reshape(batch, t * h * w)


def tokens_to_pixel_mask(mask: torch.Tensor, grid: Grid, patch_size: tuple[int, int, int]) -> torch.Tensor:
    """Token mask (B, N) bool -> pixel mask (B, T, H, W): every pixel of a hidden patch is hidden."""
    mask = mask.reshape(-1, *grid)
    for axis, patch in enumerate(patch_size, start=1):
        mask = mask.repeat_interleave(patch, dim=axis)
    return mask
