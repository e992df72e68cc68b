"""Position embeddings of other programs: ours where they are one of our tables, learned ones where those can hold them.

A fixed table is recognised by its values, which no shape shows. One that equals none of ours is taken for learned.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from diffmae_video.conversion.layers import Tensors, square_size
from diffmae_video.conversion.source import ConversionError, Source
from diffmae_video.models.positions import sincos_2d, sincos_table

TEMPERATURE = 10000.0  # of every published table
TOLERANCE = 1e-5  # between tables that two programs compute


class ImagePositions(NamedTuple):
    """Positions of the patches of an image, in our layout."""

    tensors: Tensors  # none where they are fixed
    kind: str  # ``MODEL.*.POSITION``
    of_class: torch.Tensor | None  # (D,) position of the class token
    size: int  # height and width of the image, pixels


def take_image_positions(
    source: Source, name: str, ours: str, patch: tuple[int, int, int], width: int, has_class_token: bool
) -> ImagePositions:
    """``name`` (1, h * w, D), or (1, 1 + h * w, D) with the class token's in front, as ``ours`` + .space and .time.

    Raises:
        ConversionError: the image is not square, or the shape another one.
    """
    shape = source.shape(name)
    rows = shape[1] if len(shape) == 3 else 0
    table = source.take(name, 1, rows, width)[0]
    of_class = None
    if _is_square(rows - 1):  # else the class token has no position
        of_class, table = table[0], table[1:]
        if not has_class_token:
            raise ConversionError(f"{name} {shape} has a position for a class token, but cls_token is missing")
    size = square_size(len(table), patch, name)
    fixed = sincos_2d(size // patch[1], size // patch[2], width, TEMPERATURE) if width % 4 == 0 else None
    if fixed is not None and torch.allclose(table, fixed, atol=TOLERANCE, rtol=0):
        source.fold(f"{name}: MAE's fixed sine and cosine table, which ours computes")
        return ImagePositions({}, "sincos", of_class, size)
    source.fold(f"{name}: learned; the time of an image, which has one slot only, is zero, and training moves it")
    tensors = {f"{ours}.space": table, f"{ours}.time": torch.zeros(1, width)}
    return ImagePositions(tensors, "separable", of_class, size)


class VideoPositions(NamedTuple):
    """Learned positions of the patches of a clip, in our layout."""

    tensors: Tensors
    kind: str  # ``MODEL.*.POSITION``
    of_class: torch.Tensor | None  # (1, 1, D) position of the class token
    tokens: int  # of the clip, the class token not among them
    slots: int | None  # of time; None where no shape shows it


def take_video_positions(source: Source, name: str, ours: str, width: int, has_class_token: bool) -> VideoPositions:
    """MAE-ST's learned positions, in one of two forms.

    In parts: ``name`` + _spatial (1, h * w, D), _temporal (1, t, D), and of a class token _class (1, 1, D). Or one for
    every token: ``name`` (1, N, D), or (1, 1 + N, D) with the class token's in front.

    Raises:
        ConversionError: a part that is missing, has another shape, or belongs to a class token that is not there.
    """
    if source.has(f"{name}_class") and not has_class_token:
        raise ConversionError(f"{name}_class is the position of a class token, but cls_token is missing")
    if not source.has(name) and source.has(f"{name}_spatial"):
        space, time = (_take_rows(source, f"{name}_{part}", width) for part in ("spatial", "temporal"))
        of_class = source.take(f"{name}_class", 1, 1, width) if has_class_token else None
        tensors = {f"{ours}.space": space, f"{ours}.time": time}
        return VideoPositions(tensors, "separable", of_class, len(space) * len(time), len(time))
    rows = _take_rows(source, name, width)
    of_class, table = rows[None, :1] if has_class_token else None, rows[int(has_class_token) :]
    source.fold(f"{name}: one position for every token, which ours learns (were they fixed, training would move them)")
    return VideoPositions({f"{ours}.table": table}, "learned", of_class, len(table), None)


def take_numbered(source: Source, name: str, ours: str, width: int, tokens: int) -> tuple[Tensors, str]:
    """VideoMAE's positions as (tensors, ``MODEL.*.POSITION``): fixed and not in its files, or learned for every token.

    Raises:
        ConversionError: they are of another number of tokens.
    """
    if not source.has(name):
        return {}, "sincos_1d"
    shape = source.shape(name)
    if shape[:2] != (1, tokens):
        raise ConversionError(
            f"{name} is {shape}, expected {(1, tokens, width)}, the tokens of a clip: pass the --frames and "
            "--image-size that the network was trained on"
        )
    table = source.take(name, 1, tokens, width)[0]
    if width % 2 == 0 and torch.allclose(table, sincos_table(tokens, width, TEMPERATURE), atol=TOLERANCE, rtol=0):
        source.fold(f"{name}: VideoMAE's fixed sine and cosine table, which ours computes")
        return {}, "sincos_1d"
    source.fold(f"{name}: not VideoMAE's fixed table, so one learned position for every token")
    return {f"{ours}.table": table}, "learned"


def _take_rows(source: Source, name: str, width: int) -> torch.Tensor:
    """(1, n, D), n as it is -> (n, D)."""
    shape = source.shape(name)
    return source.take(name, 1, shape[1] if len(shape) == 3 else 0, width)[0]


def _is_square(number: int) -> bool:
    return number > 0 and round(number**0.5) ** 2 == number
