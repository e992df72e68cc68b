"""A training step on 8 to 512 GPUs on paper: arithmetic, all-reduce, optimiser, loader. Computed, never measured.

All GPUs of ``gpus`` train with data parallelism; a step has ``clips`` on each, in ``parts`` equal micro-batches::

    arithmetic  FLOPs per clip * clips / (peak * utilisation)
    optimiser   28 bytes per parameter / memory       AdamW reads weight, gradient and two moments, and writes three
    all-reduce  2 (g - 1) / g * S / nvlink            reduce-scatter and all-gather among the g GPUs of a node
                + 2 (m - 1) / m * S / g / network     each GPU sums its g-th part with its peers of the m nodes
                + buckets * 2 ceil(log2 gpus) * latency
    S           parameters * gradient bytes; a bucket is 25 MiB of it (DDP's default)
    step        arithmetic + optimiser + all-reduce - min(overlap * all-reduce, 2/3 * arithmetic / parts)

The last term is what the backward pass, two thirds of the arithmetic, can hide; with several micro-batches only that of
the last one, for which the gradients are summed. Bytes are those of a hierarchical ring, hops those of a tree (NCCL's
double binary trees move as much in logarithmically many hops). Not in it: a utilisation that falls with few clips per
GPU, contention of GPUs in a network, slow GPUs for which all others wait, evaluation, checkpoints, restarts.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

ADAMW_BYTES = 28
BUCKET_BYTES = 25 * 2**20
BACKWARD_SHARE = 2 / 3


@dataclass(frozen=True)
class Machine:
    """What is assumed of the machines; bytes and operations per second.

    Attributes:
        peak: operations of a GPU at the precision of training.
        utilisation: share of it that forward and backward pass reach.
        memory: of a GPU.
        nvlink: of a GPU, each way, inside a node.
        network: of a GPU, each way, between nodes.
        gpus_per_node: that NVLink connects.
        latency: seconds of a hop of an all-reduce.
        overlap: share of the all-reduce that may run while the backward pass still computes.
        gradient_bytes: of an element that is summed.
    """

    peak: float = 989e12
    utilisation: float = 0.5
    memory: float = 3350e9
    nvlink: float = 450e9
    network: float = 50e9
    gpus_per_node: int = 8
    latency: float = 10e-6
    overlap: float = 0.8
    gradient_bytes: int = 4

    @classmethod
    def of(cls, options: argparse.Namespace) -> Machine:
        """From the options of ``benchmark.py scaling``."""
        return cls(
            peak=options.peak_tflops * 1e12,
            utilisation=options.utilisation,
            memory=options.memory_gbs * 1e9,
            nvlink=options.nvlink_gbs * 1e9,
            network=options.network_gbs * 1e9,
            gpus_per_node=options.gpus_per_node,
            latency=options.latency_us / 1e6,
            overlap=options.overlap,
            gradient_bytes=options.gradient_bytes,
        )


class Network(NamedTuple):
    """What is counted of a model: operations of a step per clip, and parameters, all of them trained."""

    flops: float
    parameters: int


class Step(NamedTuple):
    """Seconds of a step, and what follows.

    ``exposed``: the part of the all-reduce that nothing hides.
    ``efficiency``: clips per second / those of as many GPUs that sum nothing.
    """

    gpus: int
    clips: int  # of one GPU
    arithmetic: float
    optimiser: float
    all_reduce: float
    exposed: float

    @property
    def seconds(self) -> float:
        return self.arithmetic + self.optimiser + self.exposed

    @property
    def efficiency(self) -> float:
        return 1 - self.exposed / self.seconds

    @property
    def clips_per_second(self) -> float:
        return self.gpus * self.clips / self.seconds

    def derived(self) -> dict[str, float]:
        """The properties by name, for a report."""
        return {name: getattr(self, name) for name in ("seconds", "efficiency", "clips_per_second")}


def ring_bytes(size: float, members: int) -> float:
    """Bytes that each of ``members`` sends in a ring all-reduce of ``size`` bytes."""
    return 2 * (members - 1) / members * size


def all_reduce_seconds(parameters: int, gpus: int, machine: Machine) -> float:
    """Of the gradient of a step; see the module's description.

    Raises:
        ValueError: more GPUs than a node has, but no whole nodes.
    """
    if gpus > machine.gpus_per_node and gpus % machine.gpus_per_node:
        raise ValueError(f"{gpus} GPUs are no whole nodes of {machine.gpus_per_node}: choose a multiple")
    size, inside = parameters * machine.gradient_bytes, min(gpus, machine.gpus_per_node)
    moved = ring_bytes(size, inside) / machine.nvlink
    moved += ring_bytes(size / inside, gpus // inside) / machine.network
    hops = 2 * math.ceil(math.log2(gpus))
    return moved + math.ceil(size / BUCKET_BYTES) * hops * machine.latency


def step(network: Network, gpus: int, clips: int, at_once: int, machine: Machine) -> Step:
    """A step of ``clips`` on each of ``gpus``, at most ``at_once`` of them at a time."""
    arithmetic = network.flops * clips / (machine.peak * machine.utilisation)
    optimiser = ADAMW_BYTES * network.parameters / machine.memory
    all_reduce = all_reduce_seconds(network.parameters, gpus, machine)
    backward = BACKWARD_SHARE * arithmetic / math.ceil(clips / at_once)
    hidden = min(machine.overlap * all_reduce, backward)
    return Step(gpus, clips, arithmetic, optimiser, all_reduce, all_reduce - hidden)


def share_of(batch: int, gpus: int) -> int:
    """Clips of every GPU of a step of ``batch``.

    Raises:
        ValueError: it cannot be shared evenly.
    """
    if batch % gpus:
        raise ValueError(f"a step of {batch} clips cannot be shared evenly by {gpus} GPUs: choose a divisor")
    return batch // gpus


def cores_per_gpu(clips_per_second: float, clips_per_core: float) -> float:
    """Cores that load what a GPU of ``clips_per_second`` takes."""
    return clips_per_second / clips_per_core


def training_hours(epochs: float, videos: int, clips_per_second: float) -> float:
    """Of ``epochs`` effective epochs, each as many clips as there are videos."""
    return epochs * videos / clips_per_second / 3600


def loader_rates(pairs: Sequence[str]) -> dict[str, float]:
    """``["name=4.5", ...]`` -> clips per second and core by name.

    Raises:
        ValueError: something else.
    """
    rates = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        try:
            rates[name] = float(number)
        except ValueError:
            rates[name] = 0.0
        if not name or not 0 < rates[name] < math.inf:
            raise ValueError(f"--clips-per-core {pair}: expected NAME=NUMBER, such as ours=4.5, above 0")
    return rates
