"""MAE (facebookresearch/mae) and the Vision Transformers of timm, which it is built of: images, clips with T = 1."""

from __future__ import annotations

from diffmae_video.conversion.conventions import Options, agreed, chosen
from diffmae_video.conversion.layers import CHANNELS, Tensors, take_blocks, take_linear, take_norm, take_patches
from diffmae_video.conversion.models import (
    Network,
    Settings,
    add_class_position,
    encoder_settings,
    pretrained,
    take_classifier,
    take_encoder_end,
    take_mask_token,
)
from diffmae_video.conversion.positions import take_image_positions
from diffmae_video.conversion.source import ConversionError, Source

DECODER = ("decoder_", "mask_token")


def convert_mae(source: Source, options: Options) -> Network:
    """Pre-trained with or without its decoder, or fine-tuned; raises ConversionError, as every converter."""
    return _convert(source, options, "mae")


def convert_timm(source: Source, options: Options) -> Network:
    """A classifier, or an encoder without head (``num_classes=0``)."""
    return _convert(source, options, "timm")


def _convert(source: Source, options: Options, family: str) -> Network:
    if options.encoder_only:
        source.leave(DECODER, "--encoder-only")
    patches = take_patches(source, "patch_embed.proj")
    width = patches.width
    stack = take_blocks(source, "blocks.", "encoder.blocks.", width)
    has_class_token = source.has("cls_token")
    positions = take_image_positions(source, "pos_embed", "encoder.position", patches.patch, width, has_class_token)
    agreed("frames", options.frames, 1)
    agreed("image_size", options.image_size, positions.size)
    tensors = patches.tensors | stack.tensors | positions.tensors
    if has_class_token:
        token = source.take("cls_token", 1, 1, width)
        tensors["encoder.class_token"] = add_class_position(source, token, positions.of_class, "the class token")
    settings = encoder_settings(
        source, options, family, patches, stack, positions.kind, has_class_token, 1, positions.size
    )
    settings["DATA.SAMPLING_RATE"] = 1
    end = _end(source, options, width, patches.patch, positions.size)
    return Network(tensors | end.tensors, settings | end.settings)


def _end(source: Source, options: Options, width: int, patch: tuple[int, int, int], size: int) -> Network:
    """What comes after the blocks of the encoder: a decoder, a head or a norm."""
    if source.has("decoder_embed.weight"):
        tensors, settings = _take_decoder(source, options, width, patch, size)
        return Network(tensors | take_norm(source, "norm", "encoder.norm", width), settings)
    if not source.has("head.weight"):
        return take_encoder_end(source, "norm", "fc_norm", width)
    if source.has("fc_norm.weight"):
        return take_classifier(source, "fc_norm", "head", width, "mean")
    if "cls_token" not in source.used:
        raise ConversionError(
            "norm.weight comes before head.weight, and there is no class token: this classifier takes the mean of the "
            "normalised tokens, ours normalises their mean. Remove head.weight and head.bias for the encoder alone"
        )
    source.assume("the head reads the class token: there is a norm of all tokens, none of their mean")
    return take_classifier(source, "norm", "head", width, "class_token")


def _take_decoder(
    source: Source, options: Options, encoder_width: int, patch: tuple[int, int, int], size: int
) -> tuple[Tensors, Settings]:
    width = source.shape("decoder_embed.weight")[0]
    stack = take_blocks(source, "decoder_blocks.", "decoder.blocks.", width)
    has_class_token = "cls_token" in source.used
    positions = take_image_positions(source, "decoder_pos_embed", "decoder.position", patch, width, has_class_token)
    agreed("image_size", positions.size, size)
    values = patch[1] * patch[2] * CHANNELS
    tensors = stack.tensors | positions.tensors | take_mask_token(source, width)
    has_class_position = positions.of_class is not None and bool(positions.of_class.any())  # zero in MAE's fixed table
    if has_class_position:
        tensors["decoder.class_position"] = positions.of_class.reshape(1, 1, -1)
    tensors |= take_linear(source, "decoder_embed", "decoder.context_embed", width, encoder_width)
    tensors |= take_norm(source, "decoder_norm", "decoder.norm", width)
    tensors |= take_linear(source, "decoder_pred", "decoder.head", values, width)
    target = chosen(source, "target", options.target, "normalized")
    settings = pretrained(source, options, "mae", stack, width, positions.kind, target)
    settings["MODEL.DECODER.CLASS_POSITION"] = has_class_position
    return tensors, settings
