"""Which videos a dataset holds: from its lists, in the forms in which people publish them, or from its folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from diffmae_video.data.manifests import folders, kinetics, splits, ssv2
from diffmae_video.data.manifests.common import (
    MEDIA_EXTENSIONS,
    NO_LABEL,
    VIDEO_EXTENSIONS,
    Entry,
    Source,
    first_file,
    split_names,
)
from diffmae_video.data.manifests.lists import FRAME_LINE, content_lines, read_frame_list, read_list
from diffmae_video.data.shards import read_shards, shard_folder

__all__ = [
    "FORMATS",
    "MEDIA_EXTENSIONS",
    "NO_LABEL",
    "ORIENTED_FORMATS",
    "VIDEO_EXTENSIONS",
    "Entry",
    "detect_format",
    "read_manifest",
]

# Formats of datasets in which a mirrored video is another class ("pushing something from left to right").
ORIENTED_FORMATS = ("ssv2",)


def read_manifest(
    path: str | os.PathLike[str],
    split: str = "train",
    path_prefix: str = "",
    format: str = "auto",
    labels: str = "",
    fold: int = 1,
    keep_missing: bool = False,
) -> list[Entry]:
    """The videos of a dataset, in the order of its list.

    Files are not touched: a missing one shows up when it is read. Only the official lists of Kinetics, of which nobody
    has all videos, are compared with the disk.

    Args:
        path: a folder, or one list.
        split: "train", "val", "test", ...
        path_prefix: folder of a list's videos; "" = the folder of the list, or where the format usually has them.
        format: how the dataset is laid out.

            - "auto": whatever ``detect_format`` finds.
            - "list": a file, or ``{split}.csv`` in a folder, with one ``path label`` per line. The separator is a tab,
              comma, semicolon or space; a path may hold spaces, and may be quoted. The label is an integer in the last
              field (-1 = none), and may be left out. Empty lines, lines that start with ``#`` and a header line
              (``path,label``) are skipped.
            - "frame_list": the same with lines ``name first last label``, for folders of extracted frames.
            - "kinetics": an official list, or ``{split}.csv`` in a folder: ``label,youtube_id,time_start,...``.
            - "ssv2": ``train.json``, ``validation.json`` and ``labels.json`` of Something-Something V2.
            - "ucf101": ``trainlist01.txt``, ``testlist01.txt`` and ``classInd.txt``.
            - "hmdb51": ``<class>_test_split1.txt``.
            - "class_folders": ``<class>/<video or image>``, or ``train/<class>/...``.
            - "class_frames": ``<class>/<video>/<frame images>``, or ``train/<class>/...``.
            - "folder": all videos and images of a folder and below, sorted by path, without labels.
            - "frames": ``<video>/<frame images>``, without labels.
            - "shards": tar shards (WebDataset), in the folder or one folder per split; see ``read_shards``.
        labels: a file of class names and numbers for "kinetics", "ssv2", "class_folders" and "class_frames".
        fold: which official split of "ucf101" and "hmdb51", 1 to 3.
        keep_missing: "kinetics": also list the videos that are not on disk.

    Raises:
        FileNotFoundError: ``path`` does not exist, or has no list of this split.
        ValueError: an unknown format, a malformed list (says which line of which file), or no video at all.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"data path does not exist: {path}")
    if format == "auto":
        format = detect_format(path, split)
    if format not in READERS:
        raise ValueError(f"unknown format {format!r}; choose one of {', '.join(FORMATS)}")
    return READERS[format](Source(path, split, path_prefix, labels, fold, keep_missing))


def detect_format(path: str | os.PathLike[str], split: str = "train") -> str:
    """The format of a dataset, from its files' names and the first line of its list.

    A ``{split}.csv`` goes before everything else. Folders of numbered images are refused: they may be videos or not.

    Raises:
        FileNotFoundError: ``path`` does not exist, or has lists or folders of other splits only.
        ValueError: it may be one thing or another; the message names the formats to choose from.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"data path does not exist: {path}")
    if path.is_file():
        return "shards" if path.suffix == ".tar" else _detect_list(path)
    if (file := _list_file(path, split)) is not None:
        return _detect_list(file)
    if shard_folder(path, split) is not None:
        return "shards"
    found = [
        name
        for name, present in (
            ("ssv2", ssv2.lists_present(path)),
            ("ucf101", splits.ucf101_lists(path)),
            ("hmdb51", splits.hmdb51_lists(path)),
        )
        if present
    ]
    if len(found) > 1:
        raise ValueError(f"{path} holds the lists of {' and '.join(found)}: set DATA.FORMAT to one of them")
    if found:
        return found[0]
    if other := _other_lists(path):
        raise FileNotFoundError(f"{path} has no {split}.csv, only {', '.join(other)}")
    return folders.detect_folder_format(path, split)


def _detect_list(file: Path) -> str:
    if file.suffix.lower() == ".json":
        return "ssv2"
    for name, folder in (("ucf101", splits.ucf101_lists(file.parent)), ("hmdb51", splits.hmdb51_lists(file.parent))):
        # Read as lines of "path label", their class numbers would be wrong.
        if folder is not None and ("list0" in file.name or "_test_split" in file.name):
            raise ValueError(f"{file} is one of the lists of {name}: give their folder instead")
    first = next(content_lines(file), None)
    if first is not None and kinetics.looks_official(first[1]):
        return "kinetics"
    if first is not None and FRAME_LINE.fullmatch(first[1]):
        return "frame_list"
    return "list"


def _list_file(folder: Path, split: str) -> Path | None:
    return first_file([folder], [f"{name}.csv" for name in split_names(split)])


def _other_lists(folder: Path) -> list[str]:
    names = [name for part in ("train", "val", "test") for name in split_names(part)]
    return sorted(file.name for file in folder.glob("*.csv") if file.stem in names)


def _from_list(read: Callable[[Path, Source], list[Entry]]) -> Callable[[Source], list[Entry]]:
    """A reader of one list as a reader of a source: of the file itself, or of ``{split}.csv`` in a folder."""

    def of_source(source: Source) -> list[Entry]:
        file = source.path if source.path.is_file() else _list_file(source.path, source.split)
        if file is None:
            only = ", ".join(_other_lists(source.path)) or "no list"
            raise FileNotFoundError(f"{source.path} has no {source.split}.csv, only {only}")
        return read(file, source)

    return of_source


READERS: dict[str, Callable[[Source], list[Entry]]] = {
    "list": _from_list(read_list),
    "frame_list": _from_list(read_frame_list),
    "kinetics": _from_list(kinetics.read_kinetics),
    "ssv2": ssv2.read_ssv2,
    "ucf101": splits.read_ucf101,
    "hmdb51": splits.read_hmdb51,
    "class_folders": folders.read_class_folders,
    "class_frames": folders.read_class_frames,
    "folder": folders.read_folder,
    "frames": folders.read_frames_folders,
    "shards": lambda source: read_shards(source.path, source.split),
}
FORMATS = ("auto", *READERS)
