"""What the parts of a foreign network become: settings of a configuration, and heads of ours."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from diffmae_video.conversion.conventions import MASKS, Options, decoder_heads, encoder_heads, pixel_statistics
from diffmae_video.conversion.layers import Patches, Stack, Tensors, take_linear, take_norm
from diffmae_video.conversion.source import ConversionError, Source

Settings = dict[str, Any]  # full dotted key of the configuration -> value

# Of a classifier's configuration whose file holds the encoder alone: the head that is built and dropped needs a number.
NO_HEAD = {"MODEL.NUM_CLASSES": 1}


class Network(NamedTuple):
    """A network in our layout."""

    tensors: Tensors
    settings: Settings


def encoder_settings(
    source: Source,
    options: Options,
    family: str,
    patches: Patches,
    stack: Stack,
    position: str,
    class_token: bool,
    frames: int,
    size: int,
) -> Settings:
    """Everything about the encoder and its clips, ``size`` x ``size`` pixels.

    Raises:
        ConversionError: attention heads that cannot be told, or do not fit.
    """
    return {
        "DATA.NUM_FRAMES": frames,
        "DATA.CROP_SIZE": size,
        **pixel_statistics(source, options, family),
        "MODEL.PATCH_SIZE": list(patches.patch),
        "MODEL.ENCODER.WIDTH": patches.width,
        "MODEL.ENCODER.DEPTH": stack.depth,
        "MODEL.ENCODER.HEADS": encoder_heads(source, options, patches.width),
        "MODEL.ENCODER.MLP_RATIO": stack.mlp_ratio,
        "MODEL.ENCODER.POSITION": position,
        "MODEL.ENCODER.CLASS_TOKEN": class_token,
    }


def pretrained(
    source: Source, options: Options, family: str, stack: Stack, width: int, position: str, target: str
) -> Settings:
    """Everything about a decoder and what it is trained for; raises as :func:`encoder_settings`."""
    strategy, ratio = MASKS[family]
    return {
        "TASK": "pretrain",
        "MODEL.NAME": "MAE",
        "MODEL.TARGET": target,
        "MODEL.DECODER.TYPE": "joint",
        "MODEL.DECODER.WIDTH": width,
        "MODEL.DECODER.DEPTH": stack.depth,
        "MODEL.DECODER.HEADS": decoder_heads(source, options, width, family),
        "MODEL.DECODER.MLP_RATIO": stack.mlp_ratio,
        "MODEL.DECODER.POSITION": position,
        "MASK.STRATEGY": strategy,
        "MASK.RATIO": ratio,
    }


def take_mask_token(source: Source, width: int) -> Tensors:
    return {"mask_token": source.take("mask_token", 1, 1, width)}


def take_classifier(source: Source, norm: str, head: str, width: int, pool: str) -> Network:
    """The head of a fine-tuned classifier; ``norm``: the one of the pooled vector, or the encoder's last one.

    Raises:
        ConversionError: one of the two is missing or has another shape.
    """
    classes = source.shape(f"{head}.weight")[0]
    own_norm = "head.norm" if pool == "mean" else "encoder.norm"  # the mean of the tokens is normalised, or the tokens
    tensors = take_norm(source, norm, own_norm, width) | take_linear(source, head, "head.classifier", classes, width)
    return Network(tensors, {"TASK": "finetune", "MODEL.HEAD.POOL": pool, "MODEL.NUM_CLASSES": classes})


def take_encoder_end(source: Source, norm: str, pooled_norm: str, width: int) -> Network:
    """The last norm of an encoder without decoder or head, from which features, a probe or fine-tuning start.

    ``pooled_norm`` is the norm of the pooled vector, which takes its place in a classifier whose head was cut off.

    Raises:
        ConversionError: neither is there.
    """
    if source.has(f"{norm}.weight"):
        return Network(take_norm(source, norm, "encoder.norm", width), {"TASK": "knn", **NO_HEAD})
    if not source.has(f"{pooled_norm}.weight"):
        raise ConversionError(
            f"{norm}.weight is missing, and there is neither a decoder nor a head: an encoder ends in a norm"
        )
    source.leave((f"{pooled_norm}.",), "the norm of the pooled vector belongs to a head, which the file does not have")
    return Network({}, {"TASK": "finetune", "MODEL.HEAD.POOL": "mean", **NO_HEAD})


def add_class_position(source: Source, token: torch.Tensor, position: torch.Tensor | None, what: str) -> torch.Tensor:
    """A class token (1, 1, D) with its position (D,) or (1, 1, D) folded in."""
    if position is None or not position.any():  # there is none, or it is zero, as in MAE's table
        return token
    source.fold(f"the position of {what}: added to the token")
    return token + position
