"""Find out which frames a video shows from its packets, (almost) without decoding."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffmae_video.data.decoders.common import UnreadableVideo
from diffmae_video.data.decoders.container import open_video
from diffmae_video.data.decoders.index import Orientation, VideoIndex
from diffmae_video.data.decoders.mpeg4 import MpegPictures

if TYPE_CHECKING:
    import av

# Formats, by FFmpeg's names, in which frames were found at their timestamps after a seek, whatever the codec.
SEEKABLE_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")


@dataclass
class _Packets:
    """One row per packet that reaches the decoder, in decoding order."""

    timestamps: list[int | None]
    keyframe: list[bool]
    hidden: list[bool]  # outside the edit list, or without a picture
    irregular: str  # why packets and pictures do not match one to one; "" where they do
    doubtful: int  # how many of those not hidden may give no picture all the same


def scan(path: str) -> VideoIndex:
    """The index of one file; raises what ``open_video`` raises, or UnreadableVideo where no frame decodes."""
    # H.264 in mp4 is most of what there is, and says all that is needed without FFmpeg's costly probing. Whatever is
    # wrong with a file is for the second, thorough look to say.
    with contextlib.suppress(UnreadableVideo), open_video(path, probe=False) as (container, stream):
        if stream.codec_context.name == "h264" and container.format.name == SEEKABLE_CONTAINERS[0]:
            return _index(container, stream, path)
    with open_video(path) as (container, stream):
        return _index(container, stream, path)


def _index(container: av.container.InputContainer, stream: av.VideoStream, path: str) -> VideoIndex:
    packets, first_frame = _read_packets(container, stream)
    if first_frame is None:
        raise UnreadableVideo(path, "no frame of it decodes")
    orientation = _orientation(first_frame)
    width, height = first_frame.width, first_frame.height
    if orientation.transpose:
        width, height = height, width

    frames = _settle_doubts(packets, path) if packets.doubtful else packets.hidden.count(False)
    problem = _timestamp_problem(container, stream, packets)
    timestamps, keyframes = (None, np.zeros(1, np.int64)) if problem else _presentation(packets)
    if problem and problem != packets.irregular and not packets.doubtful:
        frames = _count_by_decoding(path)
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    duration = _duration(timestamps, float(stream.time_base or 0), frames, fps)
    return VideoIndex(
        frames=frames,
        fps=fps if fps > 0 else (frames / duration if duration > 0 else 1.0),
        width=width,
        height=height,
        duration=duration,
        orientation=orientation,
        timestamps=timestamps,
        keyframes=keyframes,
        can_drop_frames=not problem and stream.codec_context.name == "h264",
        decord_problem=problem or _decord_problem(container, stream, packets, timestamps, orientation),
        torchcodec_problem=problem or _torchcodec_problem(stream, orientation),
        stream=stream.index,
        time_base=float(stream.time_base or 0),
    )


def _read_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[_Packets, av.VideoFrame | None]:
    """All packets of the stream, and the first frame: only a decoded one carries the display matrix."""
    codec = stream.codec_context.name
    packets = _Packets([], [], [], "", 0)
    mpeg4 = MpegPictures(stream.codec_context.extradata) if codec == "mpeg4" else None
    first_frame = None
    for packet in container.demux(stream):
        if first_frame is None:
            first_frame = _first_frame(stream.codec_context, packet, may_flush=codec == "h264" and not packets.keyframe)
        if packet.size == 0:  # the last, empty one flushes the decoder
            continue
        hidden = packet.is_discard
        if mpeg4:
            hidden = not mpeg4.shows(bytes(packet)) or hidden
        elif codec in ("vp8", "libvpx"):
            hidden = hidden or not bytes(packet)[0] & 0x10  # show_frame, RFC 6386 section 9.1
        packets.timestamps.append(packet.pts)
        packets.keyframe.append(packet.is_keyframe)
        packets.hidden.append(hidden)
    if mpeg4:
        packets.doubtful = mpeg4.doubtful
        packets.irregular = "its packets hold two pictures (packed B-frames)" if mpeg4.packed else ""
    return packets, first_frame


def _first_frame(codec: av.VideoCodecContext, packet: av.Packet, may_flush: bool) -> av.VideoFrame | None:
    """The frame of a packet, if any; ``may_flush``: do not wait until the decoder knows which frame comes first."""
    frames = packet.decode()
    if not frames and may_flush and packet.size:
        frames = codec.decode(None)
        codec.flush_buffers()
    return next(iter(frames), None)


def _timestamp_problem(container: av.container.InputContainer, stream: av.VideoStream, packets: _Packets) -> str:
    """Why timestamps do not identify the frames of this file; "" where they do."""
    codec, container_format = stream.codec_context, container.format.name
    if packets.irregular:
        return packets.irregular
    # An avi holds no presentation times: they are right only where frames are stored in the order they are shown.
    if container_format == "avi" and (codec.has_b_frames or codec.name in ("h264", "hevc")):
        return "an avi does not say in which order its frames are shown"
    if container_format not in SEEKABLE_CONTAINERS:
        return f"its container ({container_format}) has no exact seeking"
    shown = [t for t, hidden in zip(packets.timestamps, packets.hidden, strict=True) if not hidden]
    if None in packets.timestamps:
        return "some packets have no timestamp"
    if len(set(shown)) != len(shown):
        return "some packets share a timestamp"
    if not packets.keyframe[0]:
        return "it does not start with a keyframe"
    if min(packets.timestamps) < packets.timestamps[0]:
        return "it starts with frames that refer to missing ones"
    return ""


def _presentation(packets: _Packets) -> tuple[np.ndarray, np.ndarray]:
    """(timestamps of the shown frames, numbers of the frames at which decoding may start), both ascending."""
    rows = list(zip(packets.timestamps, packets.keyframe, packets.hidden, strict=True))
    timestamps = np.array(sorted(t for t, _, hidden in rows if not hidden), np.int64)
    keyframes = np.searchsorted(timestamps, [t for t, key, hidden in rows if key and not hidden])
    return timestamps, np.unique(np.append(keyframes, 0))


def _decord_problem(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: _Packets,
    timestamps: np.ndarray,
    orientation: Orientation,
) -> str:
    """Why decord returns other frames although timestamps are in order; "" where it returns the right ones."""
    if len(container.streams.video) > 1:
        return "it holds several video streams"
    if any(packets.hidden):
        return "some of its packets are not shown"
    if common := _torchcodec_problem(stream, orientation):
        return common
    # decord takes the place of a keyframe among the packets for its place among the frames.
    in_packets = np.flatnonzero(packets.keyframe)
    in_frames = np.searchsorted(timestamps, [packets.timestamps[place] for place in in_packets])
    if not np.array_equal(in_packets, in_frames):
        return "its groups of pictures are open"
    return ""


def _torchcodec_problem(stream: av.VideoStream, orientation: Orientation) -> str:
    """Why torchcodec returns other pictures although timestamps are in order; decord shares these troubles."""
    codec = stream.codec_context
    if orientation.mirrors:
        return "its display matrix mirrors the picture"
    if codec.name == "h264" and "444" in (codec.pix_fmt or ""):
        return "4:4:4 H.264 is not sure to decode after a seek"  # the reason stands at _prime in pyav_backend.py
    return ""


def _count_by_decoding(path: str) -> int:
    with open_video(path) as (container, stream):
        return sum(1 for _ in container.decode(stream))


def _settle_doubts(packets: _Packets, path: str) -> int:
    """Number of frames where some packets are doubtful: as many as decode. Marks the packets irregular if need be."""
    listed, decoded = packets.hidden.count(False), _count_by_decoding(path)
    if decoded != listed and not packets.irregular:
        packets.irregular = "some of its packets hold no picture"
    # What is missing beyond the doubtful ones is damage: it stays listed, and reading it says so.
    return max(decoded, listed - packets.doubtful)


def _duration(timestamps: np.ndarray | None, time_base: float, frames: int, fps: float) -> float:
    """Seconds from the first frame to the end of the last one, which is taken to last as long as the average."""
    if timestamps is not None and frames > 1:
        span = float(timestamps[-1] - timestamps[0]) * time_base
        return span * frames / (frames - 1)
    return frames / fps if fps > 0 else 0.0


def _orientation(frame: av.VideoFrame) -> Orientation:
    """From the display matrix [[a, b], [c, d]], which maps (x, y) to (a x + c y, b x + d y), in quarter turns."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
            if abs(a) >= abs(b):
                return Orientation(False, reverse_rows=d < 0, reverse_columns=a < 0)
            return Orientation(True, reverse_rows=b < 0, reverse_columns=c < 0)
    return Orientation()
