"""Ctrl-C and other requests to stop, kept out of the places where they would leave a half-made state."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# The last two are what schedulers send some time before a job's end (submitit's default is USR2).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupts:
    """While this context is open, the ``SIGNALS`` raise ``KeyboardInterrupt``, but not inside ``held()``.

    A signal that arrives inside ``held()`` is raised at its end, everywhere else at once. ``held(patience=1)`` holds
    the first signal only: a Ctrl-C after it, of somebody who does not want to wait, is raised at once. Signals can be
    handled in the main thread only; in any other this changes nothing.

    Args:
        deferred: the first signal is only noted, for processes that have to stop together: the trainer agrees on it
            with the others and stops at the end of a step.

    Attributes:
        signal_number: the signal to obey: the first one, or a Ctrl-C after it; None before.
    """

    def __init__(self, deferred: bool = False) -> None:
        self.deferred = deferred
        self.signal_number: int | None = None
        self._received = 0
        self._holds: list[float] = []  # the patience of every ``held()`` that is open
        self._pending = False
        self._ending = False
        self._owner = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self, patience: float = math.inf) -> Iterator[None]:
        """Signals wait until the end of this context, but no more of them than ``patience``."""
        self._holds.append(patience)
        try:
            yield
        finally:
            self._holds.pop()
        if self._pending and not self._holds:
            self._pending = False
            raise KeyboardInterrupt

    def end(self) -> None:
        """The orderly end has begun: further signals are ignored."""
        self._ending = True
        self._pending = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A forked loader worker. Ctrl-C on a terminal reaches it too: it goes on and is ended by its parent.
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self._ending:
            return
        # A scheduler repeats itself, and its signal comes from the launcher too. Only a person can be impatient.
        if self._received and number != signal.SIGINT:
            return
        self.signal_number = number
        self._received += 1
        if self.deferred and self._received == 1:
            return
        if self._holds and self._received <= max(self._holds):
            self._pending = True
        else:
            raise KeyboardInterrupt
