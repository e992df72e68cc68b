"""Which of the hidden tokens are decoded in training, where it is not all of them (VideoMAE V2, arXiv 2303.16727).

The decoder of a masked autoencoder computes most of the tokens, and a share of them is enough of a target. A ``cross``
decoder decodes every token on its own, so that leaving some out changes nothing for the others; with self-attention
among the hidden tokens it is an approximation.
"""

from __future__ import annotations

import torch

from diffmae_video.diffusion.randomness import Generators, rand

PATTERNS = ("random", "running_cell")


def decoded_places(
    hidden: torch.Tensor,
    grid: tuple[int, int, int],
    ratio: float,
    pattern: str = "running_cell",
    generator: Generators = None,
) -> torch.Tensor:
    """Chooses K = round(ratio * M) hidden tokens of every clip, at least one.

    Args:
        hidden: (B, M) int64 places of the hidden tokens, in token order.
        grid: tokens along time, rows, columns of the clip.
        ratio: share that is decoded, in (0, 1].
        pattern: ``"random"``, or ``"running_cell"``: the four places of every 2 x 2 cell take turns from time slot to
            time slot, so that a share of 1/2 decodes each of them in half of the slots. Exactly that with tube masks
            over a multiple of 4 slots; with others the last few are filled up, or left out, at random.
        generator: None, one, or one per clip.

    Returns:
        (B, K) int64 places, in token order.

    Raises:
        ValueError: unknown pattern, or a ratio outside (0, 1].
    """
    if pattern not in PATTERNS:
        raise ValueError(f"unknown pattern {pattern!r}: choose one of {', '.join(PATTERNS)}")
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio {ratio} is outside (0, 1]: it is the share of the hidden tokens that is decoded")
    batch, count = hidden.shape
    numbers = rand((batch, 1 + count), generator, hidden.device)
    order = numbers[:, 1:]
    if pattern == "running_cell":
        _, h, w = grid
        slot, row, column = hidden // (h * w), hidden // w % h, hidden % w
        start = (4 * numbers[:, :1]).long()
        order = order + (2 * (row % 2) + column % 2 + slot + start) % 4  # the turn comes first, chance second
    chosen = order.argsort(dim=1)[:, : max(round(count * ratio), 1)].sort(dim=1).values
    return hidden.gather(1, chosen)
