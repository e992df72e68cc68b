"""The augmentations of pre-training and of recognition, for whole clips.

Layouts: decoded frames are uint8 (T, H, W, C); everything after the crop is uint8 (C, T, S, S), and so is what these
transforms return. What is drawn for a clip holds for all its frames, and every draw comes from the generator passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from diffmae_video.data import clip_ops
from diffmae_video.data.transforms import Box, crop_and_resize, random_resized_crop_box

CROPS = ("random_resized", "multi_scale")
ERASING_MODES = ("const", "rand", "pixel")
MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
ERASING_TRIES = 10
SNAP = 3  # pixels: a crop side this near to the wanted size is that size, which spares the resizing


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _integer(generator: torch.Generator, count: int) -> int:
    """One of 0 ... count - 1."""
    return int(torch.randint(count, (), generator=generator))


# ---------------------------------------------------------------------------------------------------------- crop, flip


def multi_scale_crop_box(
    height: int,
    width: int,
    size: int,
    generator: torch.Generator,
    scales: Sequence[float] = MULTI_SCALES,
    max_distort: int = 1,
    fixed_positions: bool = True,
) -> Box:
    """A random region in the convention of VideoMAE's (and TSN's) GroupMultiScaleCrop.

    Height and width are each a share of the shorter side, out of ``scales``, at most ``max_distort`` places apart in
    that list; a side within 2 pixels of ``size`` becomes ``size`` (if the frame is that large: VideoMAE would cut
    beyond the frame).

    Args:
        height, width: size of the frame, pixels.
        size: to which the crop will be scaled, pixels.
        generator: the source of randomness.
        scales: shares of the shorter side, in (0, 1].
        max_distort: 0 = squares only.
        fixed_positions: at one of 13 places (4 corners, 4 middles of sides, the centre, 4 between centre and corners);
            otherwise anywhere.
    """
    shorter = min(height, width)
    sides = [max(1, int(shorter * scale)) for scale in scales]
    sides = [size if abs(side - size) < SNAP and size <= shorter else side for side in sides]
    pairs = [
        (crop_height, crop_width)
        for i, crop_height in enumerate(sides)
        for j, crop_width in enumerate(sides)
        if abs(i - j) <= max_distort
    ]
    crop_height, crop_width = pairs[_integer(generator, len(pairs))]
    room_y, room_x = height - crop_height, width - crop_width
    if not fixed_positions:
        return Box(_integer(generator, room_y + 1), _integer(generator, room_x + 1), crop_height, crop_width)
    quarters = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)] + [(y, x) for y in (1, 3) for x in (1, 3)]
    y, x = quarters[_integer(generator, len(quarters))]
    return Box(y * (room_y // 4), x * (room_x // 4), crop_height, crop_width)


@dataclass(frozen=True)
class CropAndFlip:
    """A random crop scaled to a square, mirrored in half of the clips.

    With ``crop="random_resized"`` this is :func:`~diffmae_video.data.transforms.random_resized_crop_flip`, number for
    number.

    Attributes:
        size: S, pixels.
        crop: "random_resized" or "multi_scale".
        scale, aspect: of "random_resized": ranges of the share of the area and of width / height.
        horizontal_flip: False where left and right carry meaning (Something-Something).
        scales, max_distort, fixed_positions: of "multi_scale", see :func:`multi_scale_crop_box`.
        relative_aspect: of "random_resized": ``aspect`` multiplies the frame's own width / height, so that a frame is
            stretched to the square (``ClipDataset``'s ``fit="stretch"``).
    """

    size: int
    crop: str = "random_resized"
    scale: tuple[float, float] = (0.5, 1.0)
    aspect: tuple[float, float] = (0.75, 4 / 3)
    horizontal_flip: bool = True
    scales: tuple[float, ...] = MULTI_SCALES
    max_distort: int = 1
    fixed_positions: bool = True
    relative_aspect: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {self.size}")
        if self.crop not in CROPS:
            raise ValueError(f"unknown crop {self.crop!r}; choose one of {', '.join(CROPS)}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must satisfy 0 < smallest <= largest <= 1, got {tuple(self.scale)}")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect must satisfy 0 < smallest <= largest, got {tuple(self.aspect)}")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales) or self.max_distort < 0:
            raise ValueError(f"scales must be in (0, 1] and max_distort >= 0, got {self.scales}, {self.max_distort}")
        if self.relative_aspect and self.crop != "random_resized":
            raise ValueError(f"stretched crops need crop 'random_resized': {self.crop!r} cuts (nearly) square regions")

    def __call__(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """frames uint8 (T, H, W, C) -> uint8 (C, T, S, S)"""
        height, width = frames.shape[1:3]
        if self.crop == "multi_scale":
            options = (self.scales, self.max_distort, self.fixed_positions)
            box = multi_scale_crop_box(height, width, self.size, generator, *options)
        else:
            box = random_resized_crop_box(height, width, self.scale, self.aspect, generator, self.relative_aspect)
        clip = crop_and_resize(frames, box, self.size)
        mirrored = bool(torch.rand((), generator=generator) < 0.5)  # drawn in any case: later draws stay the same
        return clip.flip(-1) if self.horizontal_flip and mirrored else clip


# -------------------------------------------------------------------------------------------------------------- colour


@dataclass(frozen=True)
class ColorJitter:
    """Random brightness, contrast, saturation and hue, in random order; torchvision's convention.

    Attributes:
        brightness, contrast, saturation: v >= 0: the factor is uniform in [max(0, 1 - v), 1 + v].
        hue: v in [0, 0.5]: the shift is uniform in [-v, v] of the colour circle.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        if min(self.brightness, self.contrast, self.saturation) < 0 or not 0 <= self.hue <= 0.5:
            raise ValueError(f"colour jitter takes values >= 0, and hue at most 0.5: got {self}")

    def __call__(self, clip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """uint8 RGB (3, T, H, W) -> the same shape."""
        steps: list[tuple[Callable[[torch.Tensor, float], torch.Tensor], float, float, float]] = [
            (clip_ops.brightness, self.brightness, max(0.0, 1 - self.brightness), 1 + self.brightness),
            (clip_ops.contrast, self.contrast, max(0.0, 1 - self.contrast), 1 + self.contrast),
            (clip_ops.saturation, self.saturation, max(0.0, 1 - self.saturation), 1 + self.saturation),
            (clip_ops.hue, self.hue, -self.hue, self.hue),
        ]
        for number in torch.randperm(len(steps), generator=generator).tolist():
            operation, strength, low, high = steps[number]
            value = _uniform(generator, low, high)
            if strength:
                clip = operation(clip, value)
        return clip


def random_grayscale(clip: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Black and white with ``probability``; uint8 RGB (3, T, H, W) -> the same shape."""
    return clip_ops.to_gray(clip) if _uniform(generator) < probability else clip


# ------------------------------------------------------------------------------------------------------------- erasing


@dataclass(frozen=True)
class RandomErasing:
    """Overwrite random boxes, the same boxes with the same content in every frame (Zhong et al., arXiv 1708.04896).

    timm's convention: the boxes of a clip share an area drawn from ``area`` (each box draws its own, divided by their
    number), and their height / width is log-uniform in ``aspect``. What goes into a box is defined on normalised
    pixels, (value / 255 - mean) / std. A float clip is taken to be normalised. A uint8 clip gets the same thing in
    pixel values, cut to [0, 255]: with mean = std = 0.5, "pixel" and "rand" lose what lies beyond one standard
    deviation (a third of the noise becomes 0 or 255).

    Attributes:
        probability: of erasing anything in a clip.
        mode: "const" writes 0 (the mean colour), "rand" one normally distributed colour per box, "pixel" normally
            distributed noise.
        count: (fewest, most) boxes.
        area: range of the share of the frame's area.
        aspect: range of height / width.
        mean, std: per channel, on the [0, 1] scale; used for uint8 clips only.
    """

    probability: float = 0.25
    mode: str = "pixel"
    count: tuple[int, int] = (1, 1)
    area: tuple[float, float] = (0.02, 1 / 3)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {self.probability}")
        if self.mode not in ERASING_MODES:
            raise ValueError(f"unknown mode {self.mode!r}; choose one of {', '.join(ERASING_MODES)}")
        if not 1 <= self.count[0] <= self.count[1]:
            raise ValueError(f"count must satisfy 1 <= fewest <= most, got {tuple(self.count)}")
        if not 0 < self.area[0] <= self.area[1] < 1 or not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"area must lie in (0, 1) and aspect above 0, the lower end first: got {self}")

    def __call__(self, clip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(C, T, H, W), uint8 pixels or floating-point normalised pixels -> a new clip, or the same if none erased."""
        if _uniform(generator) >= self.probability:
            return clip
        clip = clip.clone()
        count = self.count[0] + _integer(generator, self.count[1] - self.count[0] + 1)
        for _ in range(count):
            box = self.draw_box(clip.shape[2], clip.shape[3], count, generator)
            if box is not None:
                region = clip[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
                region.copy_(self._content(clip, box, generator))
        return clip

    def draw_box(self, height: int, width: int, count: int, generator: torch.Generator) -> Box | None:
        """One of ``count`` boxes; None if ten tries gave none that fits."""
        for _ in range(ERASING_TRIES):
            area = _uniform(generator, *self.area) * height * width / count
            aspect = math.exp(_uniform(generator, *(math.log(bound) for bound in self.aspect)))
            tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < tall < height and 0 < wide < width:
                return Box(_integer(generator, height - tall + 1), _integer(generator, width - wide + 1), tall, wide)
        return None

    def _content(self, clip: torch.Tensor, box: Box, generator: torch.Generator) -> torch.Tensor:
        """What goes into a box of every frame: (C, 1, height or 1, width or 1)."""
        shape = (len(clip), 1, box.height, box.width) if self.mode == "pixel" else (len(clip), 1, 1, 1)
        content = torch.zeros(shape) if self.mode == "const" else torch.randn(shape, generator=generator)
        if clip.dtype == torch.uint8:
            mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (self.mean, self.std))
            content = (255 * (mean + std * content)).round_().clamp_(0, 255)
        return content.to(clip.device, clip.dtype)
