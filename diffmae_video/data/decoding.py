"""Read frames of a video or image file by number; frame *i* is frame *i*, whatever decoder reads it.

The reference is what a player shows: the *i*-th frame of a sequential decode in presentation order, frames outside
the edit list dropped, display rotation applied, the first video stream where there are several. Files are opened
for every call and closed before it returns, so that nothing is shared with worker processes.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import numpy as np

from diffmae_video.data.decoders import decord_backend, image_backend, pyav_backend
from diffmae_video.data.decoders.common import UnreadableVideo, VideoInfo
from diffmae_video.data.decoders.index import VideoIndex, read_index

BACKENDS = ("auto", "decord", "pyav")
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

__all__ = ["BACKENDS", "IMAGE_EXTENSIONS", "UnreadableVideo", "VideoInfo", "is_image", "read_frames", "video_info"]


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether the name of the file says that it is an image (which is then a video of one frame)."""
    return os.path.splitext(os.fspath(path))[1].lower() in IMAGE_EXTENSIONS


def video_info(path: str | os.PathLike[str], backend: str = "auto") -> VideoInfo:
    """Number of frames, average frames per second, displayed width and height (pixels), duration (seconds).

    Args:
        path: a video file, or an image (one frame).
        backend: as for ``read_frames``; the answer does not depend on it.

    Raises:
        What ``read_frames`` raises, except IndexError.
    """
    path = _checked(path, backend)
    if is_image(path):
        return image_backend.info(path)
    index = read_index(path)
    if backend == "decord":
        _check_decord(path, index)
    return VideoInfo(index.frames, index.fps, index.width, index.height, index.duration)


def read_frames(
    path: str | os.PathLike[str], indices: Sequence[int], backend: str = "auto", short_side: int | None = None
) -> np.ndarray:
    """Frames ``indices`` of a video, uint8 RGB, shape (len(indices), H, W, 3).

    Args:
        path: a video file, or an image (one frame, its EXIF rotation applied).
        indices: frame numbers in [0, frames), in any order, repeats allowed.
        backend: "auto" takes decord where it is installed and gives the right frames of this file, and PyAV
            otherwise; "decord" and "pyav" take just that one. An image is read by Pillow in every case.
        short_side: scale the shorter side down to so many pixels while decoding; the longer one keeps the aspect
            ratio, rounded to the nearest even number. Never upward; None or 0 = full size.

    Raises:
        FileNotFoundError: there is no such file.
        IndexError: an index outside [0, frames).
        UnreadableVideo: the file is no video, damaged or truncated, or ``backend`` cannot give its right frames.
        ImportError: the decoder is not installed; names the package.
        ValueError: an unknown backend, no indices, or a negative ``short_side``.
    """
    path = _checked(path, backend)
    if short_side is not None and short_side < 0:
        raise ValueError(f"short_side must be positive, or 0 for full size; got {short_side}")
    if is_image(path):
        requested = _checked_indices(path, indices, frames=1)
        return image_backend.read(path, short_side)[requested]
    index = read_index(path)
    requested = _checked_indices(path, indices, index.frames)
    wanted, rows = np.unique(requested, return_inverse=True)
    frames = _read(path, wanted.tolist(), backend, index, short_side)
    return frames if np.array_equal(wanted, requested) else frames[rows]


def _read(path: str, wanted: list[int], backend: str, index: VideoIndex, short_side: int | None) -> np.ndarray:
    if backend == "decord":
        _check_decord(path, index)
        return decord_backend.read(path, wanted, index, short_side)
    if backend == "auto" and not index.decord_problem and _decord_is_installed():
        try:
            return decord_backend.read(path, wanted, index, short_side)
        except UnreadableVideo:
            pass  # decord's FFmpeg is of 2021: PyAV opens more, and has the last word on what is unreadable
    return pyav_backend.read(path, wanted, index, short_side)


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


def _check_decord(path: str, index: VideoIndex) -> None:
    decord_backend.import_decord()
    if index.decord_problem:
        raise UnreadableVideo(
            path, f'decord is not sure to return its right frames, because {index.decord_problem}; use "auto" or "pyav"'
        )


def _decord_is_installed() -> bool:
    return importlib.util.find_spec("decord") is not None
