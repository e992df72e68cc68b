"""Layers of other programs in our layout: what differs is how attention is stored and patches are embedded."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from diffmae_video.conversion.source import ConversionError, Source

Tensors = dict[str, torch.Tensor]
CHANNELS = 3


class BlockNames(NamedTuple):
    """Names of the parts of one Transformer block, inside the block; of attention, what a program may have of it."""

    norm1: str = "norm1"
    qkv: str = "attn.qkv"
    q: str = "attn.q"
    k: str = "attn.k"
    v: str = "attn.v"
    q_bias: str = "attn.q_bias"
    v_bias: str = "attn.v_bias"
    proj: str = "attn.proj"
    norm2: str = "norm2"
    fc1: str = "mlp.fc1"
    fc2: str = "mlp.fc2"


TIMM_NAMES = BlockNames()


class Stack(NamedTuple):
    """Blocks in our layout."""

    tensors: Tensors
    depth: int
    mlp_ratio: float


class Patches(NamedTuple):
    """A patch embedding in our layout."""

    tensors: Tensors
    patch: tuple[int, int, int]
    width: int


def take_patches(source: Source, name: str) -> Patches:
    """A convolution (D, C, pt, ph, pw), or (D, C, ph, pw) of an image, as a matrix (D, pt * ph * pw * C)."""
    shape = source.shape(f"{name}.weight")
    if len(shape) not in (4, 5) or shape[1] != CHANNELS:
        raise ConversionError(
            f"{name}.weight is {shape}, expected a convolution (width, {CHANNELS} channels, frames, rows, columns), or "
            "one without frames"
        )
    weight = source.take(f"{name}.weight", *shape)
    weight = weight.unsqueeze(2) if len(shape) == 4 else weight
    patch, width = tuple(weight.shape[2:]), shape[0]
    tensors = {
        "encoder.patch_embed.weight": weight.permute(0, 2, 3, 4, 1).flatten(1),  # the order of patchify
        "encoder.patch_embed.bias": source.take(f"{name}.bias", width),
    }
    source.fold(f"{name}.weight: the convolution as a matrix over patch values, frame by row by column by channel")
    return Patches(tensors, patch, width)


def square_size(tokens: int, patch: tuple[int, int, int], name: str) -> int:
    """Height and width in pixels of square frames that have so many patches.

    Raises:
        ConversionError: none is square.
    """
    size = math.isqrt(tokens * patch[1] * patch[2])
    if size % patch[1] or size % patch[2] or (size // patch[1]) * (size // patch[2]) != tokens:
        raise ConversionError(f"{name} is for {tokens} patches of {patch[1]}x{patch[2]}, which make no square frame")
    return size


def take_linear(source: Source, theirs: str, ours: str, outputs: int, inputs: int) -> Tensors:
    return {
        f"{ours}.weight": source.take(f"{theirs}.weight", outputs, inputs),
        f"{ours}.bias": source.take(f"{theirs}.bias", outputs),
    }


def take_norm(source: Source, theirs: str, ours: str, width: int) -> Tensors:
    return {f"{ours}.{part}": source.take(f"{theirs}.{part}", width) for part in ("weight", "bias")}


def take_blocks(source: Source, theirs: str, ours: str, width: int, names: BlockNames = TIMM_NAMES) -> Stack:
    """All blocks ``theirs`` + 0, 1, ... (a prefix that ends in a dot) as ``ours`` + 0, 1, ...

    Raises:
        ConversionError: no block, a part that is missing, or one of another shape.
    """
    depth = source.depth(theirs)
    if not depth:
        raise ConversionError(f"{theirs}0... is missing: there is no Transformer block of that name")
    hidden = source.shape(f"{theirs}0.{names.fc1}.weight")[0]
    biases = _attention_biases(source, f"{theirs}0.", names)
    tensors: Tensors = {}
    for number in range(depth):
        block, own = f"{theirs}{number}.", f"{ours}{number}."
        tensors |= take_norm(source, block + names.norm1, own + "norm1", width)
        tensors[own + "attn.qkv.weight"] = _take_attention(source, block, width, names)
        tensors[own + "attn.qkv.bias"] = _take_attention_bias(source, block, width, biases)
        tensors |= take_linear(source, block + names.proj, own + "attn.proj", width, width)
        tensors |= take_norm(source, block + names.norm2, own + "norm2", width)
        tensors |= take_linear(source, block + names.fc1, own + "mlp.fc1", hidden, width)
        tensors |= take_linear(source, block + names.fc2, own + "mlp.fc2", width, hidden)
    return Stack(tensors, depth, _ratio(hidden, width))


def _take_attention(source: Source, block: str, width: int, names: BlockNames) -> torch.Tensor:
    """One matrix (3 * D, D) for queries, keys and values."""
    parts = (names.q, names.k, names.v)
    if not any(source.has(f"{block}{part}.weight") for part in parts):
        return source.take(f"{block}{names.qkv}.weight", 3 * width, width)
    source.fold("queries, keys and values, stored apart: one matrix")
    return torch.cat([source.take(f"{block}{part}.weight", width, width) for part in parts])


def _attention_biases(source: Source, block: str, names: BlockNames) -> tuple[str | None, ...]:
    """Names inside the block of the biases of its attention: one for all, or of queries, keys and values; None = none.

    Raises:
        ConversionError: queries have one and values do not, or the other way round.
    """
    if source.has(f"{block}{names.qkv}.bias"):
        return (f"{names.qkv}.bias",)
    places = ((names.q_bias, f"{names.q}.bias"), (f"{names.k}.bias",), (names.v_bias, f"{names.v}.bias"))
    found = tuple(next((name for name in stored if source.has(block + name)), None) for stored in places)
    if (found[0] is None) != (found[2] is None):
        raise ConversionError(
            f"{block}{found[0] or found[2]} is there, its counterpart of queries or values is missing"
        )
    if found[1] is None:
        source.fold(
            "keys have no bias: ours is zero. It would add the same to all scores of a query and so change no output"
        )
    if found[0] is None:
        source.fold("queries and values have no bias: ours is zero, and training moves it")
    return found


def _take_attention_bias(source: Source, block: str, width: int, names: tuple[str | None, ...]) -> torch.Tensor:
    """(3 * D), as in the first block: a bias that another block lacks is missing, one that it has too many is left."""
    if len(names) == 1:
        return source.take(block + names[0], 3 * width)
    return torch.cat([torch.zeros(width) if name is None else source.take(block + name, width) for name in names])


def _ratio(hidden: int, width: int) -> float:
    """The number that makes int(width * ratio) the hidden units: their quotient may fall one short (109 / 88)."""
    ratio = hidden / width
    while int(width * ratio) < hidden:
        ratio = math.nextafter(ratio, math.inf)
    return ratio
