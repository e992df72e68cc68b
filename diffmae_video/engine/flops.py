"""Floating-point operations of a training step, and how many this device could do: model FLOPs utilisation (MFU).

MFU is what the model needs per second / the peak of the devices (Chowdhery et al. 2022, PaLM, arXiv 2204.02311,
appendix B). Matrix products are counted, forward and backward, two operations per multiply-add; norms, activations and
the optimiser are not. Needed is what the mathematics needs: recomputation, by activation checkpointing or inside an
attention kernel, is time spent and not work done. A frozen network that a task runs (a teacher) is work.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from diffmae_video.data import ClipBatch
from diffmae_video.engine.evaluation import evaluation
from diffmae_video.engine.randomness import clip_generators
from diffmae_video.engine.tasks import Task
from diffmae_video.engine.wrapping import autocast

logger = logging.getLogger(__name__)

COUNTED_CLIPS = 2  # one may be too few for a task that compares or mixes clips
PEAK_ROUNDS, PEAK_SECONDS = 10, 0.3  # matrix products that are timed: at most so many, or so long
PEAK_SIZES = {"cuda": 8192, "cpu": 1024}  # rows and columns of the matrices

# Every kernel that ``scaled_dot_product_attention`` may choose. Torch's own table lacks the CPU's, and counts in the
# backward pass of the others what they compute a second time.
ATTENTION_KERNELS = ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")


@dataclass(frozen=True)
class Compute:
    """What a monitor needs to tell the utilisation.

    Attributes:
        flops_per_clip: operations of a training step / its clips.
        peak: operations per second that the devices of all processes could do.
    """

    flops_per_clip: float
    peak: float

    def values(self, clips_per_second: float) -> dict[str, float]:
        """``tflops``, 10^12 operations per second, and ``mfu``, their share of the peak."""
        done = clips_per_second * self.flops_per_clip
        return {"tflops": done / 1e12, "mfu": done / self.peak}


def flops_per_clip(model: nn.Module, task: Task, clip_shape: tuple[int, int, int, int], precision: str) -> float | None:
    """Operations of a training step per clip, counted in one forward and backward pass of two black clips.

    Parameters, gradients (none), buffers and random state are afterwards what they were.

    Args:
        model: bare and on its device, without gradients; what wraps it later does not change what it needs.
        task: see ``tasks.py``.
        clip_shape: (C, T, H, W).
        precision: of the run.

    Returns:
        None, with a warning in the log, where the pass fails: the run itself will say what is wrong.
    """
    device = next(model.parameters()).device
    ids = torch.arange(COUNTED_CLIPS)
    clips = torch.zeros(COUNTED_CLIPS, *clip_shape, dtype=torch.uint8, device=device)
    batch = ClipBatch(clips, torch.zeros_like(ids, device=device), ids, [""] * COUNTED_CLIPS, [])
    counter = FlopCounterMode(display=False, custom_mapping=_attention_flops())
    try:
        with evaluation(model, device), torch.enable_grad(), counter:
            with autocast(precision, device):
                loss, _ = task.loss(model, batch, clip_generators(0, ids, device), torch.Generator().manual_seed(0))
            loss.backward()
    except RuntimeError as error:
        logger.warning("the operations of a step could not be counted, so there will be no MFU: %s", error)
        return None
    finally:
        model.zero_grad(set_to_none=True)
    return counter.get_total_flops() / COUNTED_CLIPS


def measured_peak(device: torch.device, precision: str) -> float:
    """Operations per second of square matrix products at ``precision``: the fastest of a few."""
    size = PEAK_SIZES.get(device.type, PEAK_SIZES["cpu"])
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    fastest, begun = float("inf"), time.perf_counter()
    for number in range(PEAK_ROUNDS + 1):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ended = time.perf_counter()
        if number:  # the first one loads the kernel
            fastest = min(fastest, ended - started)
            if ended - begun > PEAK_SECONDS:
                break
    return 2 * size**3 / fastest


def _attention_flops() -> dict[Any, Any]:
    """Kernel -> its operations, for ``FlopCounterMode``; the backward pass is twice the forward one."""

    def forward(query, key, value, *_, **__) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(gradient, query, key, value, *_, **__) -> int:
        return 2 * sdpa_flop_count(query, key, value)

    table = {}
    for kernel in ATTENTION_KERNELS:
        for suffix, count in (("", forward), ("_backward", backward)):
            # A release of torch may lack one of them.
            operator = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}{suffix}", None)
            if operator is not None:
                table[operator] = count
    return table
