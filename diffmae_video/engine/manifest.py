"""What a checkpoint folder consists of: ``manifest.json``, which is written last and without which it is none.

JSON with the entries::

    sha256      of all the others
    world_size  number of the processes that wrote it
    format, progress, config    of the checkpoint (checkpoint.py), to be read by people too
    parts       by the name of a file: [size in bytes, SHA-256]
    tensors     by name: {"dtype", "size", "pieces": [[offsets, sizes, part, place in the part, length], ...]}

It stands in place of the pickle in which ``torch.distributed.checkpoint`` would keep the last of these: nothing of such
a folder is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from diffmae_video.engine.disk import sync_folder, write_text
from diffmae_video.engine.errors import DamagedCheckpoint, one_line

MANIFEST, VALUES = "manifest.json", "values.pt"
PART = re.compile(r"__\d+_\d+\.distcp|values\.pt")
SHOWN = ("format", "progress", "config")  # entries of a checkpoint that the manifest has
READERS = 8  # threads that compare parts with their checksums: of a shared disk, one reads too slowly
BLOCK = 2**22  # bytes read at a time

Content = dict[str, Any]


def write_manifest(folder: Path, content: Content) -> None:
    """Makes a folder a checkpoint; ``content`` is all but the checksum.

    Raises:
        OSError: it cannot be written, or a part is not there; the folder is no checkpoint.
    """
    unseen = [name for name, (size, _) in content["parts"].items() if file_size(folder / name) != size]
    if unseen:
        raise OSError(
            f"{folder / unseen[0]} was written by another process and is not there for the first one: OUTPUT_DIR must "
            "be on a file system that all machines of the run share"
        )
    sync_folder(folder)
    write_text(folder / MANIFEST, json.dumps({"sha256": _digest(content), **content}) + "\n")
    sync_folder(folder.parent)


def read_manifest(folder: Path) -> Content:
    """The manifest, whose every name stays in the folder, and whose tensors are no larger than the parts."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DamagedCheckpoint(f"{folder} is not a whole checkpoint: it has no {MANIFEST}, which is written last")
    try:
        content = json.loads(path.read_bytes())
        expected = content.pop("sha256")
        if _digest(content) != expected:
            raise DamagedCheckpoint(f"{path} is damaged: wrong checksum")
        missing = [key for key in (*SHOWN, "world_size") if key not in content]
        if missing:
            raise DamagedCheckpoint(f"{path} is not a whole manifest: it has no {', '.join(missing)}")
        parts = content["parts"]
        pieces = [piece for info in content["tensors"].values() for piece in info["pieces"]]
        strange = [name for name in [*parts, *(piece[2] for piece in pieces)] if not PART.fullmatch(name)]
        strange += [piece[2] for piece in pieces if piece[2] not in parts]
        if strange or VALUES not in parts:
            raise DamagedCheckpoint(f"{path} names parts that no checkpoint has: {', '.join(strange) or VALUES}")
        claimed = sum(math.prod(info["size"]) * dtype_of(info).itemsize for info in content["tensors"].values())
        if claimed > sum(size for size, _ in parts.values()):
            raise DamagedCheckpoint(f"{path} has tensors of {claimed} bytes, more than its parts hold")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise DamagedCheckpoint(f"{path} is not a whole manifest: {one_line(error)}") from error
    return content


def check_parts(folder: Path, parts: Mapping[str, list[Any]]) -> None:
    """Compares all parts with their checksums; raises DamagedCheckpoint."""
    for name, (size, _) in parts.items():
        found = file_size(folder / name)
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes"
            raise DamagedCheckpoint(f"{folder / name} {what}, expected {size} bytes")
    with ThreadPoolExecutor(READERS) as readers:
        for name, found in zip(parts, readers.map(lambda name: size_and_sum(folder / name), parts), strict=True):
            if found != parts[name]:
                raise DamagedCheckpoint(f"{folder / name} is damaged: wrong checksum")


def dtype_of(info: Mapping[str, Any]) -> torch.dtype:
    """The type that the manifest names; ValueError for what is none."""
    found = getattr(torch, str(info["dtype"]), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"unknown type of a tensor: {info['dtype']}")
    return found


# ------------------------------------------------------------------------------------------------------- checksums


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_size(path: Path) -> int | None:
    """In bytes; None where there is no file."""
    return path.stat().st_size if path.is_file() else None


def size_and_sum(path: Path) -> list[Any]:
    size, found = 0, hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            size += len(block)
            found.update(block)
    return [size, found.hexdigest()]
