"""Other programs' weights as a weights file of this project: to start training from, to extract features, to test.

    python tools/convert_weights.py --from mae_st --input mae_st.pth --output mae_st.safetensors
    python tools/convert_weights.py --from hf_videomae --input folder/ --output videomae.safetensors
    python tools/convert_weights.py --from timm --input vit.safetensors --output vit.safetensors --heads 12

--from names the program whose network it is: MAE-ST (facebookresearch/mae_st, or PySlowFast's), VideoMAE
(MCG-NJU/VideoMAE), MAE (facebookresearch/mae), timm's Vision Transformers, or VideoMAE in Hugging Face's transformers.
Sizes are read off the tensors; what no shape shows is assumed by that program's convention, printed, and can be set.
Every tensor is used, or left out by name. The file works wherever a checkpoint does: MODEL.WEIGHTS, load_model,
tools/extract_features.py. docs/conversion.md says what is supported, and how closely results agree.

Exit codes: 0 done; 2 it could not be done, nothing was written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from convert_options import parse

if __name__ == "__main__":
    parse(None, __doc__)  # before all that follows is imported, so that --help and a wrong option answer at once

import torch
from fvcore.common.config import CfgNode
from torch import nn

from diffmae_video.build import build_model
from diffmae_video.config import dump, load_config
from diffmae_video.conversion import (
    Conversion,
    ConversionError,
    Options,
    Weights,
    convert,
    read_hf_config,
    read_weights,
)
from diffmae_video.engine import save_weights
from diffmae_video.engine.weights_file import ENCODER_PART, SUFFIX
from diffmae_video.models import MaskedAutoencoder
from diffmae_video.models.encoder_model import EncoderModel

PIXELS = ("pixel_mean", "pixel_std")


def check_paths(options: argparse.Namespace) -> None:
    """Everything that can be known to be wrong before the weights are read."""
    if options.output.suffix != SUFFIX:
        raise ValueError(f"--output {options.output}: expected a name that ends in {SUFFIX}")
    if options.output.exists():
        raise FileExistsError(f"--output {options.output} is there already: remove it, or choose another name")
    if not options.output.absolute().parent.is_dir():
        raise FileNotFoundError(f"--output {options.output}: there is no folder {options.output.absolute().parent}")
    if not options.input.exists():
        raise FileNotFoundError(f"--input {options.input}: there is no such file or folder")
    if options.input.is_dir() and options.family != "hf_videomae":
        raise ValueError(f"--input {options.input} is a folder: of {options.family} weights, name the file")


def convert_options(options: argparse.Namespace) -> Options:
    pixels = {name: None if (value := getattr(options, name)) is None else tuple(value) for name in PIXELS}
    names = ("heads", "decoder_heads", "frames", "image_size", "target", "target_frames", "encoder_only")
    return Options(**{name: getattr(options, name) for name in names}, **pixels)


def configuration(conversion: Conversion) -> CfgNode:
    return load_config([], [word for setting in conversion.settings.items() for word in setting])


def build(conversion: Conversion, cfg: CfgNode) -> nn.Module:
    """The model with the converted weights, in eval mode.

    Raises:
        ConversionError: tensors that are missing, left over or of another shape.
    """
    model = build_model(cfg)
    if conversion.is_encoder_alone:
        model = EncoderModel.of(model)
    pixels = {name: value for name, value in model.state_dict().items() if name in PIXELS}
    try:
        model.load_state_dict(conversion.tensors | pixels)
    except RuntimeError as error:
        raise ConversionError(f"the converted tensors are not those of the model: {error}") from error
    return model.eval()


@torch.no_grad()
def check_forward(model: nn.Module) -> str:
    """Computes what the model is for, of one random clip; raises ConversionError if a number is not finite."""
    generator = torch.Generator().manual_seed(0)
    clip = model.normalize(torch.randint(256, (1, *model.clip_shape), dtype=torch.uint8, generator=generator))
    found = model(clip, generator=generator) if isinstance(model, MaskedAutoencoder) else model(clip)
    value, what = (found, "output") if isinstance(found, torch.Tensor) else (found.loss, "loss")
    if not torch.isfinite(value).all():
        raise ConversionError("a forward pass of a random clip is not finite: the weights or an option are wrong")
    return f"checked: the {what} of a random clip is finite" + (f", {value.item():.4f}" if what == "loss" else "")


def report(weights: Weights, conversion: Conversion, model: nn.Module) -> list[str]:
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    _, frames, height, width = model.clip_shape
    lines = [
        f"{len(weights.tensors)} tensors -> {type(model).__name__}, {parameters:.1f} M parameters, clips of {frames} x "
        f"{height} x {width}",
        f"used: {len(conversion.used)} tensors",
    ]
    for reason in dict.fromkeys(conversion.left_out.values()):
        names = [name for name, why in conversion.left_out.items() if why == reason]
        lines.append(f"left out, {reason}: {', '.join(names)}")
    if weights.beside:
        more = f" and {len(weights.beside) - 8} more" if len(weights.beside) > 8 else ""
        lines.append(f"in the file beside the network's tensors, not used: {', '.join(weights.beside[:8])}{more}")
    lines += [f"changed: {text}" for text in conversion.folded]
    lines += [f"assumed, as no shape shows it: {text}" for text in conversion.assumed]
    return lines


def shell(value: object) -> str:
    """A value of the configuration, as it is typed in a shell."""
    return f'"{value}"' if isinstance(value, list) else str(value)


def notes(options: argparse.Namespace, conversion: Conversion) -> dict[str, str]:
    """Of the weights file."""
    found = {"source": options.source or f"{options.input.name} ({options.family})"}
    if options.license:
        found["license"] = options.license
    if conversion.is_encoder_alone:
        found["part"] = ENCODER_PART
    return found


def run(options: argparse.Namespace) -> None:
    check_paths(options)
    weights = read_weights(options.input)
    hf_config = read_hf_config(options.input) if options.input.is_dir() else None
    conversion = convert(options.family, weights.tensors, convert_options(options), hf_config)
    cfg = configuration(conversion)
    model = build(conversion, cfg)
    lines = report(weights, conversion, model)
    if options.check:
        lines.append(check_forward(model))
    save_weights(options.output, model.state_dict(), dump(cfg), **notes(options, conversion))
    print(*lines, sep="\n")
    print(f"wrote {options.output}; its configuration, to go on from:")
    print(" ".join(f"{key} {shell(value)}" for key, value in conversion.settings.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments, __doc__)
    try:
        run(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
