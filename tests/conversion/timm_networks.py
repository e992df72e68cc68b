"""Builds small Vision Transformers with timm and saves what they compute: ``python timm_networks.py output.pt``.

A program of its own, because timm imports torchvision, of which no release fits the torch of the tests: empty modules
stand in for it here, and no test may see those.
"""

from __future__ import annotations

import enum
import sys
import types
from typing import Any

import torch


class Stub(types.ModuleType):
    """A module in which every name is an empty class."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class InterpolationMode(enum.Enum):
    """The one thing of torchvision whose content timm looks at while it is imported."""

    NEAREST, BILINEAR, BICUBIC, BOX, HAMMING, LANCZOS = "nearest bilinear bicubic box hamming lanczos".split()


def stand_in_for_torchvision() -> None:
    parts = "models models.feature_extraction datasets ops ops.misc transforms transforms.functional"
    for name in ["torchvision", *(f"torchvision.{part}" for part in parts.split())]:
        module = sys.modules[name] = Stub(name)
        module.InterpolationMode = InterpolationMode
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


VARIANTS: dict[str, dict[str, Any]] = {
    "class token": {"global_pool": "token", "num_classes": 7},
    "mean": {"global_pool": "avg", "num_classes": 7},
    "mean without class token": {"global_pool": "avg", "num_classes": 7, "class_token": False},
    "class token without position": {"global_pool": "token", "num_classes": 7, "no_embed_class": True},
    "no bias of attention": {"global_pool": "token", "num_classes": 7, "qkv_bias": False},
    "encoder": {"num_classes": 0},
    "encoder pooled": {"num_classes": 0, "global_pool": "avg"},
    "layer scale": {"num_classes": 7, "init_values": 0.1},
    "register tokens": {"num_classes": 7, "reg_tokens": 2},
    "normalised queries": {"num_classes": 7, "qk_norm": True},
    "norm before": {"num_classes": 7, "pre_norm": True},
    "mean of normalised": {"global_pool": "avg", "num_classes": 7, "fc_norm": False, "class_token": False},
    "attention pooling": {"global_pool": "map", "num_classes": 7},
}


@torch.no_grad()
def compute(options: dict[str, Any]) -> dict[str, Any]:
    """State dict, input, logits (or pooled features) and tokens of a network with random weights that matter."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "mlp_ratio": 2.5}
    model = VisionTransformer(**sizes, **options).eval()
    for name, parameter in model.named_parameters():
        is_matrix = parameter.dim() > 1 and name not in ("cls_token", "pos_embed")
        scale = parameter[0].numel() ** -0.5 if is_matrix else 0.2
        parameter.copy_(torch.randn_like(parameter) * scale + ("norm" in name and name.endswith("weight")))
    image = torch.randn(2, 3, 32, 32)
    tokens = model.forward_features(image)
    return {"state_dict": model.state_dict(), "image": image, "tokens": tokens, "output": model(image)}


if __name__ == "__main__":
    stand_in_for_torchvision()
    import timm

    networks = {name: compute(options) for name, options in VARIANTS.items()}
    torch.save({"version": timm.__version__, "networks": networks}, sys.argv[1])
