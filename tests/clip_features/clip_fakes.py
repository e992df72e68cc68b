"""Tiny CLIP models with random weights, saved as `transformers` saves the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

WIDTH, DEPTH = 32, 3


def vision_config(patch: int = 8, image: int = 32, **options):
    """Of an image encoder with 4 x 4 patches, unless told otherwise."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": DEPTH, "num_attention_heads": 4}
    return transformers.CLIPVisionConfig(**{**sizes, "patch_size": patch, "image_size": image, **options})


def save_clip(folder: Path, kind: str = "CLIPVisionModel", seed: int = 0, shard: str = "1GB", **sizes) -> Path:
    """Writes a model; ``kind``: the class of `transformers`, such as ``"CLIPModel"`` (with its text encoder)."""
    transformers = pytest.importorskip("transformers")
    config = vision_config(**sizes)
    if kind == "CLIPModel":
        text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.CLIPConfig(vision_config=config.to_dict(), text_config={**text, "vocab_size": 99})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, kind)(config)
        for name, parameter in model.named_parameters():  # its own initial weights are too small to tell blocks apart
            if "vision" in name or kind == "CLIPVisionModel":
                parameter.data += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(folder, max_shard_size=shard)
    return folder
