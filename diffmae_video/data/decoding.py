"""Read frames of a video or image file by number; frame *i* is frame *i*, whatever decoder reads it.

The reference is what a player shows: the *i*-th frame of a sequential decode in presentation order, frames outside
the edit list dropped, display rotation applied, the first video stream where there are several. Files are opened
for every call and closed before it returns, so that nothing is shared with worker processes.

What every decoder does with every kind of file is written down in docs/decoders.md.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import stat
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from diffmae_video.data import watchdog
from diffmae_video.data.decoders import (
    decord_backend,
    frames_backend,
    image_backend,
    memory,
    pyav_backend,
    torchcodec_backend,
)
from diffmae_video.data.decoders.common import IMAGE_EXTENSIONS, UnreadableVideo, VideoInfo
from diffmae_video.data.decoders.container import import_av
from diffmae_video.data.decoders.index import VideoIndex, read_index

BACKENDS = ("auto", "decord", "torchcodec", "pyav")

__all__ = [
    "BACKENDS",
    "IMAGE_EXTENSIONS",
    "UnreadableVideo",
    "VideoInfo",
    "is_image",
    "missing_backends",
    "read_frames",
    "video_info",
]


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether the name of the file says that it is an image (which is then a video of one frame)."""
    return os.path.splitext(os.fspath(path))[1].lower() in IMAGE_EXTENSIONS


def video_info(path: str | os.PathLike[str], backend: str = "auto", timeout: float = 0) -> VideoInfo:
    """Number of frames, average frames per second, displayed width and height (pixels), duration (seconds).

    Args:
        path: a video file, an image (one frame), or a folder of frames.
        backend: as for ``read_frames``; the answer does not depend on it.
        timeout: as for ``read_frames``.

    Raises:
        What ``read_frames`` raises, except IndexError.
    """
    path = _checked(path, backend)
    return _within(timeout, backend, _info, path, backend)


def read_frames(
    path: str | os.PathLike[str],
    indices: Sequence[int],
    backend: str = "auto",
    short_side: int | None = None,
    timeout: float = 0,
) -> np.ndarray:
    """Frames ``indices`` of a video, uint8 RGB, shape (len(indices), H, W, 3).

    Args:
        path: a video file, an image (one frame, its EXIF rotation applied), or a folder of frames.
        indices: frame numbers in [0, frames), in any order, repeats allowed.
        backend: "auto" takes the fastest that is installed and right for this file: decord, or PyAV where decord
            would return other frames or PyAV is faster (H.264); PyAV has the last word on what is unreadable.
            "decord", "torchcodec" and "pyav" take just that one. An image is read by Pillow in every case.
        short_side: scale the shorter side down to so many pixels while decoding; the longer one keeps the aspect
            ratio, rounded to the nearest even number. Never upward; None or 0 = full size.
        timeout: seconds after which decoding is cut off, whatever it hangs in; it then happens in a process beside
            this one (see ``watchdog``), which also survives a decoder that crashes. 0 = no limit, in this process.
            Images are read in this process in every case.

    Raises:
        FileNotFoundError: there is no such file.
        IndexError: an index outside [0, frames).
        UnreadableVideo: the file is no video, damaged or truncated, took longer than ``timeout``, or ``backend``
            cannot give its right frames.
        ImportError: the decoder is not installed; names the package.
        ValueError: an unknown backend, no indices, a negative ``short_side`` or ``timeout``.
    """
    path = _checked(path, backend)
    if short_side is not None and short_side < 0:
        raise ValueError(f"short_side must be positive, or 0 for full size; got {short_side}")
    return _within(timeout, backend, _frames, path, np.asarray(indices, np.int64).reshape(-1), backend, short_side)


def missing_backends() -> dict[str, str]:
    """The decoders that cannot be used here: name -> why, and what to install. PyAV is needed with every decoder."""
    checks = {
        "decord": decord_backend.import_decord,
        "torchcodec": torchcodec_backend.import_torchcodec,
        "pyav": import_av,
    }
    missing = {}
    for name, check in checks.items():
        try:
            check()
        except ImportError as error:
            missing[name] = str(error)
    return missing


_Result = TypeVar("_Result")


def _within(timeout: float, backend: str, function: Callable[..., _Result], path: str, *arguments: object) -> _Result:
    """``function(path, *arguments)``, cut off after ``timeout`` seconds unless that is 0."""
    if timeout < 0:
        raise ValueError(f"timeout must be positive, or 0 for none; got {timeout}")
    # Pillow's decoders are short and bounded; for a small image the way to another process would take longer.
    if not timeout or is_image(path):
        return function(path, *arguments)
    try:
        return watchdog.run(
            function, path, *arguments, timeout=timeout, setup=functools.partial(_import_decoders, backend)
        )
    except watchdog.HelperDied as error:
        raise UnreadableVideo(path, f"decoding {error}") from None


def _import_decoders(backend: str) -> None:
    """In a new decoding process, so that imports do not count as time for the first video.

    What is missing is reported when it is needed.
    """
    with contextlib.suppress(ImportError):
        if backend == "torchcodec":
            torchcodec_backend.import_torchcodec()
        elif backend != "pyav":
            decord_backend.import_decord()
    with contextlib.suppress(ImportError):
        import_av()


def _info(path: str, backend: str) -> VideoInfo:
    if _is_folder(path):
        return frames_backend.info(path)
    if is_image(path):
        return image_backend.info(path)
    index = read_index(path)
    if backend in PROBLEMS:
        _check_backend(path, backend, index)
    return VideoInfo(index.frames, index.fps, index.width, index.height, index.duration)


def _frames(path: str, indices: np.ndarray, backend: str, short_side: int | None) -> np.ndarray:
    if _is_folder(path):
        names = frames_backend.frame_names(path)
        requested = _checked_indices(path, indices, frames=len(names))
        wanted, rows = np.unique(requested, return_inverse=True)
        return frames_backend.read(path, [names[number] for number in wanted], short_side)[rows]
    if is_image(path):
        requested = _checked_indices(path, indices, frames=1)
        return image_backend.read(path, short_side)[requested]
    index = read_index(path)
    requested = _checked_indices(path, indices, index.frames)
    wanted, rows = np.unique(requested, return_inverse=True)
    frames = _read(path, wanted.tolist(), backend, index, short_side)
    memory.after_read()
    return frames if np.array_equal(wanted, requested) else frames[rows]


def _read(path: str, wanted: list[int], backend: str, index: VideoIndex, short_side: int | None) -> np.ndarray:
    if backend != "auto":
        if backend in PROBLEMS:
            _check_backend(path, backend, index)
        return READERS[backend](path, wanted, index, short_side)
    # docs/performance.md: where it can drop frames, PyAV leaves undecoded what no wanted frame needs, and is the
    # fastest by far. torchcodec has no place here: it is right on no file that PyAV is not, not found faster, and
    # brings torch into every decoding process.
    if not index.can_drop_frames and not index.decord_problem and importlib.util.find_spec("decord"):
        # decord's FFmpeg is of 2021: PyAV opens more, and has the last word on what is unreadable
        with contextlib.suppress(UnreadableVideo):
            return decord_backend.read(path, wanted, index, short_side)
    return pyav_backend.read(path, wanted, index, short_side)


READERS = {"decord": decord_backend.read, "torchcodec": torchcodec_backend.read, "pyav": pyav_backend.read}
# Decoders that do not read everything rightly: why they would not, "" where they do.
PROBLEMS: dict[str, Callable[[VideoIndex], str]] = {
    "decord": lambda index: index.decord_problem,
    "torchcodec": lambda index: index.torchcodec_problem,
}


def _checked(path: str | os.PathLike[str], backend: str) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"unknown decoder {backend!r}; choose one of {', '.join(BACKENDS)}")
    return os.fspath(path)


def _checked_indices(path: str, indices: Sequence[int], frames: int) -> np.ndarray:
    requested = np.asarray(indices, dtype=np.int64).reshape(-1)
    if requested.size == 0:
        raise ValueError(f"{path}: no frame was asked for, indices is empty")
    outside = requested[(requested < 0) | (requested >= frames)]
    if outside.size:
        raise IndexError(f"{path}: frame {outside[0]} was asked for, but there are frames 0 to {frames - 1}")
    return requested


def _is_folder(path: str) -> bool:
    """Whether it is a folder (of frames). Refuses what is neither folder nor file: opening a pipe may never return."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False  # a packed file; or what opens it says what is wrong
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UnreadableVideo(path, "is a pipe, socket or device, not a file")
    return stat.S_ISDIR(mode)


def _check_backend(path: str, backend: str, index: VideoIndex) -> None:
    """Raises ImportError where the decoder is missing, UnreadableVideo where it would return other frames."""
    decord_backend.import_decord() if backend == "decord" else torchcodec_backend.import_torchcodec()
    if problem := PROBLEMS[backend](index):
        raise UnreadableVideo(
            path, f'{backend} is not sure to return its right frames, because {problem}; use "auto" or "pyav"'
        )
