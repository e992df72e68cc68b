"""RandAugment for clips: a few random operations, the same ones at the same strength in every frame.

Cubuk et al., arXiv 1909.13719, in timm's convention: its names (``rand-m7-n4-mstd0.5-inc1``), its fifteen operations,
its strengths and its probability of one half per operation. ``docs/augmentation.md`` has the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from diffmae_video.data import clip_ops

LEVELS = 10.0  # magnitude at which the argument of an operation reaches the end of its range
UNIFORM_ABOVE = 100.0  # a standard deviation above this means: magnitude uniform in [0, m]

Argument = Callable[[float, float, bool], float]


def _signed(limit: float, level: float, sign: float, _increasing: bool) -> float:
    return sign * limit * level / LEVELS


def _enhance(level: float, sign: float, increasing: bool) -> float:
    return max(0.1, 1 + sign * 0.9 * level / LEVELS) if increasing else 0.1 + 1.8 * level / LEVELS


def _posterize(level: float, _sign: float, increasing: bool) -> int:
    bits = int(level / LEVELS * 4)
    return max(1, 4 - bits if increasing else bits)  # timm goes down to 0, a black picture; Pillow refuses that by now


def _solarize(level: float, _sign: float, increasing: bool) -> int:
    threshold = int(level / LEVELS * 256)
    return 256 - threshold if increasing else threshold


def _solarize_add(level: float, _sign: float, _increasing: bool) -> int:
    return int(level / LEVELS * 110)


# name: (the operation, its argument from (level in [0, 10], sign -1 or 1, increasing); None = takes none)
OPERATIONS: dict[str, tuple[Callable[..., torch.Tensor], Argument | None]] = {
    "AutoContrast": (clip_ops.auto_contrast, None),
    "Equalize": (clip_ops.equalize, None),
    "Invert": (clip_ops.invert, None),
    "Rotate": (clip_ops.rotate, partial(_signed, 30.0)),
    "Posterize": (clip_ops.posterize, _posterize),
    "Solarize": (clip_ops.solarize, _solarize),
    "SolarizeAdd": (clip_ops.solarize_add, _solarize_add),
    "Color": (clip_ops.saturation, _enhance),
    "Contrast": (clip_ops.contrast, _enhance),
    "Brightness": (clip_ops.brightness, _enhance),
    "Sharpness": (clip_ops.sharpness, _enhance),
    "ShearX": (clip_ops.shear_x, partial(_signed, 0.3)),
    "ShearY": (clip_ops.shear_y, partial(_signed, 0.3)),
    "TranslateXRel": (clip_ops.translate_x, partial(_signed, 0.45)),
    "TranslateYRel": (clip_ops.translate_y, partial(_signed, 0.45)),
}
# timm's letters: (field, type)
NOTATION: dict[str, tuple[str, Callable[[float], float | int | bool]]] = {
    "m": ("magnitude", float),
    "n": ("layers", int),
    "mstd": ("magnitude_std", float),
    "inc": ("increasing", bool),
    "p": ("probability", float),
    "mmax": ("max_magnitude", float),
}
EXAMPLE = "rand-m7-n4-mstd0.5-inc1"
FROM_STATISTICS = ("AutoContrast", "Equalize", "Contrast")


@dataclass(frozen=True)
class RandAugment:
    """``layers`` operations, drawn with replacement, each applied with ``probability``.

    Attributes:
        magnitude: m, mean strength, 0 to ``max_magnitude``.
        layers: n, operations drawn per clip, >= 1.
        magnitude_std: mstd, standard deviation of the strength of each operation; above 100: uniform in [0, m].
        increasing: inc, whether every operation gets stronger with m. (Without: Posterize and Solarize get weaker,
            and the four enhancements go from 0.1 to 1.9 instead of away from 1.)
        probability: p, of each drawn operation.
        max_magnitude: mmax, strengths are cut to [0, mmax].
        per_frame_statistics: see :mod:`diffmae_video.data.clip_ops`.
    """

    magnitude: float = 10.0
    layers: int = 2
    magnitude_std: float = 0.0
    increasing: bool = False
    probability: float = 0.5
    max_magnitude: float = LEVELS
    per_frame_statistics: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.max_magnitude <= LEVELS:
            raise ValueError(f"max_magnitude must be in (0, {LEVELS:g}], got {self.max_magnitude}")
        if not 0 <= self.magnitude <= self.max_magnitude:
            raise ValueError(f"magnitude must be in [0, {self.max_magnitude:g}], got {self.magnitude}")
        if self.layers < 1:
            raise ValueError(f"layers must be at least 1, got {self.layers}")
        if not self.magnitude_std >= 0:
            raise ValueError(f"magnitude_std must be at least 0, got {self.magnitude_std}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {self.probability}")

    @classmethod
    def parse(cls, text: str, per_frame_statistics: bool = False) -> RandAugment:
        """From timm's notation: ``rand``, then, in any order, ``m7-n4-mstd0.5-inc1-p0.5-mmax10``.

        What is left out is as in timm: m10, n2, mstd0, inc0, p0.5, mmax10. One difference: ``inc0`` means without
        ``inc`` (in timm any value switches it on).

        Raises:
            ValueError: another notation, an unknown or repeated part, or a value out of range.
        """
        name, *parts = text.split("-")
        if name != "rand":
            raise ValueError(f'RandAugment {text!r} must begin with "rand", as in {EXAMPLE!r}')
        values: dict[str, float | int | bool] = {}
        for part in parts:
            match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", part)
            if not match or match[1] not in NOTATION:
                raise ValueError(
                    f"RandAugment {text!r}: {part!r} is none of {', '.join(NOTATION)} with a number, as in {EXAMPLE!r}"
                )
            field, kind = NOTATION[match[1]]
            if field in values:
                raise ValueError(f"RandAugment {text!r} gives {match[1]!r} twice")
            values[field] = kind(float(match[2]))
        return cls(**values, per_frame_statistics=per_frame_statistics)

    def __call__(self, clip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """uint8 RGB (3, T, H, W) -> the same shape."""
        for name, level, sign in self.draw(generator):
            clip = apply_operation(clip, name, level, sign, self.increasing, self.per_frame_statistics)
        return clip

    def draw(self, generator: torch.Generator) -> list[tuple[str, float, float]]:
        """The operations of one clip: (name, level in [0, mmax], sign -1 or 1)."""
        names = list(OPERATIONS)
        numbers = torch.randint(len(names), (self.layers,), generator=generator).tolist()
        uniform = torch.rand(3, self.layers, generator=generator, dtype=torch.float64)
        normal = torch.randn(self.layers, generator=generator, dtype=torch.float64)
        if self.magnitude_std > UNIFORM_ABOVE:
            levels = self.magnitude * uniform[2]
        else:
            levels = self.magnitude + self.magnitude_std * normal
        levels = levels.clamp(0, self.max_magnitude).tolist()
        applied, signs = (uniform[0] < self.probability).tolist(), (1 - 2.0 * (uniform[1] < 0.5)).tolist()
        drawn = zip(numbers, levels, signs, applied, strict=True)
        return [(names[number], level, sign) for number, level, sign, used in drawn if used]


def apply_operation(
    clip: torch.Tensor,
    name: str,
    level: float,
    sign: float = 1.0,
    increasing: bool = True,
    per_frame_statistics: bool = False,
) -> torch.Tensor:
    """One operation of ``OPERATIONS`` on a clip, uint8 (3, T, H, W) -> the same shape."""
    operation, argument = OPERATIONS[name]
    arguments = [] if argument is None else [argument(level, sign, increasing)]
    options = {"per_frame": per_frame_statistics} if name in FROM_STATISTICS else {}
    return operation(clip, *arguments, **options)
