"""The encoder: a Vision Transformer over 3-D patches that computes visible tokens only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import nn

from diffmae_video.models.blocks import NORM_EPS, AdaLNBlock, Block, TimestepEmbedding, initialize
from diffmae_video.models.patches import PatchEmbedding, gather_tokens, patchify, token_grid
from diffmae_video.models.positions import PositionEmbedding
from diffmae_video.models.tokenizers import LatentEmbedding, Tokenizer


class SpaceTimeViT(nn.Module):
    """Vision Transformer over a clip; an image is a clip with one frame.

    Clips may have fewer frames than ``clip_shape``: they take the positions of its first time slots.

    Args:
        clip_shape: (C, T, H, W) of the longest clips.
        patch_size: (pt, ph, pw); divides (T, H, W).
        width, depth, heads, mlp_ratio: token width D, blocks, attention heads, MLP hidden width / D.
        position, temperature: see :class:`PositionEmbedding`.
        class_token: prepend a learned token that belongs to no patch.
        drop_path: stochastic depth of the last block, linearly from 0 at the first.
        time_conditioning: the blocks are told how noisy their input is (adaLN, for denoising models; even ``width``).
        timestep: of ``time_conditioning``, where no other is given: what recognition reads a clean clip with.
        tokenizer: embeds the patches' latents instead of their values; see :class:`LatentEmbedding`.

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
        time_conditioning: bool = False,
        timestep: int = 0,
        tokenizer: Tokenizer | None = None,
    ):
        super().__init__()
        self.clip_shape, self.patch_size = tuple(clip_shape), tuple(patch_size)
        self.grid = token_grid(self.clip_shape, self.patch_size)
        self.width, self.depth, self.timestep = width, depth, timestep
        if tokenizer is None:
            self.patch_embed = PatchEmbedding(clip_shape[0], self.patch_size, width)
        else:
            self.patch_embed = LatentEmbedding(tokenizer, width)
        self.position = PositionEmbedding(self.grid, width, position, temperature)
        self.class_token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        block = AdaLNBlock if time_conditioning else Block
        self.blocks = nn.ModuleList(block(width, heads, mlp_ratio, rate) for rate in rates)
        self.time_embed = TimestepEmbedding(width) if time_conditioning else None
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
        return self.place(self.patch_embed(patches), index)

    def place(self, tokens: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
        """Embedded patches (B, K, D) with their positions, and the class token; ``index`` as of :meth:`embed`."""
        position = self.position()
        # Tokens run t-major: those of a shorter clip are the first ones of the grid.
        position = position[:, : tokens.shape[1]] if index is None else gather_tokens(position, index)
        tokens = tokens + position
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1).to(tokens.dtype), tokens], dim=1)
        return tokens

    def condition(self, t: torch.Tensor) -> torch.Tensor:
        """What :meth:`run` is told about timesteps ``t`` (B,): (B, 1, D). For encoders with ``time_conditioning``."""
        return self.time_embed(t)

    def block_outputs(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> Iterator[torch.Tensor]:
        """Outputs of the blocks, the first one first, each as it is asked for; arguments of :meth:`run`."""
        if self.time_embed is None:
            arguments = ()
        elif condition is None:
            arguments = (self.condition(torch.full((1,), self.timestep, device=x.device)),)
        else:
            arguments = (condition,)
        for block in self.blocks:
            x = block(x, *arguments)
            yield x

    def run(self, x: torch.Tensor, last: int = 1, condition: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Outputs of the ``last`` blocks, the final one first (after the last norm), each shaped like ``x``.

        Args:
            x: tokens as :meth:`embed` returns them.
            condition: (B, 1, D), or (1, 1, D) for all clips; None = that of ``timestep``, or without
                ``time_conditioning`` none.
        """
        outputs = list(deque(self.block_outputs(x, condition), maxlen=last))
        outputs[-1] = self.norm(outputs[-1])
        return outputs[::-1]

    def features(
        self,
        patches: torch.Tensor,
        index: torch.Tensor | None = None,
        last: int = 1,
        condition: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """:meth:`run` on the tokens of :meth:`embed`."""
        return self.run(self.embed(patches, index), last, condition)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Normalised clip (B, C, T, H, W) -> tokens (B, N, D), or (B, 1 + N, D) with a class token."""
        self.check(clip)
        return self.features(patchify(clip, self.patch_size))[0]

    def check(self, clip: torch.Tensor) -> None:
        """Raises ValueError for a clip that the encoder does not take."""
        if not self.takes(clip):
            raise ValueError(
                f"expected clips (B, C, T, H, W) with {self.clip_shape} or fewer frames, a multiple of "
                f"{self.patch_size[0]}, got {tuple(clip.shape)}"
            )

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
