"""Errors that end a run and that the person who started it can act on.

Their messages are complete sentences: what happened, what was expected, what to do. Entry points print them as one
line, without a traceback.
"""

from __future__ import annotations


class RunError(RuntimeError):
    """Base of the errors of this room."""


class NonFiniteLoss(RunError):
    """The loss or the gradient of an optimiser step was NaN or infinite; that step was not applied."""


class TooManyUnreadable(RunError):
    """More of the dataset than allowed could not be read."""


class DataFailed(RunError):
    """This process cannot get the clips of its next step; the state is that of the last complete one."""


class PeerGone(RunError):
    """Another process of the run is gone, or does not answer."""


class DiskFull(RunError):
    """There is no room for a checkpoint, and the run is to stop when that happens."""


class FolderInUse(RunError):
    """Another run has the output folder."""


class CheckpointError(RunError):
    """A checkpoint that cannot be used: another format, or weights of another model."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint file that is incomplete or whose content is not what was written."""


class TrainingInterrupted(Exception):
    """The run was stopped by a signal after its state was saved; the message says how to go on.

    Attributes:
        exit_code: 128 + the number of the signal, the shell's convention (130 for Ctrl-C).
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def one_line(error: BaseException) -> str:
    """The text of an error for a message of our own: without line breaks, at most 500 characters."""
    return " ".join(str(error).split())[:500]
