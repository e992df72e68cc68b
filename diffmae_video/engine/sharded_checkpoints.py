"""The checkpoints of one run as folders that all its processes write together, in the background if wanted.

Not imported with the rest of the room: what it needs of torch takes a second to load.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from diffmae_video.engine.checkpoint import tensor_bytes
from diffmae_video.engine.checkpoint_manager import ALONE, CheckpointManager, remove_checkpoint
from diffmae_video.engine.errors import one_line
from diffmae_video.engine.sharded import Snapshot, save_sharded
from diffmae_video.engine.world import World

logger = logging.getLogger(__name__)


class ShardedCheckpoints(CheckpointManager):
    """The checkpoints of one run, a folder each (sharded.py), which all processes write together.

    Args:
        folder, keep_period, keep_last, stop_when_full: as of :class:`CheckpointManager`.
        world: this process. With several, they have formed their group already.
        background: write while the run goes on. :meth:`save` then takes a copy of the state to the CPU and returns; the
            next one, and :meth:`wait`, wait for it to be written, and say if it was not.
    """

    def __init__(
        self,
        folder: str | Path,
        keep_period: int = 0,
        keep_last: int = 2,
        stop_when_full: bool = False,
        world: World = ALONE,
        background: bool = False,
    ):
        super().__init__(folder, keep_period, keep_last, stop_when_full, world)
        self.background = background
        self._group: torch.distributed.ProcessGroup | None = None  # of all processes, from the first save on
        self._thread: ThreadPoolExecutor | None = None
        self._pending: tuple[Future[None], int, int] | None = None  # and the step and bytes of what is being written

    sharded = True

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"

    def save(self, state: dict[str, Any], step: int) -> Path | None:
        """As :meth:`CheckpointManager.save`, and all processes return the same and raise the same.

        ``state`` has this process's shards. In the background, the path is returned before the checkpoint is complete,
        and what is raised is about the one before it.
        """
        self._finish()
        if self._group is None and self.world.size > 1:
            # One of their own: what a thread says in it does not get between the sums of the training.
            self._group = torch.distributed.new_group(backend="gloo")
        path, snapshot, needed = self.path(step), Snapshot.of(state), tensor_bytes(state)
        if not self.background:
            try:
                self._write(path, snapshot, step)
            except OSError as error:
                self._tolerate(error, step, needed)
                return None
            return path
        stager = DefaultStager(StagingOptions(False, False, False, False))
        snapshot = snapshot._replace(tensors=stager.stage(snapshot.tensors))
        stager.close()
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending = self._thread.submit(self._write, path, snapshot, step), step, needed
        return path

    def wait(self) -> bool:
        try:
            return self._finish()
        except (RuntimeError, OSError) as error:  # RunErrors, and what sums say when another process has gone
            logger.error("the last checkpoint was not completed: %s", one_line(error))
            return False

    def _finish(self) -> bool:
        """Waits for what is being written; False when the disk was full. Raises what :meth:`save` does."""
        if self._pending is None:
            return True
        (future, step, needed), self._pending = self._pending, None
        try:
            future.result()
        except OSError as error:
            self._tolerate(error, step, needed)
            return False
        return True

    def _write(self, path: Path, snapshot: Snapshot, step: int) -> None:
        if self.world.is_first and path.exists():
            remove_checkpoint(path)
        try:
            save_sharded(path, snapshot, self._group)
        except BaseException:
            if self.world.is_first:
                remove_checkpoint(path)
            raise
        if self.world.is_first:
            self._complete(path, step)
