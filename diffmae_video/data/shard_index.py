"""What a folder of tar shards holds: the table of its samples, kept as JSON or read from the headers of the tars."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from diffmae_video.data.manifests.common import MEDIA_EXTENSIONS, NO_LABEL

logger = logging.getLogger(__name__)

INDEX_FORMAT = 1
KIND = "tar shards"  # in front of an index, to tell it from other files of that name
INDEX = "index.json"  # written with the shards: exactly these belong to the folder
SCANNED_INDEX = "index.scanned.json"  # a copy of what the tar headers say; shards may come and go
SCAN_THREADS = 8


class ShardError(ValueError):
    """A folder of shards that does not hold what it should; the message says what to do."""


@dataclass
class Shard:
    """One tar file and its samples, in the order of the file: the lists are columns of one table."""

    name: str  # of the file, inside the folder
    size: int  # bytes
    sha256: str = ""  # of the file; "" where it was not computed
    plan: str = ""  # what write_shards.py was asked to put in: tells a finished shard from one of another list
    modified: int = 0  # nanoseconds; of scanned shards only
    key: list[str] = field(default_factory=list)
    ext: list[str] = field(default_factory=list)  # without the leading dot
    offset: list[int] = field(default_factory=list)  # of the data, bytes
    bytes: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)  # NO_LABEL where there is none
    crc32: list[int] = field(default_factory=list)  # of the data; empty where it was not computed
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (path, reason) of files that were to be in it

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.key)

    def file_name(self, number: int) -> str:
        """Name of a sample's media file inside the shard."""
        return f"{self.key[number]}.{self.ext[number]}"


def read_index(file: Path) -> list[Shard]:
    """The shards of an index file, by name.

    Raises:
        ShardError: damaged, or of another format.
    """
    columns = ("key", "ext", "offset", "bytes", "label")
    try:
        content = json.loads(file.read_bytes())
        if content["format"] != INDEX_FORMAT:
            raise ShardError(f"{file} has format {content['format']}, this version reads {INDEX_FORMAT}")
        shards = [Shard(**shard) for shard in content["shards"]]
        if any(len(getattr(shard, column)) != len(shard) for shard in shards for column in columns):
            raise ValueError("columns of different lengths")
    except ShardError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise ShardError(
            f"{file} is damaged ({type(error).__name__}: {error}); copy it again, or remove it to have the shards "
            "indexed anew"
        ) from error
    return sorted(shards, key=lambda shard: shard.name)


def is_index(file: Path) -> bool:
    """Whether a file is an index of shards, sound or not, judged by its first bytes."""
    if not file.is_file():
        return False
    with open(file, "rb") as content:
        return f'"{KIND}"'.encode() in content.read(64)


def write_index(file: Path, shards: Sequence[Shard], **more: object) -> None:
    """Write an index atomically; ``more`` is kept in the file for people."""
    content = {"kind": KIND, "format": INDEX_FORMAT, **more, "shards": [asdict(shard) for shard in shards]}
    write_json(file, content)


def write_json(file: Path, content: object) -> None:
    """Write JSON so that the file is complete or absent."""
    handle, unfinished = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with open(handle, "w") as out:
            json.dump(content, out, separators=(",", ":"))
            out.write("\n")
            out.flush()
            os.fsync(out.fileno())
        os.chmod(unfinished, 0o644)
        os.replace(unfinished, file)
    except BaseException:
        os.unlink(unfinished)
        raise


def scan_shard(file: Path) -> Shard:
    """The samples of one shard, from the headers of its members; a sample is the first media file of a key.

    As in webdataset the key of a member ends at the first dot of its base name, and the label stands in ``<key>.cls``.
    Folders, links and files of other kinds are skipped. A truncated shard gives the samples before the cut.

    Raises:
        ShardError: not a tar file, or a compressed one.
    """
    status = file.stat()
    shard = Shard(file.name, status.st_size, modified=status.st_mtime_ns)
    labels: dict[str, int] = {}
    try:
        with tarfile.open(file, "r:") as tar:
            _read_members(tar, shard, labels)
            # tarfile takes anything that is no header for the end; that is two blocks of zeros.
            tar.fileobj.seek(tar.offset)
            damage = "" if tar.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE) else "no end of the archive"
    except tarfile.ReadError as error:
        if not len(shard):
            raise ShardError(f"{file} is not an uncompressed tar file: {error}") from error
        damage = str(error)
    if len(shard) and shard.offset[-1] + shard.bytes[-1] > shard.size:
        for column in (shard.key, shard.ext, shard.offset, shard.bytes):
            column.pop()
    if damage:
        logger.warning("%s is damaged after %d samples (%s); what follows is lost", file, len(shard), damage)
    shard.label = [labels.get(key, NO_LABEL) for key in shard.key]
    return shard


def _read_members(tar: tarfile.TarFile, shard: Shard, labels: dict[str, int]) -> None:
    last_key = None
    while (member := tar.next()) is not None:
        tar.members = []  # tarfile keeps all it has seen
        folder, _, base = member.name.rpartition("/")
        stem, dot, ext = base.partition(".")
        if not member.isreg() or member.issparse() or not dot or not stem:
            continue
        key = f"{folder}/{stem}" if folder else stem
        if ext == "cls":
            labels[key] = _label(tar, member)
        elif f".{ext}".lower().endswith(MEDIA_EXTENSIONS) and key != last_key:
            last_key = key
            for column, value in (("key", key), ("ext", ext), ("offset", member.offset_data), ("bytes", member.size)):
                getattr(shard, column).append(value)


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    content = tar.extractfile(member).read(32).strip()
    return int(content) if re.fullmatch(rb"\d+|-1", content) else NO_LABEL


def scan_folder(folder: Path) -> list[Shard]:
    """The shards of a folder without ``index.json``; those seen before, and unchanged, from a saved index."""
    files = sorted(folder.glob("*.tar"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no shard (*.tar)")
    places = [folder / SCANNED_INDEX, _cache_file(folder)]
    known = {(s.name, s.size, s.modified): s for place in places for s in _saved(place)}
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    new = [file for file, state in zip(files, states, strict=True) if state not in known]
    if new:
        logger.info("reading the headers of %d shards in %s; this is done once", len(new), folder)
        with ThreadPoolExecutor(SCAN_THREADS) as pool:
            for shard in pool.map(scan_shard, new):
                known[shard.name, shard.size, shard.modified] = shard
        _save([known[state] for state in states], places)
    return [known[state] for state in states]


def _saved(place: Path) -> list[Shard]:
    try:
        return read_index(place) if place.is_file() else []
    except ShardError as error:
        logger.warning("%s", error)
        return []


def _save(shards: list[Shard], places: Iterable[Path]) -> None:
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_index(place, shards, made_by="reading tar headers")
            return
        except OSError as error:
            logger.info("the index of the shards cannot be kept at %s: %s", place, error.strerror)


def _cache_file(folder: Path) -> Path:
    """Where the index of a read-only folder is kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:20]
    return cache / "diffmae_video" / f"shards-{name}.json"
