"""Writing that is complete or not there at all, and that outlives a full disk."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def tolerate_full_disk(what: str) -> Iterator[None]:
    """Turns "no space left" (or a reached quota) into a warning that ``what`` was not written."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        logger.warning("no space left on the disk: %s was not written; training goes on", what)


class FileWriter:
    """A file object that keeps the first error for later instead of raising it.

    ``torch.save`` calls ``write`` from C++, where an exception would be replaced by another one. Here the rest of the
    data is dropped and ``error`` tells.
    """

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        try:
            while len(view) and self.error is None:
                view = view[os.write(self.descriptor, view) :]
        except OSError as error:
            self.error = error
        return size

    def flush(self) -> None:
        """Nothing is buffered here."""


class HashedFile(io.RawIOBase):
    """A new file that is hashed while it is written, in order; keeps the first error for ``fileno``, as FileWriter."""

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._file, self.size, self._sum = FileWriter(self._descriptor), 0, hashlib.sha256()

    def write(self, data: Any) -> int:
        written = self._file.write(data)
        self.size += written
        self._sum.update(data)
        return written

    def tell(self) -> int:
        return self.size

    def fileno(self) -> int:
        if self._file.error is not None:
            raise self._file.error
        return self._descriptor

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def checksum(self) -> str:
        """SHA-256 of what was written, in hexadecimal."""
        return self._sum.hexdigest()


def temporary_path(path: Path) -> Path:
    """Where ``path`` is written before it is complete: same folder, so that the renaming is atomic."""
    return path.with_name(f".{path.name}.tmp")


def write_atomically(path: str | Path, write: Callable[[FileWriter], object]) -> None:
    """Calls ``write(file)`` and puts the result at ``path``: entirely, and on the disk, or not at all.

    Raises:
        OSError: the file cannot be written; what was at ``path`` before is untouched and no temporary file is left.
    """
    path = Path(path)
    temporary = temporary_path(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        try:
            file = FileWriter(descriptor)
            write(file)
            if file.error is not None:
                raise file.error
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file atomically; errors as :func:`write_atomically`."""
    write_atomically(path, lambda file: file.write(text.encode()))


def sync_folder(folder: Path) -> None:
    """Puts the folder's entries on the disk; without it a renaming may be lost in a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class JsonLines:
    """A file of one JSON object per line, each with an integer ``"step"``; opened for appending.

    Args:
        path: of the file.
        keep_up_to: lines of later steps, and a line cut off by a kill, are removed first: a resumed run writes those
            steps again.
    """

    def __init__(self, path: str | Path, keep_up_to: int):
        self.path = Path(path)
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) <= keep_up_to]
            if kept != lines or not self.path.read_bytes().endswith(b"\n"):
                write_text(self.path, "".join(f"{line}\n" for line in kept))
        self._file = self.path.open("ab", buffering=0)

    def append(self, record: dict[str, Any]) -> None:
        """Writes one line; on a full disk none, with a warning."""
        end = self._file.seek(0, os.SEEK_END)
        data = memoryview((json.dumps(record) + "\n").encode())
        with tolerate_full_disk(f"a line of {self.path}"):
            try:
                while len(data):
                    data = data[self._file.write(data) :]
            except OSError:
                self._file.truncate(end)
                raise

    def sync(self) -> None:
        """Puts what was written on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    """The step of a line; infinity for what is no whole record."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
