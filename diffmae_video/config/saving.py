"""Rules of the keys of checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

CHECKPOINT_FORMATS = ("file", "sharded")
ON_FULL_DISK = ("continue", "stop")


def check_saving(cfg: CfgNode) -> Iterator[str]:
    """Only checkpoints that are folders are written in the background."""
    if cfg.TRAIN.CHECKPOINT_ASYNC and cfg.TRAIN.CHECKPOINT_FORMAT != "sharded":
        yield (
            f"TRAIN.CHECKPOINT_ASYNC is True, but TRAIN.CHECKPOINT_FORMAT is {cfg.TRAIN.CHECKPOINT_FORMAT!r}, which is "
            'written while the run waits: leave the first out, or set the second to "sharded"'
        )
