"""Files inside tar shards: their path says where they lie, one read fetches them, nothing is ever extracted.

The path of a packed file is ``<shard>.tar@<offset>+<size>/<name>``, for instance
``/data/k400/train-000003.tar@1536+20480/00000017_abc.mp4``: 20480 bytes from byte 1536 on. It ends like the file that
was packed, needs no table to be understood, and works wherever the path of a file does.
"""

from __future__ import annotations

import io
import os
import re
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from diffmae_video.data.decoders.common import UnreadableVideo

TAR_BLOCK = 512  # bytes; a member's header is the block in front of its data
OPEN_SHARDS = 64  # shards that a process keeps open: opening one costs milliseconds on a network file system
_MARK = ".tar@"
_PACKED = re.compile(r"(?P<shard>.*?\.tar)@(?P<offset>\d+)\+(?P<size>\d+)/(?P<name>.*)", re.DOTALL)


class PackedFile(NamedTuple):
    """Where a packed file lies."""

    shard: str  # path of the tar file
    offset: int  # of its data (not of the header), bytes
    size: int  # bytes
    name: str


class ShardState(NamedTuple):
    """Tells one version of a shard from another."""

    inode: int
    modified: int  # nanoseconds
    size: int  # bytes


def packed_path(shard: str | os.PathLike[str], offset: int, size: int, name: str) -> str:
    """The path of a packed file. ``name`` is kept for people and for its extension: parts that lead elsewhere go."""
    name = "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
    return f"{os.fspath(shard)}@{offset}+{size}/{name}"


def parse_packed(path: str) -> PackedFile | None:
    """What ``packed_path`` put together; None for the path of an ordinary file."""
    match = _PACKED.fullmatch(path) if _MARK in path else None
    if match is None:
        return None
    return PackedFile(match["shard"], int(match["offset"]), int(match["size"]), match["name"])


def shard_of(path: str) -> str:
    """The shard that holds a file; "" for an ordinary file."""
    before, mark, _ = path.partition(_MARK)
    return before + ".tar" if mark else ""


def media_state(path: str) -> tuple[int, int]:
    """(time of the last change in nanoseconds, size in bytes) of a file, packed or not.

    Raises:
        FileNotFoundError: no such file, or no such shard.
        OSError: what else the system reports.
    """
    packed = parse_packed(path)
    status = os.stat(path if packed is None else packed.shard)
    return status.st_mtime_ns, status.st_size if packed is None else packed.size


def media_source(path: str) -> str | BinaryIO:
    """What a decoder opens: the path of an ordinary file as it is, a packed one as a file in memory.

    Raises:
        FileNotFoundError, UnreadableVideo: as ``read_packed``.
    """
    packed = parse_packed(path)
    return path if packed is None else _NamedBytes(read_packed(path, packed), path)


def open_media(path: str) -> BinaryIO:
    """A file, packed or not, opened for reading in binary mode.

    Raises:
        FileNotFoundError: no such file, or no such shard.
        UnreadableVideo: as ``read_packed``.
        OSError: what else the system reports of an ordinary file.
    """
    source = media_source(path)
    return open(source, "rb") if isinstance(source, str) else source


def read_packed(path: str, packed: PackedFile) -> bytes:
    """The content of a packed file; ``path`` names it in errors.

    Raises:
        FileNotFoundError: the shard is missing.
        UnreadableVideo: the shard is truncated or cannot be read, or holds something else at that place.
    """
    try:
        status = os.stat(packed.shard)
        state = ShardState(status.st_ino, status.st_mtime_ns, status.st_size)
        return _read(path, packed, state)
    except FileNotFoundError:
        raise FileNotFoundError(f"no such shard: {packed.shard} (it holds {packed.name})") from None
    except OSError as error:
        raise UnreadableVideo(path, error.strerror or str(error)) from error


@lru_cache(maxsize=1)  # its frames are counted, then read: the second time the bytes are still here
def _read(path: str, packed: PackedFile, state: ShardState) -> bytes:
    missing = packed.offset + packed.size - state.size
    if missing > 0:
        raise UnreadableVideo(path, f"the shard is truncated: it ends {missing} bytes before the end of this file")
    shard = _open_shard(packed.shard, state)
    start = packed.offset - TAR_BLOCK
    content = _pread(shard.descriptor, TAR_BLOCK + packed.size, max(start, 0))
    _check_header(path, content[:TAR_BLOCK], packed.size)
    if len(content) != TAR_BLOCK + packed.size:
        raise UnreadableVideo(path, f"only {len(content) - TAR_BLOCK} of its {packed.size} bytes could be read")
    return content[TAR_BLOCK:]


def _pread(descriptor: int, size: int, start: int) -> bytes:
    """``size`` bytes from ``start`` on, fewer where the file ends; in one call below Linux's limit of 2 GB."""
    content = os.pread(descriptor, size, start)
    while 0 < len(content) < size and (more := os.pread(descriptor, size - len(content), start + len(content))):
        content += more
    return content


def _check_header(path: str, header: bytes, size: int) -> None:
    """The tar header in front of the data has to agree, or the shard is not the one that was indexed."""
    field = header[124:136]  # octal digits, or a binary number where the first bit is set
    try:
        found = int.from_bytes(field[4:], "big") if field[:1] == b"\x80" else int(field.strip(b" \0"), 8)
    except ValueError:
        found = -1
    if found != size:
        raise UnreadableVideo(path, "the shard holds no file at this place: it was damaged or replaced after indexing")


class _OpenShard:
    """A file descriptor that is closed when nobody uses it any more.

    pread keeps no position, so threads may share it, and so may worker processes that were forked with it.
    """

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@lru_cache(maxsize=OPEN_SHARDS)
def _open_shard(path: str, state: ShardState) -> _OpenShard:
    return _OpenShard(path)


class _NamedBytes(io.BytesIO):
    """A file in memory with a name, by whose extension FFmpeg helps itself to recognise formats."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name
