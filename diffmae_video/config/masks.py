"""``MASK``: what hides tokens in training, one strategy or the several of ``MASK.MIX``, and the rules of both."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import NamedTuple

from fvcore.common.config import CfgNode

from diffmae_video.config.tasks import AUTOENCODER_TASKS

# What MASK.STRATEGY and MASK.MIX.STRATEGIES may name; the models room has them.
MASK_STRATEGIES = ("tube", "random", "frame", "block", "center")
_COLUMNS = ("WEIGHTS", "RATIOS_LOW", "RATIOS_HIGH")


class MaskRange(NamedTuple):
    """A strategy of ``MASK.MIX``: how often it is drawn, and between which ratios."""

    strategy: str
    weight: float
    low: float
    high: float


def is_mask_mix(cfg: CfgNode) -> bool:
    """Whether training masks by the strategies of MASK.MIX."""
    return list(cfg.MASK.MIX.STRATEGIES) not in ([""], [])


def mask_mix(cfg: CfgNode) -> list[MaskRange]:
    """The strategies of MASK.MIX, each with its own values; none where there is no mix."""
    if not is_mask_mix(cfg):
        return []
    names = cfg.MASK.MIX.STRATEGIES
    columns = (cfg.MASK.MIX[key] for key in _COLUMNS)
    rows = zip(*(column if len(column) == len(names) else list(column) * len(names) for column in columns), strict=True)
    return [MaskRange(name, *row) for name, row in zip(names, rows, strict=True)]


def trained_ratio(cfg: CfgNode, strategy: str) -> float | None:
    """The ratio at which a model was trained with ``strategy``, of a mix the middle of its range; None = it was not."""
    if is_mask_mix(cfg):
        return next(((row.low + row.high) / 2 for row in mask_mix(cfg) if row.strategy == strategy), None)
    return cfg.MASK.RATIO if strategy == cfg.MASK.STRATEGY else None


def named_strategies(cfg: CfgNode) -> dict[str, str]:
    """Every mask strategy of a run -> the key that names it."""
    mixed = cfg.MASK.MIX.STRATEGIES if is_mask_mix(cfg) else []
    return {cfg.MASK.STRATEGY: "MASK.STRATEGY"} | dict.fromkeys(mixed, "MASK.MIX.STRATEGIES")


# -------------------------------------------------------------------------------------------------------------- rules


def token_grid(cfg: CfgNode) -> tuple[int, int, int] | None:
    """Tokens along time, rows, columns; None where the patch does not divide the clip."""
    sizes = (cfg.DATA.NUM_FRAMES, cfg.DATA.CROP_SIZE, cfg.DATA.CROP_SIZE)
    if any(size % patch for size, patch in zip(sizes, cfg.MODEL.PATCH_SIZE, strict=True)):
        return None
    t, h, w = (size // patch for size, patch in zip(sizes, cfg.MODEL.PATCH_SIZE, strict=True))
    return t, h, w


def check_masks(cfg: CfgNode) -> Iterator[str]:
    """A sentence for every rule of ``MASK`` that is broken."""
    grid = token_grid(cfg)
    # A clip that no patch divides is reported with the other rules of DATA; a LatentDAE masks nothing.
    if grid is None or cfg.TASK not in AUTOENCODER_TASKS or cfg.MODEL.NAME == "LatentDAE":
        return
    yield from _check_strategy(grid, "MASK.STRATEGY", cfg.MASK.STRATEGY, {"MASK.RATIO": cfg.MASK.RATIO})
    if not is_mask_mix(cfg):
        return
    problems = list(_check_lists(cfg))
    yield from problems
    for row in [] if problems else mask_mix(cfg):
        if row.low > row.high:
            yield (
                f"MASK.MIX.RATIOS_LOW = {row.low} of strategy {row.strategy!r} is above its MASK.MIX.RATIOS_HIGH = "
                f"{row.high}: the ratio is drawn between them; exchange them, or set both to the same"
            )
            continue
        ends = {"MASK.MIX.RATIOS_LOW": row.low, "MASK.MIX.RATIOS_HIGH": row.high}
        yield from _check_strategy(grid, "MASK.MIX.STRATEGIES", row.strategy, ends)


def _check_lists(cfg: CfgNode) -> Iterator[str]:
    mix = cfg.MASK.MIX
    for name in dict.fromkeys(mix.STRATEGIES):
        if name not in MASK_STRATEGIES:
            nearest = difflib.get_close_matches(name.lower(), MASK_STRATEGIES, n=1)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            yield f"MASK.MIX.STRATEGIES names {name!r}: {hint}choose from {', '.join(MASK_STRATEGIES)}"
        elif mix.STRATEGIES.count(name) > 1:
            yield f"MASK.MIX.STRATEGIES names {name!r} more than once: give it one range, and a larger weight"
    count = len(mix.STRATEGIES)
    for key in _COLUMNS:
        if len(mix[key]) not in (1, count):
            yield f"MASK.MIX.{key} is {mix[key]}: it needs 1 element, or {count}, as many as MASK.MIX.STRATEGIES"


def _check_strategy(grid: tuple[int, int, int], key: str, strategy: str, ratios: dict[str, float]) -> Iterator[str]:
    """``key``: what names the strategy; ``ratios``: the key and value of each of its ratios."""
    t, h, w = grid
    places, unit = {
        "tube": (h * w, "spatial places"),
        "center": (h * w, "spatial places"),
        "frame": (t, "time slots"),
    }.get(strategy, (t * h * w, "tokens"))
    keys = "DATA.NUM_FRAMES, DATA.CROP_SIZE and MODEL.PATCH_SIZE"
    if places < 2:
        yield (
            f"{key} {strategy!r} needs at least 2 {unit}, one to hide and one to see, but {keys} give a token "
            f"grid of {t} x {h} x {w}: make the clip larger or the patch smaller, or choose another strategy"
        )
        return
    for name, ratio in ratios.items():
        hidden = round(places * ratio)
        if strategy in ("tube", "random", "frame") and not 1 <= hidden <= places - 1:
            yield (
                f"{name} = {ratio} hides {hidden} of {places} {unit} of the token grid {t} x {h} x {w} "
                f"({key} {strategy!r}): choose a ratio between {1 / places:.3g} and {1 - 1 / places:.3g}"
            )
