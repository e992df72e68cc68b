"""What the tests of conversion share, and ``foreign_networks``: no folder of the repository is on ``sys.path``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from diffmae_video.build import build_model
from diffmae_video.config import load_config
from diffmae_video.conversion import Conversion
from diffmae_video.models.encoder_model import EncoderModel

_PATH = Path(__file__).parent / "foreign_networks.py"

if "foreign_networks" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("foreign_networks", _PATH)
    sys.modules["foreign_networks"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["foreign_networks"])


@pytest.fixture
def build() -> Callable[[Conversion], nn.Module]:
    """``build(conversion)``: the model with the converted weights, loaded strictly, in eval mode."""
    return build_converted


def build_converted(conversion: Conversion) -> nn.Module:
    cfg = load_config([], [word for setting in conversion.settings.items() for word in setting])
    model = build_model(cfg)
    if conversion.is_encoder_alone:
        model = EncoderModel.of(model)
    pixels = {name: value for name, value in model.state_dict().items() if name in ("pixel_mean", "pixel_std")}
    model.load_state_dict(conversion.tensors | pixels)
    model.cfg = cfg
    return model.eval()


@pytest.fixture
def hide() -> Callable[..., torch.Tensor]:
    """``hide(tokens, hidden, batch=2)``: masks (B, N), True = hidden, with so many hidden at random places."""

    def masks(tokens: int, hidden: int, batch: int = 2) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        order = torch.stack([torch.randperm(tokens, generator=generator) for _ in range(batch)])
        return order < hidden

    return masks
