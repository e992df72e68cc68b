"""Checkpoints that survive being killed, a full disk and a damaged file.

A checkpoint is one zip file, as ``torch.save`` writes it, holding a dictionary of tensors and plain Python values::

    format      1
    model       state_dict of the bare model
    optimizer   state_dict
    progress    {"step", "clips", "draws", "unreadable"}
    monitor     averages of the log interval in progress
    config      YAML text of the resolved configuration
    rng         {"cpu": state of torch's global generator}; every step seeds it anew (see randomness.py)
    ema         with averaged weights only: what a model that has them would have as its state_dict
    ema_updates with averaged weights only: how many steps they average over

In a folder of them, ``step_00000500.pt`` is the state after 500 optimiser steps and ``latest`` a text file with the
name of the newest. A file gets its name only once it is complete and on the disk, and ``latest`` is written after that;
so whatever moment the process is killed at, the newest ``step_*.pt`` is a whole one.
"""

from __future__ import annotations

import difflib
import logging
import os
import pickle
import re
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from diffmae_video.engine.disk import NO_SPACE, tolerate_full_disk, write_atomically, write_text
from diffmae_video.engine.errors import CheckpointError, DamagedCheckpoint
from diffmae_video.engine.weights_file import COUNTS, MODEL_FILE, SUFFIX, load_weights

logger = logging.getLogger(__name__)

FORMAT = 1
KEYS = ("format", "model", "optimizer", "progress", "config")
LATEST = "latest"
FOLDER = "checkpoints"  # of a run folder
STEP_FILE = re.compile(r"step_(\d{8,})\.pt")
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
    _check_bytes(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedCheckpoint(f"{path} is not a checkpoint: it holds more than tensors and plain values") from error
    except RuntimeError as error:
        raise CheckpointError(f"{path} cannot be loaded: {_one_line(error)}") from error
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


def _check_bytes(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except ZIP_ERRORS as error:
        raise DamagedCheckpoint(f"{path} is not a whole checkpoint file: {_one_line(error)}") from error
    if broken is not None:
        raise DamagedCheckpoint(f"{path} is damaged: wrong checksum of its entry {broken}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


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
    """The checkpoints of a folder by step, newest first."""
    folder = Path(folder)
    names = os.listdir(folder) if folder.is_dir() else []
    steps = {int(match[1]): folder / name for name in names if (match := STEP_FILE.fullmatch(name))}
    return dict(sorted(steps.items(), reverse=True))


def newest_good(folder: str | Path) -> tuple[dict[str, Any], Path] | None:
    """The newest whole checkpoint of a folder and its path; damaged newer ones are passed over with a warning.

    Returns None when the folder holds no checkpoint.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
    """
    files = step_files(folder)
    damage = []
    for path in files.values():
        try:
            state = load_checkpoint(path)
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
    """Loads what ``path`` names: a checkpoint file, a run folder, its ``checkpoints`` folder, or the ``latest`` in it.

    A folder or ``latest`` gives the newest whole checkpoint there. A weights file (``.safetensors``), or a folder with
    a ``model.safetensors`` and no checkpoints, gives what can be used of a model without going on with its run.

    Returns:
        The checkpoint and the path of its file. Of a weights file: ``format``, ``model``, ``config``, ``progress`` (0
        steps and clips where its notes do not say) and ``notes``.

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
    if not folder.is_dir():
        return (_from_weights_file if path.suffix == SUFFIX else load_checkpoint)(path), path.resolve()
    found = newest_good(folder)
    if found is None and (folder / MODEL_FILE).is_file():
        return _from_weights_file(folder / MODEL_FILE), folder / MODEL_FILE
    if found is None:
        raise FileNotFoundError(
            f"no checkpoint in {path}: expected a run folder with {FOLDER}/step_*.pt, a folder with {MODEL_FILE}, or "
            "a file"
        )
    return found


def _from_weights_file(path: Path) -> dict[str, Any]:
    """A weights file in the form of a checkpoint."""
    tensors, config, notes = load_weights(path)
    progress = {name: int(notes.get(name, 0)) for name in COUNTS}
    return {"format": FORMAT, "model": tensors, "config": config, "progress": progress, "notes": notes}


class CheckpointManager:
    """The checkpoints of one run.

    Keeps the two newest and, for good, those at multiples of ``keep_period``; older ones are deleted after a newer one
    is complete, never before. One process writes to a folder at a time.

    Args:
        folder: created when missing; left-over temporary files of a killed process are removed from it.
        keep_period: optimiser steps; 0 = none is kept for good.
    """

    KEEP = 2

    def __init__(self, folder: str | Path, keep_period: int = 0):
        self.folder, self.keep_period = Path(folder), keep_period
        self.folder.mkdir(parents=True, exist_ok=True)
        for left_over in self.folder.glob(".*.tmp"):
            left_over.unlink(missing_ok=True)

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.pt"

    def latest(self) -> Path | None:
        """The newest checkpoint's path, unread; None when there is none."""
        return next(iter(step_files(self.folder).values()), None)

    def load_latest(self) -> tuple[dict[str, Any], Path] | None:
        """The newest whole checkpoint and its path, to go on from; None when there is none.

        Damaged newer files are renamed to ``*.damaged``, so that they are not taken for the newest again.

        Raises:
            CheckpointError: there are checkpoints, and none is whole.
        """
        found = newest_good(self.folder)
        if found is not None:
            for path in step_files(self.folder).values():
                if path == found[1]:
                    break
                os.replace(path, path.with_name(f"{path.name}.damaged"))
                logger.warning("%s was renamed to %s.damaged", path, path.name)
        return found

    def save(self, state: dict[str, Any], step: int) -> Path | None:
        """Writes ``state`` as the checkpoint of ``step``; returns its path, or None when the disk is full.

        A full disk leaves the earlier checkpoints as they were and is logged as a warning with the room needed.

        Raises:
            OSError: the folder cannot be written for another reason.
        """
        path = self.path(step)
        try:
            save_checkpoint(path, state)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            self._warn_full(state, step)
            return None
        with tolerate_full_disk(str(self.folder / LATEST)):
            write_text(self.folder / LATEST, f"{path.name}\n")
        self._prune(step)
        return path

    def _warn_full(self, state: dict[str, Any], step: int) -> None:
        needed, free = tensor_bytes(state) / 2**20, shutil.disk_usage(self.folder).free / 2**20
        newest = self.latest()
        logger.warning(
            "the checkpoint of step %d was NOT saved, the disk of %s is full: about %.0f MiB are needed, %.0f MiB are "
            "free. Training goes on; the newest checkpoint is %s. Free some space",
            step, self.folder, needed, free, "none" if newest is None else newest.name,
        )  # fmt: skip

    def _prune(self, newest_step: int) -> None:
        """Deletes all but the newest checkpoints up to ``newest_step``, which was just written."""
        steps = [step for step in step_files(self.folder) if step <= newest_step]
        for step in steps[self.KEEP :]:
            if not self.keep_period or step % self.keep_period:
                self.path(step).unlink(missing_ok=True)
