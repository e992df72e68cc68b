"""Operations counted on real networks against formulas written out by hand; two operations per multiply-add."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffmae_video.data import Mixing
from diffmae_video.diffusion import NoiseSchedule
from diffmae_video.engine.flops import Compute, flops_per_clip, measured_peak
from diffmae_video.engine.tasks import ClassifyTask, PretrainTask
from diffmae_video.models import DECODERS, DiffMAE, SpaceTimeViT, VideoClassifier

CLIP, PATCH = (3, 4, 32, 32), (2, 8, 8)
N, P = 2 * 4 * 4, 3 * 2 * 8 * 8  # tokens, values of a patch
WIDTH, DEPTH, HEADS, RATIO = 24, 3, 2, 4
NARROW, BLOCKS = 16, 2  # of the decoder
HIDDEN = 24
VISIBLE = N - HIDDEN
ALL = 3  # forward, gradient of the weights, gradient of the input
NO_INPUT_GRADIENT = 2  # of layers that read data


def linear(tokens: int, inputs: int, outputs: int) -> int:
    return 2 * tokens * inputs * outputs


def attention(queries: int, keys: int, width: int) -> int:
    """Q K^T and the product with V."""
    return 2 * linear(queries, width, keys)


def mlp(tokens: int, width: int) -> int:
    return 2 * linear(tokens, width, RATIO * width)


def self_attention(tokens: int, width: int) -> int:
    return linear(tokens, width, 3 * width) + attention(tokens, tokens, width) + linear(tokens, width, width)


def encoder(tokens: int) -> int:
    """Forward pass after the patch embedding."""
    return DEPTH * (self_attention(tokens, WIDTH) + mlp(tokens, WIDTH))


def make_diffmae(decoder: str) -> DiffMAE:
    network = SpaceTimeViT(CLIP, PATCH, WIDTH, DEPTH, HEADS, RATIO, position="sincos")
    parts = DECODERS[decoder](network.grid, WIDTH, NARROW, BLOCKS, HEADS, RATIO, P, "sincos")
    return DiffMAE(network, parts, NoiseSchedule("linear"), mask_strategy="random", mask_ratio=HIDDEN / N)


def diffmae_by_hand(with_self_attention: bool) -> int:
    """Forward and backward pass of the encoder at its mask ratio, and of the cross decoder on the hidden tokens."""
    cross = linear(HIDDEN, NARROW, NARROW) * 2 + attention(HIDDEN, VISIBLE, NARROW)  # its q and its output; softmax
    block = cross + mlp(HIDDEN, NARROW) + (self_attention(HIDDEN, NARROW) if with_self_attention else 0)
    context = linear(VISIBLE, WIDTH, NARROW) + linear(VISIBLE, NARROW, 2 * NARROW)  # of every block
    body = encoder(VISIBLE) + BLOCKS * (context + block) + linear(HIDDEN, NARROW, P) + linear(1, NARROW, NARROW)
    reads_data = linear(VISIBLE, P, WIDTH) + linear(HIDDEN, P, NARROW) + linear(1, NARROW, NARROW)
    return ALL * body + NO_INPUT_GRADIENT * reads_data


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("decoder", ["cross", "cross_self"])
def test_diffmae(decoder, precision):
    counted = flops_per_clip(make_diffmae(decoder), PretrainTask(1000), CLIP, precision)
    assert counted == diffmae_by_hand(with_self_attention=decoder == "cross_self")


@pytest.mark.parametrize("kind", ["finetune", "linear"])
def test_classifiers(kind):
    """A frozen encoder costs a forward pass."""
    model = VideoClassifier(SpaceTimeViT(CLIP, PATCH, WIDTH, DEPTH, HEADS, RATIO, position="sincos"), 5, kind)
    counted = flops_per_clip(model, ClassifyTask(Mixing(5)), CLIP, "fp32")
    embed, head = linear(N, P, WIDTH), linear(1, WIDTH, 5)
    if kind == "finetune":
        assert counted == NO_INPUT_GRADIENT * embed + ALL * (encoder(N) + head)
    else:
        assert counted == embed + encoder(N) + NO_INPUT_GRADIENT * head


def test_counting_leaves_no_trace():
    """Statistics of norms, gradients, modes and random numbers are what they were: the run is the same with it."""
    model = VideoClassifier(SpaceTimeViT(CLIP, PATCH, WIDTH, DEPTH, HEADS, RATIO, drop_path=0.5), 5, "linear")
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    assert flops_per_clip(model, ClassifyTask(Mixing(5)), CLIP, "fp32") > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [module.training for module in model.modules()] == modes and torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_counted_is_told_and_left_out(caplog):
    class Broken:
        def loss(self, model, batch, generators, shared):
            raise RuntimeError("out of memory")

    assert flops_per_clip(nn.Linear(2, 2), Broken(), CLIP, "fp32") is None
    assert "no MFU: out of memory" in caplog.text


def test_utilisation_is_a_share_of_the_peak():
    values = Compute(flops_per_clip=2e9, peak=1e12).values(clips_per_second=100.0)
    assert values == pytest.approx({"tflops": 0.2, "mfu": 0.2})
    assert measured_peak(torch.device("cpu"), "fp32") > 1e8
