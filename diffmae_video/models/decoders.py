"""Decoders: what turns hidden tokens and the encoder's outputs into predictions for the hidden patches.

A decoder has two calls. ``prepare`` computes what does not depend on the hidden tokens, once per clip;
``features`` decodes hidden tokens given that, once per diffusion step. To add one: write the two calls, set
``feature_layers``, and enter the class in ``DECODERS``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from diffmae_video.models.blocks import NORM_EPS, Block, CrossBlock, KeysValues
from diffmae_video.models.patches import gather_tokens
from diffmae_video.models.positions import PositionEmbedding


class Decoder(nn.Module):
    """What the decoders share: positions of the tokens, and the final norm and projection to patch values.

    Args:
        grid: tokens along time, rows, columns.
        encoder_width: width D of the encoder's outputs.
        width: token width d.
        patch_values: values P that are predicted per token.
        position, temperature: see :class:`PositionEmbedding`.
    """

    feature_layers = 1  # how many of the encoder's last outputs ``prepare`` reads

    def __init__(self, grid: tuple[int, int, int], width: int, patch_values: int, position: str, temperature: float):
        super().__init__()
        self.position = PositionEmbedding(grid, width, position, temperature)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = nn.Linear(width, patch_values)

    def features(self, x: torch.Tensor, context: Any) -> torch.Tensor:
        """Hidden tokens (B, M, d) and what ``prepare`` returned -> the tokens (B, M, d) that the head reads."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor, context: Any) -> torch.Tensor:
        """Hidden tokens (B, M, d) -> predicted patch values (B, M, P)."""
        return self.head(self.features(x, context))

    def positions(self, index: torch.Tensor, tokens: int | None = None) -> torch.Tensor:
        """Position embeddings (B, K, d) at ``index`` (B, K); zero rows in front for ``tokens`` - K prefix tokens."""
        positions = gather_tokens(self.position(), index)
        return positions if tokens is None else F.pad(positions, (0, 0, tokens - index.shape[1], 0))


class CrossDecoder(Decoder):
    """Hidden tokens read the visible latents by cross-attention, in DiffMAE's U-shape.

    Block 1 reads the encoder's last block, block 2 the one before, and so on. With ``self_attention`` every block
    also attends among the hidden tokens (``cross_self``); without, every hidden token is decoded on its own.
    """

    def __init__(
        self,
        grid: tuple[int, int, int],
        encoder_width: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        patch_values: int,
        position: str,
        temperature: float = 10000.0,
        *,
        self_attention: bool,
    ):
        super().__init__(grid, width, patch_values, position, temperature)
        self.feature_layers = depth
        self.context_norms = nn.ModuleList(nn.LayerNorm(encoder_width, eps=NORM_EPS) for _ in range(depth))
        self.context_embeds = nn.ModuleList(nn.Linear(encoder_width, width) for _ in range(depth))
        self.blocks = nn.ModuleList(CrossBlock(width, heads, mlp_ratio, self_attention) for _ in range(depth))

    def prepare(self, features: list[torch.Tensor], visible: torch.Tensor) -> list[KeysValues]:
        """Keys and values of every block from the encoder's last ``depth`` outputs, final one first.

        Args:
            features: ``depth`` tensors (B, V or 1 + V, D).
            visible: (B, V) int64 places of the visible tokens.
        """
        position = self.positions(visible, features[0].shape[1])
        layers = zip(self.blocks, self.context_norms, self.context_embeds, features, strict=True)
        return [block.cross.keys_values(embed(norm(feature)) + position) for block, norm, embed, feature in layers]

    def features(self, x: torch.Tensor, context: list[KeysValues]) -> torch.Tensor:
        for block, keys_values in zip(self.blocks, context, strict=True):
            x = block(x, keys_values)
        return self.norm(x)


class JointDecoder(Decoder):
    """Self-attention over visible latents and hidden tokens together (MAE's decoder); hidden ones are read out.

    With ``class_token`` a learned token of the decoder's own goes with them, and the encoder's class token, where it
    has one, does not enter (MAE-ST). Without, the encoder's goes through the projection like the patches (MAE), and
    with ``class_position`` it then gets a learned position of its own (PySlowFast's MAE-ST).

    Raises:
        ValueError: ``class_token`` and ``class_position`` together; in ``prepare``, ``class_position`` where the
            encoder has no class token.
    """

    def __init__(
        self,
        grid: tuple[int, int, int],
        encoder_width: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        patch_values: int,
        position: str,
        temperature: float = 10000.0,
        class_token: bool = False,
        class_position: bool = False,
    ):
        super().__init__(grid, width, patch_values, position, temperature)
        if class_token and class_position:
            raise ValueError("class_position belongs to the encoder's class token, class_token takes its place")
        self.context_embed = nn.Linear(encoder_width, width)
        self.class_token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        if class_token:
            nn.init.normal_(self.class_token, std=0.02)
        self.class_position = nn.Parameter(torch.empty(1, 1, width)) if class_position else None
        if class_position:
            nn.init.trunc_normal_(self.class_position, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))

    def prepare(self, features: list[torch.Tensor], visible: torch.Tensor) -> torch.Tensor:
        """Visible tokens (B, V or 1 + V, d) from the encoder's final output (B, V or 1 + V, D)."""
        if self.class_token is not None:
            tokens = self.context_embed(features[0][:, -visible.shape[1] :]) + self.positions(visible)
            return torch.cat([self.class_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        positions = self.positions(visible, features[0].shape[1])
        if self.class_position is not None:
            if features[0].shape[1] == visible.shape[1]:
                raise ValueError("class_position is of the encoder's class token, and this encoder has none")
            positions = torch.cat([self.class_position.expand(len(positions), -1, -1), positions[:, 1:]], dim=1)
        return self.context_embed(features[0]) + positions

    def features(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        hidden = x.shape[1]
        x = torch.cat([context.to(x.dtype), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, -hidden:])


DECODERS = {
    "cross_self": partial(CrossDecoder, self_attention=True),
    "cross": partial(CrossDecoder, self_attention=False),
    "joint": JointDecoder,
}
