"""Frames through torchcodec (optional): for files whose frames have timestamps, which are compared with the index.

torchcodec needs the shared libraries of FFmpeg 4 to 8 on the system, and a release that fits the installed torch.
Only its exact mode is used: the approximate one computes frame numbers from the average frame rate, and so returns a
neighbour where frames are not evenly spaced. Its numbers are wrong even so where the first frames have no keyframe in
front of them (cut out by an edit list); therefore the timestamp of every frame is checked.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from diffmae_video.data.decoders.common import UnreadableVideo, scaled_size
from diffmae_video.data.decoders.container import import_av
from diffmae_video.data.decoders.index import VideoIndex
from diffmae_video.data.packed import media_source


@functools.cache
def import_problem() -> str:
    """Why torchcodec cannot be used in this process, in one line; "" where it can."""
    try:
        import torchcodec.decoders  # noqa: F401
    except ImportError:
        return 'decoder "torchcodec" is not installed: pip install torchcodec (the release that fits your torch)'
    # It raises these where its libraries do not load, with a page of reasons: FFmpeg is missing, or torch is another.
    except (RuntimeError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return (
            f"torchcodec is installed but does not load (FFmpeg libraries missing, or not made for this torch): {first}"
        )
    return ""


def import_torchcodec() -> None:
    """ImportError naming what is missing where torchcodec cannot be used."""
    if problem := import_problem():
        raise ImportError(problem)


def read(path: str, wanted: Sequence[int], index: VideoIndex, short_side: int | None) -> np.ndarray:
    """Frames ``wanted`` (ascending, no repeats, inside the video): uint8 (len(wanted), H, W, 3).

    Raises:
        UnreadableVideo: torchcodec does not open the file, finds other frames than the index, or fails to decode.
        ImportError: torchcodec is not installed, or does not load.
    """
    import_torchcodec()
    from torchcodec.decoders import VideoDecoder

    source = media_source(path)
    try:
        decoder = VideoDecoder(
            source if isinstance(source, str) else source.read(),
            stream_index=index.stream,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="exact",
        )
        if len(decoder) != index.frames:
            raise UnreadableVideo(path, f"torchcodec counts {len(decoder)} frames instead of {index.frames}")
        batch = decoder.get_frames_at(list(wanted))
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, UnreadableVideo):
            raise
        raise UnreadableVideo(path, f"{type(error).__name__}: {error}") from error
    late = np.abs(batch.pts_seconds.numpy() - index.timestamps[wanted] * index.time_base)
    if late.max() > index.time_base / 2:
        raise UnreadableVideo(
            path, f"torchcodec returned another frame than {wanted[int(late.argmax())]}: {late.max():.3f} s beside it"
        )
    frames = batch.data.numpy()
    if frames.shape[1:3] != (index.height, index.width):
        raise UnreadableVideo(path, f"torchcodec decodes to {frames.shape[1:3]}, not {(index.height, index.width)}")
    return _scaled(frames, *scaled_size(index.width, index.height, short_side))


def _scaled(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scaled as PyAV does it: torchcodec's own scaling is bilinear, and would be another picture."""
    if frames.shape[1:3] == (height, width):
        return frames
    av = import_av()
    reformatter = av.video.reformatter.VideoReformatter()
    scaled = np.empty((len(frames), height, width, 3), np.uint8)
    for row, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        scaled[row] = reformatter.reformat(picture, width=width, height=height, interpolation="BICUBIC").to_ndarray()
    return scaled
