"""A tiny model and clips for the tests of inpainting."""

from __future__ import annotations

import numpy as np
import torch

from diffmae_video.build import build_model
from diffmae_video.config import from_dict

CLIP = (3, 4, 24, 24)


def build(decoder="cross_self", name="DiffMAE", target="raw", **model):
    """Random weights: initial ones predict a constant, these answer to their input."""
    built = build_model(
        from_dict(
            {
                "DATA": {"NUM_FRAMES": CLIP[1], "CROP_SIZE": CLIP[2]},
                "MODEL": {
                    "NAME": name,
                    "TARGET": target,
                    "PATCH_SIZE": [2, 8, 8],
                    "ENCODER": {"WIDTH": 24, "DEPTH": 3, "HEADS": 2},
                    "DECODER": {"TYPE": decoder, "WIDTH": 16, "DEPTH": 2, "HEADS": 2},
                    **model,
                },
                "MASK": {"RATIO": 0.5},
            }
        )
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(std=0.15, generator=generator)
    return built


def pixel_mask(batch=2):
    mask = torch.zeros(batch, *CLIP[1:], dtype=torch.bool)
    mask[:, :, 3:12, 5:14] = True
    return mask


def pixels(batch=2, seed=0):
    return torch.randint(0, 256, (batch, *CLIP), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def video(frames, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
