"""Give memory back that decoders have freed: over thousands of files they leave the heap full of holes.

Nothing is leaked, but glibc keeps freed memory as long as something lies above it, and a process that opens a file
after the other grows by 5 to 20 kB each time (docs/decoders.md). Other C libraries do not, or cannot be asked.
"""

from __future__ import annotations

import ctypes
import gc
import sys

PERIOD = 128  # reads; a trim takes 1 to 5 ms


class _Heap:
    def __init__(self) -> None:
        self._reads = 0
        library = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._trim = getattr(library, "malloc_trim", None)  # glibc alone has it

    def after_read(self) -> None:
        self._reads += 1
        if self._trim is not None and self._reads % PERIOD == 0:
            gc.collect(1)  # closed containers in reference cycles look small to Python, and are not
            self._trim(0)


_heap = _Heap()


def after_read() -> None:
    """To be called after every read; every ``PERIOD``-th time it trims the heap."""
    _heap.after_read()
