"""What is done to the frames of a training clip, as one object: for pre-training and for recognition.

Both are called with (frames uint8 (T, H, W, 3), generator) and return a clip uint8 (3, T, S, S), which makes them
``ClipDataset``'s ``transform``. Repeated augmentation is the dataset's ``repeats=R``: it reads a video once and calls
the transform R times, each with a generator of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from diffmae_video.data.augment import ColorJitter, CropAndFlip, RandomErasing, random_grayscale
from diffmae_video.data.rand_augment import RandAugment


def _checked_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability in [0, 1], got {value}")


@dataclass(frozen=True)
class PretrainTransform:
    """Crop and flip, then, where a recipe wants them, colours: a masked autoencoder needs little more than a crop.

    Attributes:
        crop: size, kind and ranges of the crop; the flip.
        color_jitter: range of brightness, contrast, saturation and hue; all 0 = off.
        grayscale: probability of black and white.
    """

    crop: CropAndFlip
    color_jitter: ColorJitter = field(default_factory=ColorJitter)
    grayscale: float = 0.0

    def __post_init__(self) -> None:
        _checked_probability("grayscale", self.grayscale)

    def __call__(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """frames uint8 (T, H, W, 3) -> uint8 (3, T, S, S)"""
        clip = self.color_jitter(self.crop(frames, generator), generator)
        return random_grayscale(clip, self.grayscale, generator)


@dataclass(frozen=True)
class RecognitionTransform:
    """Crop, flip, RandAugment, colours, erasing. Mixup and CutMix come later, on batches: ``data.mixing``.

    Attributes:
        crop: size, kind and ranges of the crop; the flip.
        rand_augment: None = off.
        color_jitter: range of brightness, contrast, saturation and hue; all 0 = off.
        grayscale: probability of black and white.
        erasing: None = off. Here it works on uint8; to erase on normalised pixels, leave it out and call
            ``RandomErasing`` on the float clip.
        augment_first: apply RandAugment to the whole frames, before the crop, as the published video recipes do
            (VideoMAE, SlowFast, MAE-ST). It costs as many times more as the frame is larger than the crop; the usual
            order for images (timm) is crop first.
    """

    crop: CropAndFlip
    rand_augment: RandAugment | None = None
    color_jitter: ColorJitter = field(default_factory=ColorJitter)
    grayscale: float = 0.0
    erasing: RandomErasing | None = None
    augment_first: bool = False

    def __post_init__(self) -> None:
        _checked_probability("grayscale", self.grayscale)

    def __call__(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """frames uint8 (T, H, W, 3) -> uint8 (3, T, S, S)"""
        if self.rand_augment is not None and self.augment_first:
            frames = self.rand_augment(frames.permute(3, 0, 1, 2).contiguous(), generator).permute(1, 2, 3, 0)
        clip = self.crop(frames, generator)
        if self.rand_augment is not None and not self.augment_first:
            clip = self.rand_augment(clip, generator)
        clip = random_grayscale(self.color_jitter(clip, generator), self.grayscale, generator)
        return clip if self.erasing is None else self.erasing(clip, generator)
