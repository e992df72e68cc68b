"""The lists of ``evidence.py``: which files a study pre-trains on, which it learns from, and which it is judged by.

In a folder ``lists``: ``unlabelled/train.csv``, every training file with label -1, and ``labelled/<split>.csv``, those
of the classes to recognise. Lines are ``path label`` with absolute paths.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffmae_video.data import read_manifest

RENDERER = Path(__file__).resolve().parent.parent / "datasets" / "render_motion_set.py"
COLUMNS = ("file", "class_id", "group", "split")
MOTION_SPLITS = ("train", "val", "unseen")


class ListError(ValueError):
    """The data is not what a study needs; the message says what is wrong."""


@dataclass(frozen=True)
class Item:
    """One file. ``group``: what must not be in two splits (a speaker, a sequence); "" = not known."""

    path: Path
    label: int
    split: str
    group: str = ""


def prepare(source: str, data: Path, folder: Path, classes: Sequence[int] | None, test_split: str) -> None:
    """Writes the lists of a study.

    Args:
        source: "manifest" (a folder with ``manifest.csv``), "class_folders" (a folder per class below ``train`` and
            ``<test_split>``), or "motion_set" (rendered first, where it is not there).
        data: the folder.
        folder: where the lists go; created.
        classes: those to recognise, which become 0, 1, ...; None = all.
        test_split: needed beside "train".

    Raises:
        ListError: see :func:`check` and :func:`read_items`.
        FileNotFoundError: no such data.
    """
    items = read_items(source, data, test_split)
    check(items, ("train", test_split))
    if classes is not None and (missing := set(classes) - {item.label for item in items}):
        raise ListError(f"{data} has no files of the classes {', '.join(map(str, sorted(missing)))}")
    write_list(folder / "unlabelled" / "train.csv", [(item.path, -1) for item in items if item.split == "train"])
    number = {label: label if classes is None else list(classes).index(label) for label in _wanted(items, classes)}
    for split in dict.fromkeys(item.split for item in items):
        own = [(item.path, number[item.label]) for item in items if item.split == split and item.label in number]
        write_list(folder / "labelled" / f"{split}.csv", own)


def read_items(source: str, data: Path, test_split: str) -> list[Item]:
    """All files of the data, by the kinds of source that :func:`prepare` lists.

    Raises:
        ListError: a manifest without one of its columns, a class number that is none, nothing in a split, or an
            unknown ``source``.
        FileNotFoundError: no such data.
    """
    if source == "manifest":
        return read_manifest_csv(data / "manifest.csv")
    if source == "class_folders":
        splits, layout = ("train", test_split), "class_folders"
    elif source == "motion_set":
        render(data)
        splits, layout = MOTION_SPLITS, "list"
    else:
        raise ListError(f"unknown source {source!r}: choose one of manifest, class_folders, motion_set")
    try:
        entries = [(split, entry) for split in splits for entry in read_manifest(data, split, format=layout)]
    except ValueError as error:
        raise ListError(str(error)) from error
    return [Item(Path(entry.path).resolve(), entry.label, split) for split, entry in entries]


def read_manifest_csv(file: Path) -> list[Item]:
    """The rows of a ``manifest.csv`` with (at least) the columns file, class_id, group and split.

    Raises:
        ListError: a column is missing, or a class number is none.
        FileNotFoundError: no such file.
    """
    with file.open(newline="") as opened:
        reader = csv.DictReader(opened)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise ListError(f"{file} has no column {', '.join(missing)}; it has {', '.join(reader.fieldnames or ())}")
        rows = list(reader)
    for number, row in enumerate(rows, 2):
        if not row["class_id"].isdecimal():
            raise ListError(f"{file}:{number}: class_id is {row['class_id']!r}, expected a number from 0 on")
    folder = file.resolve().parent
    return [Item(folder / row["file"], int(row["class_id"]), row["split"], row["group"]) for row in rows]


def check(items: Sequence[Item], splits: Sequence[str]) -> None:
    """Raises ListError for a file or a group in two splits, a file that is not there, or a split without a file."""
    for what, key in (("the file", lambda item: str(item.path)), ("the group", lambda item: item.group)):
        found: dict[str, str] = {}
        for item in items:
            if key(item) and found.setdefault(key(item), item.split) != item.split:
                raise ListError(
                    f"{what} {key(item)} is in {found[key(item)]} and in {item.split}: what is judged would have been "
                    "seen in training"
                )
    if absent := [item.path for item in items if not item.path.is_file()]:
        raise ListError(f"{len(absent)} of {len(items)} files are not there, such as {absent[0]}")
    if empty := [split for split in splits if not any(item.split == split for item in items)]:
        raise ListError(f"there are no files of the split {', '.join(empty)}")


def write_list(file: Path, lines: Sequence[tuple[Path, int]]) -> None:
    """Lines ``path label``; see ``read_manifest``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{path} {label}\n" for path, label in lines))


def render(folder: Path) -> None:
    """Renders the motion set, unless a complete one is there."""
    subprocess.run([sys.executable, str(RENDERER), "--output", str(folder)], check=True)


def _wanted(items: Sequence[Item], classes: Sequence[int] | None) -> set[int]:
    return {item.label for item in items} if classes is None else set(classes)
