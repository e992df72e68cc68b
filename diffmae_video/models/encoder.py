"""The encoder: a plain Vision Transformer over 3-D patches that computes visible tokens only."""

from __future__ import annotations

import torch
from torch import nn

from diffmae_video.models.blocks import NORM_EPS, Block, initialize
from diffmae_video.models.patches import PatchEmbedding, gather_tokens, patchify, token_grid
from diffmae_video.models.positions import PositionEmbedding


class SpaceTimeViT(nn.Module):
    """Vision Transformer over a clip; an image is a clip with one frame.

    Clips may have fewer frames than ``clip_shape``: they take the positions of its first time slots.

    Args:
        clip_shape: (C, T, H, W) of the longest clips.
        patch_size: (pt, ph, pw); divides (T, H, W).
        width, depth, heads, mlp_ratio: token width D, blocks, attention heads, MLP hidden width / D.
        position, temperature: ``"separable"`` (learned) or ``"sincos"`` (fixed); see :class:`PositionEmbedding`.
        class_token: prepend a learned token that belongs to no patch.
        drop_path: stochastic depth of the last block, linearly from 0 at the first.

    Raises:
        ValueError: a patch that does not divide the clip, or heads that do not divide the width.
    """

    def __init__(
        self,
        clip_shape: tuple[int, int, int, int] = (3, 16, 224, 224),
        patch_size: tuple[int, int, int] = (2, 16, 16),
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        position: str = "separable",
        temperature: float = 10000.0,
        class_token: bool = False,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.clip_shape, self.patch_size = tuple(clip_shape), tuple(patch_size)
        self.grid = token_grid(self.clip_shape, self.patch_size)
        self.width, self.depth = width, depth
        self.patch_embed = PatchEmbedding(clip_shape[0], self.patch_size, width)
        self.position = PositionEmbedding(self.grid, width, position, temperature)
        self.class_token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.apply(initialize)
        if class_token:
            nn.init.normal_(self.class_token, std=0.02)

    def embed(self, patches: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens that enter block 1.

        Args:
            patches: (B, K, P) the patches to encode: all of the clip, or those at ``index``.
            index: (B, K) int64 places of the patches in the grid; None = the first K, in order.

        Returns:
            (B, K, D), or (B, 1 + K, D) with the class token first.
        """
        position = self.position()
        # Tokens run t-major: those of a shorter clip are the first ones of the grid.
        position = position[:, : patches.shape[1]] if index is None else gather_tokens(position, index)
        tokens = self.patch_embed(patches) + position
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1).to(tokens.dtype), tokens], dim=1)
        return tokens

    def features(self, patches: torch.Tensor, index: torch.Tensor | None = None, last: int = 1) -> list[torch.Tensor]:
        """Outputs of the ``last`` blocks, the final one first (after the last norm), each like :meth:`embed`'s."""
        x = self.embed(patches, index)
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i >= self.depth - last:
                outputs.append(x)
        outputs[-1] = self.norm(outputs[-1])
        return outputs[::-1]

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Normalised clip (B, C, T, H, W) -> tokens (B, N, D), or (B, 1 + N, D) with a class token."""
        if not self.takes(clip):
            raise ValueError(
                f"expected clips (B, C, T, H, W) with {self.clip_shape} or fewer frames, a multiple of "
                f"{self.patch_size[0]}, got {tuple(clip.shape)}"
            )
        return self.features(patchify(clip, self.patch_size))[0]

    def takes(self, clip: torch.Tensor) -> bool:
        """Whether the clip (B, C, T, H, W) has the right size, and no more frames than the positions reach."""
        channels, frames, *size = self.clip_shape
        if clip.dim() != 5 or clip.shape[1] != channels or list(clip.shape[3:]) != size:
            return False
        return 0 < clip.shape[2] <= frames and clip.shape[2] % self.patch_size[0] == 0

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        """Normalised clip (B, C, T, H, W) -> patch tokens (B, N, D), t-major; a class token is left out."""
        tokens = self(clip)
        return tokens if self.class_token is None else tokens[:, 1:]
