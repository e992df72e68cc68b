"""What a visitor of the page gives as input: a file that may be anything, read within limits."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from diffmae_video.data import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, UnreadableVideo, read_frames, video_info

EXTENSIONS = tuple(dict.fromkeys((*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS)))
# Only these are tried: a file that calls itself .png must not reach the readers of rarer, less tested formats.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
# How the content of each video format begins, whatever the file is called. Text is none of them: a playlist would let
# its author say which files of this machine are read.
SIGNATURES = (
    rb".{4}(ftyp|moov|mdat|wide|free|skip|pnot)",  # mp4, mov, 3gp
    rb"\x1a\x45\xdf\xa3",  # mkv, webm
    rb"RIFF.{4}AVI ",
    rb"FLV",
    rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # wmv
    rb"\x00\x00\x01[\xb3\xba]",  # mpg
    rb"\x47.{187}\x47|.{4}\x47.{191}\x47",  # ts
    rb"GIF8[79]a",
    rb"OggS",
)
VIDEO_START = re.compile(b"|".join(SIGNATURES), re.DOTALL)
START_BYTES = 256
LEAST_SIDE = 8  # pixels, once scaled down
KEPT_CLIPS = 4  # read again when a control moves
DECODERS = 2  # visitors whose files are read at once


class Refused(ValueError):
    """Something that the visitor can put right; the message is shown on the page and names no path."""


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for.

    Attributes:
        upload_bytes: of a file.
        picture_pixels, video_pixels: width x height of an image, of a frame of a video, as the file has them.
        side: longer side (pixels) that is worked on; what is larger is scaled down.
        frames: of a clip.
        steps: of the sampler.
        decode_seconds: for each of the two looks at a video (its index, its frames); then it counts as unreadable.
        job_seconds: for an inpainting, without waiting.
        waiting: jobs that may wait.
        keep_minutes: how long uploads and results stay on disk.
    """

    upload_bytes: int = 50 << 20
    picture_pixels: int = 64_000_000
    video_pixels: int = 4096 * 2304
    side: int = 512
    frames: int = 64
    steps: int = 250
    decode_seconds: float = 20
    job_seconds: float = 600
    waiting: int = 8
    keep_minutes: float = 60


class Sample(NamedTuple):
    """A clip or image that can be tried at once."""

    title: str
    path: Path


@dataclass(frozen=True)
class Clip:
    """Frames to inpaint, and where they are from."""

    name: str  # of the file, without its folder
    frames: np.ndarray  # uint8 (T, H, W, 3), shared by all who ask for the clip: not to be written to
    indices: range  # their numbers in the file
    total: int  # frames of the file
    fps: float  # of these frames
    size: tuple[int, int]  # width and height (pixels) in the file

    @property
    def is_picture(self) -> bool:
        return self.total == 1

    def describe(self) -> str:
        """One sentence: what the file is, and what of it is taken."""
        width, height = self.size
        scaled = self.frames.shape[2], self.frames.shape[1]
        words = f"{self.name}: {width}x{height}"
        if not self.is_picture:
            words += f", {self.total} frames; taken: {len(self.indices)}, from {self.indices[0]} to {self.indices[-1]}"
        return words if scaled == self.size else f"{words}; scaled down to {scaled[0]}x{scaled[1]}"


def demo_samples(data: Path, each: int = 2) -> list[Sample]:
    """Held-out clips of the set that the demo rendered; none where it was not rendered.

    ``each``: clips of known photographs on new camera paths, and as many of photographs that were never seen.
    """
    samples = []
    for split, kind in (("val", "known"), ("unseen", "unseen")):
        clips = sorted((data / split).glob("*.mp4"))
        chosen = (clips[i * len(clips) // each] for i in range(min(each, len(clips))))
        samples += [Sample(f"{clip.stem.rpartition('_')[0].replace('_', ' ')} ({kind})", clip) for clip in chosen]
    return samples


def read_clip(path: str, start: int, count: int, stride: int, limits: Limits) -> Clip:
    """Frames start, start + stride, ... of a video or an image that may be damaged or hostile.

    Args:
        path: a file; what it is, is told by the end of its name.
        start, count, stride: ``count`` is the most that is taken.
        limits: see :class:`Limits`; longer videos are cut, larger frames scaled down.

    Raises:
        Refused: no video or image, one that cannot be read within the limits, or numbers outside of them.
    """
    name = Path(path).name
    for what, value, least, most in (
        ("first frame", start, 0, None),
        ("number of frames", count, 1, limits.frames),
        ("stride", stride, 1, None),
    ):
        if value < least or (most is not None and value > most):
            bounds = f"at least {least}" if most is None else f"{least} to {most}"
            raise Refused(f"{what} {value}: expected {bounds}")
    try:
        return _read(path, name, start, count, stride, limits)
    except UnreadableVideo as error:
        raise Refused(f"{name} cannot be read: {error.reason.replace(path, name)}") from error
    except OSError as error:
        raise Refused(f"{name} cannot be read: {error.strerror or type(error).__name__}") from error


def _read(path: str, name: str, start: int, count: int, stride: int, limits: Limits) -> Clip:
    if not os.path.getsize(path):
        raise Refused(f"{name} is empty: the upload broke off, or the file has no content")
    suffix = Path(path).suffix.lower()
    if suffix in IMAGE_EXTENSIONS:
        width, height = _picture_size(path, name)
        total, fps, most = 1, 1.0, limits.picture_pixels
    elif suffix in VIDEO_EXTENSIONS:
        with open(path, "rb") as file:
            if not VIDEO_START.match(file.read(START_BYTES)):
                raise Refused(f"{name} cannot be read: its content is no video, whatever its name says")
        info = video_info(path, timeout=limits.decode_seconds)
        width, height, total, fps, most = info.width, info.height, info.frames, info.fps or 1.0, limits.video_pixels
    else:
        raise Refused(f"{name} is neither a video nor an image by its name: expected {', '.join(EXTENSIONS)}")
    if width * height > most:
        raise Refused(f"{name} has {width}x{height} pixels: at most {most / 1e6:.3g} million are taken; scale it down")
    indices = range(start, total, stride)[:count]
    if not indices:
        raise Refused(f"{name} has frames 0 to {total - 1}: first frame {start} is after its end")
    short_side = _short_side(width, height, limits.side, name)
    frames = read_frames(path, indices, short_side=short_side, timeout=limits.decode_seconds)
    if (width > height) != (frames.shape[2] > frames.shape[1]):  # turned, as the EXIF data of a photograph say
        width, height = height, width
    return Clip(name, frames, indices, total, fps / stride, (width, height))


def _picture_size(path: str, name: str) -> tuple[int, int]:
    """Width and height by the header alone, so that a small file of a huge picture is never unpacked; not turned."""
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as image:
            return image.size
    except Image.DecompressionBombError:
        raise Refused(f"{name} has far too many pixels; scale it down") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = "its content is no picture" if isinstance(error, Image.UnidentifiedImageError) else "it is damaged"
        raise Refused(f"{name} cannot be read: {reason} (expected {', '.join(PICTURE_FORMATS)})") from error


def _short_side(width: int, height: int, side: int, name: str) -> int | None:
    """The shorter side with which the longer one is at most ``side``; None = as it is."""
    shorter, longer = min(width, height), max(width, height)
    scaled = shorter if longer <= side else shorter * side // longer
    if scaled < LEAST_SIDE:
        raise Refused(f"{name} is {width}x{height}: too small, or too narrow, to be inpainted")
    return None if longer <= side else scaled


class ClipReader:
    """``read_clip`` for many visitors; remembers the last few clips.

    A decoding process belongs to the thread that asked for it. Pages are served by dozens of threads, so that reading
    has few of its own.
    """

    def __init__(self, limits: Limits):
        self._pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="read")
        self._read = lru_cache(maxsize=KEPT_CLIPS)(partial(read_clip, limits=limits))

    def __call__(self, path: str, start: int, count: int, stride: int) -> Clip:
        """See :func:`read_clip`."""
        # Gradio's paths are a kind of str of its own; sent to the decoding process, they would import Gradio there,
        # which takes longer than reading the file, and counts as that.
        return self._pool.submit(self._read, str(path), start, count, stride).result()

    def thumbnails(self, samples: Sequence[Sample]) -> list[tuple[np.ndarray, str]]:
        """First frame and title of each."""
        return [(self(str(sample.path), 0, 1, 1).frames[0], sample.title) for sample in samples]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._read.cache_clear()
