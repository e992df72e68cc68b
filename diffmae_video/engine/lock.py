"""One run per output folder: a lock that a process holds as long as it lives, however it ends."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shlex
import sys
import time
from pathlib import Path

from diffmae_video.engine.disk import tolerate_full_disk
from diffmae_video.engine.errors import FolderInUse

logger = logging.getLogger(__name__)

LOCK = ".lock"
# What file systems without locks answer: some network file systems, and those of some containers.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

_held: dict[tuple[int, int], int] = {}  # (device, inode) of a lock file that this process holds -> its descriptor


def lock_folder(folder: str | Path) -> None:
    """Takes the output folder of a run for this process, until it ends; of several processes, the first one does it.

    The lock is that of ``flock`` on the file ``.lock``: it belongs to the living process, and the system drops it when
    that ends, by SIGKILL too, while the file stays. It says who has it. A process can take a folder again that it has,
    and forked children do not have it. Where the file system knows no locks, the log says so, and nothing is locked.

    Args:
        folder: made if it is not there.

    Raises:
        FolderInUse: another process has it.
        OSError: the file cannot be made.
    """
    path = Path(folder) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    status = os.fstat(descriptor)
    identity = status.st_dev, status.st_ino
    if identity in _held:
        os.close(descriptor)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.read(descriptor, 4096).decode(errors="replace").strip()
        os.close(descriptor)
        raise FolderInUse(
            f"another run has the output folder {folder}: {owner or 'it has not said which'}. Wait until it ends or "
            "stop it, or give this one another OUTPUT_DIR"
        ) from error
    except OSError as error:
        os.close(descriptor)
        if error.errno not in NO_LOCKS:
            raise
        logger.warning(
            "the file system of %s has no locks (%s): see to it that no other run has this OUTPUT_DIR",
            folder,
            os.strerror(error.errno),
        )
        return
    _held[identity] = descriptor
    with tolerate_full_disk(str(path)):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _about_this_process().encode())


def _about_this_process() -> str:
    started = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return f"process {os.getpid()} on {os.uname().nodename}, since {started}: {shlex.join(sys.argv)}\n"


def _leave_to_parent() -> None:
    """In a forked child: its copy of the descriptor would hold the lock when the run is killed and the child is not."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
