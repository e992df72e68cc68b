"""Crops and flips of whole clips: every frame of a clip is treated alike, every draw comes from a passed generator.

Clips go in as the decoder gives them, uint8 (T, H, W, C), and come out as uint8 (C, T, S, S); they stay uint8 up to
the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

TRIES = 10


class Box(NamedTuple):
    """A region of a frame, pixels."""

    top: int
    left: int
    height: int
    width: int


def random_resized_crop_box(
    height: int,
    width: int,
    scale: Sequence[float],
    aspect: Sequence[float],
    generator: torch.Generator,
    relative_aspect: bool = False,
) -> Box:
    """A random region: its share of the area uniform in ``scale``, width / height log-uniform in ``aspect``.

    The convention of torchvision's RandomResizedCrop: up to ten tries for a region that fits; then the largest
    centred one whose aspect ratio lies in ``aspect``.

    Args:
        height, width: size of the frame, pixels.
        scale: (smallest, largest) share of the area, in (0, 1].
        aspect: (smallest, largest) width / height.
        generator: the source of randomness.
        relative_aspect: ``aspect`` is a multiple of the frame's own width / height: at (1, 1) a crop has its shape.
    """
    if relative_aspect:
        aspect = [bound * width / height for bound in aspect]
    for _ in range(TRIES):
        share, ratio, vertical, horizontal = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
        log_ratio = math.log(aspect[0]) + (math.log(aspect[1]) - math.log(aspect[0])) * ratio
        crop_width = round(math.sqrt(area * math.exp(log_ratio)))
        crop_height = round(math.sqrt(area / math.exp(log_ratio)))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(vertical * (height - crop_height + 1))
            left = int(horizontal * (width - crop_width + 1))
            return Box(top, left, crop_height, crop_width)
    crop_width, crop_height = width, height
    if width / height < aspect[0]:
        crop_height = min(height, round(width / aspect[0]))
    elif width / height > aspect[1]:
        crop_width = min(width, round(height * aspect[1]))
    return Box((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def center_box(height: int, width: int) -> Box:
    """The largest centred square."""
    side = min(height, width)
    return Box((height - side) // 2, (width - side) // 2, side, side)


def crop_and_resize(frames: torch.Tensor, box: Box, size: int) -> torch.Tensor:
    """Cut ``box`` out of every frame and scale it to ``size`` x ``size`` (bilinear, antialiased).

    Args:
        frames: uint8 (T, H, W, C).
        box: the region, inside the frames.
        size: S, pixels.

    Returns:
        uint8 (C, T, S, S), contiguous.
    """
    top, left, height, width = box
    region = frames[:, top : top + height, left : left + width].permute(0, 3, 1, 2)  # (T, C, h, w), channels last
    if (height, width) != (size, size):
        region = functional.interpolate(region, size=(size, size), mode="bilinear", antialias=True)
    return region.transpose(0, 1).contiguous()


def random_resized_crop_flip(
    frames: torch.Tensor,
    size: int,
    scale: Sequence[float],
    aspect: Sequence[float],
    horizontal_flip: bool,
    generator: torch.Generator,
    relative_aspect: bool = False,
) -> torch.Tensor:
    """The augmentation of pre-training: a random resized crop, mirrored in half of the clips if ``horizontal_flip``.

    frames uint8 (T, H, W, C) -> uint8 (C, T, size, size). The ranges are those of :func:`random_resized_crop_box`.
    """
    box = random_resized_crop_box(frames.shape[1], frames.shape[2], scale, aspect, generator, relative_aspect)
    clip = crop_and_resize(frames, box, size)
    mirrored = bool(torch.rand((), generator=generator) < 0.5)  # drawn in any case: later draws stay the same
    return clip.flip(-1) if horizontal_flip and mirrored else clip


def center_crop(frames: torch.Tensor, size: int) -> torch.Tensor:
    """The centred square, scaled: the same as scaling the short side to ``size`` and cutting the centre.

    frames uint8 (T, H, W, C) -> uint8 (C, T, size, size).
    """
    return crop_and_resize(frames, center_box(frames.shape[1], frames.shape[2]), size)
