"""Folders without lists: a folder per class, a folder of files, and either with extracted frames."""

from __future__ import annotations

import os
from pathlib import Path

from diffmae_video.data.decoders.common import IMAGE_EXTENSIONS, natural_key
from diffmae_video.data.manifests.common import (
    MEDIA_EXTENSIONS,
    NO_LABEL,
    SPLIT_NAMES,
    Entry,
    Source,
    is_media,
    media_files,
    split_names,
    spread,
    subfolders,
)
from diffmae_video.data.manifests.labels import number_of, read_label_map

SHORTEST_RUN = 3  # numbered images in a row that look like the frames of a video


def split_folder(path: Path, split: str) -> Path:
    """``path/<split>`` where the folder is divided into ``train`` and others, else ``path`` itself.

    Raises FileNotFoundError where it is divided, but has no part of this name.
    """
    parts = [name for names in SPLIT_NAMES.values() for name in names if (path / name).is_dir()]
    if not any(name in SPLIT_NAMES["train"] for name in parts):
        return path
    found = next((path / name for name in split_names(split) if (path / name).is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"{path} has no folder {split}, only {', '.join(parts)}")
    return found


def read_folder(source: Source) -> list[Entry]:
    """All videos and images below a folder, without labels."""
    folder = split_folder(source.path, source.split)
    return _checked([Entry(file, NO_LABEL) for file in media_files(folder)], folder, "no video or image")


def read_frames_folders(source: Source) -> list[Entry]:
    """Every folder in a folder is a video, its images the frames; without labels."""
    folder = split_folder(source.path, source.split)
    return _checked([Entry(str(folder / name), NO_LABEL) for name in subfolders(folder)], folder, "no folder of frames")


def read_class_folders(source: Source) -> list[Entry]:
    """A folder per class with videos or images in it, at any depth; see ``_class_numbers`` for the labels."""
    folder, numbers = _class_numbers(source)
    entries = [Entry(file, number) for name, number in numbers for file in media_files(folder / name)]
    return _checked(entries, folder, "no video or image in its folders")


def read_class_frames(source: Source) -> list[Entry]:
    """A folder per class, in it a folder per video, in that the frames as images."""
    folder, numbers = _class_numbers(source)
    entries = [
        Entry(str(folder / name / video), number) for name, number in numbers for video in subfolders(folder / name)
    ]
    return _checked(entries, folder, "no folder of frames in its folders")


def detect_folder_format(path: Path, split: str) -> str:
    """Whether a folder is certainly "class_folders" or "folder".

    Raises:
        FileNotFoundError: see :func:`split_folder`.
        ValueError: images that may be the frames of videos or pictures of their own, or no video or image at all.
    """
    folder = split_folder(path, split)
    names = subfolders(folder)
    if any(is_media(name) for name in os.listdir(folder)):
        return "folder"
    holders = 0
    for name in spread(names, 20):
        inside = folder / name
        holders += any(is_media(file) for file in os.listdir(inside))
        for candidate in [inside, *(inside / deeper for deeper in subfolders(inside)[:3])]:
            if _is_numbered_run(os.listdir(candidate)):
                raise ValueError(
                    f"{candidate} holds numbered images: the frames of one video, or pictures of their own? Set "
                    'DATA.FORMAT to "frames" (<video>/<frame>), "class_frames" (<class>/<video>/<frame>), '
                    '"class_folders" (<class>/<picture>) or "folder" (pictures without labels)'
                )
    if len(names) > 1 and holders == len(spread(names, 20)):
        return "class_folders"
    if not media_files(folder):
        raise ValueError(f"{folder} holds no {split}.csv and no video or image ({' '.join(MEDIA_EXTENSIONS)})")
    return "folder"


def class_numbers(source: Source) -> dict[str, int]:
    """Class name -> number, of all classes of a dataset of class folders; see :func:`_class_numbers`."""
    if source.labels:
        return read_label_map(Path(source.labels))
    return {name: number for number, name in enumerate(subfolders(split_folder(source.path, "train")))}


def _class_numbers(source: Source) -> tuple[Path, list[tuple[str, int]]]:
    """The split's folder, and (name, number) of the classes in it.

    Numbers come from ``source.labels``; else from the alphabetical order of the folders of the training part, so that
    a class that is missing in validation does not shift the others.

    Raises ValueError for a class that the training part does not have.
    """
    folder = split_folder(source.path, source.split)
    labels, origin = class_numbers(source), source.labels or str(split_folder(source.path, "train"))
    return folder, [(name, number_of(name, labels, origin)) for name in subfolders(folder)]


def _is_numbered_run(names: list[str]) -> bool:
    """Whether images carry consecutive numbers from 0 or 1 on and the same name otherwise, as extracted frames do."""
    images = sorted((name for name in names if name.lower().endswith(IMAGE_EXTENSIONS)), key=natural_key)
    keys = [natural_key(os.path.splitext(name)[0]) for name in images]
    if len(images) < SHORTEST_RUN or any(len(key) < 2 or key[:-2] != keys[0][:-2] for key in keys):
        return False
    numbers = [key[-2] for key in keys]
    return numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _checked(entries: list[Entry], folder: Path, what: str) -> list[Entry]:
    if not entries:
        raise ValueError(f"{folder} holds {what}")
    return entries
