"""The official splits of UCF101 and HMDB51: three of each, a training and a test list, and no validation list."""

from __future__ import annotations

import os
import re
from pathlib import Path

from diffmae_video.data.manifests.common import Entry, Source, first_folder, locate
from diffmae_video.data.manifests.labels import read_label_map
from diffmae_video.data.manifests.lists import content_lines

UCF_LISTS = ("", "ucfTrainTestlist")
UCF_VIDEOS = ("UCF-101", "UCF101", "videos")
HMDB_LISTS = ("", "testTrainMulti_7030_splits", "test_train_splits", "splits")
HMDB_VIDEOS = ("hmdb51_org", "hmdb51", "videos")
HMDB_FILE = re.compile(r"(.+)_test_split([123])\.txt")
HMDB_CODES = {"train": "1", "test": "2"}  # 0 = in neither
EXTENSIONS = (".avi", ".mp4", "", ".webm", ".mkv")  # "" = a folder of extracted frames


def ucf101_lists(path: Path) -> Path | None:
    """The folder, ``path`` or one in it, that holds UCF101's lists."""
    folders = (path / name for name in UCF_LISTS)
    return next((f for f in folders if (f / "classInd.txt").is_file() and any(f.glob("trainlist0?.txt"))), None)


def hmdb51_lists(path: Path) -> Path | None:
    """The folder, ``path`` or one in it, that holds HMDB51's lists."""
    folders = (path / name for name in HMDB_LISTS)
    return next((f for f in folders if f.is_dir() and any(f.glob("*_test_split?.txt"))), None)


def read_ucf101(source: Source) -> list[Entry]:
    """The videos of ``trainlist0N.txt`` (split "train") or ``testlist0N.txt`` (any other), N = ``source.fold``.

    Class numbers are those of ``classInd.txt`` minus 1, found by the folder in a video's name, since the test lists
    have none. Videos are in ``source.prefix``, else in ``UCF-101`` beside the lists.

    Raises:
        FileNotFoundError: the lists are not there.
        ValueError: a line that names no video of a known class.
    """
    folder = ucf101_lists(source.path)
    if folder is None:
        raise FileNotFoundError(f"{source.path} has no classInd.txt with trainlist01.txt, nor has its ucfTrainTestlist")
    file = folder / f"{'train' if source.split == 'train' else 'test'}list0{source.fold}.txt"
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; the splits are numbered 1 to 3 (DATA.FOLD)")
    classes = read_label_map(folder / "classInd.txt")
    names, labels = [], []
    for number, line in content_lines(file):
        name, _, given = line.partition(" ")
        class_name = name.split("/")[0]
        if class_name not in classes or (given and given.strip() != str(classes[class_name])):
            raise ValueError(f"{file}:{number}: {line!r}; expected Class/video.avi with a class of classInd.txt")
        names.append(os.path.splitext(name)[0])
        labels.append(classes[class_name] - 1)
    return _entries(source, UCF_VIDEOS, names, labels)


def read_hmdb51(source: Source) -> list[Entry]:
    """The videos marked 1 (split "train") or 2 (any other) in the files ``<class>_test_splitN.txt``.

    N is ``source.fold``. Classes are numbered from 0 in alphabetical order. Videos are in ``source.prefix``, else in
    ``hmdb51_org`` beside the lists, in one folder per class.

    Raises:
        FileNotFoundError: the lists are not there.
        ValueError: a line of another form.
    """
    folder = hmdb51_lists(source.path)
    files = sorted(folder.glob(f"*_test_split{source.fold}.txt")) if folder else []
    if not files:
        raise FileNotFoundError(
            f"{source.path} has no <class>_test_split{source.fold}.txt, nor has its testTrainMulti_7030_splits; the "
            "splits are numbered 1 to 3 (DATA.FOLD)"
        )
    code = HMDB_CODES["train" if source.split == "train" else "test"]
    numbers = hmdb51_class_numbers(source)
    names, labels = [], []
    for file in files:
        class_name = HMDB_FILE.fullmatch(file.name)[1]
        for number, line in content_lines(file):
            name, _, given = line.rpartition(" ")
            if not name or given not in ("0", "1", "2"):
                raise ValueError(f"{file}:{number}: {line!r}; expected a file name and 0, 1 or 2")
            if given == code:
                names.append(f"{class_name}/{os.path.splitext(name.strip())[0]}")
                labels.append(numbers[class_name])
    return _entries(source, HMDB_VIDEOS, names, labels)


def ucf101_class_numbers(source: Source) -> dict[str, int]:
    """Class name -> number, from 0, of ``classInd.txt``; empty where there is none."""
    folder = ucf101_lists(source.path)
    return {name: number - 1 for name, number in read_label_map(folder / "classInd.txt").items()} if folder else {}


def hmdb51_class_numbers(source: Source) -> dict[str, int]:
    """Class name -> number, from 0 in alphabetical order of the lists ``<class>_test_splitN.txt``; N = the fold."""
    folder = hmdb51_lists(source.path)
    files = folder.glob(f"*_test_split{source.fold}.txt") if folder else []
    return {name: number for number, name in enumerate(sorted(HMDB_FILE.fullmatch(file.name)[1] for file in files))}


def _entries(source: Source, folders: tuple[str, ...], names: list[str], labels: list[int]) -> list[Entry]:
    root = source.prefix or first_folder(source.path, folders)
    flat = [name.split("/")[-1] for name in names]
    forms = ([name + extension for name in group] for group in (names, flat) for extension in EXTENSIONS)
    return [Entry(path, label) for path, label in zip(locate(root, forms), labels, strict=True)]
