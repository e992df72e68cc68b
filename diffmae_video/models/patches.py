"""Clips to patches and back. Patches are (pt, ph, pw) frames, rows, columns; tokens run t-major, then row, column."""

from __future__ import annotations

import torch
from torch import nn


def token_grid(clip_shape: tuple[int, int, int, int], patch_size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Tokens along time, rows and columns of a (C, T, H, W) clip.

    Raises:
        ValueError: the patch does not divide the clip.
    """
    for name, size, patch in zip(("frames", "height", "width"), clip_shape[1:], patch_size, strict=True):
        if patch < 1 or size % patch:
            raise ValueError(
                f"a patch of {patch} does not divide the clip's {name} = {size}: "
                f"choose a clip size that is a multiple of the patch {tuple(patch_size)}"
            )
    return tuple(size // patch for size, patch in zip(clip_shape[1:], patch_size, strict=True))


def patchify(clip: torch.Tensor, patch_size: tuple[int, int, int]) -> torch.Tensor:
    """(B, C, T, H, W) -> (B, N, P): N = t*h*w tokens of P = pt*ph*pw*C values, ordered (pt, ph, pw, C) as in MAE."""
    batch, channels = clip.shape[:2]
    t, h, w = token_grid(tuple(clip.shape[1:]), patch_size)
    pt, ph, pw = patch_size
    patches = clip.reshape(batch, channels, t, pt, h, ph, w, pw)
    patches = patches.permute(0, 2, 4, 6, 3, 5, 7, 1)  # (B, t, h, w, pt, ph, pw, C)
    return patches.reshape(batch, t * h * w, pt * ph * pw * channels)


def unpatchify(patches: torch.Tensor, grid: tuple[int, int, int], patch_size: tuple[int, int, int]) -> torch.Tensor:
    """(B, N, P) -> (B, C, T, H, W): the inverse of :func:`patchify` for a token grid (t, h, w)."""
    (t, h, w), (pt, ph, pw) = grid, patch_size
    batch, channels = patches.shape[0], patches.shape[-1] // (pt * ph * pw)
    clip = patches.reshape(batch, t, h, w, pt, ph, pw, channels)
    clip = clip.permute(0, 7, 1, 4, 2, 5, 3, 6)  # (B, C, t, pt, h, ph, w, pw)
    return clip.reshape(batch, channels, t * pt, h * ph, w * pw)


def gather_tokens(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of ``tokens`` (B, N, D) or (1, N, D) at ``index`` (B, K) int64 -> (B, K, D)."""
    tokens = tokens.expand(index.shape[0], -1, -1)
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def gather_patches(clip: torch.Tensor, index: torch.Tensor, patch_size: tuple[int, int, int]) -> torch.Tensor:
    """Patches of ``clip`` (B, C, T, H, W) at ``index`` (B, K) int64 -> (B, K, P), as :func:`patchify` orders them.

    Reads and writes those pixels only: the other patches are never put into order.
    """
    batch, channels = clip.shape[:2]
    t, h, w = token_grid(tuple(clip.shape[1:]), patch_size)
    pt, ph, pw = patch_size
    patches = clip.reshape(batch, channels, t, pt, h, ph, w, pw).permute(0, 2, 4, 6, 3, 5, 7, 1)
    clips = torch.arange(batch, device=index.device)[:, None]
    return patches[clips, index // (h * w), index // w % h, index % w].flatten(2)


def scatter_tokens(tokens: torch.Tensor, index: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A copy of ``tokens`` (B, N, D) whose rows at ``index`` (B, K) are ``values`` (B, K, D)."""
    return tokens.scatter(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]), values.to(tokens.dtype))


class PatchEmbedding(nn.Linear):
    """Linear embedding of patches (B, K, P) -> (B, K, D).

    A matrix product on the patches that are kept, rather than a 3-D convolution over the whole clip: a masked encoder
    never embeds what it drops.
    """

    def __init__(self, channels: int, patch_size: tuple[int, int, int], width: int):
        pt, ph, pw = patch_size
        super().__init__(pt * ph * pw * channels, width)
