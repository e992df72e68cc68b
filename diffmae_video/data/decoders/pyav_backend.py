"""Frames through PyAV: exact on every file that FFmpeg decodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from diffmae_video.data import watchdog
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
    out = watchdog.empty((len(wanted), height, width, 3))
    if index.timestamps is None or not _read_by_timestamp(path, wanted, index, out):
        _read_in_sequence(path, wanted, index, out)
    return out


def _read_by_timestamp(path: str, wanted: Sequence[int], index: VideoIndex, out: np.ndarray) -> bool:
    """Decode the spans that hold wanted frames, jumping over the rest; False if a frame is not where it was."""
    convert = _Converter(index, out)
    rows = {time: row for row, time in enumerate(index.timestamps[list(wanted)].tolist())}
    with open_video(path, probe=not index.can_drop_frames) as (container, stream):
        for keyframe, numbers in _spans(wanted, index.keyframes):
            times = index.timestamps[numbers].tolist()
            anchor = None
            if keyframe > 0:
                if numbers[0] == wanted[0]:
                    _prime(container, stream)
                anchor = int(index.timestamps[keyframe])
                container.seek(anchor, stream=stream)
            for frame in _decode(container, stream, times, index.can_drop_frames):
                if frame.pts is None:
                    return False
                if anchor is not None and frame.pts >= anchor:
                    if frame.pts > anchor:  # no place to start decoding after all: gradual refresh has such keyframes
                        return False
                    anchor = None
                if frame.pts in rows:
                    convert(frame, rows.pop(frame.pts))
                if frame.pts >= times[-1]:
                    break
            if not rows.keys().isdisjoint(times):
                return False
    return True


def _spans(wanted: Sequence[int], keyframes: np.ndarray) -> Iterator[tuple[int, list[int]]]:
    """(keyframe to start at, wanted frames to decode from there); a span ends where jumping to a keyframe pays."""
    starts = keyframes[np.searchsorted(keyframes, wanted, side="right") - 1].tolist()
    position, first, span = -1, 0, []
    for number, start in zip(wanted, starts, strict=True):
        if start > position + SHORTEST_JUMP:
            if span:
                yield first, span
            first, span = start, []
        span.append(number)
        position = number
    yield first, span


def _prime(container: av.container.InputContainer, stream: av.VideoStream) -> None:
    """Show the decoder the first packet: it may name the encoder, by which FFmpeg knows the bugs to make up for.

    Without it, 4:4:4 H.264 of older x264 versions decodes to garbage after a seek. The picture itself is not decoded.
    """
    stream.codec_context.skip_frame = "ALL"
    next(container.demux(stream)).decode()
    stream.codec_context.skip_frame = "DEFAULT"


def _decode(
    container: av.container.InputContainer, stream: av.VideoStream, times: Sequence[int], can_drop: bool
) -> Iterator[av.VideoFrame]:
    """Frames from the current place on; with ``can_drop`` at least those shown at ``times``, and few others.

    H.264 marks frames that no other frame refers to. Where such a frame is not wanted it need not be decoded, and all
    others come out bit for bit the same: a third to a half of the work in files with B-frames.
    """
    if not can_drop:
        yield from container.decode(stream)
        return
    codec, missing = stream.codec_context, set(times)
    for packet in container.demux(stream):
        codec.skip_frame = "DEFAULT" if packet.pts in missing else "NONREF"
        yield from packet.decode()
        missing.discard(packet.pts)
        if not missing:  # what is wanted is inside the decoder: have it out, instead of pushing it with more frames
            yield from codec.decode(None)
            return


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
        # One thread: there is a worker for every core already.
        rgb = self._reformatter.reformat(
            frame, width=self._width, height=self._height, format="rgb24", interpolation="BICUBIC", threads=1
        )
        self._out[row] = self._orientation.apply(rgb.to_ndarray())
