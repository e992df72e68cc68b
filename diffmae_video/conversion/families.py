"""Whose weights these are, and what no program's weights may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from diffmae_video.conversion.source import ConversionError, listed

# what a network with such tensors computes that ours does not; patterns are searched for anywhere in a name
UNSUPPORTED = (
    (r"\.gamma_[12]$|\.ls[12]\.gamma$|\.lambda_[12]$|layer_scale", "layer scale"),
    (r"relative_position|rel_pos|rpb", "relative positions"),
    (r"rope|freqs_cis", "rotary positions"),
    (r"reg_token|register_token", "register tokens"),
    (r"dist_token|head_dist|distillation", "a distillation token"),
    (r"[qk]_norm\.", "normalised queries and keys"),
    (r"(^|\.)norm_pre\.|pre_layrnorm|patch_embed\.norm\.", "a norm before the blocks"),
    (r"attn_pool\.", "attention pooling"),
    (r"mlp\.(w1|w2|w3|w12|fc1_g|fc1_x|gate)", "a gated MLP"),
    (r"_lora|lora_|adapter", "adapters"),
)
# a tensor that only such weights have: name, its dimensions (None = any) and the families that read it
HALLMARKS: tuple[tuple[str, int | None, tuple[str, ...]], ...] = (
    ("videomae.embeddings.patch_embeddings.projection.weight", None, ("hf_videomae",)),
    ("embeddings.patch_embeddings.projection.weight", 5, ("hf_videomae",)),
    ("pos_embed_spatial", None, ("mae_st",)),
    ("pred_head.projections.0.weight", None, ("mae_st",)),
    ("blocks.0.attn.q.weight", None, ("mae_st",)),
    ("head.projection.weight", None, ("mae_st",)),
    ("encoder.patch_embed.proj.weight", 5, ("videomae",)),
    ("patch_embed.proj.weight", 5, ("videomae",)),
    ("decoder_embed.weight", None, ("mae",)),
    ("patch_embed.proj.weight", 4, ("mae", "timm")),
)
OURS = "encoder.patch_embed.weight"


def check_family(family: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises ConversionError if the tensors are of another program, or of this project already."""
    if OURS in tensors:
        raise ConversionError(f"{OURS} is a name of this project: such weights need no conversion, MODEL.WEIGHTS does")
    for name, dimensions, families in HALLMARKS:
        if name in tensors and dimensions in (None, tensors[name].dim()):
            if family not in families:
                raise ConversionError(
                    f"{name} {tuple(tensors[name].shape)}: these look like weights for --from {' or '.join(families)}, "
                    f"not {family}"
                )
            return
    raise ConversionError(
        f"{listed(tensors)}: there is no patch embedding under a known name: the network is another one, or the names "
        "have an unknown prefix"
    )


def check_variant(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises ConversionError if the network has parts that change what it computes and that ours lacks."""
    for pattern, what in UNSUPPORTED:
        found = {name: tensor for name, tensor in tensors.items() if re.search(pattern, name)}
        if found:
            raise ConversionError(f"{listed(found)}: this network has {what}, which is not supported here")
