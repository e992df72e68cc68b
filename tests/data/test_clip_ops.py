"""Every operation against Pillow's, frame by frame."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from diffmae_video.data import clip_ops


def natural_clip(frames=3, height=40, width=56, seed=0):
    """uint8 (3, T, H, W): a moving gradient, a bright square, noise; frames differ in brightness."""
    generator = torch.Generator().manual_seed(seed)
    t, y, x = torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij")
    clip = torch.stack([3 * x + 10 * t, 4 * y + 5 * t + 20, 200 - x - y + 7 * t]).float() * 0.7 + 15
    clip[:, :, 8:20, 10:30] += torch.tensor([60.0, -40.0, 20.0]).view(3, 1, 1, 1)
    clip += 12 * torch.randn(clip.shape, generator=generator)
    return clip.clamp(0, 255).byte()


def pictures(clip):
    return [Image.fromarray(frame) for frame in clip.permute(1, 2, 3, 0).contiguous().numpy()]


def from_pictures(images):
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(3, 0, 1, 2)


def as_one_picture(clip):
    """All frames below each other: Pillow's statistics of it are those of the clip."""
    channels, frames, height, width = clip.shape
    return Image.fromarray(clip.permute(1, 2, 3, 0).reshape(frames * height, width, channels).numpy())


def from_one_picture(image, frames):
    array = np.asarray(image)
    return torch.from_numpy(array.reshape(frames, -1, *array.shape[1:]).copy()).permute(3, 0, 1, 2)


def difference(clip, expected):
    assert clip.dtype == torch.uint8 and clip.shape == expected.shape
    return (clip.int() - expected.int()).abs().max().item()


def solarize_add(image, added):
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


POINTWISE = [
    (clip_ops.invert, (), ImageOps.invert),
    *[(clip_ops.solarize, (threshold,), ImageOps.solarize) for threshold in (0, 77, 128, 256)],
    *[(clip_ops.solarize_add, (added,), solarize_add) for added in (0, 40, 110)],
    *[(clip_ops.posterize, (bits,), ImageOps.posterize) for bits in (1, 2, 4, 7, 8)],
    *[
        (clip_ops.brightness, (factor,), lambda image, f: ImageEnhance.Brightness(image).enhance(f))
        for factor in (0.0, 0.1, 0.37, 1.0, 1.63, 1.9)
    ],
    *[
        (clip_ops.saturation, (factor,), lambda image, f: ImageEnhance.Color(image).enhance(f))
        for factor in (0.0, 0.1, 0.37, 1.0, 1.63, 1.9)
    ],
    *[
        (clip_ops.sharpness, (factor,), lambda image, f: ImageEnhance.Sharpness(image).enhance(f))
        for factor in (0.0, 0.1, 0.37, 1.0, 1.63, 1.9)
    ],
    (clip_ops.to_gray, (), lambda image: image.convert("L").convert("RGB")),
]


@pytest.mark.parametrize(("operation", "arguments", "reference"), POINTWISE)
def test_colours_are_those_of_pillow(operation, arguments, reference):
    clip = natural_clip()
    before = clip.clone()
    assert (
        difference(operation(clip, *arguments), from_pictures([reference(i, *arguments) for i in pictures(clip)])) == 0
    )
    assert torch.equal(clip, before), "the clip that was passed must not change"


STATISTICAL = [
    (clip_ops.auto_contrast, (), ImageOps.autocontrast),
    (clip_ops.equalize, (), ImageOps.equalize),
    *[
        (clip_ops.contrast, (factor,), lambda image, f: ImageEnhance.Contrast(image).enhance(f))
        for factor in (0.0, 0.1, 0.37, 1.0, 1.63, 1.9)
    ],
]


@pytest.mark.parametrize(("operation", "arguments", "reference"), STATISTICAL)
def test_statistics_of_each_frame_or_of_the_clip(operation, arguments, reference):
    for clip in (natural_clip(), natural_clip(1), natural_clip(2) // 3 + 60):
        per_frame = from_pictures([reference(image, *arguments) for image in pictures(clip)])
        assert difference(operation(clip, *arguments, per_frame=True), per_frame) == 0
        of_clip = from_one_picture(reference(as_one_picture(clip), *arguments), clip.shape[1])
        assert difference(operation(clip, *arguments), of_clip) == 0


@pytest.mark.parametrize("operation", [clip_ops.auto_contrast, clip_ops.equalize, clip_ops.hue, clip_ops.sharpness])
def test_plain_and_tiny_clips_stay_as_they_are(operation):
    arguments = () if operation in (clip_ops.auto_contrast, clip_ops.equalize) else (0.3,)
    for clip in (torch.full((3, 2, 9, 9), 77, dtype=torch.uint8), torch.full((3, 1, 1, 1), 200, dtype=torch.uint8)):
        assert torch.equal(operation(clip, *arguments), clip)


def test_a_still_background_does_not_flicker():
    """A bright object enters: with statistics of the clip the background keeps one colour over time."""
    clip = torch.randint(60, 120, (3, 1, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    clip = clip.repeat(1, 4, 1, 1)
    clip[:, 2:, :8, :8] = 250
    for operation in (clip_ops.auto_contrast, clip_ops.equalize, lambda c, **o: clip_ops.contrast(c, 1.6, **o)):
        background = operation(clip)[:, :, 8:]
        assert torch.equal(background, background[:, :1].expand_as(background))
        flickering = operation(clip, per_frame=True)[:, :, 8:]
        assert not torch.equal(flickering[:, 0], flickering[:, 3])


@pytest.mark.parametrize("shift", [-0.5, -0.13, 0.0, 0.2, 0.5])
def test_hue_is_that_of_colorsys(shift):
    clip = torch.randint(0, 256, (3, 1, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    clip[:, 0, 0] = torch.tensor([[0], [255], [128]])[torch.arange(12) % 3, 0]  # greys
    moved = clip_ops.hue(clip, shift)
    for old, new in zip(clip.flatten(1).T.tolist(), moved.flatten(1).T.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(value / 255 for value in old))
        expected = [255 * value for value in colorsys.hsv_to_rgb((h + shift) % 1, s, v)]
        assert new == pytest.approx(expected, abs=0.51)


GEOMETRY = [
    *[(clip_ops.shear_x, slope, lambda w, h, v: (1, v, 0, 0, 1, 0)) for slope in (-0.3, -0.11, 0.0, 0.21)],
    *[(clip_ops.shear_y, slope, lambda w, h, v: (1, 0, 0, v, 1, 0)) for slope in (-0.3, 0.21)],
    *[(clip_ops.translate_x, share, lambda w, h, v: (1, 0, v * w, 0, 1, 0)) for share in (-0.45, 0.25, 0.3)],
    *[(clip_ops.translate_y, share, lambda w, h, v: (1, 0, 0, 0, 1, v * h)) for share in (-0.45, 0.25, 0.3)],
]


@pytest.mark.parametrize(("operation", "value", "matrix"), GEOMETRY)
def test_shear_and_translation_are_those_of_pillow(operation, value, matrix):
    clip = natural_clip()
    expected = [
        image.transform(
            image.size, Image.AFFINE, matrix(*image.size, value), resample=Image.BILINEAR, fillcolor=(128,) * 3
        )
        for image in pictures(clip)
    ]
    assert difference(operation(clip, value), from_pictures(expected)) <= 1


@pytest.mark.parametrize("degrees", [-30.0, -7.3, 0.0, 12.5, 30.0])
def test_rotation_is_that_of_pillow(degrees):
    clip = natural_clip()
    expected = [i.rotate(degrees, resample=Image.BILINEAR, fillcolor=(128,) * 3) for i in pictures(clip)]
    error = (clip_ops.rotate(clip, degrees).int() - from_pictures(expected).int()).abs()
    # A corner pixel whose source lies on the frame's edge to the last digit may fall on the other side of it.
    assert (error > 1).any(0).sum() <= 1 and error.float().mean() < 0.51


def test_full_size_geometry_is_within_one_level_of_pillow():
    """At the size of training, float32 sampling positions must still be good enough."""
    clip = natural_clip(1, 224, 224)
    for degrees in (-21.0, 9.7):
        expected = from_pictures([i.rotate(degrees, Image.BILINEAR, fillcolor=(128,) * 3) for i in pictures(clip)])
        assert difference(clip_ops.rotate(clip, degrees), expected) <= 1


def test_a_clip_may_be_any_view_and_of_any_number_of_frames():
    clip = natural_clip(4)
    view = clip.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)  # channels last in memory
    for operation, arguments in [
        (clip_ops.equalize, ()), (clip_ops.contrast, (1.5,)), (clip_ops.sharpness, (0.3,)), (clip_ops.hue, (0.1,)),
        (clip_ops.rotate, (10.0,)), (clip_ops.posterize, (3,)), (clip_ops.saturation, (0.2,)),
    ]:  # fmt: skip
        assert torch.equal(operation(view, *arguments), operation(clip, *arguments))
