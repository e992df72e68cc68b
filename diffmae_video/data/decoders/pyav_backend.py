"""Frames through PyAV: exact on every file that FFmpeg decodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from diffmae_video.data.decoders.common import UnreadableVideo, scaled_size
from diffmae_video.data.decoders.container import import_av, open_video
from diffmae_video.data.decoders.index import VideoIndex

if TYPE_CHECKING:
    import av

# A seek costs a flush and a refill of the decoder: over fewer frames than this it is cheaper to decode on.
SHORTEST_JUMP = 4


def read(path: str, wanted: Sequence[int], index: VideoIndex, short_side: int | None) -> np.ndarray:
    """Frames ``wanted`` (ascending, no repeats, inside the video): uint8 (len(wanted), H, W, 3).

    Raises:
        UnreadableVideo: the file does not decode up to the last wanted frame.
    """
    width, height = scaled_size(index.width, index.height, short_side)
    out = np.empty((len(wanted), height, width, 3), np.uint8)
    if index.timestamps is None or not _read_by_timestamp(path, wanted, index, out):
        _read_in_sequence(path, wanted, index, out)
    return out


def _read_by_timestamp(path: str, wanted: Sequence[int], index: VideoIndex, out: np.ndarray) -> bool:
    """Decode forward, jumping over groups of pictures without a wanted frame; False if a frame is not where it was."""
    convert = _Converter(index, out)
    keyframes = index.keyframes[np.searchsorted(index.keyframes, wanted, side="right") - 1].tolist()
    with open_video(path) as (container, stream):
        frames, position = container.decode(stream), -1  # position: number of the frame decoded last
        for row, (number, keyframe) in enumerate(zip(wanted, keyframes, strict=True)):
            frame = None
            if keyframe > position + SHORTEST_JUMP:
                if position < 0:
                    _prime(container, stream)
                container.seek(int(index.timestamps[keyframe]), stream=stream)
                frames = container.decode(stream)
                frame = _next_at(frames, index.timestamps[keyframe])
                if frame is None:  # not a place to start decoding after all: gradual refresh has such keyframes
                    return False
            if frame is None or number != keyframe:
                frame = _next_at(frames, index.timestamps[number])
            if frame is None:
                return False
            convert(frame, row)
            position = number
    return True


def _prime(container: av.container.InputContainer, stream: av.VideoStream) -> None:
    """Show the decoder the first packet: it may name the encoder, by which FFmpeg knows the bugs to make up for.

    Without it, 4:4:4 H.264 of older x264 versions decodes to garbage after a seek.
    """
    next(container.demux(stream)).decode()


def _next_at(frames: Iterator[av.VideoFrame], timestamp: int) -> av.VideoFrame | None:
    for frame in frames:
        if frame.pts is None or frame.pts > timestamp:
            return None
        if frame.pts == timestamp:
            return frame
    return None


def _read_in_sequence(path: str, wanted: Sequence[int], index: VideoIndex, out: np.ndarray) -> None:
    convert = _Converter(index, out)
    rows = {number: row for row, number in enumerate(wanted)}
    decoded = 0
    with open_video(path) as (container, stream):
        for decoded, frame in enumerate(container.decode(stream), start=1):
            if decoded - 1 in rows:
                convert(frame, rows[decoded - 1])
            if decoded > wanted[-1]:
                return
    raise UnreadableVideo(path, f"lists {index.frames} frames, but only {decoded} decode")


class _Converter:
    """Writes a decoded frame into its row: scaled, RGB, turned as it is displayed."""

    def __init__(self, index: VideoIndex, out: np.ndarray) -> None:
        self._out = out
        self._orientation = index.orientation
        self._reformatter = import_av().video.reformatter.VideoReformatter()
        self._height, self._width = out.shape[1:3]
        if index.orientation.transpose:
            self._height, self._width = self._width, self._height

    def __call__(self, frame: av.VideoFrame, row: int) -> None:
        rgb = self._reformatter.reformat(
            frame, width=self._width, height=self._height, format="rgb24", interpolation="BICUBIC"
        )
        self._out[row] = self._orientation.apply(rgb.to_ndarray())
