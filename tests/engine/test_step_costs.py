"""What a training step costs, counted and not timed: operations, calls, tokens, kernels, bytes, reads by the host.

A change that makes steps slower without making them wrong shows here: a dropped patch that is embedded after all, an
encoder that runs twice, a copy of the whole clip, a weight that is cast once per use, a host that waits for the device.
The bounds of kernels and bytes are what was counted with torch 2.13, and a few percent.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffmae_video.build import build_model
from diffmae_video.config import load_config
from diffmae_video.data import ClipBatch
from diffmae_video.engine import PretrainTask, World, make_optimizer, parameter_groups
from diffmae_video.engine.flops import flops_per_clip
from diffmae_video.engine.interrupts import Interrupts
from diffmae_video.engine.stepping import Stepper
from diffmae_video.engine.wrapping import WrapPlan, wrap
from diffmae_video.models.blocks import AdaLNBlock, Block, CrossBlock

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = (
    "DATA.NUM_FRAMES 8 DATA.CROP_SIZE 64 MODEL.ENCODER.WIDTH 48 MODEL.ENCODER.DEPTH 3 MODEL.ENCODER.HEADS 3 "
    "MODEL.DECODER.WIDTH 32 MODEL.DECODER.DEPTH 2 MODEL.DECODER.HEADS 2 MASK.RATIO 0.75 SOLVER.CLIP_GRAD_NORM 1.0"
)
TOKENS, HIDDEN, PATCH = 64, 48, 1536  # of a clip of 4 x 4 x 4 patches; values of a patch
CPU = torch.device("cpu")


def small(*overrides: object, file: str = "K400/ViT_B.yaml"):
    return load_config([CONFIGS / file], [*SMALL.split(), *map(str, overrides)])


class Steps:
    """Optimiser steps of a recipe, on the same ``batch`` clips."""

    def __init__(self, cfg, batch: int = 2, accumulation: int = 1):
        torch.manual_seed(0)
        plan = WrapPlan(compile=cfg.TRAIN.COMPILE, compile_backend="eager")
        self.model = wrap(build_model(cfg).train(), plan, CPU, World())
        groups = parameter_groups(self.model, cfg.SOLVER.WEIGHT_DECAY, self.model.no_weight_decay())
        self.stepper = Stepper(
            model=self.model,
            task=PretrainTask(),
            optimizer=make_optimizer("adamw", groups),
            clips_per_step=batch,
            accumulation=accumulation,
            precision=cfg.TRAIN.PRECISION,
            clip_grad_norm=cfg.SOLVER.CLIP_GRAD_NORM,
            device=CPU,
            seed=0,
            interrupts=Interrupts(),
        )
        ids = torch.arange(batch // accumulation)
        clips = torch.randint(256, (len(ids), *self.model.clip_shape), dtype=torch.uint8)
        self.batches = itertools.repeat(ClipBatch(clips, torch.full_like(ids, -1), ids, ["clip.mp4"] * len(ids), []))
        self.steps = itertools.count()

    def __call__(self) -> None:
        self.stepper.gradient(self.batches, next(self.steps))
        self.stepper.update()


class Kernels(TorchDispatchMode):
    """Counts what runs: kernels by name without views, bytes that they read and write, shapes that they make."""

    def __init__(self):
        super().__init__()
        self.calls, self.bytes, self.shapes, self.casts = Counter(), 0, Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            made = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
            read = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
            self.calls[function.overloadpacket._qualified_op_name] += 1
            self.bytes += sum(value.nbytes for value in (*made, *read))
            self.shapes.update((tuple(value.shape), value.dtype) for value in made)
            if function is torch.ops.aten._to_copy.default:
                self.casts[tuple(args[0].shape), args[0].dtype, result.dtype] += 1
        return result


def counted(cfg, batch: int = 2, accumulation: int = 1) -> Kernels:
    """The kernels of a run's second step: the first one makes the optimiser's state."""
    steps = Steps(cfg, batch, accumulation)
    steps()
    with Kernels() as kernels:
        steps()
    return kernels


# ------------------------------------------------------------------------------------------------------- operations


def linear(tokens: int, inputs: int, outputs: int, with_input_gradient: bool = True) -> int:
    """Operations of a linear layer, forward and backward; the input of a first layer gets no gradient."""
    return (6 if with_input_gradient else 4) * tokens * inputs * outputs


def attention(queries: int, keys: int, width: int) -> int:
    return 3 * 4 * queries * keys * width


def block(tokens: int, width: int) -> int:
    """Self-attention with its four products, MLP of four times the width."""
    return linear(tokens, width, 12 * width) + attention(tokens, tokens, width)


def formula(decoder: str, decoded: int, name: str = "DiffMAE") -> int:
    """Operations per clip that the mathematics of the small recipe needs."""
    visible, (width, depth), (d, blocks) = TOKENS - HIDDEN, (48, 3), (32, 2)
    total = linear(visible, PATCH, width, with_input_gradient=False) + depth * block(visible, width)
    if decoder == "joint":
        total += linear(visible, width, d) + blocks * block(visible + decoded, d)
    else:
        total += blocks * (linear(visible, width, d) + linear(visible, d, 2 * d))  # keys and values of every block
        total += blocks * (linear(decoded, d, 10 * d) + attention(decoded, visible, d))
        if decoder == "cross_self":
            total += blocks * (linear(decoded, d, 4 * d) + attention(decoded, decoded, d))
    if name == "DiffMAE":
        total += linear(decoded, PATCH, d, with_input_gradient=False)  # noisy patches
        total += linear(1, d, d, with_input_gradient=False) + linear(1, d, d)  # timestep
    return total + linear(decoded, d, PATCH)


@pytest.mark.parametrize("name", ["DiffMAE", "MAE"])
@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("decoder", ["cross_self", "cross", "joint"])
def test_operations_are_those_of_the_mathematics(decoder, ratio, name):
    cfg = small("MODEL.DECODER.TYPE", decoder, "MODEL.DECODER.PREDICT_RATIO", ratio, "MODEL.NAME", name)
    model = build_model(cfg).train()
    found = flops_per_clip(model, PretrainTask(), model.clip_shape, "fp32")
    assert found == formula(decoder, round(ratio * HIDDEN), name)


# ------------------------------------------------------------------------------------------------- calls and tokens


def calls(model, names: dict[str, torch.nn.Module]) -> dict[str, list[int]]:
    """Name of a module -> tokens of every call of it, filled while the model runs."""
    found = {name: [] for name in names}
    for name, module in names.items():
        module.register_forward_pre_hook(lambda _, inputs, name=name: found[name].append(inputs[0].shape[1]))
    return found


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_every_part_runs_once_per_micro_batch_on_its_own_tokens(ratio, accumulation):
    steps = Steps(small("MODEL.DECODER.PREDICT_RATIO", ratio), batch=4, accumulation=accumulation)
    model, visible, decoded = steps.model, TOKENS - HIDDEN, round(ratio * HIDDEN)
    parts = {"patches": model.encoder.patch_embed, "noisy": model.noisy_embed, "head": model.decoder.head}
    parts |= {f"encoder {i}": part for i, part in enumerate(model.encoder.blocks)}
    parts |= {f"decoder {i}": part for i, part in enumerate(model.decoder.blocks)}
    parts |= {f"keys and values {i}": part.cross.kv for i, part in enumerate(model.decoder.blocks)}
    found = calls(model, parts)
    steps()
    for name, tokens in found.items():
        hidden = name in ("noisy", "head") or name.startswith("decoder")
        assert tokens == [decoded if hidden else visible] * accumulation, name


@pytest.mark.parametrize("file", ["K400/ViT_B.yaml", "MAE_ST/K400_ViT_B.yaml"])
def test_no_copy_of_all_patches_is_made(file):
    kernels = counted(small(file=file))
    large = {shape for shape, _ in kernels.shapes if torch.Size(shape).numel() >= 2 * TOKENS * PATCH}
    assert large == {(2, 3, 8, 64, 64)}, "the normalised clip itself, and nothing else of its size"


# -------------------------------------------------------------------------------------------------- kernels and bytes


def test_a_weight_is_cast_once_per_step():
    cfg = small("TRAIN.PRECISION", "bf16")
    kernels, model = counted(cfg), build_model(cfg)
    weights = Counter(tuple(p.shape) for m in model.modules() if isinstance(m, torch.nn.Linear) for p in m.parameters())
    matrices = {shape: count for shape, count in weights.items() if len(shape) == 2}
    for direction in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):  # weights, then gradients
        assert {shape: kernels.casts[(shape, *direction)] for shape in matrices} == matrices


def test_every_encoder_block_adds_so_many_kernels():
    for precision, most in (("fp32", 30), ("bf16", 53)):
        depths = (3, 4)
        counts = [
            counted(small("MODEL.ENCODER.DEPTH", depth, "TRAIN.PRECISION", precision)).calls.total() for depth in depths
        ]
        assert counts[1] - counts[0] <= most, precision


def test_kernels_do_not_grow_with_the_batch_but_for_what_every_clip_draws():
    few, many = (counted(small(), batch).calls for batch in (2, 6))
    drawn = {"aten::rand", "aten::randn", "aten::randint", "aten::arange"}
    assert {name: count for name, count in (many - few).items() if name not in drawn} == {}
    assert (many - few).total() <= 4 * 3  # a mask, a timestep and the noise of each of four more clips


def test_the_optimiser_is_one_kernel_for_every_group():
    kernels = counted(small())
    assert kernels.calls["aten::_fused_adamw_"] == 2, "decayed parameters, and the others"
    assert kernels.calls["aten::_foreach_norm"] <= 1 and kernels.calls["aten::_foreach_mul_"] <= 1


@pytest.mark.parametrize(
    ("decoder", "precision", "megabytes"),
    [("cross_self", "fp32", 17.3), ("cross_self", "bf16", 16.9), ("cross", "fp32", 16.6), ("joint", "fp32", 17.3)],
)
def test_a_clip_moves_so_many_bytes(decoder, precision, megabytes):
    cfg = small("MODEL.DECODER.TYPE", decoder, "TRAIN.PRECISION", precision)
    per_clip = (counted(cfg, 4).bytes - counted(cfg, 2).bytes) / 2 / 1e6
    assert per_clip < megabytes, per_clip


def test_a_step_moves_so_many_bytes_for_every_parameter():
    cfg = small("TRAIN.PRECISION", "fp32")
    parameters = sum(p.numel() for p in build_model(cfg).parameters())
    shared = 2 * counted(cfg, 2).bytes - counted(cfg, 4).bytes  # what a step moves for any number of clips
    # Written and read: the gradient; its norm, its clipping; weight, gradient and both moments by AdamW; and products.
    assert shared / parameters < 36, shared / parameters


# ---------------------------------------------------------------------------------------------------- reads, compiling


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_host_reads_once_per_mask_and_once_per_step(accumulation, monkeypatch):
    """Every read waits for the device to finish, which then has nothing to do."""
    steps = Steps(small("MODEL.DECODER.PREDICT_RATIO", 0.5), batch=4, accumulation=accumulation)
    read = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: read.append(tensor.shape) or original(tensor))
    with Kernels() as kernels:
        steps()
    assert kernels.calls["aten::_local_scalar_dense"] == 0
    # Per micro-batch: the clips' numbers, which are on the host, and the counts of hidden tokens. At the end, all sums.
    assert len(read) == 2 * accumulation + 1, read


def test_blocks_compile_without_graph_breaks():
    tokens, condition = torch.randn(2, 8, 16), torch.randn(2, 1, 16)
    cross = CrossBlock(16, 2, 4.0, self_attention=True)
    cases = [
        (Block(16, 2, 4.0), (tokens,)),
        (AdaLNBlock(16, 2, 4.0), (tokens, condition)),
        (cross, (tokens, cross.cross.keys_values(tokens))),
    ]
    for module, inputs in cases:
        torch._dynamo.reset()
        explained = torch._dynamo.explain(module)(*inputs)
        assert (explained.graph_count, explained.graph_break_count) == (1, 0), type(module)


def test_compiled_blocks_are_compiled_once():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    steps = Steps(small("TRAIN.COMPILE", "blocks"))
    steps()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    steps()
    steps()
    assert graphs == torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2, "a kind of block each"
    assert not torch._dynamo.utils.counters["graph_break"]
