"""An image file is a video of one frame, shown for one second."""

from __future__ import annotations

import numpy as np

from diffmae_video.data.decoders.common import UnreadableVideo, VideoInfo, scaled_size
from diffmae_video.data.packed import media_source


def read(path: str, short_side: int | None) -> np.ndarray:
    """The picture, its EXIF rotation applied, transparency dropped: uint8 (1, H, W, 3), read-only.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableVideo: Pillow does not read it.
    """
    return _load(path, short_side)[None]


def info(path: str) -> VideoInfo:
    """Frames 1, fps 1, the size as displayed; raises what ``read`` raises."""
    height, width = _load(path, None).shape[:2]
    return VideoInfo(frames=1, fps=1.0, width=width, height=height, duration=1.0)


def _load(path: str, short_side: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(media_source(path)) as image:
            # JPEG can be decoded at a half, a quarter or an eighth of its size: much faster on photographs.
            if short_side:
                image.draft("RGB", scaled_size(*image.size, short_side))
            image.load()
            # In place, and converted only where needed: each of the two would copy the picture once more.
            ImageOps.exif_transpose(image, in_place=True)
            upright = image if image.mode == "RGB" else image.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"no such image: {path}") from None
    # Pillow reports damage in a file through these types.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableVideo(path, f"{type(error).__name__}: {error}") from error
    size = scaled_size(*upright.size, short_side)
    if size != upright.size:
        upright = upright.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(upright)
