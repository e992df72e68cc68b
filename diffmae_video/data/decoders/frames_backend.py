"""A folder of extracted frames is a video: its images, sorted by the numbers in their names, are the frames.

A folder does not say when a frame is shown: it counts as one frame per second.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from diffmae_video.data.decoders import image_backend
from diffmae_video.data.decoders.common import IMAGE_EXTENSIONS, UnreadableVideo, VideoInfo, natural_key


def info(path: str) -> VideoInfo:
    """Number of images, 1 frame per second, the size of the first image.

    Raises:
        FileNotFoundError: there is no such folder.
        UnreadableVideo: it holds no image, or its first image cannot be read.
    """
    names = frame_names(path)
    first = image_backend.info(os.path.join(path, names[0]))
    return first._replace(frames=len(names), duration=float(len(names)))


def frame_names(path: str) -> list[str]:
    """File names of the frames, in order: frame_2.jpg before frame_10.jpg.

    Raises what :func:`info` raises.
    """
    try:
        names = [name for name in os.listdir(path) if name.lower().endswith(IMAGE_EXTENSIONS) and name[0] != "."]
    except FileNotFoundError:
        raise FileNotFoundError(f"no such folder of frames: {path}") from None
    except OSError as error:
        raise UnreadableVideo(path, f"{type(error).__name__}: {error}") from error
    if not names:
        raise UnreadableVideo(path, f"is a folder without frames ({' '.join(IMAGE_EXTENSIONS)})")
    return sorted(names, key=natural_key)


def read(path: str, names: Sequence[str], short_side: int | None) -> np.ndarray:
    """The images ``names`` of a folder, uint8 (len(names), H, W, 3).

    Raises:
        UnreadableVideo: an image is missing, damaged, or of another size than the others.
    """
    frames = []
    for name in names:
        file = os.path.join(path, name)
        try:
            frames.append(image_backend.read(file, short_side)[0])
        except (FileNotFoundError, UnreadableVideo) as error:
            raise UnreadableVideo(path, f"frame {name}: {error}") from error
        if frames[-1].shape != frames[0].shape:
            sizes = " and ".join(f"{frame.shape[1]}x{frame.shape[0]}" for frame in (frames[0], frames[-1]))
            raise UnreadableVideo(path, f"its frames {names[0]} and {name} differ in size: {sizes}")
    return np.stack(frames)
