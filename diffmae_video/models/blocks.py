"""Transformer blocks: pre-norm, attention through ``scaled_dot_product_attention``; with or without a condition."""

from __future__ import annotations

import math

import torch
from pytorchvideo.layers.drop_path import DropPath
from torch import nn
from torch.nn import functional as F

NORM_EPS = 1e-6

KeysValues = tuple[torch.Tensor, torch.Tensor]


def _split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, N, D) -> (B, heads, N, D / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _merge_heads(x: torch.Tensor) -> torch.Tensor:
    """(B, heads, N, D / heads) -> (B, N, D)."""
    return x.transpose(1, 2).flatten(2)


def check_heads(width: int, heads: int) -> None:
    if heads < 1 or width % heads:
        raise ValueError(f"{heads} attention heads do not divide the width {width}")


class SelfAttention(nn.Module):
    """Multi-head self-attention, (B, N, D) -> (B, N, D)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (_split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(_merge_heads(F.scaled_dot_product_attention(q, k, v)))


class CrossAttention(nn.Module):
    """Multi-head attention from tokens (B, M, D) to a context (B, V, D) whose keys and values are computed apart.

    The context of a diffusion decoder is the same at every sampling step, so ``keys_values`` is called once a clip.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def keys_values(self, context: torch.Tensor) -> KeysValues:
        k, v = self.kv(context).chunk(2, dim=-1)
        return _split_heads(k, self.heads), _split_heads(v, self.heads)

    def forward(self, x: torch.Tensor, keys_values: KeysValues) -> torch.Tensor:
        q = _split_heads(self.q(x), self.heads)
        return self.proj(_merge_heads(F.scaled_dot_product_attention(q, *keys_values)))


class MLP(nn.Module):
    """Two linear layers with a GELU, (B, N, D) -> (B, N, D)."""

    def __init__(self, width: int, ratio: float):
        super().__init__()
        self.fc1 = nn.Linear(width, int(width * ratio))
        self.fc2 = nn.Linear(int(width * ratio), width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Self-attention, then MLP (ViT)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, mlp_ratio)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Modulation(nn.Linear):
    """What a condition (B, 1, D) does to tokens: ``parts`` tensors (B, 1, D), all zero before training (adaLN-Zero)."""

    def __init__(self, width: int, parts: int):
        super().__init__(width, parts * width)
        self.parts = parts

    def forward(self, condition: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return super().forward(F.silu(condition)).chunk(self.parts, dim=-1)


class AdaLNBlock(Block):
    """A :class:`Block` modulated by a condition, such as an embedded timestep (DiT: Peebles & Xie 2023, "adaLN-Zero").

    The norms have no scale and shift of their own; both, and a gate on what attention and MLP add, come from the
    condition. The gates start at zero: before training the block passes its input on.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_path: float = 0.0):
        super().__init__(width, heads, mlp_ratio, drop_path)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.modulation = Modulation(width, 6)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D) and the condition of their clips (B, 1, D) -> (B, N, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)
        x = x + self.drop_path(gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1))
        return x + self.drop_path(gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2))


class CrossBlock(nn.Module):
    """Cross-attention to the visible latents, self-attention among the hidden tokens (optional), MLP (DiffMAE)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, self_attention: bool):
        super().__init__()
        self.norm_cross = nn.LayerNorm(width, eps=NORM_EPS)
        self.cross = CrossAttention(width, heads)
        if self_attention:
            self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
            self.attn = SelfAttention(width, heads)
        self.self_attention = self_attention
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, mlp_ratio)

    def forward(self, x: torch.Tensor, keys_values: KeysValues) -> torch.Tensor:
        x = x + self.cross(self.norm_cross(x), keys_values)
        if self.self_attention:
            x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TimestepEmbedding(nn.Module):
    """Timesteps (B,) -> (B, 1, D): sinusoids at D/2 frequencies from 1 to 1/10000, then an MLP (as in DDPM)."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        half = self.width // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        angles = t[:, None].float() * frequencies
        embedding = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.fc2(F.silu(self.fc1(embedding))).unsqueeze(1)


def initialize(module: nn.Module) -> None:
    """MAE's initialisation for ``Module.apply``: Xavier-uniform linear layers, zero biases, unit norms.

    Modulations are zero instead, see there.
    """
    if isinstance(module, Modulation):
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
