"""A folder to hand on: ``model.safetensors``, ``config.json`` and a model card, ``README.md``.

The weights file alone is enough to load the model; the other two are for people, and for the Hugging Face hub.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode
from torch import nn

from diffmae_video.build.model_card import model_card
from diffmae_video.build.models import model_of
from diffmae_video.config import AUTOENCODER_TASKS, dump, resolve_encoder
from diffmae_video.engine import find_checkpoint, save_weights
from diffmae_video.engine.disk import write_text
from diffmae_video.engine.weights_file import COUNTS, ENCODER_PART, FORMAT, MODEL_FILE
from diffmae_video.inpainting.sampling import check_model
from diffmae_video.models import LatentDAE, MaskedAutoencoder, VideoClassifier
from diffmae_video.models.encoder_model import EncoderModel

CONFIG_FILE, CARD_FILE = "config.json", "README.md"
FILES = (MODEL_FILE, CONFIG_FILE, CARD_FILE)
LIBRARY = "diffmae_video"


class PretrainedParts(NamedTuple):
    """A model and what is known of it."""

    model: nn.Module  # in eval mode, on the CPU, its configuration the attribute ``cfg``
    notes: dict[str, str]  # of the weights file: weights, step, clips, part, source, license, where known
    card: str | None  # text of a README.md that was found beside the weights; None = to be written


def read_parts(path: str | Path, encoder_only: bool = False) -> PretrainedParts:
    """Reads anything that ``load_model`` takes.

    Args:
        path: of a checkpoint, a run, a weights file, or the folder of one.
        encoder_only: leave out the decoder or the head.

    Raises:
        FileNotFoundError, engine.CheckpointError: as ``load_model``.
    """
    state, found = find_checkpoint(path)
    model = model_of(state, found)
    notes = dict(state["notes"]) if "notes" in state else _notes_of_run(state)
    card = _card_beside(found)
    if encoder_only and not isinstance(model, EncoderModel):
        cfg, model = model.cfg, EncoderModel.of(model)
        model.cfg, notes["part"], card = cfg, ENCODER_PART, None
    return PretrainedParts(model, notes, card)


def _card_beside(weights: Path) -> str | None:
    """The README.md in the folder of a weights file, if it is a card and not about something else."""
    path = weights.parent / CARD_FILE
    if weights.name != MODEL_FILE or not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    return text if f"library_name: {LIBRARY}" in text else None


def _notes_of_run(state: dict[str, Any]) -> dict[str, str]:
    """What a checkpoint says of its run: which weights it would be used with, and how long they were trained."""
    counts = {name: str(state["progress"][name]) for name in COUNTS if name in state["progress"]}
    return {"weights": "moving average" if "ema" in state else "of the last step", **counts}


def write_parts(folder: Path, parts: PretrainedParts, name: str) -> list[Path]:
    """Writes the three files into a folder that exists, each of them whole or not at all; returns their paths.

    Args:
        name: of the model, for its card.

    Raises:
        OSError: they cannot be written.
    """
    model, notes, card = parts
    paths = [folder / file for file in FILES]
    description = describe(model, notes)
    save_weights(paths[0], model.state_dict(), dump(model.cfg), **notes)
    write_text(paths[1], json.dumps(description, indent=2, ensure_ascii=False) + "\n")
    write_text(paths[2], model_card(name, description, notes, model.cfg) if card is None else card)
    return paths


def describe(model: nn.Module, notes: dict[str, str]) -> dict[str, Any]:
    """What ``config.json`` says: architecture, input and pixel statistics, training, and the whole configuration."""
    cfg = model.cfg
    data, encoder = cfg.DATA, cfg.MODEL.ENCODER
    width, depth, heads = resolve_encoder(cfg)
    channels, frames, height, pixels_wide = model.clip_shape
    architecture: dict[str, Any] = {
        "encoder": {
            "width": width,
            "depth": depth,
            "heads": heads,
            "mlp_ratio": encoder.MLP_RATIO,
            "patch_size": list(model.patch_size),
            "token_grid": list(model.grid),
            "position": encoder.POSITION,
            "class_token": encoder.CLASS_TOKEN,
        }
    }
    if isinstance(model, MaskedAutoencoder):
        architecture["decoder"] = _lower(cfg.MODEL.DECODER)
        architecture["objective"] = _objective(cfg)
    if isinstance(model, LatentDAE):
        architecture["decoder"] = {"depth": cfg.MODEL.DECODER.DEPTH}  # the rest is as the encoder
        architecture["objective"] = _lower(cfg.MODEL.LDAE) | _diffusion(cfg)
    if isinstance(model, VideoClassifier):
        architecture["head"] = {"kind": model.kind, "num_classes": model.num_classes, **_lower(cfg.MODEL.HEAD)}
    return {
        "format": FORMAT,
        "library_name": LIBRARY,
        "library_version": version(LIBRARY),
        "class": type(model).__name__,
        "method": cfg.MODEL.NAME if cfg.TASK in AUTOENCODER_TASKS else cfg.TASK,
        "inpaints": _inpaints(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "architecture": architecture,
        "input": {
            "layout": "B, C, T, H, W",
            "channels": channels,
            "num_frames": frames,
            "height": height,
            "width": pixels_wide,
            "sampling": data.SAMPLING,
            "sampling_rate": data.SAMPLING_RATE,
            "fit": data.FIT,
            "pixel_mean": list(data.MEAN),
            "pixel_std": list(data.STD),
        },
        "training": {"task": cfg.TASK, **{name: notes[name] for name in sorted(notes) if name != "part"}},
        "config_yaml": dump(cfg),
    }


def _lower(section: CfgNode) -> dict[str, Any]:
    return {name.lower(): value for name, value in section.items()}


def _objective(cfg: CfgNode) -> dict[str, Any]:
    found = {"target": cfg.MODEL.TARGET, "target_frames": cfg.MODEL.TARGET_FRAMES}
    if cfg.MODEL.NAME == "DiffMAE":
        found |= {"input_scaling": cfg.MODEL.INPUT_SCALING} | _diffusion(cfg)
    return found


def _diffusion(cfg: CfgNode) -> dict[str, Any]:
    return {"prediction": cfg.MODEL.PREDICTION, "diffusion": _lower(cfg.DIFFUSION)}


def _inpaints(model: nn.Module) -> bool:
    try:
        check_model(model)
    except ValueError:
        return False
    return True
