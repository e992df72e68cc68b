"""Checkpoints that survive being killed, a full disk and damage: what is in one, and how one is found and read.

A checkpoint holds a dictionary of tensors and plain Python values::

    format      1
    model       state_dict of the bare model
    optimizer   state_dict
    progress    {"step", "clips", "draws", "unreadable"}
    monitor     averages of the log interval in progress
    config      YAML text of the resolved configuration
    rng         {"cpu": state of torch's global generator}; every step seeds it anew (see randomness.py)
    ema         with averaged weights only: what a model that has them would have as its state_dict
    ema_updates with averaged weights only: how many steps they average over

It is one zip file, ``step_00000500.pt``, as ``torch.save`` writes it, or a folder that every process has written its
part of, ``step_00000500`` (see sharded.py); the number is that of the optimiser steps done. Beside them ``latest`` is a
text file with the name of the newest. A file gets its name, and a folder its manifest, only once all of it is complete
and on the disk, and ``latest`` is written after that; so whatever moment the process is killed at, the newest of them
is a whole one.
"""

from __future__ import annotations

import difflib
import logging
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffmae_video.engine.disk import write_atomically
from diffmae_video.engine.errors import CheckpointError, DamagedCheckpoint, one_line
from diffmae_video.engine.manifest import MANIFEST
from diffmae_video.engine.weights_file import COUNTS, MODEL_FILE, SUFFIX, load_weights
from diffmae_video.zip_files import compressed_entry

logger = logging.getLogger(__name__)

FORMAT = 1
KEYS = ("format", "model", "optimizer", "progress", "config")
LATEST = "latest"
FOLDER = "checkpoints"  # of a run folder
STEP_NAME = re.compile(r"step_(\d{8,})(\.pt)?")
# What the zip reader raises on damaged bytes; the last two for flags that say "encrypted" or "unknown compression".
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, NotImplementedError)


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Writes ``state`` (tensors and plain Python values) atomically.

    Raises:
        OSError: see :func:`write_atomically`; errno ENOSPC or EDQUOT when there is no room.
    """
    write_atomically(path, lambda file: torch.save(state, file))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads one checkpoint file onto the CPU, after comparing every part of it with its checksum.

    Tensors and plain values only: no code in the file is ever run.

    Raises:
        FileNotFoundError: no such file.
        DamagedCheckpoint: truncated, altered, or without the entries of a checkpoint.
        CheckpointError: a whole file that cannot be loaded, or of another version's format.
    """
    path = Path(path)
    check_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedCheckpoint(f"{path} is not a checkpoint: it holds more than tensors and plain values") from error
    except RuntimeError as error:
        raise CheckpointError(f"{path} cannot be loaded: {one_line(error)}") from error
    return _whole(state, path)


def load_any(path: Path, into: Mapping[str, Any] | None = None, check: bool = True) -> dict[str, Any]:
    """Reads a checkpoint file, or a folder with a manifest; arguments as :func:`sharded.load_sharded`, raises as both.

    Of a file, every process reads the whole, and ``into`` and ``check`` change nothing.
    """
    if path.is_dir():
        # Imported here: it takes a second, and most checkpoints are files.
        from diffmae_video.engine.sharded import load_sharded

        return _whole(load_sharded(path, into, check), path)
    return load_checkpoint(path)


def _whole(state: Any, path: Path) -> dict[str, Any]:
    """``state`` itself, if it has the entries of a checkpoint."""
    missing = [key for key in KEYS if not isinstance(state, dict) or key not in state]
    if missing:
        raise DamagedCheckpoint(f"{path} is not a whole checkpoint: it has no entry {', '.join(missing)}")
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path} has checkpoint format {state['format']}, this version reads format {FORMAT}")
    return state


def ema_state(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint to use a model with: the averaged ones where its run kept them, else the last ones.

    Both have the layout of the model's ``state_dict``.
    """
    return state["ema"] if "ema" in state else state["model"]


def check_file(path: Path) -> None:
    """Compares every part of a checkpoint file with its checksum; raises DamagedCheckpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = compressed_entry(path)
            broken = None if packed else archive.testzip()
    except ZIP_ERRORS as error:
        raise DamagedCheckpoint(f"{path} is not a whole checkpoint file: {one_line(error)}") from error
    if packed:
        raise DamagedCheckpoint(f"{path} is not a checkpoint file: its entry {packed} is compressed")
    if broken is not None:
        raise DamagedCheckpoint(f"{path} is damaged: wrong checksum of its entry {broken}")


def config_changes(saved: str, current: str) -> list[str]:
    """The lines of two YAML texts that differ, for the log: ``"- BASE_LR: 0.1"`` then ``"+ BASE_LR: 0.2"``."""
    difference = difflib.ndiff(saved.splitlines(), current.splitlines())
    return [" ".join(line.split()) for line in difference if line[:1] in "+-"]


def tensor_bytes(value: Any) -> int:
    """Size of all tensors in nested dictionaries, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(tensor_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(tensor_bytes, value))
    return 0


def step_files(folder: str | Path) -> dict[int, Path]:
    """The checkpoints of a folder by step, newest first: files, and folders that have a manifest."""
    folder = Path(folder)
    found: dict[int, Path] = {}
    for name in sorted(os.listdir(folder) if folder.is_dir() else []):
        match = STEP_NAME.fullmatch(name)
        if match and (match[2] or (folder / name / MANIFEST).is_file()):
            found[int(match[1])] = folder / name
    return dict(sorted(found.items(), reverse=True))


def newest_good(
    folder: str | Path, into: Mapping[str, Any] | None = None, check: bool = True
) -> tuple[dict[str, Any], Path] | None:
    """The newest whole checkpoint of a folder and its path; damaged newer ones are passed over with a warning.

    Args:
        folder: of checkpoints.
        into, check: see :func:`load_any`.

    Returns:
        None when the folder holds no checkpoint.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
    """
    files = step_files(folder)
    damage = []
    for path in files.values():
        try:
            state = load_any(path, into, check)
        except DamagedCheckpoint as error:
            damage.append(str(error))
            continue
        for message in damage:
            logger.warning("%s; using the one before it, %s", message, path)
        return state, path
    if files:
        raise CheckpointError(
            f"none of the {len(files)} checkpoints in {folder} is whole ({damage[0]}); move that folder away to start "
            "from scratch"
        )
    return None


def find_checkpoint(path: str | Path) -> tuple[dict[str, Any], Path]:
    """Loads what ``path`` names: a checkpoint, a run folder, its ``checkpoints`` folder, or the ``latest`` in it.

    A folder or ``latest`` gives the newest whole checkpoint there. A weights file (``.safetensors``), or a folder with
    a ``model.safetensors`` and no checkpoints, gives what can be used of a model without going on with its run.

    Returns:
        The checkpoint, its tensors whole and on the CPU, and its path. Of a weights file: ``format``, ``model``,
        ``config``, ``progress`` (0 steps and clips where its notes do not say) and ``notes``.

    Raises:
        FileNotFoundError: nothing there.
        CheckpointError: what is there cannot be used.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}: expected the path of a checkpoint or of a run folder")
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    if path.name == LATEST and path.is_file() and not zipfile.is_zipfile(path):
        folder = path.parent
    if STEP_NAME.fullmatch(path.name) and path.is_dir():
        return load_any(path), path.resolve()
    if not folder.is_dir():
        return (_from_weights_file if path.suffix == SUFFIX else load_checkpoint)(path), path.resolve()
    found = newest_good(folder)
    if found is None and (folder / MODEL_FILE).is_file():
        return _from_weights_file(folder / MODEL_FILE), folder / MODEL_FILE
    if found is None:
        raise FileNotFoundError(
            f"no checkpoint in {path}: expected a run folder with {FOLDER}/step_*, a folder with {MODEL_FILE}, or a "
            "file"
        )
    return found


def _from_weights_file(path: Path) -> dict[str, Any]:
    """A weights file in the form of a checkpoint."""
    tensors, config, notes = load_weights(path)
    progress = {name: int(notes.get(name, 0)) for name in COUNTS}
    return {"format": FORMAT, "model": tensors, "config": config, "progress": progress, "notes": notes}
