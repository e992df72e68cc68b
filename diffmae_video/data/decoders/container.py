"""Open a video with PyAV, and turn its errors into ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from diffmae_video.data.decoders.common import UnreadableVideo
from diffmae_video.data.packed import media_source

if TYPE_CHECKING:
    import av

# For FFmpeg's look at the streams on opening, not for what is decoded later: a microsecond of the file, no picture.
NO_PROBING = {"analyzeduration": "1", "fpsprobesize": "0", "skip_frame": "all"}


def import_av():  # noqa: ANN201 - the module itself
    """PyAV, quiet; ImportError naming the package where it is missing."""
    try:
        import av
    except ImportError as error:
        raise ImportError("reading and writing video needs PyAV: pip install av") from error
    av.logging.set_level(av.logging.PANIC)
    return av


@contextmanager
def open_video(path: str, probe: bool = True) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its first video stream that is not a cover picture, closed at the end of the block.

    Args:
        path: the file.
        probe: let FFmpeg read and decode the beginning, to learn what the container does not say. Without, opening
            takes a tenth of the time, but for containers that say little no stream may be found at all.

    Raises:
        UnreadableVideo: it cannot be opened or has no video; also for what PyAV raises inside the block.
        ImportError: PyAV is not installed.
    """
    av = import_av()
    options = {} if probe else NO_PROBING
    try:
        # Titles of videos from the web are not always UTF-8: no reason to lose the pictures.
        with av.open(media_source(path), metadata_errors="replace", options=options) as container:
            streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            if not streams:
                raise UnreadableVideo(path, "has no video stream")
            # Clips are decoded in many processes at once: threads in each would only fight for the cores.
            streams[0].codec_context.thread_count = 1
            yield container, streams[0]
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(path, f"{type(error).__name__}: {error}") from error
