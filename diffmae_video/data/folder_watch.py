"""Tells a file that cannot be read from a data folder that is away: a network disk that hangs, or is remounted.

A file that is missing because all are says nothing about that file. To replace it would change what a run computes, and
soon end it; so the reader waits, and reads the same file when the folder is back.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable

from diffmae_video.data import watchdog
from diffmae_video.data.packed import shard_of

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0  # a folder that takes longer to name one of its files does not answer
PAUSE_SECONDS = 1.0  # between two looks


class LoadingFailed(OSError):
    """Data cannot be loaded on this machine now, through no fault of a file's; the message is a complete sentence."""


class DataFolderGone(LoadingFailed):
    """The folder of all the data has been away for longer than it was to be waited for."""


class FolderWatch:
    """Waits for the folder of a dataset where that is away.

    Args:
        paths: of all files, packed ones too. The folder that is watched is the deepest one in which all of them are.
        seconds: how long to wait, at most; 0 = not at all.
        isolated: look from a process beside this one, where a dead disk holds nobody up.

    Attributes:
        folder: the watched one.
    """

    def __init__(self, paths: Iterable[str], seconds: float, isolated: bool) -> None:
        self.folder, self.seconds, self.isolated = common_folder(paths), seconds, isolated

    def waited(self, why: object) -> bool:
        """After a file could not be read: whether the folder was away. It is back then, and the file worth another try.

        Args:
            why: what happened, for the log.

        Raises:
            DataFolderGone: it has not come back in time.
        """
        if not self.seconds or self._is_there():
            return False
        what = f"the data folder {self.folder} does not answer or is empty"
        logger.warning("%s (%s): waiting for it, for up to %g s", what, why, self.seconds)
        started = time.monotonic()
        while time.monotonic() - started < self.seconds:
            time.sleep(PAUSE_SECONDS)
            if self._is_there():
                logger.warning("the data folder %s is back after %.0f s", self.folder, time.monotonic() - started)
                return True
        raise DataFolderGone(
            f"{what}, and was waited for for {self.seconds:g} s (DATA.ROOT_TIMEOUT). Mount it again, or give its new "
            "place as DATA.PATH_TO_DATA_DIR; the run goes on from its newest checkpoint when it is started again"
        )

    def is_back(self, path: str) -> bool:
        """Whether a file that was missing is there now: the folder was away, and came back before it was looked at."""
        return bool(self.seconds) and self._look(os.path.exists, shard_of(path) or path)

    def _is_there(self) -> bool:
        return self._look(is_there, self.folder)

    def _look(self, question: Callable[[str], bool], path: str) -> bool:
        if not self.isolated:
            return question(path)
        try:
            return watchdog.run(question, path, timeout=ANSWER_SECONDS)
        except watchdog.HelperDied:
            return False


def common_folder(paths: Iterable[str]) -> str:
    """The deepest folder in which all files are."""
    paths = list(paths)
    common = os.path.commonprefix([min(paths), max(paths)])  # what the first and the last share, all share
    return os.path.dirname(shard_of(common) or common) or "."


def is_there(folder: str) -> bool:
    """Whether a folder has something in it. Where a disk is not mounted there is no folder, or an empty one."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except PermissionError:
        return True  # its files may be readable all the same
    except OSError:
        return False
