"""Files of weights of other programs, read without running any code that is in them."""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from diffmae_video.conversion.source import ConversionError
from diffmae_video.zip_files import compressed_entry

SAFETENSORS = ".safetensors"
WRAPPERS = ("model", "module", "model_state", "state_dict")  # where training programs keep the state dict
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")  # of wrappers around the network
HF_FILES = ("model.safetensors", "pytorch_model.bin")
HF_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


class Weights(NamedTuple):
    """What a file of weights holds."""

    tensors: dict[str, torch.Tensor]  # state dict on the CPU, by the names that the network itself gives its tensors
    beside: list[str]  # what else is in the file, such as an optimiser's state, and is not used


def read_weights(path: str | Path) -> Weights:
    """Reads a state dict.

    Args:
        path: a file of ``torch.save`` or ``.safetensors``: a state dict, or a dictionary that has one under one of
            ``WRAPPERS``; or the folder of a model as transformers saves it, in one file or several.

    Raises:
        FileNotFoundError: nothing there.
        ConversionError: a file that cannot be read, that holds more than tensors and plain values, or no state dict.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}")
    tensors: dict[str, torch.Tensor] = {}
    beside: list[str] = []
    for file in _files_of(path) if path.is_dir() else [path]:
        found, others = _state_dict(file, _content(file))
        tensors |= found
        beside += others
    return Weights(_without_prefixes(path, tensors), beside)


def _files_of(folder: Path) -> list[Path]:
    for name in HF_FILES:
        if (folder / name).is_file():
            return [folder / name]
    for name in HF_INDICES:
        if (folder / name).is_file():
            parts = sorted(set(read_json(folder / name)["weight_map"].values()))
            elsewhere = [part for part in parts if Path(part).name != part]
            if elsewhere:
                raise ConversionError(f"{folder / name} names {elsewhere[0]}, which is no file of this folder")
            return [folder / part for part in parts]
    raise ConversionError(f"{folder} has none of {', '.join(HF_FILES + HF_INDICES)}: name the file of the weights")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file with a dictionary; raises ConversionError for any other."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ConversionError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path}: expected a JSON object")
    return content


def _content(path: Path) -> Any:
    if path.suffix == SAFETENSORS:
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ConversionError(f"{path} is not a whole safetensors file: {_one_line(error)}") from error
    packed = compressed_entry(path)
    if packed:
        raise ConversionError(
            f"{path} is compressed (its entry {packed}), which torch.save never does: unpacked it could fill the memory"
        )
    try:
        # Training programs of this family store their options beside the weights: a Namespace is a bag of values, its
        # construction runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{path} holds more than tensors and plain values, or is no file of torch.save: {_refused(error)}. Such a "
            "file can run any code as it is read, so it is not. Where you trust it, keep its state dict alone: "
            'torch.save(torch.load(path, weights_only=False)["model"], new_path)'
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ConversionError(f"{path} cannot be read as weights: {_one_line(error)}") from error


def _refused(error: pickle.UnpicklingError) -> str:
    """What the reader objects to; its own message goes on with advice to read the file all the same."""
    match = re.search(r"(?:Unsupported global: GLOBAL|GLOBAL) ([\w.]+)", str(error))
    return f"it has a {match[1]}" if match else _one_line(error)[:200]


def _state_dict(path: Path, content: Any) -> tuple[dict[str, torch.Tensor], list[str]]:
    """(state dict, names of what lies beside it)."""
    beside: list[str] = []
    while isinstance(content, Mapping):
        wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapper is None:
            break
        beside += [str(key) for key in content if key != wrapper]
        content = content[wrapper]
    if not isinstance(content, Mapping) or not any(isinstance(value, torch.Tensor) for value in content.values()):
        found = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        raise ConversionError(
            f"{path}: found {found or 'nothing'}, expected a state dict, alone or under {', '.join(WRAPPERS)}"
        )
    others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ConversionError(f"{path}: {', '.join(others[:8])} among the tensors of the state dict: not a tensor")
    return dict(content), beside


def _without_prefixes(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        while name.startswith(PREFIXES):
            name = name.split(".", 1)[1]
        if name in found:
            raise ConversionError(f"{path}: {name} is there twice, with and without a prefix: which one is meant?")
        found[name] = tensor
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
