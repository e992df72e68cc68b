"""Look at every file of a dataset: can it be read, is it long and large enough, is it there twice."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import BinaryIO, NamedTuple

import numpy as np

from diffmae_video.data.decoders.common import IMAGE_EXTENSIONS, UnreadableVideo, VideoInfo
from diffmae_video.data.decoding import read_frames, video_info
from diffmae_video.data.manifests.common import Entry
from diffmae_video.data.packed import media_state, open_media

DECODE_LEVELS = ("none", "ends", "full")
PROBLEMS = ("missing", "unreadable", "duplicate", "short", "small")
ENDS_BYTES = 1 << 16  # hashed at either end of a file before all of it is
PROBE_SIDE = 64  # pixels: to see that frames decode, they need not be large
PROBE_FRAMES = 1024  # frames in memory at once


class Requirements(NamedTuple):
    """What a run asks of a video; 0 = nothing."""

    frames: int = 0  # from the first to the last frame of a clip: (T - 1) * sampling rate + 1
    side: int = 0  # shorter side, pixels


class FileCheck(NamedTuple):
    """What was found out about one file."""

    path: str
    label: int
    problem: str  # one of PROBLEMS; "" = none
    reason: str  # of the problem, one line
    info: VideoInfo | None  # None where it cannot be read
    size: int  # bytes; 0 where missing


def check_file(
    entry: Entry, requirements: Requirements, decode: str = "ends", decoder: str = "auto", timeout: float = 60
) -> FileCheck:
    """Everything about one file that can be told without looking at others.

    Args:
        entry: path and label.
        requirements: shorter and smaller videos are "short" and "small".
        decode: "none" reads the packets and decodes the first frame; "ends" the first and the last; "full" all.
        decoder, timeout: as for ``read_frames``.

    Raises:
        ImportError: the decoder is not installed.
        ValueError: an unknown level or decoder.
    """
    if decode not in DECODE_LEVELS:
        raise ValueError(f"unknown level {decode!r}; choose one of {', '.join(DECODE_LEVELS)}")
    size, info = 0, None
    try:
        size = content_size(entry.path)
        info = video_info(entry.path, decoder, timeout)
        _decode(entry.path, info.frames, decode, decoder, timeout)
    except FileNotFoundError as error:
        reason = "no such file" if error.errno else str(error)  # our own errors carry no number, and say more
        return FileCheck(*entry, "missing", reason, None, size)
    except (UnreadableVideo, OSError) as error:
        reason = error.reason if isinstance(error, UnreadableVideo) else error.strerror or str(error)
        return FileCheck(*entry, "unreadable", reason, info, size)
    if info.frames < requirements.frames and not _is_picture(entry.path):
        return FileCheck(*entry, "short", f"{info.frames} frames, a clip spans {requirements.frames}", info, size)
    if min(info.width, info.height) < requirements.side:
        return FileCheck(*entry, "small", f"{info.width}x{info.height}, a crop has {requirements.side}", info, size)
    return FileCheck(*entry, "", "", info, size)


def check_files(
    entries: Sequence[Entry], check: Callable[[Entry], FileCheck], workers: int
) -> Iterator[tuple[int, FileCheck]]:
    """(number of the entry, what ``check`` returned) for all entries, in the order in which they get done.

    ``workers`` threads; the work itself is done in the decoding process that belongs to each (see ``watchdog``).
    Closing the iterator ends them, after the files that they are at.
    """
    with ThreadPoolExecutor(workers) as pool:
        running: dict[Future[FileCheck], int] = {}
        waiting = iter(range(len(entries)))
        try:
            while True:
                # Few at a time, so that an interrupted check has little left to finish.
                while len(running) < 2 * workers and (number := next(waiting, None)) is not None:
                    running[pool.submit(check, entries[number])] = number
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def find_duplicates(checks: Iterable[FileCheck]) -> dict[int, str]:
    """Number of every file whose content stood before in ``checks`` -> the path that it repeats.

    Sizes are compared, of equal ones both ends, and of those that agree the whole. A file that cannot be read (any
    more) is no duplicate.
    """
    by_size: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for number, check in enumerate(checks):
        if check.problem not in ("missing", "unreadable"):
            by_size[check.size].append((number, check.path))
    found: dict[int, str] = {}
    for same_size in by_size.values():
        for same_ends in _groups(same_size, _digest_of_ends):
            for same in _groups(same_ends, _digest):
                found |= {number: same[0][1] for number, _ in same[1:]}
    return found


def statistics(checks: Iterable[FileCheck]) -> dict[str, object]:
    """Counts of problems, labels and picture sizes; smallest, median and largest of frames, fps and so on."""
    checks = list(checks)
    infos = [check.info for check in checks if check.info is not None]
    numbers = {
        name: _summary([getattr(info, name) for info in infos])
        for name in ("frames", "fps", "duration", "width", "height")
    }
    return {
        "files": len(checks),
        "problems": {name: sum(check.problem == name for check in checks) for name in PROBLEMS},
        "labels": {str(label): count for label, count in sorted(Counter(check.label for check in checks).items())},
        "sizes": dict(Counter(f"{info.width}x{info.height}" for info in infos).most_common(20)),
        "bytes": sum(check.size for check in checks),
        **{name: numbers[name] for name in numbers},
    }


def content_size(path: str) -> int:
    """Bytes of a file, packed or not, or of all frames of a folder; raises FileNotFoundError, OSError."""
    return sum(media_state(part)[1] for part in _parts(path))


def _decode(path: str, frames: int, level: str, decoder: str, timeout: float) -> None:
    if level == "none":
        return
    wanted = range(frames) if level == "full" else sorted({0, frames - 1})
    for start in range(0, len(wanted), PROBE_FRAMES):
        read_frames(path, wanted[start : start + PROBE_FRAMES], decoder, PROBE_SIDE, timeout)


def _is_picture(path: str) -> bool:
    return path.lower().endswith(IMAGE_EXTENSIONS)  # it fills a clip of any length


def _parts(path: str) -> list[str]:
    """The file itself, or the files in a folder."""
    if not os.path.isdir(path):
        return [path]
    return [entry.path for entry in sorted(os.scandir(path), key=lambda entry: entry.name) if entry.is_file()]


def _groups(files: list[tuple[int, str]], digest: Callable[[str], bytes | None]) -> Iterator[list[tuple[int, str]]]:
    """Files of equal digest, where there are at least two."""
    if len(files) < 2:
        return
    groups: dict[bytes, list[tuple[int, str]]] = defaultdict(list)
    for number, path in files:
        if (value := digest(path)) is not None:
            groups[value].append((number, path))
    yield from (group for group in groups.values() if len(group) > 1)


def _digest_of_ends(path: str) -> bytes | None:
    return _hash(path, ends_only=True)


def _digest(path: str) -> bytes | None:
    return _hash(path, ends_only=False)


def _hash(path: str, ends_only: bool) -> bytes | None:
    digest = hashlib.blake2b(digest_size=16)
    try:
        parts = _parts(path)
        for part in (parts[0], parts[-1]) if ends_only else parts:
            with open_media(part) as file:
                for block in _blocks(file, ends_only):
                    digest.update(block)
    except (OSError, UnreadableVideo):
        return None
    return digest.digest()


def _blocks(file: BinaryIO, ends_only: bool) -> Iterator[bytes]:
    if not ends_only:
        yield from iter(lambda: file.read(1 << 20), b"")
        return
    yield file.read(ENDS_BYTES)
    end = file.seek(0, os.SEEK_END)
    file.seek(max(ENDS_BYTES, end - ENDS_BYTES))
    yield file.read(ENDS_BYTES)


def _summary(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {
        "min": float(np.min(values)),
        "median": float(np.median(values)),
        "mean": round(float(np.mean(values)), 3),
        "max": float(np.max(values)),
    }
