"""One file to hand on: the weights of a model as safetensors, its configuration in the same file.

A checkpoint (``checkpoint.py``) is for going on with a run; this is for using its result, here and elsewhere. Any
program that reads safetensors can read the tensors, and no code in the file is ever run. Its metadata, all text::

    format      diffmae_video/1
    config      YAML of the resolved configuration
    sha256      of the tensors and of the other metadata: safetensors itself has no checksum
    ...         notes, such as source or license: whatever the writer passed on
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from diffmae_video.engine.disk import FileWriter, write_atomically
from diffmae_video.engine.errors import CheckpointError, DamagedCheckpoint

SUFFIX = ".safetensors"
FORMAT = "diffmae_video/1"
MODEL_FILE = f"model{SUFFIX}"  # of a folder that is handed on
OWN_KEYS = ("format", "config", "sha256")
ENCODER_PART = "encoder"  # the note "part" of a file without decoder and head
COUNTS = ("step", "clips")  # notes that are whole numbers: how long the model was trained


class WeightsFile(NamedTuple):
    """What a weights file holds."""

    tensors: dict[str, torch.Tensor]  # on the CPU, named as in the model's state_dict
    config: str  # YAML text
    notes: dict[str, str]


def save_weights(path: str | Path, tensors: Mapping[str, torch.Tensor], config_text: str, **notes: str) -> None:
    """Writes a weights file, whole or not at all. The same content gives the same bytes.

    Args:
        path: ends in ``.safetensors``; the folder exists.
        tensors: a ``state_dict``. Tensors that share memory are written once each, strided ones contiguously.
        config_text: YAML of the whole resolved configuration (``config.dump``).
        notes: further text for the metadata, by name: ``source`` and ``license`` of the weights, ``trained_on``,
            ``step`` and ``clips`` seen in training; ``part`` = ``"encoder"`` where decoder or head are left out, which
            ``load_model`` then opens as an ``EncoderModel``.

    Raises:
        ValueError: another ending, nothing to write, what is no tensor or no text, or a count that is no number.
        OSError: the file cannot be written; what was there before is untouched.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"{path}: expected a name that ends in {SUFFIX}: readers tell the format by it")
    wrong = [name for name, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if wrong or not tensors:
        raise ValueError(f"{path}: expected tensors by name (a state_dict), got {', '.join(wrong) or 'none'}")
    wrong = [name for name, text in {**notes, "config_text": config_text}.items() if not isinstance(text, str)]
    wrong += [name for name in notes if name in OWN_KEYS or (name in COUNTS and not str(notes[name]).isdecimal())]
    if wrong:
        raise ValueError(
            f"{path}: {', '.join(wrong)}: a note is text, {' and '.join(COUNTS)} are digits, and {', '.join(OWN_KEYS)} "
            "are not for notes"
        )
    texts = {"config": config_text, **notes}
    tensors = _apart(tensors)
    metadata = {"format": FORMAT, **texts, "sha256": _sha256(tensors, texts)}
    write_atomically(path, lambda file: _write(file, tensors, metadata))


def load_weights(path: str | Path) -> WeightsFile:
    """Reads what :func:`save_weights` wrote, and compares it with its checksum.

    Raises:
        FileNotFoundError: no such file.
        DamagedCheckpoint: truncated, altered, or no safetensors file.
        CheckpointError: a whole safetensors file of another program, or of another version's format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{path} is not a whole safetensors file: {_reason(path, error)}") from error
    _check_format(path, metadata)
    texts = {name: text for name, text in metadata.items() if name not in ("format", "sha256")}
    if _sha256(tensors, texts) != metadata["sha256"]:
        raise DamagedCheckpoint(f"{path} is damaged, or was altered after it was written: wrong checksum")
    return WeightsFile(tensors, texts.pop("config"), texts)


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous CPU tensors of which no two share memory, which safetensors asks for; by name, in order."""
    found, taken = {}, set()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in taken else tensor
        taken.add(place)
    return found


def _sha256(tensors: Mapping[str, torch.Tensor], texts: Mapping[str, str]) -> str:
    found = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _write(file: FileWriter, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """With the header in a fixed order; the library puts its texts in a random one."""
    data = memoryview(to_safetensors(tensors, metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(bytes(data[8:end])), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little") + header)
    file.write(data[end:])


def _check_format(path: Path, metadata: Mapping[str, str]) -> None:
    written = metadata.get("format", "")
    if not written.startswith("diffmae_video/"):
        raise CheckpointError(
            f"{path} is a safetensors file of another program: expected metadata with format {FORMAT} and a config; "
            "tools/convert_weights.py converts the weights of some (docs/conversion.md)"
        )
    if written != FORMAT:
        raise CheckpointError(f"{path} has format {written}, this version reads {FORMAT}")
    missing = [key for key in OWN_KEYS if key not in metadata]
    if missing:
        raise DamagedCheckpoint(f"{path} is not a whole weights file: its metadata has no {', '.join(missing)}")


def _reason(path: Path, error: SafetensorError) -> str:
    with path.open("rb") as file:
        if file.read(24).startswith(b"version https://git-lfs"):
            return "it is a pointer of Git LFS, not the file itself; fetch it with git lfs pull"
    return " ".join(str(error).split())
