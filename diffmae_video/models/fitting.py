"""Weights of one model onto another: other frames, resolution, patch or head, and nothing of that silently.

Every tensor of the source is loaded, resized, or left out by name; every one of the target is filled, or keeps its
initial values by name. Anything else is an error, and an error leaves the target as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from diffmae_video.models.positions import LEARNED, PositionEmbedding
from diffmae_video.models.resizing import (
    check_inflation,
    resize_patch_weight,
    resize_space,
    resize_table,
    resize_time,
)

# What only pre-training needs: left out where the target does not have it.
PRETEXT = (
    "decoder.", "mask_token", "noisy_embed.", "time_embed.", "feature_head.", "image_tokenizer.", "label_embed.",
)  # fmt: skip
# How pixels are normalised: the target's own, from its configuration.
PIXELS = ("pixel_mean", "pixel_std")
# Their shapes follow from the patch without the order of its values being known here.
PATCH_SIZED = ("decoder.head.", "noisy_embed.", "image_tokenizer.")
# An encoder that embeds latents of patches has what makes them.
LATENTS = "encoder.patch_embed.tokenizer."

Shape = tuple[int, ...]
Triple = tuple[int, int, int]


class WeightsError(ValueError):
    """Weights that do not fit the model; the message names the tensor, the shapes and what to do."""


@dataclass(frozen=True)
class FitReport:
    """What happened to every tensor; the names are those of the state dicts."""

    loaded: list[str] = field(default_factory=list)  # as they were
    resized: list[tuple[str, Shape, Shape, str]] = field(default_factory=list)  # name, from, to, how
    skipped: list[str] = field(default_factory=list)  # in the source, not used
    initialised: list[str] = field(default_factory=list)  # in the target, left at their initial values
    notes: list[str] = field(default_factory=list)  # what else differs from the source

    def lines(self) -> list[str]:
        """For the log: a few lines, names summarised."""
        lines = [f"loaded: {_summary(self.loaded)}"] if self.loaded else []
        lines += [f"resized: {name} {old} -> {new}, {how}" for name, old, new, how in self.resized]
        lines += [f"in the weights, not used: {_summary(self.skipped)}"] if self.skipped else []
        lines += [f"left at initial values: {_summary(self.initialised)}"] if self.initialised else []
        return lines + self.notes


def fit_weights(
    target: nn.Module,
    source: Mapping[str, torch.Tensor],
    source_grid: Triple,
    source_patch: Triple,
    *,
    inflation: str = "average",
    skip: Sequence[str] | None = None,
    fresh: Sequence[str] = ("head.",),
    source_temperature: float | None = None,
) -> FitReport:
    """Fits the weights of one model onto another, in place.

    Learned positions are resized to the target's grid, the patch embedding to its patch (see ``resizing``); fixed
    positions are the target's own. Whatever else has another shape is refused.

    Args:
        target: a model with an ``encoder`` (SpaceTimeViT): a classifier, DiffMAE or MAE.
        source: state dict of another such model.
        source_grid: its tokens (t, h, w).
        source_patch: its patch (pt, ph, pw).
        inflation: from 1 frame per patch to more: ``"average"`` or ``"center"``.
        skip: tensors of the source that are not to be used: whole names, or beginnings that end in ``"."``. None = the
            parts for pre-training (``PRETEXT``) that the target lacks. Besides these are left out what ``fresh`` names,
            the pixel statistics (the target has its own), and the encoder's last norm where the target has none.
        fresh: tensors of the target, named likewise, that keep their initial values whatever the source has.
        source_temperature: of the source's fixed positions, to be compared with the target's; None = not compared.

    Raises:
        WeightsError: a tensor that is in one of the two only and not named, or of another shape. ``target`` is
            unchanged then.
        ValueError: unknown inflation.
    """
    own = target.state_dict()
    _check_geometry(own, source, source_grid, source_patch)
    if skip is None:
        skip = [part for part in PRETEXT if not _named(own, [part])]
    shared, skipped, initialised = _sort(target, own, source, skip, fresh)
    encoder, latents = target.encoder, any(name.startswith(LATENTS) for name in source)
    resizer = _Resizer(source_grid, source_patch, encoder.grid, encoder.patch_size, inflation, latents)
    notes = _position_notes(target, source, source_grid, source_temperature) + _pixel_notes(own, source)
    report = FitReport(skipped=skipped, initialised=initialised, notes=notes)
    values = {name: _fitted(name, source[name], own[name], resizer, report) for name in shared}
    with torch.no_grad():  # nothing can fail any more
        for name, value in values.items():
            own[name].copy_(value)
    return report


class _Resizer:
    """The source's tensors for the target's grid and patch. These decide, not shapes: 4 x 9 and 6 x 6 are both 36."""

    def __init__(
        self,
        old_grid: Triple,
        old_patch: Triple,
        new_grid: Triple,
        new_patch: Triple,
        inflation: str,
        latents: bool = False,
    ):
        self.latents = latents  # whether what is embedded are latents of patches
        self.old_grid, self.new_grid = tuple(old_grid), tuple(new_grid)
        self.old_patch, self.new_patch = tuple(old_patch), tuple(new_patch)
        check_inflation(inflation)
        self.inflation = inflation

    def __call__(self, name: str, value: torch.Tensor) -> tuple[torch.Tensor, str]:
        """(the tensor to load, how it was resized or "")."""
        (old_t, *old_space), (new_t, *new_space) = self.old_grid, self.new_grid
        if name.endswith("position.space") and old_space != new_space:
            how = f"positions {_by(old_space)} -> {_by(new_space)}, bicubic"
            return resize_space(value, tuple(old_space), tuple(new_space)), how
        if name.endswith("position.time") and old_t != new_t:
            return resize_time(value, new_t), f"positions {old_t} -> {new_t}, linear"
        if name.endswith("position.table") and self.old_grid != self.new_grid:
            how = f"positions {_by(self.old_grid)} -> {_by(self.new_grid)}, bicubic in space, linear in time"
            return resize_table(value, self.old_grid, self.new_grid), how
        if self.old_patch != self.new_patch:
            if name.startswith(LATENTS) or (self.latents and name == "encoder.patch_embed.weight"):
                raise WeightsError(
                    f"{name} belongs to latents of patches of {_by(self.old_patch)}, the model's are of "
                    f"{_by(self.new_patch)}: set MODEL.PATCH_SIZE to the former"
                )
            if name == "encoder.patch_embed.weight":
                resized = resize_patch_weight(value, self.old_patch, self.new_patch, self.inflation)
                return resized, self._patch_change()
            if name.startswith(PATCH_SIZED):
                raise WeightsError(
                    f"{name} belongs to patches of {_by(self.old_patch)}, the model's are of {_by(self.new_patch)}: "
                    "set MODEL.PATCH_SIZE to the former, or start the decoder anew (`fresh`)"
                )
        return value, ""

    def _patch_change(self) -> str:
        changes = []
        (old_frames, *old_size), (new_frames, *new_size) = self.old_patch, self.new_patch
        if old_frames != new_frames:
            how = self.inflation if old_frames == 1 else "sum" if new_frames == 1 else "linear"
            changes.append(f"patch of {old_frames} -> {new_frames} frames, {how}")
        if old_size != new_size:
            changes.append(f"patch of {_by(old_size)} -> {_by(new_size)} pixels, pseudo-inverse of bicubic")
        return "; ".join(changes)


def _fitted(name: str, theirs: torch.Tensor, ours: torch.Tensor, resizer: _Resizer, report: FitReport) -> torch.Tensor:
    """The source's tensor in the target's shape; enters it in the report."""
    value, how = resizer(name, theirs)
    if value.shape != ours.shape:
        raise WeightsError(_other_shape(name, theirs, ours))
    if how:
        report.resized.append((name, tuple(theirs.shape), tuple(value.shape), how))
    else:
        report.loaded.append(name)
    return value


def _sort(
    target: nn.Module,
    own: Mapping[str, torch.Tensor],
    source: Mapping[str, torch.Tensor],
    skip: Sequence[str],
    fresh: Sequence[str],
) -> tuple[list[str], list[str], list[str]]:
    """(names to load, names of the source left out, names of the target left as they are)."""
    initialised = _named(own, fresh)
    no_norm = ("encoder.norm.",) if isinstance(target.encoder.norm, nn.Identity) else ()
    skipped = _named(source, (*skip, *fresh, *PIXELS, *no_norm))
    unexpected = [name for name in source if name not in own and name not in skipped]
    if unexpected:
        raise WeightsError(_one_sided(unexpected, source, "the weights", "the model", "`skip`"))
    shared = [name for name in source if name not in skipped]
    settled = {*shared, *initialised, *PIXELS}
    missing = [name for name in own if name not in settled]
    if missing:
        raise WeightsError(_one_sided(missing, own, "the model", "the weights that are to be used", "`fresh`"))
    return shared, skipped, initialised


def _check_geometry(
    own: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor], grid: Triple, patch: Triple
) -> None:
    """Width, depth and channels, whose difference every tensor would show; and that grid and patch are the source's."""
    name = "encoder.patch_embed.weight"
    if name not in source:
        raise WeightsError(f"{name} is not in the weights: they are not of a model with an encoder of ours")
    theirs, ours = tuple(source[name].shape), tuple(own[name].shape)
    depths = [len({key.split(".")[2] for key in state if key.startswith("encoder.blocks.")}) for state in (source, own)]
    for what, key, old, new in (("width", "WIDTH", theirs[0], ours[0]), ("depth", "DEPTH", *depths)):
        if old != new:
            raise WeightsError(
                f"the weights are of {what} {old}, MODEL.ENCODER.{key} is {new} ({name}: {theirs} in the weights, "
                f"{ours} in the model): set MODEL.ENCODER.SIZE or {key} as in their run"
            )
    of_latents = any(key.startswith(LATENTS) for key in source)
    if not of_latents and theirs[1] % (patch[0] * patch[1] * patch[2]):
        raise WeightsError(f"{name} {theirs} is not for patches of {_by(patch)}: give the patch of the weights' model")
    slots, places = grid[0], grid[1] * grid[2]
    for part, rows in (("space", places), ("time", slots), ("table", slots * places)):
        name = f"encoder.position.{part}"
        if name in source and len(source[name]) != rows:
            raise WeightsError(
                f"{name} {tuple(source[name].shape)} is not for {_by(grid)} tokens: give the grid of the weights' model"
            )


def _position_notes(
    target: nn.Module, source: Mapping[str, torch.Tensor], grid: Triple, temperature: float | None
) -> list[str]:
    """What there is to say about fixed positions. Raises WeightsError if they are of another temperature."""
    position, new_grid = target.encoder.position, tuple(target.encoder.grid)
    if position.kind in LEARNED or any(name.startswith("encoder.position.") for name in source):
        return []
    if temperature is not None:
        expected = PositionEmbedding(new_grid, target.encoder.width, position.kind, temperature)()
        if not torch.allclose(expected, position().float().cpu(), atol=1e-5):
            raise WeightsError(
                f"the weights were trained with MODEL.POSITION_TEMPERATURE {temperature:g}, the model's fixed "
                "positions have another one: set it to that"
            )
    if tuple(grid) == new_grid:
        return []
    return [f"encoder.position: fixed, those of the new grid: {_by(grid)} -> {_by(new_grid)} tokens, not interpolated"]


def _pixel_notes(own: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor]) -> list[str]:
    pairs = [(name, *(state[name].flatten().tolist() for state in (source, own))) for name in PIXELS if name in source]
    return [
        f"{name}: the model's own, {[round(x, 4) for x in new]}; the weights were trained with "
        f"{[round(x, 4) for x in old]}"
        for name, old, new in pairs
        if old != new
    ]


def _named(names: Iterable[str], entries: Sequence[str]) -> list[str]:
    """Those of the names that are among the entries, or begin with one that ends in a dot."""
    beginnings = tuple(entry for entry in entries if entry.endswith("."))
    return [name for name in names if name in entries or name.startswith(beginnings)]


def _one_sided(names: Sequence[str], state: Mapping[str, torch.Tensor], here: str, there: str, argument: str) -> str:
    listed = ", ".join(f"{name} {tuple(state[name].shape)}" for name in names[:4])
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    keys = {
        "encoder.class_token": "ENCODER.CLASS_TOKEN",
        "encoder.position.": "ENCODER.POSITION",
        "decoder.class_token": "DECODER.CLASS_TOKEN",
        "decoder.class_position": "DECODER.CLASS_POSITION",
        "decoder.position.": "DECODER.POSITION",
        LATENTS: "LDAE.INPUT and MODEL.LDAE.TOKENIZER",
        "encoder.blocks.": "NAME",  # of as many blocks: those of a LatentDAE have other parts
    }
    settings = [
        f"set MODEL.{key} as in the weights' run"
        for part, key in keys.items()
        if any(name.startswith(part) for name in names)
    ]
    advice = "; ".join([*settings, f"or, from Python, name it in {argument}"])
    return f"in {here} but not in {there}: {listed}{more}: {advice}"


def _other_shape(name: str, theirs: torch.Tensor, ours: torch.Tensor) -> str:
    return (
        f"{name} is {tuple(theirs.shape)} in the weights and {tuple(ours.shape)} in the model, and only positions and "
        "patch embeddings can be resized: give the model the sizes of the weights' run, or, from Python, name it in "
        "`fresh`"
    )


def _summary(names: Sequence[str]) -> str:
    """``encoder.blocks (144 tensors), encoder.class_token, decoder (52 tensors)``."""
    groups = Counter(".".join(name.split(".")[: 2 if name.startswith("encoder.") else 1]) for name in names)
    return ", ".join(f"{group} ({count} tensors)" if count > 1 else group for group, count in groups.items())


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
