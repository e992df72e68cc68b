"""Weights of other programs' networks in this project's layout, with the settings of a configuration that fits them.

Pure functions over state dicts: every tensor of the source is used, or left out by name with a reason; anything else is
an error that names tensors. What the functions take for granted, because no shape shows it, is part of the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from diffmae_video.conversion.conventions import FAMILIES, Options, check_options
from diffmae_video.conversion.families import check_family, check_variant
from diffmae_video.conversion.hf_config import check_config, options_from, read_hf_config
from diffmae_video.conversion.mae import convert_mae, convert_timm
from diffmae_video.conversion.mae_st import convert_mae_st
from diffmae_video.conversion.reading import Weights, read_weights
from diffmae_video.conversion.source import ConversionError, Source
from diffmae_video.conversion.videomae import convert_hf_videomae, convert_videomae

__all__ = [
    "FAMILIES",
    "Conversion",
    "ConversionError",
    "Options",
    "Weights",
    "convert",
    "read_hf_config",
    "read_weights",
]

CONVERTERS = {
    "mae_st": convert_mae_st,
    "videomae": convert_videomae,
    "mae": convert_mae,
    "timm": convert_timm,
    "hf_videomae": convert_hf_videomae,
}


@dataclass(frozen=True)
class Conversion:
    """What became of the weights.

    Attributes:
        tensors: names and shapes of our ``state_dict``, float32, without the pixel statistics.
        settings: full dotted key of the configuration -> value, for everything about the network.
        used: names of the source's tensors that are in ``tensors``.
        left_out: name -> reason, of the others.
        folded: what was put into another tensor, or added.
        assumed: what no shape shows.
    """

    tensors: dict[str, torch.Tensor]
    settings: dict[str, Any]
    used: list[str]
    left_out: dict[str, str]
    folded: list[str]
    assumed: list[str]

    @property
    def is_encoder_alone(self) -> bool:
        """Neither a decoder nor a head: the settings are of a classifier, whose head is not among the tensors."""
        return not any(name.startswith(("decoder.", "head.")) for name in self.tensors)


def convert(
    family: str,
    tensors: Mapping[str, torch.Tensor],
    options: Options | None = None,
    hf_config: Mapping[str, Any] | None = None,
) -> Conversion:
    """Converts a state dict.

    Args:
        family: one of ``FAMILIES``.
        tensors: state dict of a network of that program, without prefixes of a wrapper.
        options: what is known about it.
        hf_config: of ``"hf_videomae"``: what :func:`read_hf_config` returned.

    Raises:
        ConversionError: another program's weights, a variant that is not supported, a tensor that is missing, left
            over, of an unexpected shape or not finite, or an option that is missing, pointless or wrong.
    """
    options = options or Options()
    check_options(family, options)
    check_family(family, tensors)
    check_variant(tensors)
    if hf_config is not None:
        options = options_from(hf_config, options)
    source = Source(tensors)
    network = CONVERTERS[family](source, options)
    source.finish()
    if hf_config is not None:
        check_config(hf_config, network.settings)
    if options.encoder_only and not source.left_out:
        raise ConversionError("--encoder-only leaves a decoder out, and these weights have none: do without it")
    return Conversion(network.tensors, network.settings, source.used, source.left_out, source.folded, source.assumed)
