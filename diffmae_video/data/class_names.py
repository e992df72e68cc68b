"""The names of a dataset's classes, where its layout has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from diffmae_video.data.manifest import FORMATS, detect_format
from diffmae_video.data.manifests import folders, kinetics, splits, ssv2
from diffmae_video.data.manifests.common import SPLIT_NAMES, Source
from diffmae_video.data.manifests.labels import read_label_map

_READERS: dict[str, Callable[[Source], dict[str, int]]] = {
    "kinetics": kinetics.class_numbers,
    "ssv2": ssv2.class_numbers,
    "ucf101": splits.ucf101_class_numbers,
    "hmdb51": splits.hmdb51_class_numbers,
    "class_folders": folders.class_numbers,
    "class_frames": folders.class_numbers,
}


def read_class_names(
    path: str | os.PathLike[str], layout: str = "auto", labels: str = "", num_classes: int = 0
) -> list[str]:
    """What the classes are called: name number i is that of the class that ``read_manifest`` numbers i.

    A class without a name is called by its number; the layouts "list", "frame_list", "folder", "frames" and "shards"
    have no names of their own, so there ``labels`` is the only source.

    Args:
        path, layout: those of ``read_manifest`` (its ``format``); lists of any split will do.
        labels: a file of class names and numbers, which goes before those of the layout; "" = none.
        num_classes: length of the result; 0 = up to the last class that has a name.

    Raises:
        FileNotFoundError: ``path``, ``labels`` or a list does not exist.
        ValueError: an unknown layout, a malformed file, or names of more classes than ``num_classes``.
    """
    if layout not in FORMATS:
        raise ValueError(f"unknown format {layout!r}; choose one of {', '.join(FORMATS)}")
    numbers = read_label_map(Path(labels)) if labels else _own_numbers(Path(path), layout)
    named = {number: name for name, number in numbers.items()}
    highest = max(named, default=-1)
    if num_classes and highest >= num_classes:
        raise ValueError(
            f"{path} has {num_classes} classes, but {labels or 'its list'} names class {highest}: {named[highest]}"
        )
    return [named.get(number, str(number)) for number in range(num_classes or highest + 1)]


def _own_numbers(path: Path, layout: str) -> dict[str, int]:
    """Class name -> number as the layout has them, from the first split that is there; empty where it has none."""
    missing: FileNotFoundError | None = None
    for split in SPLIT_NAMES:
        try:
            found = detect_format(path, split) if layout == "auto" else layout
            return _READERS[found](Source(path, split)) if found in _READERS else {}
        except FileNotFoundError as error:
            missing = missing or error
    raise missing
