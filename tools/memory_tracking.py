"""Memory of one training step, counted without computing it; see estimate_memory.py.

The step runs on fake tensors (shapes and types, no values) of a CPU, and what lives at a time is added up. What differs
on a GPU: the scratch memory of its kernels, and what its allocator cannot use for lack of a fitting hole.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffmae_video.build import build_model
from diffmae_video.build.recognition import build_classify_task
from diffmae_video.data import ClipBatch
from diffmae_video.engine import PretrainTask, World
from diffmae_video.engine.randomness import clip_generators, shared_generator
from diffmae_video.engine.wrapping import WrapPlan, autocast, norms_in_float, transformer_blocks, wrap
from diffmae_video.models import make_mask

CPU = torch.device("cpu")


class Answers(TorchDispatchMode):
    """What code gets that reads a value out of a fake tensor, which has none.

    Args:
        truth: where it reads whether something is so.
        number: where it reads a whole number.
    """

    def __init__(self, truth: bool, number: int = 0):
        super().__init__()
        self.truth, self.number = truth, number

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return self.truth if args[0].dtype == torch.bool else self.number
        return function(*args, **(kwargs or {}))


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors that were made inside this context and still live, and the most there were at a time.

    ``model``: its parameters and buffers, of which there are views, do not count.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.now = self.most = 0
        self._sizes: dict[int, int] = {}
        self._own = {value.untyped_storage()._cdata for value in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._add(value.untyped_storage())
        return result

    def leave_out(self, tensor: torch.Tensor) -> None:
        """No longer counts the memory of ``tensor``: it is counted elsewhere."""
        self._remove(tensor.untyped_storage()._cdata)

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes and key not in self._own:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one step, beside parameters and what is kept for them.

    Attributes:
        kept: between forward and backward pass: activations, and copies of the weights that autocast made.
        peak: the most at a time.
    """

    kept: int
    peak: int


def step_memory(model: nn.Module, task: Any, batch: int, precision: str, with_gradients: bool = False) -> StepMemory:
    """Forward and backward pass of ``batch`` clips; ``model`` may be of fake tensors, inside of their mode.

    ``with_gradients``: those of the parameters count.
    """
    live = LiveBytes(model)
    counted_elsewhere = [] if with_gradients else [p for p in model.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(lambda p: live.leave_out(p.grad)) for p in counted_elsewhere]
    with live:
        loss = forward(model, task, batch, precision)
        kept = live.now
        loss.backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad(set_to_none=True)
    return StepMemory(kept, live.most)


def forward(model: nn.Module, task: Any, batch: int, precision: str) -> torch.Tensor:
    """The loss of ``batch`` black clips of class 0."""
    clips, labels = torch.zeros(batch, *model.clip_shape, dtype=torch.uint8), torch.zeros(batch, dtype=torch.int64)
    sample = ClipBatch(clips, labels, torch.arange(batch), [""] * batch, [])
    with autocast(precision, CPU):
        return task.loss(model, sample, clip_generators(0, range(batch), CPU), shared_generator(0, 0, 0))[0]


def measured_peak(model: nn.Module, task: Any, batch: int, precision: str) -> int:
    """Bytes that the same step really takes at most, gradients included: as the allocator of the CPU reports them."""
    forward(model, task, batch, precision).backward()  # what is made once, and stays
    model.zero_grad(set_to_none=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        forward(model, task, batch, precision).backward()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    model.zero_grad(set_to_none=True)
    return most


@dataclass(frozen=True)
class Sizes:
    """What a configuration needs on every card.

    Attributes:
        parameters, trained, buffers: numbers (buffers: bytes) of the model.
        block: parameters of its largest block.
        outside: parameters outside of the blocks.
        fixed: bytes of the step that do not depend on the batch.
        per_clip: bytes of the step for every clip.
        kept_per_clip: of these, what is kept between forward and backward pass.
    """

    parameters: int
    trained: int
    buffers: int
    block: int
    outside: int
    fixed: float
    per_clip: float
    kept_per_clip: float


def measure(cfg: CfgNode, plan: WrapPlan, sharded: bool, batches: tuple[int, int] = (16, 64)) -> Sizes:
    """Counts the model and two steps, beyond the first of which memory grows linearly with the clips.

    Args:
        cfg: of training.
        plan: what is wrapped around the model.
        sharded: whether FSDP holds the blocks' weights, in ``plan.fsdp_precision``.
        batches: clips of the two steps.
    """
    with FakeTensorMode():
        with Answers(truth=False):  # initialisation draws until no value is out of range
            model = wrap(build_model(cfg), plan, CPU, World()).train()
        blocks = transformer_blocks(model)
        sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
        parameters = sum(p.numel() for p in model.parameters())
        if sharded and plan.fsdp_precision == "bf16":
            for block in blocks:
                _halve(block)
        task = PretrainTask(cfg.DIFFUSION.STEPS) if cfg.TASK == "pretrain" else build_classify_task(cfg)
        # All clips of a batch hide as many tokens, and a tokenizer is fitted.
        with Answers(truth=True, number=hidden_tokens(model)):
            steps = [step_memory(model, task, n, cfg.TRAIN.PRECISION) for n in batches]
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    span = batches[1] - batches[0]
    per_clip = (steps[1].peak - steps[0].peak) / span
    return Sizes(
        parameters=parameters,
        trained=trained,
        buffers=buffers,
        block=max(sizes),
        outside=parameters - sum(sizes),
        fixed=steps[0].peak - batches[0] * per_clip,
        per_clip=per_clip,
        kept_per_clip=(steps[1].kept - steps[0].kept) / span,
    )


def _halve(block: nn.Module) -> None:
    """Gives a block the parameters that FSDP gives it while it computes, in bfloat16."""
    for module in block.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach().to(torch.bfloat16)))
    norms_in_float(block)


def hidden_tokens(model: nn.Module) -> int:
    """How many tokens of a clip the model's own masks hide; 0 for models without."""
    if not hasattr(model, "make_mask"):
        return 0
    with unset_fake_temporarily():
        mask = make_mask(model.mask_strategy, model.grid, model.mask_ratio, 1, torch.Generator().manual_seed(0))
        return int(mask.sum())


def compare(cfg: CfgNode, plan: WrapPlan, batch: int) -> tuple[int, int]:
    """Bytes of a step of pre-training at most, gradients included: (counted on fake tensors, measured on this CPU)."""
    task = PretrainTask(cfg.DIFFUSION.STEPS)
    with FakeTensorMode():
        with Answers(truth=False):
            model = wrap(build_model(cfg), plan, CPU, World()).train()
        with Answers(truth=True, number=hidden_tokens(model)):
            counted = step_memory(model, task, batch, cfg.TRAIN.PRECISION, with_gradients=True).peak
    model = wrap(build_model(cfg), plan, CPU, World()).train()
    return counted, measured_peak(model, task, batch, cfg.TRAIN.PRECISION)
