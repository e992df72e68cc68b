"""From files to batches of clips: manifest -> frame numbers -> decode -> crop -> uint8 (B, C, T, H, W).

Names are imported when they are first used, so that reading frames needs no torch and the package starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffmae_video.data.dataset import ClipDataset, ClipSample
    from diffmae_video.data.decoding import IMAGE_EXTENSIONS, UnreadableVideo, VideoInfo, read_frames, video_info
    from diffmae_video.data.loader import ClipBatch, DrawSampler, collate, make_loader
    from diffmae_video.data.manifest import NO_LABEL, VIDEO_EXTENSIONS, Entry, read_manifest
    from diffmae_video.data.sampling import dense_indices
    from diffmae_video.data.writing import write_gif, write_image, write_video

_MODULES = {
    "ClipBatch": "loader",
    "ClipDataset": "dataset",
    "ClipSample": "dataset",
    "DrawSampler": "loader",
    "Entry": "manifest",
    "IMAGE_EXTENSIONS": "decoding",
    "NO_LABEL": "manifest",
    "UnreadableVideo": "decoding",
    "VIDEO_EXTENSIONS": "manifest",
    "VideoInfo": "decoding",
    "collate": "loader",
    "dense_indices": "sampling",
    "make_loader": "loader",
    "read_frames": "decoding",
    "read_manifest": "manifest",
    "video_info": "decoding",
    "write_gif": "writing",
    "write_image": "writing",
    "write_video": "writing",
}

__all__ = [
    "IMAGE_EXTENSIONS",
    "NO_LABEL",
    "VIDEO_EXTENSIONS",
    "ClipBatch",
    "ClipDataset",
    "ClipSample",
    "DrawSampler",
    "Entry",
    "UnreadableVideo",
    "VideoInfo",
    "collate",
    "dense_indices",
    "make_loader",
    "read_frames",
    "read_manifest",
    "video_info",
    "write_gif",
    "write_image",
    "write_video",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
