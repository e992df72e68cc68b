"""Where a training step spends its time, by groups of operations; what ``benchmark.py step --profile`` adds.

Every operation's own time (that of its kernels on a GPU) belongs to one group: by its name, or where copies and
arithmetic are those of pixels on their way to patches, by the functions that it was called from. What is left of the
step's time is outside of operations: Python, autograd between them, and on a GPU waiting for what is to be done.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# The first pattern that an operation's name has decides; names are those of ATen without their prefix.
BY_NAME = {
    "attention": r"scaled_dot_product|flash_attention|efficient_attention|softmax",
    "matrix products": r"^(addmm|mm|bmm|baddbmm|linear|matmul|mkldnn_\w+|\w*conv\w*)$",
    "LayerNorm": r"layer_norm",
    "GELU": r"gelu",
    "loss": r"mse_loss",
    "optimiser": r"^(_foreach|_fused_adam)",
    "random numbers": r"^(normal_|uniform_|random_|randperm|bernoulli_)",
    "gathers, indexing": r"gather|scatter|index|masked|nonzero|sort|select_backward|slice_backward",
    "casts, copies": r"^(copy_|_to_copy|to|clone|contiguous|cat|stack|repeat)$",
    "elementwise": (
        r"^(add|sub|mul|div|neg|sum|mean|var|var_mean|std|sqrt|rsqrt|pow|exp|sin|cos|silu|where|fill|zero|eq|lt|gt|le"
        r"|ge|bitwise\w*|clamp\w*|remainder|floor_divide|rsub|reciprocal|addcmul|addcdiv|lerp|linalg_vector_norm)_?"
        r"(_backward)?$"
    ),
}
PATCHES, REST, OUTSIDE = "patchify, normalise", "the rest", "outside operations"
GROUPS = (*BY_NAME, PATCHES, REST, OUTSIDE)

# Operations of these groups belong to another one where they were called from places that match its pattern.
MOVABLE = ("gathers, indexing", "casts, copies", "elementwise", REST)
BY_PLACE = {
    "optimiser": r"torch/optim/|clip_grad|engine/(optimizer|norms|sharding)\.py",
    "loss": r": reconstruction_loss$",
    PATCHES: (
        r"models/(pixels|targets)\.py|models/patches\.py\(\d+\): (?!gather_tokens|scatter_tokens|forward)"
        r"|step_peers\.py\(\d+\): normalize"
    ),
}
# VideoMAE makes its targets in its own ``forward``; what it does there besides is small.
OF_TARGETS, TARGETS_MODULE = ("casts, copies", "elementwise"), re.compile(r"nn\.Module: VideoMAEForPreTraining_\d+")

# The first that a kernel's name has decides: cuDNN's have "flash" in them.
KERNELS = {"cudnn": r"cudnn.*(sdpa|attention)", "efficient": r"fmha_cutlass|efficient_attention", "flash": r"(?i)flash"}


class Event(Protocol):
    """What is read of the profiler's events."""

    name: str
    stack: Sequence[str]  # of Python, innermost first; that of the forward pass for an operation of the backward one


class Profile(NamedTuple):
    """Of one step."""

    seconds: float  # the step under the profiler, which slows Python down
    shares: dict[str, float]  # of every group in ``GROUPS``, percent of these seconds
    attention: str  # kernels that computed attention


def group_of(event: Event) -> str:
    """The group of an operation of ATen; another event (of Python, or autograd's nodes) is part of the rest."""
    name = event.name.removeprefix("aten::").removeprefix("mkldnn::")
    group = next((group for group, pattern in BY_NAME.items() if re.search(pattern, name)), REST)
    if group not in MOVABLE:
        return group
    for place, pattern in BY_PLACE.items():
        if any(re.search(pattern, frame) for frame in event.stack):
            return place
    module = next((frame for frame in event.stack if frame.startswith("nn.Module: ")), "")
    return PATCHES if group in OF_TARGETS and TARGETS_MODULE.match(module) else group


def shares(seconds: float, events: Iterable[tuple[Event, float]]) -> dict[str, float]:
    """Percent of ``seconds`` by group, from operations with their own seconds."""
    spent: Counter[str] = Counter()
    for event, own in events:
        spent[group_of(event)] += own
    spent[OUTSIDE] = max(seconds - sum(spent.values()), 0.0)
    return {group: 100 * spent[group] / seconds for group in GROUPS}


def attention_kernels(names: Iterable[str]) -> str:
    """Which kernels computed attention, from the names of all operations and kernels of a step."""
    found = set()
    for name in names:
        if name == "aten::_scaled_dot_product_flash_attention_for_cpu":
            found.add("flash, of the CPU")
        elif not name.startswith("aten::"):
            found |= set([kind for kind, pattern in KERNELS.items() if re.search(pattern, name)][:1])
    return " and ".join(sorted(found)) or "math"


def profile_step(step: Callable[[], object], device: torch.device) -> Profile:
    """Runs ``step`` once under the profiler; run it before, so that nothing is done for the first time."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    # Verbose: without it the operations have no stack.
    settings = torch._C._profiler._ExperimentalConfig(verbose=True)
    with profile(activities=activities, with_stack=True, experimental_config=settings) as profiler:
        started = time.perf_counter()
        step()
        seconds = time.perf_counter() - started
    everything = profiler.events()
    # Besides operations there are Python's functions and autograd's nodes, whose names may look like anything.
    operations = [event for event in everything if event.name.startswith(("aten::", "mkldnn::"))]
    own = [event.self_device_time_total if on_gpu else event.self_cpu_time_total for event in operations]
    timed = zip(operations, (microseconds / 1e6 for microseconds in own), strict=True)
    kernels = [event for event in everything if event.device_type == DeviceType.CUDA]
    names = {event.name for event in (*operations, *kernels)}
    return Profile(seconds, shares(seconds, timed), attention_kernels(names))
