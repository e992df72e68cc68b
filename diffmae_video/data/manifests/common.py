"""What the readers of lists and folders share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from diffmae_video.data.decoders.common import IMAGE_EXTENSIONS

VIDEO_EXTENSIONS = (
    ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".flv", ".wmv", ".mpg", ".mpeg", ".ts", ".3gp", ".gif", ".ogv",
)  # fmt: skip
MEDIA_EXTENSIONS = VIDEO_EXTENSIONS + IMAGE_EXTENSIONS
NO_LABEL = -1
# What people call the folders and files of a split; the first that is there is taken.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "validate", "valid"),
    "test": ("test", "testing"),
}
PROBES = 50


class Entry(NamedTuple):
    """One video of a dataset."""

    path: str
    label: int  # class number; NO_LABEL where the list names none


class Source(NamedTuple):
    """Where a dataset is, and which part of it is wanted."""

    path: Path
    split: str = "train"
    prefix: str = ""  # folder of the videos; "" = where the layout usually has them
    labels: str = ""  # file of class names and numbers; "" = the layout's own
    fold: int = 1  # which of the official splits, where there are several
    keep_missing: bool = False  # also videos that are known not to be there


def split_names(split: str) -> tuple[str, ...]:
    """The names under which a split is found."""
    return SPLIT_NAMES.get(split, (split,))


def first_file(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first of ``names`` that is a file of the first of ``folders``."""
    names = list(names)
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def first_folder(root: Path, names: Iterable[str]) -> Path:
    """The first of ``names`` that is a folder in ``root``; ``root`` itself where none is."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def is_media(name: str) -> bool:
    return name.lower().endswith(MEDIA_EXTENSIONS) and not name.startswith(".")


def media_files(folder: str | os.PathLike[str]) -> list[str]:
    """All videos and images of a folder and below, sorted by path; names that start with a dot are skipped."""
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(parent, name) for name in files if is_media(name)]
    return sorted(found)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; those that start with a dot are skipped."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def spread(items: Sequence, count: int = PROBES) -> list:
    """At most ``count`` of ``items``, evenly spread."""
    step = max(1, len(items) // count)
    return list(items[::step][:count])


def locate(root: str | os.PathLike[str], forms: Iterator[list[str]]) -> list[str]:
    """The paths of a list's videos, in the first of several forms (file names below ``root``) in which any is there.

    Only a few files are looked for, so that a list of 200,000 on a network disk costs nothing. Where nothing is found
    in any form, the first one is kept: a missing file shows up when it is read.
    """
    first: list[str] | None = None
    for form in forms:
        first = form if first is None else first
        if any(os.path.exists(os.path.join(root, name)) for name in spread(form)):
            return [os.path.join(root, name) for name in form]
    return [os.path.join(root, name) for name in first or []]
