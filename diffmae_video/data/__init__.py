"""From files to batches of clips: manifest -> frame numbers -> decode -> crop -> uint8 (B, C, T, H, W).

Names are imported when they are first used, so that reading frames needs no torch and the package starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffmae_video.data.augment import ColorJitter, CropAndFlip, RandomErasing
    from diffmae_video.data.class_names import read_class_names
    from diffmae_video.data.dataset import ClipDataset, ClipSample
    from diffmae_video.data.decoding import IMAGE_EXTENSIONS, UnreadableVideo, VideoInfo, read_frames, video_info
    from diffmae_video.data.evaluation import EvaluationClips
    from diffmae_video.data.folder_watch import DataFolderGone, LoadingFailed
    from diffmae_video.data.loader import ClipBatch, DrawSampler, MixSampler, collate, make_loader
    from diffmae_video.data.manifest import (
        FORMATS,
        NO_LABEL,
        ORIENTED_FORMATS,
        VIDEO_EXTENSIONS,
        Entry,
        detect_format,
        read_manifest,
    )
    from diffmae_video.data.mix import MixDataset
    from diffmae_video.data.mixing import Mixing
    from diffmae_video.data.pipelines import PretrainTransform, RecognitionTransform
    from diffmae_video.data.rand_augment import RandAugment
    from diffmae_video.data.sampling import dense_indices, segment_indices
    from diffmae_video.data.shards import shard_order
    from diffmae_video.data.subsets import labelled_subset
    from diffmae_video.data.writing import write_gif, write_image, write_video

_MODULES = {
    "ClipBatch": "loader",
    "ClipDataset": "dataset",
    "ClipSample": "dataset",
    "ColorJitter": "augment",
    "CropAndFlip": "augment",
    "DataFolderGone": "folder_watch",
    "DrawSampler": "loader",
    "Entry": "manifest",
    "EvaluationClips": "evaluation",
    "FORMATS": "manifest",
    "IMAGE_EXTENSIONS": "decoding",
    "LoadingFailed": "folder_watch",
    "MixDataset": "mix",
    "MixSampler": "loader",
    "Mixing": "mixing",
    "NO_LABEL": "manifest",
    "ORIENTED_FORMATS": "manifest",
    "PretrainTransform": "pipelines",
    "RandAugment": "rand_augment",
    "RandomErasing": "augment",
    "RecognitionTransform": "pipelines",
    "UnreadableVideo": "decoding",
    "VIDEO_EXTENSIONS": "manifest",
    "VideoInfo": "decoding",
    "collate": "loader",
    "dense_indices": "sampling",
    "detect_format": "manifest",
    "labelled_subset": "subsets",
    "make_loader": "loader",
    "read_class_names": "class_names",
    "read_frames": "decoding",
    "read_manifest": "manifest",
    "segment_indices": "sampling",
    "shard_order": "shards",
    "video_info": "decoding",
    "write_gif": "writing",
    "write_image": "writing",
    "write_video": "writing",
}

__all__ = [
    "FORMATS",
    "IMAGE_EXTENSIONS",
    "NO_LABEL",
    "ORIENTED_FORMATS",
    "VIDEO_EXTENSIONS",
    "ClipBatch",
    "ClipDataset",
    "ClipSample",
    "ColorJitter",
    "CropAndFlip",
    "DataFolderGone",
    "DrawSampler",
    "Entry",
    "EvaluationClips",
    "LoadingFailed",
    "MixDataset",
    "MixSampler",
    "Mixing",
    "PretrainTransform",
    "RandAugment",
    "RandomErasing",
    "RecognitionTransform",
    "UnreadableVideo",
    "VideoInfo",
    "collate",
    "dense_indices",
    "detect_format",
    "labelled_subset",
    "make_loader",
    "read_class_names",
    "read_frames",
    "read_manifest",
    "segment_indices",
    "shard_order",
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
