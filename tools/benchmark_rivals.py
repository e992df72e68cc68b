"""How others turn a file into clips, written from the description of their loaders, without their masks and labels.

Both get the start of each clip given, so that everything compared reads the same frames. Both give float clips
(C, T, 224, 224), normalised in the worker, as their training loops expect them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from diffmae_video.data.decoders.container import import_av
from diffmae_video.data.transforms import random_resized_crop_box

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALES = (1, 0.875, 0.75, 0.66)


def videomae(path: Path, numbers: Sequence[int], size: int, chance: random.Random) -> torch.Tensor:
    """VideoMAE: decord reads the frames at full size; PIL crops one of 13 places at one of 4 scales, and resizes."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    frames = reader.get_batch(list(numbers)).asnumpy()
    images = [Image.fromarray(frame).convert("RGB") for frame in frames]
    box = _multi_scale_box(*images[0].size, size, chance)
    images = [image.crop(box).resize((size, size), Image.Resampling.BILINEAR) for image in images]
    stacked = np.concatenate([np.asarray(image) for image in images], axis=2)  # (H, W, T * C)
    clip = torch.from_numpy(stacked).permute(2, 0, 1).contiguous().float().div(255)
    for plane, mean, std in zip(clip, MEAN * len(images), STD * len(images), strict=True):
        plane.sub_(mean).div_(std)
    return clip.view(len(images), 3, size, size).transpose(0, 1)


def _multi_scale_box(width: int, height: int, size: int, chance: random.Random) -> tuple[int, int, int, int]:
    """(left, top, right, bottom); width and height differ by at most one step of the scales."""
    sides = [int(min(width, height) * scale) for scale in SCALES]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    pairs = [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    crop_width, crop_height = chance.choice(pairs)
    right, down = (width - crop_width) // 4, (height - crop_height) // 4
    quarters = [(x, y) for x in (0, 2, 4) for y in (0, 2, 4)] + [(x, y) for x in (1, 3) for y in (1, 3)]
    x, y = chance.choice(quarters)
    return x * right, y * down, x * right + crop_width, y * down + crop_height


def mae_st(
    path: Path, clips: Sequence[Sequence[int]], size: int, fps: float, generator: torch.Generator
) -> torch.Tensor:
    """MAE-ST: PyAV decodes everything from the keyframe before the first clip to the end of the last one, as RGB.

    From this one read all clips are cut; each is normalised at full size in float, then cropped, resized and flipped.
    (In pre-training its repository decodes whole files; this is the cheaper way that its decoder also knows.)
    """
    first, last = min(clip[0] for clip in clips), max(clip[-1] for clip in clips)
    av = import_av()
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        to_number = float(stream.time_base) * fps
        start = stream.start_time or 0
        container.seek(round(first / to_number) + start, stream=stream)
        for frame in container.decode(stream):
            number = round((frame.pts - start) * to_number)
            if first <= number <= last:
                frames.append(frame.to_rgb().to_ndarray())
            if number >= last:
                break
    video = torch.from_numpy(np.stack(frames))
    return torch.stack([_jitter(video[np.asarray(clip) - first], size, generator) for clip in clips])


def _jitter(frames: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """uint8 (T, H, W, 3) -> float (C, T, size, size)."""
    clip = (frames.float() / 255 - torch.tensor([0.45] * 3)) / torch.tensor([0.225] * 3)
    clip = clip.permute(3, 0, 1, 2)
    top, left, height, width = random_resized_crop_box(*clip.shape[2:], (0.5, 1.0), (0.75, 4 / 3), generator)
    region = clip[:, :, top : top + height, left : left + width]
    region = functional.interpolate(region, size=(size, size), mode="bilinear", align_corners=False)
    return region.flip(-1) if torch.rand((), generator=generator) < 0.5 else region


def decode_only(path: Path, keyframe_time: int, last_time: int) -> int:
    """The floor of a loader: PyAV decodes from a keyframe to the last frame wanted, nothing is converted or kept.

    Times in units of the stream; returns how many frames were decoded.
    """
    with import_av().open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        if keyframe_time:
            container.seek(keyframe_time, stream=stream)
        for count, frame in enumerate(container.decode(stream), start=1):
            if frame.pts >= last_time:
                return count
    return 0
