"""The rules of ``DATA.MIX``: several sources of data in one run."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from diffmae_video.config.masks import named_strategies

# What DATA.FORMAT and DATA.MIX.FORMATS may name; the data room reads them.
DATA_FORMATS = (
    "auto", "list", "frame_list", "kinetics", "ssv2", "ucf101", "hmdb51", "class_folders", "class_frames", "folder",
    "frames", "shards",
)  # fmt: skip


def data_formats(cfg: CfgNode) -> set[str]:
    """What DATA.FORMAT, or DATA.MIX.FORMATS where there is a mix, name."""
    return set(cfg.DATA.MIX.FORMATS) if is_mix(cfg) else {cfg.DATA.FORMAT}


def is_mix(cfg: CfgNode) -> bool:
    """Whether the data comes from the sources of DATA.MIX."""
    return list(cfg.DATA.MIX.PATHS) not in ([""], [])


def check_mix(cfg: CfgNode) -> Iterator[str]:
    """A sentence for every rule of ``DATA.MIX`` that is broken."""
    mix, data = cfg.DATA.MIX, cfg.DATA
    if not is_mix(cfg):
        return
    sources = len(mix.PATHS)
    if not all(path.strip() for path in mix.PATHS):
        yield f"DATA.MIX.PATHS is {mix.PATHS}: every source needs a path"
    for key in ("FORMATS", "PREFIXES", "WEIGHTS", "NUM_FRAMES", "SAMPLING_RATES"):
        if len(mix[key]) not in (1, sources):
            yield f"DATA.MIX.{key} is {mix[key]}: it needs 1 element, or {sources}, as many as DATA.MIX.PATHS"
    if unknown := set(mix.FORMATS) - set(DATA_FORMATS):
        yield f"DATA.MIX.FORMATS names {sorted(unknown)}: choose from {', '.join(DATA_FORMATS)}"
    if data.PATH_TO_DATA_DIR:
        yield (
            f"DATA.PATH_TO_DATA_DIR is {data.PATH_TO_DATA_DIR!r}, but the data comes from DATA.MIX.PATHS: add it "
            "there, or leave it empty"
        )
    if cfg.TASK != "pretrain":
        yield f"TASK is {cfg.TASK!r}, but the sources of DATA.MIX do not share class numbers: it is for pre-training"
    yield from _check_frames(cfg)


def _check_frames(cfg: CfgNode) -> Iterator[str]:
    patch = cfg.MODEL.PATCH_SIZE[0]
    strategies = named_strategies(cfg)
    lengths = [frames or cfg.DATA.NUM_FRAMES for frames in cfg.DATA.MIX.NUM_FRAMES]
    for frames in lengths:
        if frames > cfg.DATA.NUM_FRAMES or (frames != 1 and frames % patch):
            yield (
                f"DATA.MIX.NUM_FRAMES has {frames}: choose 1, or a multiple of MODEL.PATCH_SIZE[0] = {patch} up to "
                f"DATA.NUM_FRAMES = {cfg.DATA.NUM_FRAMES}, the positions that the model has"
            )
        if "frame" in strategies and frames < 2 * patch:
            yield (
                f'{strategies["frame"]} "frame" hides whole time slots, but clips of {frames} frames '
                "(DATA.MIX.NUM_FRAMES) have only one: choose another strategy"
            )
    if cfg.DATA.NUM_FRAMES not in lengths:
        yield (
            f"no source of DATA.MIX.NUM_FRAMES = {cfg.DATA.MIX.NUM_FRAMES} has DATA.NUM_FRAMES = "
            f"{cfg.DATA.NUM_FRAMES}: lower the latter to the longest of them"
        )
