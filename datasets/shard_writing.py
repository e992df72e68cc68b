"""One tar shard: files are read ahead by threads and written one after the other, with a table of where they lie."""

from __future__ import annotations

import collections
import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

from diffmae_video.data import NO_LABEL, UnreadableVideo, video_info
from diffmae_video.data.packed import TAR_BLOCK, open_media
from diffmae_video.data.shard_index import Shard

TAR_RECORD = 20 * TAR_BLOCK  # a tar file ends with zeros up to a multiple of this
READ_AHEAD = 256 << 20  # bytes read ahead of what is written, by all threads
FILES_AHEAD = 4  # and files, per thread


class Source(NamedTuple):
    """One file to pack."""

    number: int  # its place in the list
    path: str
    label: int
    size: int  # bytes

    @property
    def key(self) -> str:
        """Unique in the set, without a dot, of characters that every tool takes; says which file it was."""
        stem = os.path.basename(self.path).rpartition(".")[0]
        return f"{self.number:08d}_{re.sub(r'[^A-Za-z0-9_-]', '_', stem)[:60]}"

    @property
    def ext(self) -> str:
        return self.path.rpartition(".")[2].lower()


class LeftOut(NamedTuple):
    """A file that is not in the shards."""

    path: str
    reason: str


def plan_digest(sources: Sequence[Source]) -> str:
    """Identifies what a shard is to hold."""
    lines = "".join(f"{s.number}\t{s.path}\t{s.label}\t{s.size}\n" for s in sources)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def load(source: Source, verify: bool) -> bytes | LeftOut:
    """The content of a file, or why it is left out."""
    try:
        if verify:
            video_info(source.path)
        with open_media(source.path) as file:
            content = file.read()
    except UnreadableVideo as error:
        return LeftOut(source.path, error.reason)
    except OSError as error:
        return LeftOut(source.path, error.strerror or str(error))
    return content or LeftOut(source.path, "is empty")


def read_ahead(sources: Sequence[Source], threads: int, verify: bool) -> Iterator[tuple[Source, bytes | LeftOut]]:
    """Contents in order, read by several threads."""
    waiting: collections.deque[tuple[Source, Future]] = collections.deque()
    ahead = 0  # bytes
    with ThreadPoolExecutor(threads) as pool:
        try:
            for source in sources:
                waiting.append((source, pool.submit(load, source, verify)))
                ahead += source.size
                while ahead > READ_AHEAD or len(waiting) >= FILES_AHEAD * threads:
                    first, future = waiting.popleft()
                    ahead -= first.size
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class TarWriter:
    """Writes members one after the other and hashes what it writes; equal members give equal bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def add(self, name: str, content: bytes) -> int:
        """Append one file; returns the offset of its data."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o444
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self._write(content)
        self._write(bytes(-len(content) % TAR_BLOCK))
        return offset

    def close(self) -> str:
        """End the archive, have it on the disk; returns the SHA-256 of the file."""
        end = 2 * TAR_BLOCK
        self._write(bytes(end + -(self.size + end) % TAR_RECORD))
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._hash.hexdigest()

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self.size += len(content)


def write_shard(file: Path, sources: Sequence[Source], threads: int, verify: bool) -> Shard:
    """Write one shard, complete or not at all."""
    shard = Shard(file.name, 0, plan=plan_digest(sources))
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        with open(unfinished, "wb") as out:
            tar = TarWriter(out)
            for source, content in read_ahead(sources, threads, verify):
                if isinstance(content, LeftOut):
                    shard.left_out.append(tuple(content))
                    continue
                if source.label != NO_LABEL:
                    tar.add(f"{source.key}.cls", str(source.label).encode())
                offset = tar.add(f"{source.key}.{source.ext}", content)
                shard.key.append(source.key)
                shard.ext.append(source.ext)
                shard.offset.append(offset)
                shard.bytes.append(len(content))
                shard.label.append(source.label)
                shard.crc32.append(zlib.crc32(content))
            shard.sha256, shard.size = tar.close(), tar.size
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
    return shard
