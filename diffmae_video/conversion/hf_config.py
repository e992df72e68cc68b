"""What a ``config.json`` of transformers says about a VideoMAE, so that nothing has to be assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from diffmae_video.conversion.conventions import Options, option_name
from diffmae_video.conversion.reading import read_json
from diffmae_video.conversion.source import ConversionError

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
# transformers' own defaults: its files may hold only what differs from them
DEFAULTS = {
    "model_type": "videomae",
    "image_size": 224,
    "patch_size": 16,
    "num_frames": 16,
    "tubelet_size": 2,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "decoder_num_attention_heads": 6,
    "hidden_act": "gelu",
    "norm_pix_loss": True,
}
# setting -> key of config.json that must say the same: else the file is another model's
SHOWN = {"MODEL.ENCODER.WIDTH": "hidden_size", "MODEL.ENCODER.DEPTH": "num_hidden_layers"}


def read_hf_config(folder: Path) -> dict[str, Any]:
    """Everything a folder says: ``config.json``, and ``image_mean`` and ``image_std`` of ``preprocessor_config.json``.

    Raises:
        FileNotFoundError: no ``config.json``.
        ConversionError: no JSON, or of another model than VideoMAE.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"no {CONFIG} in {folder}: it says what no tensor shows; name the file of the weights")
    config = DEFAULTS | read_json(folder / CONFIG)
    if config["model_type"] != DEFAULTS["model_type"]:
        raise ConversionError(f"{folder / CONFIG} is of a {config['model_type']}, expected a videomae")
    if (folder / PREPROCESSOR).is_file():
        pixels = read_json(folder / PREPROCESSOR)
        config |= {key: pixels[key] for key in ("image_mean", "image_std") if key in pixels}
    return config


def options_from(config: Mapping[str, Any], given: Options) -> Options:
    """The options that a configuration answers, and the given ones.

    Raises:
        ConversionError: the two contradict each other, or the configuration asks for what is not supported.
    """
    if config["hidden_act"] != DEFAULTS["hidden_act"]:
        raise ConversionError(f"{CONFIG}: hidden_act {config['hidden_act']!r} is not supported, our MLPs have a gelu")
    if not config["norm_pix_loss"] and not given.encoder_only:
        raise ConversionError(
            f"{CONFIG}: norm_pix_loss is false, so the decoder predicts pixels on the [0, 1] scale, which is no target "
            "here. Pass --encoder-only to leave the decoder out"
        )
    sizes = config["image_size"]
    height, width = sizes if isinstance(sizes, list) else (sizes, sizes)
    if height != width:
        raise ConversionError(f"{CONFIG}: image_size {sizes} is not square, clips here are")
    answers: dict[str, Any] = {
        "heads": config["num_attention_heads"],
        "decoder_heads": config["decoder_num_attention_heads"],
        "frames": config["num_frames"],
        "image_size": height,
        "target": "normalized_per_channel",
    }
    for field, key in (("pixel_mean", "image_mean"), ("pixel_std", "image_std")):
        if key in config:
            answers[field] = tuple(config[key])
    for field in fields(given):
        value = getattr(given, field.name)
        if field.name in answers and value not in (None, answers[field.name]):
            raise ConversionError(
                f"{option_name(field.name)} {value}: {CONFIG} says {answers[field.name]}; leave it out"
            )
    return replace(given, **answers)


def check_config(config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises ConversionError if the tensors, by their ``settings``, are not of the configuration's model."""
    pt, ph, pw = settings["MODEL.PATCH_SIZE"]
    sizes = config["patch_size"]
    shown = [(key, settings[setting]) for setting, key in SHOWN.items()]
    shown += [("tubelet_size", pt), ("patch_size", [ph, pw] if isinstance(sizes, list) else ph)]
    for key, value in shown:
        if config[key] != value:
            raise ConversionError(f"{CONFIG}: {key} is {config[key]}, the tensors show {value}: it is another model's")
