"""The files of tools/extract_features.py: one per video while it works (and for good, if asked), and one for all."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from diffmae_video.engine.disk import FileWriter, write_atomically, write_text

SUFFIXES = (".npz", ".safetensors")
INDEX = "features.json"  # in a folder of features: what it holds and how it was made
JOURNAL = ".recipe.json"  # there from the first call on
RESTART = "add --restart to start anew, or choose another --output"
TEXTS = ("paths", "unreadable", "metadata")  # JSON strings of a safetensors file's header; NumPy arrays of an .npz


class Video(NamedTuple):
    """One line of the input."""

    name: str  # under which its features are kept: the path relative to the input
    path: str
    label: int


class Rows(NamedTuple):
    """What is kept of a video: one row, or one per window."""

    features: np.ndarray  # float32 or float16 (R, D), or (R, t, h, w, D)
    starts: np.ndarray  # int64 (R,) frames
    seconds: np.ndarray  # float64 (R,)


def write_features(path: Path, arrays: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Writes a .npz or .safetensors, whole or not at all. The same content gives the same bytes.

    Args:
        path: its suffix says which.
        arrays: "features", "starts", "seconds", "labels": arrays; "paths": a list of strings; "unreadable": a list of
            (path, reason).
        metadata: what JSON can hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        texts = {"metadata": json.dumps(metadata)} | {n: json.dumps(arrays[n]) for n in TEXTS if n in arrays}
        tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items() if name not in TEXTS}
        write_atomically(path, lambda file: _write_safetensors(file, tensors, texts))
        return
    arrays = dict(arrays)
    if "paths" in arrays:
        arrays["paths"] = np.array(arrays["paths"], dtype=np.str_)
    if "unreadable" in arrays:
        arrays["unreadable"] = np.array(arrays["unreadable"], dtype=np.str_).reshape(-1, 2)
    arrays["metadata"] = np.array(json.dumps(metadata))
    write_atomically(path, lambda file: _write_npz(file, arrays))


def _write_safetensors(file: FileWriter, tensors: dict[str, np.ndarray], texts: dict[str, str]) -> None:
    """With the texts in a fixed order; the library puts them in a random one."""
    data = memoryview(to_safetensors(tensors, texts))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(bytes(data[8:end])), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little") + header)
    file.write(data[end:])


def _write_npz(file: FileWriter, arrays: dict[str, np.ndarray]) -> None:
    """What ``np.savez`` does, which wants a file that can be read as well."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def read_features(path: Path, names: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of these names, and the metadata.

    Raises:
        ValueError: no file of ``write_features``.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                texts = {name: json.loads(text) for name, text in file.metadata().items()}
                return {n: texts[n] if n in TEXTS else file.get_tensor(n) for n in names}, texts["metadata"]
        with np.load(path) as file:
            arrays = {name: file[name].tolist() if name in TEXTS else file[name] for name in names}
            return arrays, json.loads(str(file["metadata"]))
    except (ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, SafetensorError) as error:
        raise ValueError(f"{path} is not a whole file of features") from error


class VideoFiles:
    """A folder with a file of features per video, filled in any order and by as many calls as it takes.

    Args:
        folder: created when missing.
        suffix: of the files, one of ``SUFFIXES``.
        recipe: everything that the features depend on besides the video: strings and numbers by name.
        restart: features that are there already are deleted, of whatever recipe.

    Raises:
        ValueError: the folder holds features of another recipe, and no ``restart``.
    """

    def __init__(self, folder: Path, suffix: str, recipe: dict[str, Any], restart: bool) -> None:
        self.folder, self.suffix, self.recipe = folder, suffix, recipe
        self._journal = folder / JOURNAL
        if restart and folder.is_dir():
            for path in folder.rglob(f"*{suffix}"):
                if self._metadata(path).get("recipe"):
                    path.unlink()
        elif self._journal.exists():
            check_recipe(folder, json.loads(self._journal.read_text(encoding="utf-8")), recipe)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(self._journal, json.dumps(recipe, indent=1))

    @staticmethod
    def _metadata(path: Path) -> dict[str, Any]:
        """Of a file of features; nothing where there is no whole one."""
        try:
            return read_features(path)[1]
        except (ValueError, FileNotFoundError):
            return {}

    def path(self, name: str) -> Path:
        """Where the features of a video are."""
        return self.folder / (name + self.suffix)

    def has(self, name: str, state: list[int]) -> bool:
        """Whether the features of a video are there, made of the file as it is now."""
        metadata = self._metadata(self.path(name))
        return (metadata.get("recipe"), metadata.get("state")) == (self.recipe, state)

    def save(self, name: str, path: str, state: list[int], rows: Rows) -> None:
        """Keeps the features of a video, whose file is in a certain state."""
        write_features(self.path(name), rows._asdict(), {"video": path, "state": state, "recipe": self.recipe})

    def load(self, name: str, fields: Sequence[str]) -> dict[str, np.ndarray]:
        """Those of the ``Rows`` of a video."""
        return read_features(self.path(name), fields)[0]

    def write_index(self, content: dict[str, Any]) -> None:
        write_text(self.folder / INDEX, json.dumps(content, indent=1))

    def remove(self) -> None:
        """The whole folder; what says how it was made goes last."""
        for path in self.folder.iterdir():
            if path != self._journal:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.folder)


def collect(readable: Sequence[Video], files: VideoFiles, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    """The content of the one file: a row per video or window, in the order of the input."""
    places = [files.load(video.name, ("starts", "seconds")) for video in readable]
    counts = [len(place["starts"]) for place in places]
    arrays = {
        "features": np.empty((sum(counts), *shape), dtype),
        "starts": np.concatenate([np.empty(0, np.int64), *(place["starts"] for place in places)]),
        "seconds": np.concatenate([np.empty(0), *(place["seconds"] for place in places)]),
        "labels": np.repeat(np.array([video.label for video in readable], np.int64), counts),
        "paths": [video.path for video, count in zip(readable, counts, strict=True) for _ in range(count)],
    }
    end = 0
    for video, count in zip(readable, counts, strict=True):
        arrays["features"][end : end + count] = files.load(video.name, ("features",))["features"]
        end += count
    return arrays


def is_complete(output: Path, metadata: dict[str, Any]) -> bool:
    """Whether a finished file holds just the features that ``metadata`` describes.

    Raises ValueError: it holds something else, which would be overwritten.
    """
    arrays, old = read_features(output, ("unreadable",))
    check_recipe(output, old["recipe"], metadata["recipe"])
    if arrays["unreadable"] or old["input"] != metadata["input"]:
        raise ValueError(f"{output} is there already, with features of another list of videos; {RESTART}")
    return True


def check_recipe(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raises ValueError, which names what differs, where features were made in another way."""
    changes = [
        f"{key} was {_short(old.get(key))} and is now {_short(new.get(key))}"
        for key in [*new, *(key for key in old if key not in new)]
        if old.get(key) != new.get(key)
    ]
    if changes:
        raise ValueError(f"{path} holds features that were made in another way: {'; '.join(changes)}; {RESTART}")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."
