"""Open a video with PyAV, and turn its errors into ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from diffmae_video.data.decoders.common import UnreadableVideo

if TYPE_CHECKING:
    import av


def import_av():  # noqa: ANN201 - the module itself
    """PyAV, quiet; ImportError naming the package where it is missing."""
    try:
        import av
    except ImportError as error:
        raise ImportError("reading and writing video needs PyAV: pip install av") from error
    av.logging.set_level(av.logging.PANIC)
    return av


@contextmanager
def open_video(path: str) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its first video stream that is not a cover picture, closed at the end of the block.

    Raises:
        UnreadableVideo: it cannot be opened or has no video; also for what PyAV raises inside the block.
        ImportError: PyAV is not installed.
    """
    av = import_av()
    try:
        # Titles of videos from the web are not always UTF-8: no reason to lose the pictures.
        with av.open(path, metadata_errors="replace") as container:
            streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            if not streams:
                raise UnreadableVideo(path, "has no video stream")
            # Clips are decoded in many processes at once: threads in each would only fight for the cores.
            streams[0].codec_context.thread_count = 1
            yield container, streams[0]
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(path, f"{type(error).__name__}: {error}") from error
