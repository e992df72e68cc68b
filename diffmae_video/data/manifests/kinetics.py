"""The official lists of Kinetics-400, -600 and -700: ``label,youtube_id,time_start,time_end,split``."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from diffmae_video.data.manifests.common import (
    NO_LABEL,
    Entry,
    Source,
    first_file,
    first_folder,
    is_media,
    split_names,
)
from diffmae_video.data.manifests.labels import number_of, read_label_map

logger = logging.getLogger(__name__)

COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
CLASS_COUNTS = (400, 600, 700)
LABEL_FILE = "labels_to_id.csv"


class Row(NamedTuple):
    """One line of an official list."""

    label: str  # "" where the list has none (test sets)
    name: str  # of the video file without its extension: youtube id, start and end in seconds
    split: str


def looks_official(line: str) -> bool:
    """Whether the first line of a file is that of an official list, header or not."""
    fields = next(csv.reader([line]))
    names = [field.strip().lower() for field in fields]
    return "youtube_id" in names or (len(fields) == 5 and all(_is_time(field) for field in fields[2:4]))


def read_kinetics(file: Path, source: Source) -> list[Entry]:
    """The videos of an official list that are on disk.

    A video is looked for by its official name, ``<youtube_id>_<start>_<end>`` with six digits each and any extension
    (or a folder of frames of that name), in the folder of the split if there is one, at any depth. Every copy of
    Kinetics lacks some: those are left out, and their number is logged.

    Class numbers come from ``source.labels``, else from a ``labels_to_id.csv`` beside the list, else from the
    alphabetical order of the names if the list has all 400, 600 or 700.

    Raises:
        ValueError: a line of another form, a class without a number, or none of the videos is there.
    """
    rows = list(read_rows(file, source.split))
    labels = _labels(file, rows, source)
    root = first_folder(Path(source.prefix or file.parent), split_names(source.split))
    found = _find({row.name for row in rows}, root)
    entries, missing = [], 0
    for row in rows:
        path = found.get(row.name)
        missing += path is None
        if path is not None or source.keep_missing:
            entries.append(Entry(path or os.path.join(root, f"{row.name}.mp4"), labels.get(row.label, NO_LABEL)))
    if missing == len(rows) and not source.keep_missing:
        raise ValueError(
            f"none of the {len(rows)} videos of {file} is in {root} or below; expected names such as "
            f"{rows[0].name}.mp4. DATA.PATH_PREFIX says where the videos are"
        )
    if missing:
        logger.warning("%s: %d of %d videos are not in %s", file, missing, len(rows), root)
    return entries


def read_rows(file: Path, split: str) -> Iterator[Row]:
    """The lines of an official list; of a file that holds several splits, those of ``split``.

    Raises ValueError for a line of another form, or no line.
    """
    rows = []
    with open(file, newline="", encoding="utf-8-sig") as lines:
        columns: tuple[str, ...] = COLUMNS
        for number, fields in enumerate(csv.reader(lines), start=1):
            lowered = tuple(field.strip().lower() for field in fields)
            if "youtube_id" in lowered:
                columns = lowered
            elif fields:
                rows.append(_row(dict(zip(columns, fields, strict=False)), f"{file}:{number}: {','.join(fields)!r}"))
    if not rows:
        raise ValueError(f"{file} lists no video; expected lines of the form {','.join(COLUMNS)}")
    if len({row.split for row in rows}) > 1:
        rows = [row for row in rows if row.split in split_names(split)]
        if not rows:
            raise ValueError(f"{file} lists no video of the split {split!r}")
    return iter(rows)


def _row(fields: dict[str, str], where: str) -> Row:
    times = [fields.get("time_start", ""), fields.get("time_end", "")]
    if not fields.get("youtube_id", "").strip() or not all(_is_time(time) for time in times):
        raise ValueError(f"{where} is no line of an official Kinetics list; expected {','.join(COLUMNS)}")
    start, end = (int(float(time)) for time in times)
    name = f"{fields['youtube_id'].strip()}_{start:06d}_{end:06d}"
    return Row(fields.get("label", "").strip(" \"'"), name, fields.get("split", "").strip().lower())


def _is_time(text: str) -> bool:
    return text.strip().replace(".", "", 1).isdecimal()


def _labels(file: Path, rows: list[Row], source: Source) -> dict[str, int]:
    names = sorted({row.label for row in rows} - {""})
    if not names:
        return {}
    map_file = _map_file(file, source)
    if map_file:
        labels = read_label_map(map_file)
        return {name: number_of(name, labels, map_file) for name in names}
    if len(names) not in CLASS_COUNTS:
        raise ValueError(
            f"{file} names {len(names)} classes, not all of 400, 600 or 700: their numbers are unknown. Put a "
            f"{LABEL_FILE} with lines `number,name` beside it, or name such a file as DATA.LABELS"
        )
    return {name: number for number, name in enumerate(names)}


def class_numbers(source: Source) -> dict[str, int]:
    """Class name -> number, as for :func:`read_kinetics`; ``source.path`` is an official list, or a folder with it.

    Raises FileNotFoundError where the folder has no list of the split; ValueError as :func:`read_kinetics`.
    """
    file = source.path
    if file.is_dir():
        file = first_file([source.path], [f"{name}.csv" for name in split_names(source.split)])
        if file is None:
            raise FileNotFoundError(f"{source.path} has no {source.split}.csv")
    map_file = _map_file(file, source)
    return read_label_map(map_file) if map_file else _labels(file, list(read_rows(file, source.split)), source)


def _map_file(file: Path, source: Source) -> Path | None:
    """The file of class numbers that goes with a list."""
    beside = file.parent / LABEL_FILE
    return Path(source.labels) if source.labels else beside if beside.is_file() else None


def _find(names: set[str], root: Path) -> dict[str, str]:
    """Video name -> path of its file, or of its folder of frames."""
    found: dict[str, str] = {}
    for parent, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        found |= {name: os.path.join(parent, name) for name in folders if name in names}
        # Thousands of frames need not be listed here.
        folders[:] = [name for name in folders if name not in names and not name.startswith(".")]
        for name in sorted(files, reverse=True):
            stem = os.path.splitext(name)[0]
            if stem in names and is_media(name):
                found[stem] = os.path.join(parent, name)
    return found
