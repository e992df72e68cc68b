"""Features of whole videos from a pre-trained encoder: clips cut along the video, encoded, pooled or left as a grid.

``encode_video`` takes one file; ``tools/extract_features.py`` does it for a dataset; ``nearest`` looks things up.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from diffmae_video.data.decoding import BACKENDS, VideoInfo, read_frames, video_info
from diffmae_video.data.sampling import SAMPLINGS, segment_indices
from diffmae_video.data.transforms import Box, center_box, crop_and_resize
from diffmae_video.models.patches import patchify

OUTPUTS = ("pooled", "dense")
FITS = ("crop", "stretch")
PRECISIONS = ("fp32", "bf16")
# Decoded frames that are in memory at once: 43 of 1920 x 1080. Fewer would mean more starts at an earlier keyframe.
CHUNK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class FeatureOptions:
    """How a video becomes features.

    Args:
        sampling_rate: distance between two frames of a window; a model sees motion as in training at its own
            DATA.SAMPLING_RATE. Not used by ``sampling="segment"``.
        output: "pooled" (mean over the patch tokens, D numbers per window) or "dense" (all of them, t x h x w x D).
        layer: which block's output, -1 (the last, through the encoder's final norm) to -depth.
        window_stride: frames from the start of a window to that of the next; None = a window's span, so that windows
            touch. Above the span frames are left out.
        sampling: "dense" (windows along the video) or "segment" (one window: a frame out of each of T equal parts).
        fit: "crop" (the central square) or "stretch" (the whole frame, squeezed to a square).
        batch_size: windows that are encoded at once.
        precision: "fp32", or "bf16" for matrix products in bfloat16; the features are float32 in both cases.
        decoder, decode_short_side, decode_timeout: as for ``read_frames``.

    Raises:
        ValueError: a value out of its range.
    """

    sampling_rate: int
    output: str = "pooled"
    layer: int = -1
    window_stride: int | None = None
    sampling: str = "dense"
    fit: str = "crop"
    batch_size: int = 8
    precision: str = "fp32"
    decoder: str = "auto"
    decode_short_side: int = 0
    decode_timeout: float = 0

    def __post_init__(self) -> None:
        for name, choices in (
            ("output", OUTPUTS),
            ("sampling", SAMPLINGS),
            ("fit", FITS),
            ("precision", PRECISIONS),
            ("decoder", BACKENDS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: choose one of {', '.join(choices)}")
        for name in ("sampling_rate", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.window_stride is not None and self.window_stride < 1:
            raise ValueError(f"window_stride must be at least 1, got {self.window_stride}")
        if self.window_stride is not None and self.sampling == "segment":
            raise ValueError('window_stride has no meaning with sampling "segment": its one window is the whole video')
        if self.layer > -1:
            raise ValueError(f"layer counts from the end, -1 is the last block; got {self.layer}")


class VideoFeatures(NamedTuple):
    """The features of W windows of a video."""

    features: np.ndarray  # float32 (W, D), or (W, t, h, w, D) dense
    starts: np.ndarray  # int64 (W,) first frame of every window
    seconds: np.ndarray  # float64 (W,) the same in time: starts / average frame rate; NaN where there is no rate
    info: VideoInfo  # of the whole video


def window_starts(length: int, span: int, hop: int | None = None) -> np.ndarray:
    """First frames of the windows of a video; int64 (W,), ascending.

    A window every ``hop`` frames, and a last one that ends with the video. With ``hop`` up to ``span`` every frame
    lies in a window. A video no longer than ``span`` has one window, from frame 0.

    Args:
        length: frames of the video, >= 1.
        span: frames from the first to the last of a window, >= 1.
        hop: frames, >= 1; None = ``span``.

    Raises:
        ValueError: a number below 1.
    """
    hop = span if hop is None else hop
    if min(length, span, hop) < 1:
        raise ValueError(f"length, span and hop must be at least 1, got {length}, {span} and {hop}")
    last = max(0, length - span)
    return np.append(np.arange(0, last, hop), last).astype(np.int64)


def window_frames(length: int, num_frames: int, options: FeatureOptions) -> tuple[np.ndarray, np.ndarray]:
    """First frames int64 (W,) and frame numbers int64 (W, T) of the windows of a video.

    What is too short for a window repeats its last frame, as in training (see ``data.sampling``).
    """
    if options.sampling == "segment":
        return np.zeros(1, np.int64), segment_indices(length, num_frames)[None]
    offsets = options.sampling_rate * np.arange(num_frames)
    starts = window_starts(length, int(offsets[-1]) + 1, options.window_stride)
    return starts, np.minimum(starts[:, None] + offsets, length - 1)


def read_windows(
    path: str | os.PathLike[str], numbers: np.ndarray, size: int, info: VideoInfo, options: FeatureOptions
) -> torch.Tensor:
    """Clips uint8 (B, C, T, size, size) of frame numbers (B, T); a frame that several share is decoded once.

    Frames are cut to their final size as they come, ``CHUNK_BYTES`` of them at a time.
    """
    needed, rows = np.unique(numbers, return_inverse=True)
    count = max(1, CHUNK_BYTES // (3 * info.width * info.height))
    cut = []
    for first in range(0, len(needed), count):
        chunk = needed[first : first + count]
        frames = read_frames(path, chunk, options.decoder, options.decode_short_side, options.decode_timeout)
        height, width = frames.shape[1:3]
        box = center_box(height, width) if options.fit == "crop" else Box(0, 0, height, width)
        cut.append(crop_and_resize(torch.from_numpy(frames), box, size))
    frames = torch.cat(cut, dim=1)  # (C, F, size, size)
    return frames[:, torch.from_numpy(rows.reshape(numbers.shape))].transpose(0, 1)


def block_tokens(model: nn.Module, clip: torch.Tensor, layer: int = -1) -> torch.Tensor:
    """Normalised clip (B, C, T, H, W) -> patch tokens (B, N, D) after block ``layer``, without a class token.

    -1 is ``model.encode``, which includes the encoder's final norm; the blocks before it give their plain output.

    Raises:
        ValueError: the encoder has no such block.
    """
    encoder = model.encoder
    if not -encoder.depth <= layer <= -1:
        raise ValueError(f"layer {layer}: this encoder has {encoder.depth} blocks, choose from -1 to -{encoder.depth}")
    if layer == -1:
        return model.encode(clip)
    outputs = encoder.block_outputs(encoder.embed(patchify(clip, encoder.patch_size)))
    x = next(itertools.islice(outputs, encoder.depth + layer, None))  # no later block is computed
    return x if encoder.class_token is None else x[:, 1:]


@torch.inference_mode()
def encode_clips(model: nn.Module, clips: torch.Tensor, options: FeatureOptions) -> torch.Tensor:
    """Pixels uint8 (B, C, T, H, W) -> float32 (B, D), or (B, t, h, w, D) dense; on the model's device."""
    device = model.pixel_mean.device
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        tokens = block_tokens(model, model.normalize(clips.to(device)), options.layer)
    tokens = tokens.float()
    return tokens.mean(dim=1) if options.output == "pooled" else tokens.unflatten(1, (-1, *model.grid[1:]))


def encode_video(model: nn.Module, path: str | os.PathLike[str], options: FeatureOptions) -> VideoFeatures:
    """Encodes a video along its whole length, in windows of the model's number of frames.

    No more pixels than a batch of windows needs are in memory. An image is a video of one frame.

    Args:
        model: what ``load_model`` returns; in eval mode.
        path: a video, an image or a folder of frames.
        options: see there.

    Raises:
        ValueError: ``options.layer`` is not one of the encoder's.
        FileNotFoundError, UnreadableVideo: see ``read_frames``. No part of a damaged video is returned.
    """
    info = video_info(path, options.decoder, options.decode_timeout)
    starts, numbers = window_frames(info.frames, model.clip_shape[1], options)
    features = []
    for first in range(0, len(starts), options.batch_size):
        clips = read_windows(path, numbers[first : first + options.batch_size], model.clip_shape[2], info, options)
        features.append(encode_clips(model, clips, options).cpu().numpy())
    seconds = starts / info.fps if info.fps > 0 else np.full(len(starts), np.nan)
    return VideoFeatures(np.concatenate(features), starts, seconds, info)


def nearest(features: np.ndarray, query: np.ndarray, k: int, center: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` rows that are most similar to each query by the cosine of their angle.

    Args:
        features: (R, D).
        query: (Q, D), or (D,) for a single one.
        k: 1 to R.
        center: subtract the mean of ``features`` from both first. Features of pre-training share a large part, which
            puts all cosines close to 1.

    Returns:
        int64 row numbers and float64 cosines in [-1, 1], each (Q, k) or (k,), most similar first; of equally similar
        rows the first. A vector of zeros has a cosine of 0 with every other.

    Raises:
        ValueError: shapes that do not fit, or ``k`` out of its range.
    """
    features, query = np.asarray(features, np.float64), np.asarray(query, np.float64)
    if features.ndim != 2 or query.ndim not in (1, 2) or query.shape[-1] != features.shape[1]:
        raise ValueError(f"expected features (R, D) and query (Q, D) or (D,), got {features.shape} and {query.shape}")
    if not 1 <= k <= len(features):
        raise ValueError(f"k must be between 1 and the {len(features)} rows of features, got {k}")
    mean = features.mean(axis=0) if center else 0.0
    cosines = _unit(query - mean) @ _unit(features - mean).T
    rows = np.argsort(-cosines, axis=-1, kind="stable")[..., :k]
    return rows, np.take_along_axis(cosines, rows, axis=-1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
