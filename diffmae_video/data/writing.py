"""Write frames to files that people and browsers open: H.264 mp4, gif, single images.

Frames come as uint8 RGB. Every file appears complete or not at all: it is written under a temporary name in the
same folder and renamed at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np

from diffmae_video.data.decoders.container import import_av


def write_video(
    path: str | os.PathLike[str], frames: np.ndarray, fps: float, crf: int = 18, gop: int | None = None
) -> Path:
    """Write an H.264 (yuv420p) mp4 that plays in a browser, its index in front of the data ("faststart").

    Args:
        path: the file to write; its folder is created. The container is mp4 whatever the suffix says.
        frames: uint8 (T, H, W, 3) RGB, T >= 1. An odd height or width, which yuv420p cannot hold, is padded by one
            row or column that repeats the last one.
        fps: frames per second, > 0.
        crf: quality of x264, 0 (lossless in luma) to 51 (worst); 18 looks like the original.
        gop: longest distance between two keyframes, in frames; None leaves it to the encoder (250).

    Returns:
        The path.

    Raises:
        ValueError: frames of another shape or type, or fps that is not positive.
        ImportError: PyAV is not installed.
    """
    frames = _checked(frames, dimensions=4)
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    av = import_av()
    frames = _pad_to_even(frames)
    _, height, width, _ = frames.shape
    # One thread: with more, x264 may give other bytes for the same frames, and it is slower at these sizes.
    options = {"crf": str(crf), "preset": "medium", "threads": "1"}
    if gop is not None:
        options["g"] = str(gop)
    with _atomic(path) as temporary:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(65535), options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(stream.encode(None))
    return Path(path)


def write_gif(path: str | os.PathLike[str], frames: np.ndarray, fps: float) -> Path:
    """Write an endlessly looping gif; frames uint8 (T, H, W, 3) RGB, fps > 0 (kept to 1/100 s, at most 50).

    Raises:
        ValueError: frames of another shape or type, or fps that is not positive.
    """
    from PIL import Image

    frames = _checked(frames, dimensions=4)
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    # Browsers play delays below 20 ms at 100 ms instead.
    duration = max(20, round(100 / fps) * 10)
    images = [Image.fromarray(frame) for frame in frames]
    with _atomic(path) as temporary:
        images[0].save(
            temporary, format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0, disposal=1
        )
    return Path(path)


def write_image(path: str | os.PathLike[str], array: np.ndarray) -> Path:
    """Write one picture; array uint8 (H, W, 3) RGB or (H, W) grey. The suffix chooses the format (.png, .jpg, ...).

    Raises:
        ValueError: an array of another shape or type, or a suffix that names no picture format.
    """
    from PIL import Image

    path = Path(path)
    array = _checked(array, dimensions=2 if np.ndim(array) == 2 else 3)
    image_format = Image.registered_extensions().get(path.suffix.lower())
    if image_format is None:
        raise ValueError(f"{path}: the suffix {path.suffix!r} names no picture format; use .png or .jpg")
    options = {"quality": 95} if image_format == "JPEG" else {}
    with _atomic(path) as temporary:
        Image.fromarray(array).save(temporary, format=image_format, **options)
    return path


def _checked(array: np.ndarray, dimensions: int) -> np.ndarray:
    expected = {2: "(H, W)", 3: "(H, W, 3)", 4: "(T, H, W, 3)"}[dimensions]
    array = np.asarray(array)
    shape_fits = array.ndim == dimensions and array.size > 0 and (dimensions == 2 or array.shape[-1] == 3)
    if array.dtype != np.uint8 or not shape_fits:
        raise ValueError(f"expected uint8 {expected}, got {array.dtype} {array.shape}")
    return np.ascontiguousarray(array)


def _pad_to_even(frames: np.ndarray) -> np.ndarray:
    _, height, width, _ = frames.shape
    if height % 2 == 0 and width % 2 == 0:
        return frames
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


@contextmanager
def _atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
