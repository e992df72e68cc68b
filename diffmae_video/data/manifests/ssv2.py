"""Something-Something V2 by its official JSON files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from diffmae_video.data.manifests.common import NO_LABEL, Entry, Source, first_file, first_folder, locate, split_names
from diffmae_video.data.manifests.labels import number_of, read_label_map

logger = logging.getLogger(__name__)

PREFIXES = ("", "something-something-v2-")
VIDEO_FOLDERS = ("videos", "20bn-something-something-v2", "frames")
EXTENSIONS = (".webm", ".mp4", "", ".mkv", ".avi")  # "" = a folder of extracted frames


def find_list(path: Path, split: str) -> Path | None:
    """The JSON list of a split in a folder or its ``labels`` folder; ``path`` itself if it is a file."""
    if path.is_file():
        return path
    names = [f"{prefix}{name}.json" for name in split_names(split) for prefix in PREFIXES]
    return first_file((path, path / "labels"), names)


def lists_present(path: Path) -> list[str]:
    """Names of the official lists, of any split, in a folder."""
    return [str(file) for split in ("train", "val", "test") if (file := find_list(path, split)) is not None]


def read_ssv2(source: Source) -> list[Entry]:
    """Every video of the split's official list, in its order.

    The class of a video is its template without the square brackets; numbers come from ``labels.json`` beside the
    list, or ``source.labels``. Without either, and in the test list, videos have no label. Videos are
    ``<id>.webm`` (or ``.mp4``, or folders of extracted frames) in ``source.prefix``, else in ``videos`` or
    ``20bn-something-something-v2`` beside the list. A mapping ``{template: [id, ...]}`` is read too.

    Raises:
        FileNotFoundError: no list of this split.
        ValueError: the file is no such list, or a template has no number.
    """
    file = find_list(source.path, source.split)
    if file is None:
        others = ", ".join(lists_present(source.path)) or "none"
        raise FileNotFoundError(
            f"{source.path} has no Something-Something list of the split {source.split!r} (train.json, "
            f"validation.json or test.json, there or in its folder labels); found: {others}"
        )
    items = _items(file)
    map_file = _map_file(file, source)
    labels = read_label_map(map_file) if map_file else None
    if labels is None and any(template for _, template in items):
        logger.warning("%s: there is no labels.json beside it: its videos have no labels", file)
    answers = _answers(file)
    entries = []
    folder = source.path if source.path.is_dir() else file.parent
    root = source.prefix or first_folder(folder, VIDEO_FOLDERS)
    paths = locate(root, ([identifier + extension for identifier, _ in items] for extension in EXTENSIONS))
    for path, (identifier, template) in zip(paths, items, strict=True):
        name = (template or answers.get(identifier, "")).replace("[", "").replace("]", "")
        entries.append(Entry(path, number_of(name, labels, map_file) if name and labels else NO_LABEL))
    return entries


def class_numbers(source: Source) -> dict[str, int]:
    """Class name -> number of ``source.labels``, or of the ``labels.json`` beside the list; empty where neither is.

    Raises FileNotFoundError where there is no list of the split.
    """
    file = find_list(source.path, source.split)
    if file is None:
        raise FileNotFoundError(f"{source.path} has no Something-Something list of the split {source.split!r}")
    map_file = _map_file(file, source)
    return read_label_map(map_file) if map_file else {}


def _map_file(file: Path, source: Source) -> Path | None:
    """The file of class numbers that goes with a list."""
    beside = first_file([file.parent], [f"{prefix}labels.json" for prefix in PREFIXES])
    return Path(source.labels) if source.labels else beside


def _items(file: Path) -> list[tuple[str, str]]:
    """(video id, template, "" where there is none) of every video of a list."""
    expected = '[{"id": "78687", "template": "Holding [something]"}, ...]'
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8-sig"))
        if isinstance(content, dict):
            items = [(str(identifier), template) for template, group in content.items() for identifier in group]
        else:
            items = [(str(item["id"]), item.get("template", "")) for item in content]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} is no Something-Something list; expected {expected}: {error!r}") from error
    if not items:
        raise ValueError(f"{file} lists no video; expected {expected}")
    return items


def _answers(file: Path) -> dict[str, str]:
    """Video id -> class name from ``test-answers.csv`` (lines ``id;name``) beside a test list; empty where none is."""
    answers = file.parent / "test-answers.csv"
    if "test" not in file.stem or not answers.is_file():
        return {}
    rows = (line.split(";", 1) for line in answers.read_text(encoding="utf-8-sig").splitlines() if ";" in line)
    return {identifier.strip(): name.strip(" \"'") for identifier, name in rows}
