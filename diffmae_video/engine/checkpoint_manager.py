"""The checkpoints of one run: when one is written, which are kept, and which one a run goes on from.

The rule: the newest ``keep_last`` are kept, and for good those at multiples of ``keep_period``. An older one is deleted
once a newer one is complete, on the disk, and was read back and compared with its checksums; never before. So there is
a good one at every moment after the first was written.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffmae_video.engine.checkpoint import (
    LATEST,
    STEP_NAME,
    check_file,
    newest_good,
    save_checkpoint,
    step_files,
    tensor_bytes,
)
from diffmae_video.engine.disk import NO_SPACE, tolerate_full_disk, write_text
from diffmae_video.engine.errors import DiskFull
from diffmae_video.engine.manifest import MANIFEST
from diffmae_video.engine.world import World

logger = logging.getLogger(__name__)

ALONE = World()


class CheckpointManager:
    """The checkpoints of one run, a file each. One run writes to a folder at a time (lock.py sees to it).

    Args:
        folder: created when missing; what a killed process has left unfinished is removed from it.
        keep_period: optimiser steps; checkpoints at its multiples are kept for good; 0 = none is.
        keep_last: so many of the newest are kept, at least 1.
        stop_when_full: a full disk ends the run, instead of costing it this one checkpoint.
        world: this process; only the first one writes.

    Attributes:
        sharded: whether :meth:`save` wants of every process its part of the tensors; else the whole of them, of the
            first one.
    """

    sharded = False

    def __init__(
        self,
        folder: str | Path,
        keep_period: int = 0,
        keep_last: int = 2,
        stop_when_full: bool = False,
        world: World = ALONE,
    ):
        if keep_last < 1:
            raise ValueError(f"keep_last is {keep_last}: at least the newest checkpoint is kept")
        self.folder, self.keep_period, self.keep_last = Path(folder), keep_period, keep_last
        self.stop_when_full, self.world = stop_when_full, world
        self.folder.mkdir(parents=True, exist_ok=True)
        if world.is_first:
            self._remove_unfinished()

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.pt"

    def latest(self) -> Path | None:
        """The newest checkpoint's path, unread; None when there is none."""
        return next(iter(step_files(self.folder).values()), None)

    def load_latest(self, into: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], Path] | None:
        """The newest whole checkpoint, file or folder, and its path, to go on from; None when there is none.

        The first process renames damaged newer ones to ``*.damaged``, so that they are not taken for the newest again.
        The others call this after it, and take what is then the newest.

        Args:
            into: how tensors lie on the processes of this run, see :func:`sharded.load_sharded`; those of a file come
                whole and on the CPU in any case.

        Raises:
            CheckpointError: there are checkpoints, and none is whole.
        """
        found = newest_good(self.folder, into, check=self.world.is_first)
        if found is not None and self.world.is_first:
            for path in step_files(self.folder).values():
                if path == found[1]:
                    break
                aside = path.with_name(f"{path.name}.damaged")
                remove_checkpoint(aside)  # a folder does not replace another one
                os.replace(path, aside)
                logger.warning("%s was renamed to %s", path, aside.name)
        return found

    def save(self, state: dict[str, Any], step: int) -> Path | None:
        """Writes ``state`` as the checkpoint of ``step``; returns its path, or None when the disk is full.

        All processes call this. A full disk leaves the earlier checkpoints as they were and is logged as a warning with
        the room needed.

        Raises:
            DiskFull: the disk is full, and that ends the run.
            OSError: the folder cannot be written for another reason.
            DamagedCheckpoint: what was written reads back differently; nothing was deleted.
        """
        path = self.path(step)
        if not self.world.is_first:
            return path
        try:
            save_checkpoint(path, state)
            check_file(path)
        except OSError as error:
            self._tolerate(error, step, tensor_bytes(state))
            return None
        self._complete(path, step)
        return path

    def wait(self) -> bool:
        """Until what was saved last is on the disk; False when it is not, and why is in the log."""
        return True

    def _complete(self, path: Path, step: int) -> None:
        """The checkpoint at ``path`` is whole: it is the newest, and older ones may go."""
        with tolerate_full_disk(str(self.folder / LATEST)):
            write_text(self.folder / LATEST, f"{path.name}\n")
        older = [file for number, file in step_files(self.folder).items() if number <= step][self.keep_last :]
        for file in older:
            number = int(STEP_NAME.fullmatch(file.name)[1])
            if not self.keep_period or number % self.keep_period:
                remove_checkpoint(file)

    def _tolerate(self, error: OSError, step: int, needed: int) -> None:
        """Warns of a full disk; raises where that ends the run, and any other error."""
        if error.errno not in NO_SPACE:
            raise error
        newest = self.latest()
        message = (
            f"the checkpoint of step {step} was NOT saved, the disk of {self.folder} is full: about "
            f"{needed / 2**20:.0f} MiB are needed, {shutil.disk_usage(self.folder).free / 2**20:.0f} MiB are free. "
            f"The newest checkpoint is {'none' if newest is None else newest.name}"
        )
        if self.stop_when_full:
            raise DiskFull(
                f"{message}. Free some space and run the same command again; or set TRAIN.ON_FULL_DISK continue, and a "
                "full disk costs a run no more than this checkpoint"
            ) from error
        if self.world.is_first:
            logger.warning("%s. Training goes on. Free some space", message)

    def _remove_unfinished(self) -> None:
        for left_over in self.folder.glob(".*.tmp"):
            left_over.unlink(missing_ok=True)
        for entry in self.folder.glob("step_*"):
            match = STEP_NAME.fullmatch(entry.name)
            if match and not match[2] and entry.is_dir() and not (entry / MANIFEST).exists():
                logger.info("%s was never finished, and is removed", entry)
                remove_checkpoint(entry)


def remove_checkpoint(path: Path) -> None:
    """A checkpoint; a folder's manifest first, so that what is left of it at any moment is none."""
    if path.is_dir():
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
