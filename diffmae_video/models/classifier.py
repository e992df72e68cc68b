"""Recognition: the pre-trained encoder, and what turns its tokens into class scores.

====================  ==============  =======================================================================
``kind``              the encoder     the head
====================  ==============  =======================================================================
``"finetune"``        is trained      pool, LayerNorm, dropout, linear (MAE, VideoMAE)
``"linear"``          is frozen       pool, BatchNorm without parameters, linear (MAE's linear probe)
``"attentive"``       is frozen       a learned query attends to all tokens, then linear (V-JEPA)
====================  ==============  =======================================================================
"""

from __future__ import annotations

import torch
from torch import nn

from diffmae_video.models.blocks import MLP, NORM_EPS, Block, CrossAttention, initialize
from diffmae_video.models.encoder import SpaceTimeViT
from diffmae_video.models.pixels import PixelNormalization

KINDS = ("finetune", "linear", "attentive")
POOLS = ("mean", "class_token")
BATCH_NORM_EPS = 1e-6  # MAE's linear probe


class PooledHead(nn.Module):
    """Tokens (B, K, D) -> class scores (B, classes) from one vector per clip.

    Args:
        width: D.
        num_classes: classes.
        pool: ``"mean"`` of the patch tokens, or the ``"class_token"`` (which the encoder then has).
        norm: of the pooled vector.
        dropout: before the linear layer.
        init_std: standard deviation of the linear layer's initial weights (truncated at two); its bias is 0.
    """

    def __init__(self, width: int, num_classes: int, pool: str, norm: nn.Module, dropout: float, init_std: float):
        super().__init__()
        self.pool = pool
        self.norm, self.dropout = norm, nn.Dropout(dropout)
        self.classifier = make_classifier(width, num_classes, init_std)

    def forward(self, tokens: torch.Tensor, has_class_token: bool) -> torch.Tensor:
        return self.classifier(self.dropout(self.norm(pool_tokens(tokens, self.pool, has_class_token))))


class AttentiveHead(nn.Module):
    """V-JEPA's attentive probe (Bardes et al., arXiv 2404.08471): all tokens (B, K, D) -> class scores (B, classes).

    ``depth - 1`` self-attention blocks over the tokens, then one learned query that cross-attends to them, with
    residual MLP; then a linear layer.

    Args:
        width, num_classes, dropout, init_std: as of :class:`PooledHead`.
        heads: attention heads.
        depth: blocks in all, the one of the query included.
    """

    def __init__(
        self, width: int, num_classes: int, heads: int, depth: int, mlp_ratio: float, dropout: float, init_std: float
    ):
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth - 1))
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, mlp_ratio)
        self.dropout = nn.Dropout(dropout)
        self.apply(initialize)
        nn.init.trunc_normal_(self.query, std=0.02)
        self.classifier = make_classifier(width, num_classes, init_std)

    def forward(self, tokens: torch.Tensor, has_class_token: bool) -> torch.Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        x = self.query.expand(tokens.shape[0], -1, -1)
        x = x + self.attn(x, self.attn.keys_values(self.norm1(tokens)))
        x = x + self.mlp(self.norm2(x))
        return self.classifier(self.dropout(x.squeeze(1)))


def make_classifier(width: int, num_classes: int, init_std: float) -> nn.Linear:
    classifier = nn.Linear(width, num_classes)
    nn.init.trunc_normal_(classifier.weight, std=init_std, a=-2 * init_std, b=2 * init_std)
    nn.init.zeros_(classifier.bias)
    return classifier


def pool_tokens(tokens: torch.Tensor, pool: str, has_class_token: bool) -> torch.Tensor:
    """Tokens (B, K, D), a class token first where there is one -> (B, D)."""
    if pool == "class_token":
        return tokens[:, 0]
    return tokens[:, int(has_class_token) :].mean(dim=1)


class VideoClassifier(PixelNormalization):
    """Class scores of clips; an image is a clip with one frame.

    Args:
        encoder: sees all patches. With kind ``"finetune"`` and ``"mean"`` its last norm is taken out: the mean of the
            tokens is normalised instead of the tokens (MAE, VideoMAE).
        num_classes: classes.
        kind: see the module's description.
        pool: ``"mean"`` of the patch tokens, or the ``"class_token"``; not used by ``"attentive"``.
        dropout: before the last linear layer.
        init_std: of the last linear layer's initial weights.
        probe_heads, probe_depth: of the attentive probe.
        pixel_mean, pixel_std: per channel, on the [0, 1] pixel scale; stored with the weights.

    Raises:
        ValueError: unknown kind or pool, a class token that the encoder does not have, or fewer than 1 class.
    """

    def __init__(
        self,
        encoder: SpaceTimeViT,
        num_classes: int,
        kind: str = "finetune",
        pool: str = "mean",
        dropout: float = 0.0,
        init_std: float = 2e-5,
        probe_heads: int = 12,
        probe_depth: int = 1,
        pixel_mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        pixel_std: tuple[float, ...] = (0.5, 0.5, 0.5),
    ):
        super().__init__()
        for name, value, known in (("kind", kind, KINDS), ("pool", pool, POOLS)):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(known)}")
        if num_classes < 1:
            raise ValueError(f"a classifier needs at least 1 class, got {num_classes}")
        if pool == "class_token" and encoder.class_token is None:
            raise ValueError('pool "class_token" needs an encoder with a class token')
        self.encoder, self.num_classes, self.kind, self.pool = encoder, num_classes, kind, pool
        self.clip_shape, self.patch_size, self.grid = encoder.clip_shape, encoder.patch_size, encoder.grid
        self.frozen = kind != "finetune"
        width = encoder.width
        if kind == "attentive":
            mlp_ratio = encoder.blocks[0].mlp.fc1.out_features / width
            self.head = AttentiveHead(width, num_classes, probe_heads, probe_depth, mlp_ratio, dropout, init_std)
        else:
            norm = self._take_norm() if kind == "finetune" else nn.BatchNorm1d(width, BATCH_NORM_EPS, affine=False)
            self.head = PooledHead(width, num_classes, pool, norm, dropout, init_std)
        self.encoder.requires_grad_(not self.frozen)
        self.register_pixels(pixel_mean, pixel_std)

    def _take_norm(self) -> nn.Module:
        """The norm of the pooled vector; it takes the place of the encoder's last one."""
        if self.pool == "class_token":
            return nn.Identity()  # the encoder's own norm has already been there
        self.encoder.norm = nn.Identity()
        return nn.LayerNorm(self.encoder.width, eps=NORM_EPS)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Normalised clip (B, C, T, H, W) -> class scores (logits) (B, num_classes)."""
        return self.head(self.tokens(clip), self.encoder.class_token is not None)

    def tokens(self, clip: torch.Tensor) -> torch.Tensor:
        """What the head reads: (B, N, D), or (B, 1 + N, D) with a class token; without gradient if frozen."""
        if self.frozen:
            with torch.no_grad():
                return self.encoder(clip)
        return self.encoder(clip)

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        """Normalised clip (B, C, T, H, W) -> patch tokens (B, N, D), t-major."""
        return self.encoder.encode(clip)

    def pooled(self, clip: torch.Tensor) -> torch.Tensor:
        """Normalised clip (B, C, T, H, W) -> one feature vector per clip (B, D), by ``pool``."""
        return pool_tokens(self.tokens(clip), self.pool, self.encoder.class_token is not None)

    def train(self, mode: bool = True) -> VideoClassifier:
        """Training mode for what is trained: a frozen encoder stays in eval mode, without drop path."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are positions or tokens: like biases and norms, they are not decayed."""
        names = ("position.space", "position.time", "position.table", "class_token", "query")
        return {name for name, _ in self.named_parameters() if name.endswith(names)}
