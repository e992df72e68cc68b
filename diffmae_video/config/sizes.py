"""Named encoder sizes, and how they combine with the explicit dimensions of ``MODEL.ENCODER``."""

from __future__ import annotations

from fvcore.common.config import CfgNode

# name: (width, depth, heads); 5.7 / 22 / 86 / 304 / 632 M parameters at patch 16 x 16
ENCODER_SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}


def resolve_encoder(cfg: CfgNode) -> tuple[int, int, int]:
    """(width, depth, heads) of the encoder: ``MODEL.ENCODER``'s own values, and those of its ``SIZE`` where they are 0.

    Raises KeyError for an unknown SIZE; ``validate`` reports that one earlier.
    """
    encoder = cfg.MODEL.ENCODER
    width, depth, heads = ENCODER_SIZES[encoder.SIZE]
    return encoder.WIDTH or width, encoder.DEPTH or depth, encoder.HEADS or heads
