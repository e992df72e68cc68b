"""VideoMAE and VideoMAE V2 (MCG-NJU/VideoMAE, OpenGVLab/VideoMAEv2), and their port to Hugging Face's transformers."""

from __future__ import annotations

from typing import NamedTuple

import torch

from diffmae_video.conversion.conventions import VIDEO_FRAMES, VIDEO_SIZE, Options, chosen
from diffmae_video.conversion.layers import (
    CHANNELS,
    TIMM_NAMES,
    BlockNames,
    Patches,
    Tensors,
    take_blocks,
    take_linear,
    take_norm,
    take_patches,
)
from diffmae_video.conversion.models import (
    Network,
    Settings,
    encoder_settings,
    pretrained,
    take_classifier,
    take_encoder_end,
    take_mask_token,
)
from diffmae_video.conversion.positions import take_numbered
from diffmae_video.conversion.source import ConversionError, Source


class Names(NamedTuple):
    """Where a program keeps the parts of the network."""

    patches: str
    blocks: str
    norm: str
    positions: str
    decoder_positions: str = "pos_embed"
    pooled_norm: str = "fc_norm"
    head: str = "head"
    decoder_blocks: str = "decoder.blocks."
    block: BlockNames = TIMM_NAMES


PRETRAINED = Names("encoder.patch_embed.proj", "encoder.blocks.", "encoder.norm", "encoder.pos_embed")
FINETUNED = Names("patch_embed.proj", "blocks.", "norm", "pos_embed")
HF_BLOCK = BlockNames(
    norm1="layernorm_before",
    q="attention.attention.query",
    k="attention.attention.key",
    v="attention.attention.value",
    q_bias="attention.attention.q_bias",
    v_bias="attention.attention.v_bias",
    proj="attention.output.dense",
    norm2="layernorm_after",
    fc1="intermediate.dense",
    fc2="output.dense",
)
HF_PREFIX = "videomae."
DECODER = ("decoder.", "encoder_to_decoder.", "mask_token")
TARGET = "normalized_per_channel"


def hf_names(prefix: str) -> Names:
    """Of transformers' models; ``prefix`` is empty for a bare VideoMAEModel."""
    return Names(
        patches=f"{prefix}embeddings.patch_embeddings.projection",
        blocks=f"{prefix}encoder.layer.",
        norm=f"{prefix}layernorm",
        positions=f"{prefix}embeddings.position_embeddings",
        decoder_positions="position_embeddings",
        head="classifier",
        decoder_blocks="decoder.decoder_layers.",
        block=HF_BLOCK,
    )


def convert_videomae(source: Source, options: Options) -> Network:
    """Pre-trained with or without its decoder, or fine-tuned; raises ConversionError, as every converter."""
    names = PRETRAINED if source.has(f"{PRETRAINED.patches}.weight") else FINETUNED
    return _convert(source, options, "videomae", names)


def convert_hf_videomae(source: Source, options: Options) -> Network:
    """VideoMAEForPreTraining, VideoMAEForVideoClassification or VideoMAEModel of transformers."""
    names = hf_names(HF_PREFIX if source.has(f"{hf_names(HF_PREFIX).patches}.weight") else "")
    source.fold(
        "norms: epsilon 1e-6 as everywhere here; transformers' VideoMAE has 1e-12 in the blocks and 1e-5 in the last "
        "norm of decoder and classifier (differences: docs/conversion.md)"
    )
    return _convert(source, options, "hf_videomae", names)


def _convert(source: Source, options: Options, family: str, names: Names) -> Network:
    if options.encoder_only:
        source.leave(DECODER, "--encoder-only")
        if names.positions != names.decoder_positions:  # they are the encoder's in a file of a classifier
            source.leave((names.decoder_positions,), "--encoder-only")
    patches = take_patches(source, names.patches)
    stack = take_blocks(source, names.blocks, "encoder.blocks.", patches.width, names.block)
    frames = chosen(source, "frames", options.frames, VIDEO_FRAMES)
    size = chosen(source, "image_size", options.image_size, VIDEO_SIZE)
    tokens = _tokens(frames, size, patches.patch)
    positions, kind = take_numbered(source, names.positions, "encoder.position", patches.width, tokens)
    settings = encoder_settings(source, options, family, patches, stack, kind, False, frames, size)
    end = _end(source, options, family, patches, names, tokens)
    return Network(patches.tensors | stack.tensors | positions | end.tensors, settings | end.settings)


def _tokens(frames: int, size: int, patch: tuple[int, int, int]) -> int:
    """Tokens of a clip; raises ConversionError if the patch does not divide it."""
    pt, ph, pw = patch
    if frames < 1 or size < 1 or frames % pt or size % ph or size % pw:
        raise ConversionError(
            f"patches of {pt}x{ph}x{pw} do not divide {frames} frames of {size}x{size} pixels: pass the --frames and "
            "--image-size that the network was trained on"
        )
    return frames // pt * (size // ph) * (size // pw)


def _end(source: Source, options: Options, family: str, patches: Patches, names: Names, tokens: int) -> Network:
    """What comes after the blocks of the encoder: a decoder, a head or a norm."""
    width = patches.width
    if source.has("encoder_to_decoder.weight"):
        if not source.has(f"{names.norm}.weight"):
            raise ConversionError(
                f"{names.norm}.weight is missing: this encoder hands its tokens to the decoder without a norm "
                "(use_mean_pooling in its configuration), ours has one"
            )
        tensors, settings = _take_decoder(source, options, family, patches, names, tokens)
        return Network(tensors | take_norm(source, names.norm, "encoder.norm", width), settings)
    if not source.has(f"{names.head}.weight"):
        return take_encoder_end(source, names.norm, names.pooled_norm, width)
    if source.has(f"{names.norm}.weight"):
        raise ConversionError(
            f"{names.norm}.weight beside {names.head}.weight: this classifier reads the first patch's token (no mean "
            f"pooling), ours cannot. Remove {names.head}.weight and .bias for the encoder alone"
        )
    return take_classifier(source, names.pooled_norm, names.head, width, "mean")


def _take_decoder(
    source: Source, options: Options, family: str, patches: Patches, names: Names, tokens: int
) -> tuple[Tensors, Settings]:
    width = source.shape("encoder_to_decoder.weight")[0]
    stack = take_blocks(source, names.decoder_blocks, "decoder.blocks.", width, names.block)
    pt, ph, pw = patches.patch
    positions, kind = take_numbered(source, names.decoder_positions, "decoder.position", width, tokens)
    tensors = stack.tensors | positions | take_mask_token(source, width)
    tensors["decoder.context_embed.weight"] = source.take("encoder_to_decoder.weight", width, patches.width)
    tensors["decoder.context_embed.bias"] = torch.zeros(width)
    source.fold("encoder_to_decoder has no bias: ours is zero, and training moves it")
    tensors |= take_norm(source, "decoder.norm", "decoder.norm", width)
    tensors |= take_linear(source, "decoder.head", "decoder.head", pt * ph * pw * CHANNELS, width)
    if options.target is None:
        source.assume(f"target {TARGET}, VideoMAE's default (plain pixels on the [0, 1] scale cannot be held)")
    return tensors, pretrained(source, options, family, stack, width, kind, TARGET)
