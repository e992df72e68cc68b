"""MAE-ST (facebookresearch/mae_st), and the same in PySlowFast (facebookresearch/SlowFast, MaskMViT as a plain ViT).

Learned positions, one predicted frame of every patch. The encoders are the same network under the same names. The
decoders differ: MAE-ST's has a class token of its own, PySlowFast's goes on with the encoder's and gives it a position;
PySlowFast's learns a position for every token, has width / 64 heads, and predicts the first frame of every patch.
"""

from __future__ import annotations

from typing import NamedTuple

from diffmae_video.conversion.conventions import TARGET_FRAMES, VIDEO_FRAMES, Options, agreed, chosen
from diffmae_video.conversion.layers import (
    CHANNELS,
    Tensors,
    square_size,
    take_blocks,
    take_linear,
    take_norm,
    take_patches,
)
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
from diffmae_video.conversion.positions import VideoPositions, take_video_positions
from diffmae_video.conversion.source import ConversionError, Source

DECODER = ("decoder_", "dec_pos_embed", "mask_token", "pred_head.")
SLOWFAST_HEAD = "head.projection"
SLOWFAST_BLOCKS, SLOWFAST_PREDICTION = "pred_head.transforms.0.", "pred_head.projections.0"
Triple = tuple[int, int, int]


class Encoder(NamedTuple):
    """What a decoder must fit."""

    width: int
    patch: Triple
    tokens: int
    has_class_token: bool


def convert_mae_st(source: Source, options: Options) -> Network:
    """Pre-trained with or without its decoder, or fine-tuned; raises ConversionError, as every converter."""
    if options.encoder_only:
        source.leave(DECODER, "--encoder-only")
    patches = take_patches(source, "patch_embed.proj")
    width, patch = patches.width, patches.patch
    stack = take_blocks(source, "blocks.", "encoder.blocks.", width)
    has_class_token = source.has("cls_token")
    positions = take_video_positions(source, "pos_embed", "encoder.position", width, has_class_token)
    frames, size = _clip(source, options, positions, patch)
    tensors = patches.tensors | stack.tensors | positions.tensors
    if has_class_token:
        token = source.take("cls_token", 1, 1, width)
        tensors["encoder.class_token"] = add_class_position(source, token, positions.of_class, "the class token")
    kind = positions.kind
    settings = encoder_settings(source, options, "mae_st", patches, stack, kind, has_class_token, frames, size)
    end = _end(source, options, Encoder(width, patch, positions.tokens, has_class_token))
    return Network(tensors | end.tensors, settings | end.settings)


def _clip(source: Source, options: Options, positions: VideoPositions, patch: Triple) -> tuple[int, int]:
    """Frames of a clip, and their height and width in pixels.

    Raises:
        ConversionError: frames that are not square, or that do not divide the tokens; an option that says otherwise.
    """
    if positions.slots is None:
        frames = chosen(source, "frames", options.frames, VIDEO_FRAMES)
    else:
        frames = agreed("frames", options.frames, positions.slots * patch[0])
    slots = frames // patch[0]
    if slots < 1 or frames % patch[0] or positions.tokens % slots:
        raise ConversionError(
            f"{positions.tokens} tokens are not those of {frames} frames in patches of {patch[0]}: pass the --frames "
            "that the network was trained on"
        )
    size = square_size(positions.tokens // slots, patch, "pos_embed")
    return frames, agreed("image_size", options.image_size, size)


def _end(source: Source, options: Options, encoder: Encoder) -> Network:
    """What comes after the blocks of the encoder: a decoder, a head or a norm."""
    width, has_class_token = encoder.width, encoder.has_class_token
    if source.has("decoder_embed.weight"):
        tensors, settings = _take_decoder(source, options, encoder)
        return Network(tensors | take_norm(source, "norm", "encoder.norm", width), settings)
    if source.has(f"{SLOWFAST_PREDICTION}.weight"):
        raise ConversionError(
            f"{SLOWFAST_PREDICTION}.weight without decoder_embed: this is PySlowFast's MaskFeat, whose encoder reads "
            "mask tokens and ends in no norm; that is not supported"
        )
    head = SLOWFAST_HEAD if source.has(f"{SLOWFAST_HEAD}.weight") else "head"
    if not source.has(f"{head}.weight"):
        return take_encoder_end(source, "norm", "fc_norm", width)
    if not has_class_token:
        raise ConversionError(
            f"{head}.weight without cls_token: mae_st's classifier leaves the first token, here a patch, out of its "
            "mean, PySlowFast's may normalise before the mean; ours does neither. Remove the head's tensors for the "
            "encoder alone"
        )
    if head == SLOWFAST_HEAD:
        source.assume("the head reads the mean of the patch tokens, as in PySlowFast's recipes for this network")
    source.fold("norm: of the mean over the patch tokens, ours of the head")
    return take_classifier(source, "norm", head, width, "mean")


def _take_decoder(source: Source, options: Options, encoder: Encoder) -> tuple[Tensors, Settings]:
    width = source.shape("decoder_embed.weight")[0]
    is_slowfast = source.has(f"{SLOWFAST_PREDICTION}.weight")
    family = "slowfast" if is_slowfast else "mae_st"
    tensors = take_mask_token(source, width)
    tensors |= take_linear(source, "decoder_embed", "decoder.context_embed", width, encoder.width)
    blocks, norm, prediction = "decoder_blocks.", "decoder_norm", "decoder_pred"
    if is_slowfast:  # a norm comes after the blocks, numbered like one
        blocks, prediction = SLOWFAST_BLOCKS, SLOWFAST_PREDICTION
        norm = f"{blocks}{max(source.depth(blocks) - 1, 0)}"
    tensors |= take_norm(source, norm, "decoder.norm", width)
    stack = take_blocks(source, blocks, "decoder.blocks.", width)
    positions = _take_decoder_positions(source, encoder, width)
    tensors |= stack.tensors | positions.tensors
    if encoder.has_class_token and is_slowfast:
        tensors["decoder.class_position"] = positions.of_class
    elif encoder.has_class_token:
        token = source.take("decoder_cls_token", 1, 1, width)
        what = "the decoder's class token"
        tensors["decoder.class_token"] = add_class_position(source, token, positions.of_class, what)
    values = source.shape(f"{prediction}.weight")[0]
    tensors |= take_linear(source, prediction, "decoder.head", values, width)
    target = chosen(source, "target", options.target, "normalized")
    settings = pretrained(source, options, family, stack, width, positions.kind, target)
    settings["MODEL.TARGET_FRAMES"] = _target_frames(source, options, prediction, values, encoder.patch, family)
    settings["MODEL.DECODER.CLASS_TOKEN"] = encoder.has_class_token and not is_slowfast
    settings["MODEL.DECODER.CLASS_POSITION"] = encoder.has_class_token and is_slowfast
    return tensors, settings


def _take_decoder_positions(source: Source, encoder: Encoder, width: int) -> VideoPositions:
    # PySlowFast has another name for them in parts.
    name = "dec_pos_embed" if source.has("dec_pos_embed_spatial") else "decoder_pos_embed"
    positions = take_video_positions(source, name, "decoder.position", width, encoder.has_class_token)
    if positions.tokens != encoder.tokens:
        raise ConversionError(
            f"{name} is for {positions.tokens} tokens, pos_embed for {encoder.tokens}: parts of two networks"
        )
    return positions


def _target_frames(source: Source, options: Options, prediction: str, values: int, patch: Triple, family: str) -> str:
    """``MODEL.TARGET_FRAMES`` by the values that are predicted per patch."""
    frame = patch[1] * patch[2] * CHANNELS
    if values == patch[0] * frame:
        if options.target_frames:
            raise ConversionError(f"--target-frames: {prediction} predicts all frames of a patch; leave it out")
        return "all"
    if values != frame:
        raise ConversionError(
            f"{prediction} predicts {values} values per patch, expected {frame}, those of one frame, or "
            f"{patch[0] * frame}, those of all {patch[0]}; other targets than pixels are not supported"
        )
    return chosen(source, "target_frames", options.target_frames, TARGET_FRAMES[family])
