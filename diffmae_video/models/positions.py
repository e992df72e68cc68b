"""Position embeddings over a space-time token grid."""

from __future__ import annotations

import torch
from torch import nn

POSITIONS = ("separable", "learned", "sincos", "sincos_1d")
LEARNED = ("separable", "learned")  # those that are among a model's weights


def sincos_1d(positions: torch.Tensor, width: int, temperature: float) -> torch.Tensor:
    """Sine and cosine of ``positions`` (n,) at width/2 frequencies from 1 down to 1/temperature -> (n, width)."""
    exponents = torch.arange(width // 2, dtype=torch.float64, device=positions.device) / (width / 2)
    frequencies = temperature**-exponents
    angles = positions.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sincos_2d(rows: int, columns: int, width: int, temperature: float) -> torch.Tensor:
    """MAE's fixed 2-D embedding (rows * columns, width): the first half encodes the column, the second the row."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.cat([sincos_1d(place.flatten(), width // 2, temperature) for place in (column, row)], dim=1)


def sincos_table(places: int, width: int, temperature: float) -> torch.Tensor:
    """VideoMAE's (and the first Transformer's) embedding of a number (places, width): sine and cosine take turns."""
    waves = sincos_1d(torch.arange(places), width, temperature)  # (places, width): all sines, then all cosines
    return waves.unflatten(1, (2, -1)).transpose(1, 2).flatten(1)


class PositionEmbedding(nn.Module):
    """Position embedding of every token of a grid (t, h, w): a part for space plus one for time, or one per token.

    Args:
        grid: tokens along time, rows, columns.
        width: token width D; a multiple of 4 for ``"sincos"``, of 2 for ``"sincos_1d"``.
        kind: with parts, ``"separable"`` (both learned, as in MAE-ST) or ``"sincos"`` (both fixed, that of time zero
            where t = 1; for an image it is MAE's). Without, ``"learned"`` (a row for every token) or ``"sincos_1d"``
            (fixed, of the token's number among all N; VideoMAE's).
        temperature: of the fixed ones: their slowest wave is 2 pi * temperature tokens long. With the customary 10000
            most waves do not move over a small grid; about the grid's own size tells places apart more sharply.

    Raises:
        ValueError: unknown kind, or a width that sin-cos cannot split.
    """

    def __init__(self, grid: tuple[int, int, int], width: int, kind: str, temperature: float = 10000.0):
        super().__init__()
        t, h, w = grid
        self.kind = kind
        if kind == "separable":
            self.space = nn.Parameter(torch.empty(h * w, width))
            self.time = nn.Parameter(torch.empty(t, width))
            nn.init.trunc_normal_(self.space, std=0.02)
            nn.init.trunc_normal_(self.time, std=0.02)
        elif kind == "learned":
            self.table = nn.Parameter(torch.empty(t * h * w, width))
            nn.init.trunc_normal_(self.table, std=0.02)
        elif kind == "sincos":
            if width % 4:
                raise ValueError(f"sin-cos positions need a width that is a multiple of 4, got {width}")
            time = sincos_1d(torch.arange(t), width, temperature) if t > 1 else torch.zeros(1, width)
            self.register_buffer("space", sincos_2d(h, w, width, temperature), persistent=False)
            self.register_buffer("time", time, persistent=False)
        elif kind == "sincos_1d":
            if width % 2:
                raise ValueError(f"sin-cos positions need an even width, got {width}")
            self.register_buffer("table", sincos_table(t * h * w, width, temperature), persistent=False)
        else:
            raise ValueError(f"unknown position embedding {kind!r}: choose one of {', '.join(POSITIONS)}")

    def forward(self) -> torch.Tensor:
        """(1, N, D), t-major."""
        if self.kind in ("learned", "sincos_1d"):
            return self.table.unsqueeze(0)
        return (self.time[:, None] + self.space[None]).flatten(0, 1).unsqueeze(0)
