"""How long each process of a run works and waits, gathered where a line of the log is written.

Processes that train together take equally long over a step, as the fast ones wait for the slow ones in the sum of the
gradients. What tells them apart is the time until that sum begins: their own time.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from diffmae_video.engine.wrapping import sum_over_ranks

GIB = 2**30


class OwnTime:
    """A process's own time in a step: from its start to the end of its last forward pass, waiting for data included.

    With fully sharded parameters processes meet in the forward pass already, and their own times are nearly equal; what
    they wait for data still differs.

    Args:
        device: of the model. A GPU's time is its own: the host only hands out work.
    """

    def __init__(self, device: torch.device):
        self._events: tuple[torch.cuda.Event, ...] = ()
        if device.type == "cuda":
            self._events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._times = [0.0, 0.0]

    def start(self) -> None:
        self._mark(0)

    def stop(self) -> None:
        """The end so far: a later call replaces it."""
        self._mark(1)

    def seconds(self) -> float:
        """Between the two, once the device has come past them."""
        if self._events:
            return self._events[0].elapsed_time(self._events[1]) / 1000
        return self._times[1] - self._times[0]

    def _mark(self, number: int) -> None:
        if self._events:
            self._events[number].record()
        else:
            self._times[number] = time.perf_counter()


class RankTimes:
    """Times of this process since the last line. Not part of a checkpoint: after a resume they begin anew.

    Args:
        device: of the model.
        rank, world_size: of this process.
    """

    def __init__(self, device: torch.device, rank: int = 0, world_size: int = 1):
        self.device, self.rank, self.world_size = device, rank, world_size
        self._reset()

    def add(self, seconds: float, data_seconds: float, own_seconds: float) -> None:
        """Takes in one step: its duration, and the parts of it that were spent waiting for data, and as own time."""
        self._steps += 1
        for number, value in enumerate((seconds, data_seconds, own_seconds)):
            self._sums[number] += value

    def gather(self) -> dict[str, Any]:
        """Fields of a log line, see ``monitor.py``; every process calls this at the same step, and starts afresh."""
        own = [value / max(self._steps, 1) for value in self._sums] + self._memory()
        self._reset()
        table = torch.zeros(self.world_size, len(own), dtype=torch.float64, device=self.device)
        table[self.rank] = torch.tensor(own, dtype=torch.float64)
        seconds, data_seconds, own_seconds, *memory = sum_over_ranks(table, self.world_size).T.tolist()
        fields: dict[str, Any] = {}
        if self.world_size > 1:
            waits = [round(data / max(whole, 1e-9), 4) for data, whole in zip(data_seconds, seconds, strict=True)]
            fields = {
                "rank_seconds_min": min(own_seconds),
                "rank_seconds_max": max(own_seconds),
                "slowest_rank": own_seconds.index(max(own_seconds)),
                "rank_data_wait_max": max(waits),
                "rank_data_wait": waits,
            }
        if memory:
            names = ("gpu_memory_allocated", "gpu_memory_reserved")
            fields |= {name: max(values) for name, values in zip(names, memory, strict=True)}
        return fields

    def _memory(self) -> list[float]:
        """Largest memory allocated and reserved since the last line, GiB; empty on a CPU."""
        if self.device.type != "cuda":
            return []
        peaks = [torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device)]
        torch.cuda.reset_peak_memory_stats(self.device)
        return [peak / GIB for peak in peaks]

    def _reset(self) -> None:
        self._steps, self._sums = 0, [0.0, 0.0, 0.0]
