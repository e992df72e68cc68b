"""Which frames a video file shows, found by reading its packets (almost) without decoding.

Frame *i* is the *i*-th picture that a player shows when it plays the file from its start: a sequential decode in
presentation order, frames outside the edit list dropped. A container lists *packets*, in decoding order, and these
are not the same: some are hidden by an edit list, some carry no picture, some carry two. The index says which is
which, and so

- how many frames there are,
- at which frames a decoder may start,
- whether timestamps identify frames, and
- whether decord, which takes packets for frames, and torchcodec can be trusted with this file.

Reading the packets of a 10 s clip takes a few milliseconds; the result is kept for the files read last.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from diffmae_video.data.decoders.common import UnreadableVideo
from diffmae_video.data.decoders.structure import broken_at
from diffmae_video.data.decoders.truncation import missing_bytes
from diffmae_video.data.packed import media_state, open_media

CACHED_FRAMES = 2_000_000  # timestamps kept in memory: 16 MB


@dataclass(frozen=True)
class Orientation:
    """How a decoded frame becomes the displayed one: transpose first, then reverse rows and columns."""

    transpose: bool = False
    reverse_rows: bool = False
    reverse_columns: bool = False

    @property
    def mirrors(self) -> bool:
        """True where the picture is mirrored, not only rotated."""
        return self.transpose ^ self.reverse_rows ^ self.reverse_columns

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """frame (H, W, 3) as displayed; a view."""
        if self.transpose:
            frame = frame.transpose(1, 0, 2)
        return frame[:: -1 if self.reverse_rows else 1, :: -1 if self.reverse_columns else 1]


@dataclass(frozen=True)
class VideoIndex:
    """What ``read_index`` found; sizes are those of the displayed picture."""

    frames: int
    fps: float
    width: int
    height: int
    duration: float  # seconds
    orientation: Orientation
    timestamps: np.ndarray | None  # int64 (frames,), in the stream's units; None: they do not identify frames
    keyframes: np.ndarray  # frame numbers at which decoding may start, ascending; [0] where timestamps is None
    can_drop_frames: bool  # H.264 with timestamps: frames that none refers to can be left undecoded (by PyAV)
    decord_problem: str  # why decord would return other frames; "" where it returns the right ones
    torchcodec_problem: str  # the same for torchcodec
    stream: int  # number of the video stream in the file
    time_base: float  # seconds per unit of ``timestamps``


def read_index(path: str) -> VideoIndex:
    """The index of one file, from memory if the file is unchanged since it was last read.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableVideo: it is not a video, has no picture, is truncated or damaged.
        ImportError: PyAV is not installed.
    """
    from diffmae_video.data.decoders.scan import scan

    try:
        modified, size = media_state(path)
        key = (path, modified, size)
        index = _cache.get(key)
        if index is None:
            with open_media(path) as file:
                missing = missing_bytes(file, size)
                broken = None if missing else broken_at(file, size)
            if missing:
                raise UnreadableVideo(path, f"truncated: {missing} bytes are missing after the first {size}")
            if broken is not None:
                raise UnreadableVideo(path, f"damaged: no frame can be found at byte {broken} of {size}")
            index = scan(path)
            _cache.put(key, index)
    except FileNotFoundError:
        raise FileNotFoundError(f"no such video: {path}") from None
    except OSError as error:
        raise UnreadableVideo(path, error.strerror or str(error)) from error
    return index


class _Cache:
    """The indices used last, bounded by the number of their timestamps (an hour of video weighs more than a clip)."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[tuple[str, int, int], VideoIndex] = OrderedDict()
        self._held = 0

    def get(self, key: tuple[str, int, int]) -> VideoIndex | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: tuple[str, int, int], index: VideoIndex) -> None:
        self._entries[key] = index
        self._held += index.frames
        while self._held > self._capacity and len(self._entries) > 1:
            _, oldest = self._entries.popitem(last=False)
            self._held -= oldest.frames


_cache = _Cache(CACHED_FRAMES)


def forget() -> None:
    """Empties the memory of indices: the next ``read_index`` of every file reads it again."""
    global _cache
    _cache = _Cache(CACHED_FRAMES)
