"""Lists of this project and its relatives: ``path label``, and ``name first last label`` for extracted frames."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from diffmae_video.data.manifests.common import NO_LABEL, Entry, Source, locate

SEPARATORS = "\t,; "  # tried in this order; the space last, because paths hold spaces more often than the others
HEADER_NAMES = {"path", "file", "filename", "file_name", "video", "video_path", "name"}
FRAME_LINE = re.compile(r"(\S+)\s+(\d+)\s+(\d+)\s+(-1|\d+)")


def content_lines(file: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of every line that is neither empty nor a comment."""
    # utf-8-sig: spreadsheets put a byte order mark in front, which would become part of the first path.
    with open(file, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            line = line.strip()
            if line and not line.startswith("#"):
                yield number, line


def read_list(file: Path, source: Source) -> list[Entry]:
    """Lines ``path label``; see ``read_manifest``.

    Raises ValueError: a line that names no file, or no line.
    """
    entries = list(_parse(content_lines(file), file, source.prefix or os.fspath(file.parent)))
    if not entries:
        raise ValueError(f"{file} lists no video; expected lines of the form: path label")
    return entries


def read_frame_list(file: Path, source: Source) -> list[Entry]:
    """Lines ``name first last label``: a folder of extracted frames, or a video of that name.

    The whole video is used, so ``first`` must be 0; ``last`` says how many frames were extracted and is not needed.

    Raises ValueError: a line of another form, a video that does not start at frame 0, or no line.
    """
    names, labels = [], []
    for number, line in content_lines(file):
        match = FRAME_LINE.fullmatch(line)
        if match is None or match[2] != "0":
            expected = "name 0 last label (four fields, the video from its first frame on)"
            raise ValueError(f"{file}:{number}: {line!r}; expected {expected}")
        names.append(match[1])
        labels.append(int(match[4]))
    if not names:
        raise ValueError(f"{file} lists no video; expected lines of the form: name first last label")
    root = source.prefix or os.fspath(file.parent)
    forms = ([name + extension for name in names] for extension in ("", ".webm", ".mp4", ".avi", ".mkv"))
    return [Entry(path, label) for path, label in zip(locate(root, forms), labels, strict=True)]


def _parse(lines: Iterable[tuple[int, str]], file: Path, root: str) -> Iterator[Entry]:
    expect_header = True
    for number, line in lines:
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
