"""Colour and geometry of whole clips: Pillow's arithmetic on tensors, all frames in one go.

Every function takes a clip as uint8 (C, T, H, W) and returns a new one of the same shape; all but the geometry and
``hue`` want C = 3 (RGB). They give Pillow's values exactly (geometry: within 1 of 255), because published recipes were
tuned on those: ``tests/data/test_clip_ops.py`` compares each with Pillow, frame by frame.

Where an operation depends on the picture's own histogram or mean, these are taken over the whole clip, so that a
pixel value maps to the same new value in every frame and a still background does not flicker. ``per_frame=True`` takes
them from each frame by itself, as recipes do that loop over frames.

torchvision and pytorchvideo have such operations as well, but are no alternative here: pytorchvideo 0.1.5 imports
``torchvision.transforms.functional_tensor``, which torchvision 0.17 removed, and no torchvision imports beside the CPU
build of torch that this project is tested with.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

FILL = 128  # grey: what shows where geometry moved the picture away

# --------------------------------------------------------------------------------------------------- one value -> one


def invert(clip: torch.Tensor) -> torch.Tensor:
    """255 - value."""
    return 255 - clip


def solarize(clip: torch.Tensor, threshold: int) -> torch.Tensor:
    """Values of ``threshold`` and above are inverted; threshold in [0, 256], 256 changes nothing."""
    values = torch.arange(256, device=clip.device)
    return _look_up(clip, torch.where(values < threshold, values, 255 - values))


def solarize_add(clip: torch.Tensor, added: int, threshold: int = 128) -> torch.Tensor:
    """Values below ``threshold`` grow by ``added``, up to 255."""
    values = torch.arange(256, device=clip.device)
    return _look_up(clip, torch.where(values < threshold, (values + added).clamp(max=255), values))


def posterize(clip: torch.Tensor, bits: int) -> torch.Tensor:
    """Keep the ``bits`` upper bits of 8; bits in [1, 8]."""
    return clip & (256 - (1 << (8 - bits)))


def brightness(clip: torch.Tensor, factor: float) -> torch.Tensor:
    """factor * value: 0 is black, 1 the clip itself."""
    values = torch.arange(256, device=clip.device, dtype=torch.float32)
    return _look_up(clip, (values * factor).clamp_(0, 255))


def contrast(clip: torch.Tensor, factor: float, per_frame: bool = False) -> torch.Tensor:
    """Distance to the mean luminance times ``factor``: 0 is plain grey, 1 the clip itself."""
    sums = gray(clip).flatten(1).sum(1, dtype=torch.int64)  # (T,)
    pixels = clip.shape[2] * clip.shape[3]
    sums, pixels = (sums, pixels) if per_frame else (sums.sum(0, keepdim=True), pixels * len(sums))
    means = (sums.double() / pixels).add_(0.5).floor_().float()[:, None]  # (T or 1, 1)
    values = torch.arange(256, device=clip.device, dtype=torch.float32)
    return _look_up(clip, (means + factor * (values - means)).clamp_(0, 255)[None])


def auto_contrast(clip: torch.Tensor, per_frame: bool = False) -> torch.Tensor:
    """Stretch every channel to the full range: its darkest value becomes 0, its brightest 255."""
    axes = (2, 3) if per_frame else (1, 2, 3)
    low, high = (bound.double().reshape(len(clip), -1, 1) for bound in (clip.amin(axes), clip.amax(axes)))
    values = torch.arange(256, device=clip.device, dtype=torch.float64)
    # not 255 / tensor, which is 255 * (1 / tensor): its last digit decides where a value is cut off
    scale = torch.full_like(low, 255) / (high - low)
    stretched = (values * scale - low * scale).clamp_(0, 255)
    return _look_up(clip, torch.where(high > low, stretched, values))  # (C, T or 1, 256)


def equalize(clip: torch.Tensor, per_frame: bool = False) -> torch.Tensor:
    """Map every channel so that its values become equally frequent."""
    groups = clip.flatten(2) if per_frame else clip.reshape(len(clip), 1, -1)  # (C, T or 1, values)
    counts = torch.stack([torch.bincount(group, minlength=256) for group in groups.flatten(0, 1)])
    brightest = (counts > 0).int().mul(torch.arange(1, 257, device=clip.device)).amax(1, keepdim=True) - 1
    step = (counts.sum(1, keepdim=True) - counts.gather(1, brightest)) // 255
    below = counts.cumsum(1) - counts
    equal = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    tables = torch.where(step > 0, equal, torch.arange(256, device=clip.device))
    return _look_up(clip, tables.reshape(*groups.shape[:2], 256))


def _look_up(clip: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Replace every value by its entry in a table (256,), or in that of its channel and frame (C or 1, T or 1, 256);
    a table's own fractions are cut off."""
    channels, frames = clip.shape[:2]
    tables = tables.byte().expand(channels, *tables.shape[-2:-1] or (1,), 256)
    result = torch.empty(clip.shape, dtype=torch.uint8, device=clip.device)
    span = frames // tables.shape[1]  # frames that share a table
    for channel in range(channels):  # a channel at a time: the four-byte places below then fit into the cache
        for number, table in enumerate(tables[channel].contiguous()):
            part = slice(number * span, (number + 1) * span)
            places = clip[channel, part].int().flatten()  # indexing by the usual int64 takes five times as long
            torch.index_select(table, 0, places, out=result[channel, part].view(-1))
    return result


# ------------------------------------------------------------------------------------------------------------- colour


def gray(clip: torch.Tensor) -> torch.Tensor:
    """Luminance (ITU-R 601), uint8 (T, H, W)."""
    red, green, blue = clip.int()
    return red.mul(19595).add_(green, alpha=38470).add_(blue, alpha=7471).add_(1 << 15).bitwise_right_shift_(16).byte()


def to_gray(clip: torch.Tensor) -> torch.Tensor:
    """The luminance in all three channels."""
    return gray(clip)[None].repeat(3, 1, 1, 1)


def saturation(clip: torch.Tensor, factor: float) -> torch.Tensor:
    """Distance to the luminance times ``factor``: 0 is black and white, 1 the clip itself."""
    luminance = gray(clip).float()
    return torch.stack([_blend(luminance, channel, factor) for channel in clip])


def sharpness(clip: torch.Tensor, factor: float) -> torch.Tensor:
    """Distance to a smoothed clip times ``factor``: 0 is smooth, 1 the clip itself. The outermost pixels stay."""
    result = clip.clone()
    if min(clip.shape[2:]) < 3:
        return result
    for channel, sharpened in zip(clip, result, strict=True):
        wide = channel.to(torch.int16)
        rows = (wide[:, :-2] + wide[:, 1:-1]).add_(wide[:, 2:])
        total = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:]).add_(wide[:, 1:-1, 1:-1], alpha=4)
        smooth = total.float().mul_(1 / 13).add_(0.5).floor_()  # the kernel: 5 amid eight 1, divided by 13
        sharpened[:, 1:-1, 1:-1] = _blend(smooth, channel[:, 1:-1, 1:-1], factor)
    return result


def hue(clip: torch.Tensor, shift: float) -> torch.Tensor:
    """Turn the colour circle by ``shift`` of its circumference, -0.5 to 0.5; value and saturation (HSV) stay."""
    red, green, blue = clip.float()
    value, lowest = clip.amax(0).float(), clip.amin(0).float()
    chroma = value - lowest
    safe = chroma.clamp(min=1)  # grey: the numerators are 0
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    ).add_(6 * shift)  # the circle has six sectors
    channels = []
    for offset in (5, 3, 1):
        place = (sector + offset).remainder_(6)
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1))
    return torch.stack(channels).add_(0.5).byte()


def _blend(base: torch.Tensor, values: torch.Tensor, factor: float) -> torch.Tensor:
    """base + factor * (values - base), cut to [0, 255] and truncated, as Pillow does; base is float."""
    return values.float().sub_(base).mul_(factor).add_(base).clamp_(0, 255).byte()


# ----------------------------------------------------------------------------------------------------------- geometry


def shear_x(clip: torch.Tensor, slope: float) -> torch.Tensor:
    """Row y shows what was ``slope`` * y pixels further right; the top left corner is fixed."""
    return affine(clip, (1, slope, 0, 0, 1, 0))


def shear_y(clip: torch.Tensor, slope: float) -> torch.Tensor:
    """Column x shows what was ``slope`` * x pixels further down; the top left corner is fixed."""
    return affine(clip, (1, 0, 0, slope, 1, 0))


def translate_x(clip: torch.Tensor, share: float) -> torch.Tensor:
    """Move to the left by a share of the width."""
    return affine(clip, (1, 0, share * clip.shape[3], 0, 1, 0))


def translate_y(clip: torch.Tensor, share: float) -> torch.Tensor:
    """Move upward by a share of the height."""
    return affine(clip, (1, 0, 0, 0, 1, share * clip.shape[2]))


def rotate(clip: torch.Tensor, degrees: float) -> torch.Tensor:
    """Turn counter-clockwise around the centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = clip.shape[3] / 2, clip.shape[2] / 2
    return affine(clip, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


def affine(clip: torch.Tensor, matrix: tuple[float, float, float, float, float, float]) -> torch.Tensor:
    """Every frame under Pillow's ``transform(size, AFFINE, matrix)``, bilinear, outside filled with grey (128).

    Args:
        clip: uint8 (C, T, H, W), any C.
        matrix: (a, b, c, d, e, f): the output at (x, y) shows the input at (ax + by + c, dx + ey + f); pixels, the
            centre of the first one at (0.5, 0.5).
    """
    height, width = clip.shape[2:]
    a, b, c, d, e, f = matrix
    # In float64: a coordinate that is integral must not fall on the other side of the frame's edge.
    x = torch.arange(width, device=clip.device, dtype=torch.float64) + 0.5
    y = torch.arange(height, device=clip.device, dtype=torch.float64)[:, None] + 0.5
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    outside = (source_x < 0) | (source_x >= width) | (source_y < 0) | (source_y >= height)
    grid = torch.stack([source_x * (2 / width) - 1, source_y * (2 / height) - 1], -1).float()
    # one picture with C * T channels: the grid and its weights are computed once for all of them
    planes = clip.reshape(1, -1, height, width).float()
    moved = functional.grid_sample(planes, grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    return moved.add_(0.5).masked_fill_(outside, FILL).byte().view(clip.shape)
