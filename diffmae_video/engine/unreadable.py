"""Counts and lists the files that training could not read."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from diffmae_video.data import LoadingFailed, UnreadableVideo
from diffmae_video.engine.disk import tolerate_full_disk
from diffmae_video.engine.errors import DataFailed, TooManyUnreadable

logger = logging.getLogger(__name__)

MIN_FAILURES = 20  # below this the share says too little about the dataset to stop a run


def check_loader_error(error: Exception) -> None:
    """Raises ``DataFailed`` if a draw found nothing that can be read, or the loader cannot go on here.

    An error of a loader's worker process arrives as text: its last line names the type.
    """
    if isinstance(error, LoadingFailed):
        raise DataFailed(str(error)) from None
    match = re.search(r"UnreadableVideo: (.*)", str(error))
    if isinstance(error, UnreadableVideo) or match:
        reason = match[1] if match else str(error)
        raise DataFailed(f"no readable file could be found for a draw: {reason}") from None


class UnreadableFiles:
    """Appends every unreadable file once to a text file (path, tab, reason) and stops the run when there are too many.

    Args:
        path: the text file; paths that it already lists are not listed again.
        max_fraction: largest share of unreadable draws, in [0, 1].
    """

    def __init__(self, path: str | Path, max_fraction: float):
        self.path, self.max_fraction = Path(path), max_fraction
        self._listed: set[str] = set()
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            self._listed = {line.split("\t")[0] for line in lines}

    def record(self, failures: Iterable[tuple[str, str]]) -> None:
        """Lists and logs the (path, message) pairs that are new."""
        for path, message in failures:
            if path in self._listed:
                continue
            self._listed.add(path)
            reason = " ".join(message.split()).removeprefix(f"{path}: ")
            with (
                tolerate_full_disk(f"a line of {self.path}"),
                self.path.open("a", encoding="utf-8", errors="surrogateescape") as file,
            ):
                file.write(f"{path}\t{reason}\n")
            logger.warning("unreadable, replaced by another draw: %s (%s)", path, reason)

    def check(self, failures: int, draws: int) -> None:
        """Stops the run when too much was unreadable.

        Args:
            failures: unreadable draws since the start of the run.
            draws: successful draws since the start of the run.

        Raises:
            TooManyUnreadable: at least 20 failures, and more than ``max_fraction`` of all draws.
        """
        share = failures / max(failures + draws, 1)
        if failures >= MIN_FAILURES and share > self.max_fraction:
            raise TooManyUnreadable(
                f"{failures} of {failures + draws} draws ({share:.1%}) hit an unreadable file, more than the "
                f"{self.max_fraction:.1%} that DATA.MAX_UNREADABLE_FRACTION allows. The {len(self._listed)} files are "
                f"listed in {self.path}: repair them, take them out of the dataset, or raise that limit"
            )
