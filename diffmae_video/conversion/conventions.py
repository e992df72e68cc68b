"""What no shape shows: the convention of every program, and what a person says instead."""

from __future__ import annotations

from dataclasses import dataclass

from diffmae_video.conversion.source import ConversionError, Source

FAMILIES = ("mae_st", "videomae", "mae", "timm", "hf_videomae")

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# mean and standard deviation of pixels on the [0, 1] scale
PIXELS = {
    "mae": IMAGENET,
    "mae_st": ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
    "videomae": IMAGENET,
    "hf_videomae": IMAGENET,
    "timm": HALVES,
}
# attention heads by width, of the published encoders; of others width / 64
ENCODER_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1664: 16}
VIDEOMAE_DECODERS = {192: 3, 384: 6, 512: 8, 640: 8}
# attention heads by width, of the published decoders; there is no rule for others, but in PySlowFast's code
DECODER_HEADS = {
    "mae": {512: 16},
    "mae_st": {512: 16},
    "slowfast": {64 * heads: heads for heads in range(1, 33)},
    "videomae": VIDEOMAE_DECODERS,
    "hf_videomae": VIDEOMAE_DECODERS,
}
VIDEO_FRAMES, VIDEO_SIZE = 16, 224  # of VideoMAE and MAE-ST
MASKS = {
    "mae": ("random", 0.75),
    "mae_st": ("random", 0.9),
    "slowfast": ("random", 0.9),
    "videomae": ("tube", 0.9),
    "hf_videomae": ("tube", 0.9),
}
# which frame of a patch is predicted, where it is one: the last of MAE-ST's is the clip's last, of PySlowFast's not
TARGET_FRAMES = {"mae_st": "linspace", "slowfast": "first"}
# options that ask for what a program does not have
POINTLESS = {
    "mae": ("target_frames",),
    "mae_st": (),
    "videomae": ("target", "target_frames"),
    "hf_videomae": ("target", "target_frames"),
    "timm": ("target", "target_frames", "decoder_heads", "encoder_only"),
}


@dataclass(frozen=True)
class Options:
    """What a person knows about the weights; None (False) = the shapes or the convention say it.

    Args:
        heads, decoder_heads: attention heads.
        frames, image_size: of the clips that the network was trained on; image_size is height and width in pixels.
        pixel_mean, pixel_std: per channel, on the [0, 1] pixel scale.
        target: ``"raw"`` or ``"normalized"`` pixels per patch (MAE, MAE-ST); of VideoMAE a configuration says it.
        target_frames: where one frame of a patch is predicted, which: ``"linspace"`` or ``"first"`` (MAE-ST).
        encoder_only: leave a decoder out.
    """

    heads: int | None = None
    decoder_heads: int | None = None
    frames: int | None = None
    image_size: int | None = None
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None
    target: str | None = None
    target_frames: str | None = None
    encoder_only: bool = False


def option_name(field: str) -> str:
    """``image_size`` -> ``--image-size``."""
    return f"--{field.replace('_', '-')}"


def check_options(family: str, options: Options) -> None:
    """Raises ConversionError for an option that means nothing for ``family``."""
    for field in POINTLESS[family]:
        if getattr(options, field):
            raise ConversionError(f"{option_name(field)} means nothing for {family}: leave it out")


def encoder_heads(source: Source, options: Options, width: int) -> int:
    """Attention heads of an encoder; raises ConversionError if the convention is silent, or the option wrong."""
    by_rule = width // 64 if width % 64 == 0 else None
    return _heads(source, "heads", options.heads, width, ENCODER_HEADS.get(width, by_rule))


def decoder_heads(source: Source, options: Options, width: int, family: str) -> int:
    """Attention heads of a decoder; raises as :func:`encoder_heads`."""
    return _heads(source, "decoder_heads", options.decoder_heads, width, DECODER_HEADS[family].get(width))


def _heads(source: Source, field: str, given: int | None, width: int, convention: int | None) -> int:
    if given is None and convention is None:
        raise ConversionError(
            f"no shape shows the attention heads, and there is no convention for width {width}: pass "
            f"{option_name(field)}; the configuration or the code of the weights' run has the number"
        )
    if given is not None and (given < 1 or width % given):
        raise ConversionError(f"{option_name(field)} {given} does not divide the width {width} of these weights")
    if given is None:
        source.assume(f"{convention} attention heads at width {width} ({option_name(field)} for another number)")
    return given or convention


def pixel_statistics(source: Source, options: Options, family: str) -> dict[str, list[float]]:
    """``DATA.MEAN`` and ``DATA.STD``."""
    settings = {}
    for field, convention in zip(("pixel_mean", "pixel_std"), PIXELS[family], strict=True):
        given = getattr(options, field)
        if given is None:
            source.assume(f"{field.replace('_', ' ')} {list(convention)} ({option_name(field)} for another one)")
        settings[f"DATA.{field.removeprefix('pixel_').upper()}"] = list(convention if given is None else given)
    return settings


def agreed(field: str, given: int | None, shown: int) -> int:
    """What the shapes show; raises ConversionError if the option of that name says something else."""
    if given is not None and given != shown:
        raise ConversionError(f"{option_name(field)} {given}: the shapes of these weights show {shown}; leave it out")
    return shown


def chosen(source: Source, field: str, given: int | str | None, convention: int | str) -> int | str:
    """The option, or the convention, which is entered among the assumptions."""
    if given is None:
        source.assume(f"{field.replace('_', ' ')} {convention} ({option_name(field)} for another one)")
        return convention
    return given
