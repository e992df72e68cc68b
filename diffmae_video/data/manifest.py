"""Which videos a dataset holds: from a Kinetics-style CSV, or from a folder of videos and images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from diffmae_video.data.decoding import IMAGE_EXTENSIONS

VIDEO_EXTENSIONS = (
    ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".flv", ".wmv", ".mpg", ".mpeg", ".ts", ".3gp", ".gif", ".ogv",
)  # fmt: skip
MEDIA_EXTENSIONS = VIDEO_EXTENSIONS + IMAGE_EXTENSIONS
NO_LABEL = -1
SEPARATORS = "\t,; "  # tried in this order; the space last, because paths hold spaces more often than the others
HEADER_NAMES = {"path", "file", "filename", "file_name", "video", "video_path", "name"}


class Entry(NamedTuple):
    """One video of a dataset."""

    path: str
    label: int  # class number; NO_LABEL where the list names none


def read_manifest(path: str | os.PathLike[str], split: str = "train", path_prefix: str = "") -> list[Entry]:
    """The videos of a dataset, in the order of its list. Files are not touched: a missing one shows up when read.

    Args:
        path: one of

            - a folder that holds ``{split}.csv``;
            - a ``.csv`` (or ``.txt``) file, whatever the split: one video per line, ``path label``. The separator is
              a tab, comma, semicolon or space; a path may hold spaces, and may be quoted. The label is an integer in
              the last field (-1 = none), and may be left out. Empty lines, lines that start with ``#`` and a header
              line (``path,label``) are skipped;
            - any other folder, whatever the split: all videos and images in it and below, sorted by path, without
              labels. Names that start with a dot are skipped.
        split: "train", "val", "test", ...
        path_prefix: put before relative paths of a CSV (and of no folder); "" = the folder of the CSV.

    Raises:
        FileNotFoundError: ``path`` does not exist, or is a folder with the CSV of another split only.
        ValueError: a line that names no file (says which line of which file), or no video at all.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"data path does not exist: {path}")
    if path.is_file():
        entries = _read_csv(path, path_prefix)
    elif (path / f"{split}.csv").is_file():
        entries = _read_csv(path / f"{split}.csv", path_prefix)
    elif other := sorted(p.name for p in path.glob("*.csv") if p.stem in ("train", "val", "test")):
        raise FileNotFoundError(f"{path} has no {split}.csv, only {', '.join(other)}")
    else:
        entries = [Entry(file, NO_LABEL) for file in _media_files(path)]
        if not entries:
            raise ValueError(f"{path} holds no {split}.csv and no video or image ({' '.join(MEDIA_EXTENSIONS)})")
    return entries


def _media_files(folder: Path) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.join(parent, name)
            for name in files
            if name.lower().endswith(MEDIA_EXTENSIONS) and not name.startswith(".")
        ]
    return sorted(found)


def _read_csv(file: Path, path_prefix: str) -> list[Entry]:
    root = path_prefix or os.fspath(file.parent)
    # utf-8-sig: spreadsheets put a byte order mark in front, which would become part of the first path.
    with open(file, encoding="utf-8-sig", errors="surrogateescape") as lines:
        entries = list(_parse(lines, file, root))
    if not entries:
        raise ValueError(f"{file} lists no video; expected lines of the form: path label")
    return entries


def _parse(lines: Iterable[str], file: Path, root: str) -> Iterator[Entry]:
    expect_header = True
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if expect_header and _is_header(line):
            expect_header = False
            continue
        expect_header = False
        name, label = split_line(line)
        # Lists of another form (ids, three columns and more) end up here as one long name.
        if not os.path.splitext(name)[1]:
            raise ValueError(
                f"{file}:{number}: {line!r} does not name a file with its extension; expected a path, a separator "
                "(space, comma, tab or semicolon) and a class number, or only a path"
            )
        yield Entry(os.path.join(root, name), label)  # an absolute name stays as it is


def split_line(line: str) -> tuple[str, int]:
    """(path, label) of one line; the label is the last field if it is a whole number >= 0 or -1, else NO_LABEL."""
    for separator in SEPARATORS:
        name, found, last = line.rpartition(separator)
        last = last.strip()
        if found and last.isascii() and (last.isdigit() or last == "-1"):
            return _unquoted(name), int(last)
    return _unquoted(line), NO_LABEL


def _unquoted(name: str) -> str:
    name = name.rstrip("\t,; ").lstrip()
    if len(name) >= 2 and name[0] == name[-1] and name[0] in "\"'":
        return name[1:-1]
    return name


def _is_header(line: str) -> bool:
    first = min((line.split(separator, 1)[0] for separator in SEPARATORS), key=len)
    return first.strip(" \"'").lower() in HEADER_NAMES
