"""Attention over M hidden tokens keeps no M x M tensor, in no decoder: looked for in a real step, and by its memory.

The numbers of tokens are unlike every width, so that a shape tells what it is.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffmae_video.diffusion import NoiseSchedule
from diffmae_video.engine import PretrainTask
from diffmae_video.models import DECODERS, DiffMAE, SpaceTimeViT

ROOT = Path(__file__).parents[2]
PATCH, HIDDEN_SHARE = (2, 4, 4), 0.8
HIDDEN, VISIBLE = 400, 100
TOKENS = {VISIBLE, HIDDEN, VISIBLE + HIDDEN}


class MatricesOfTokens(TorchDispatchMode):
    """Collects the shapes of all tensors whose last two sizes are both numbers of tokens, and the most elements."""

    def __init__(self):
        super().__init__()
        self.shapes, self.largest = set(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.numel())
                if value.dim() > 1 and set(value.shape[-2:]) <= TOKENS:
                    self.shapes.add(tuple(value.shape))
        return result


def make_model(decoder: str, slots: int = 5) -> DiffMAE:
    """With ``slots`` x 10 x 10 tokens."""
    torch.manual_seed(0)
    encoder = SpaceTimeViT((3, slots * PATCH[0], 40, 40), PATCH, width=32, depth=3, heads=2, position="sincos")
    parts = DECODERS[decoder](encoder.grid, 32, 32, 2, 2, 4.0, 3 * 2 * 4 * 4, "sincos")
    return DiffMAE(encoder, parts, NoiseSchedule("linear"), mask_strategy="random", mask_ratio=HIDDEN_SHARE).train()


def naive_attention(query, key, value):
    return (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(dim=-1) @ value


@pytest.fixture
def tracking(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import memory_tracking

    return memory_tracking


def matrices(tracking, decoder: str) -> MatricesOfTokens:
    model = make_model(decoder)
    with MatricesOfTokens() as found:
        tracking.forward(model, PretrainTask(), 1, "fp32").backward()
    return found


def growth(tracking, decoder: str) -> list[float]:
    """Memory at four times the tokens / memory: of the tensors that are counted, and of all that the CPU gives out."""
    models = [make_model(decoder, slots) for slots in (5, 20)]
    counted = [tracking.step_memory(model, PretrainTask(), 1, "fp32").peak for model in models]
    taken = [tracking.measured_peak(model, PretrainTask(), 1, "fp32") for model in models]
    return [large / small for small, large in (counted, taken)]


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_attention_keeps_no_matrix_of_tokens(tracking, decoder):
    found = matrices(tracking, decoder)
    assert not found.shapes
    assert found.largest < HIDDEN**2, "something else is as large: the numbers of this test must tell them apart"


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_memory_grows_with_the_tokens(tracking, decoder):
    """Not with their square."""
    assert max(growth(tracking, decoder)) < 4.2


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_naive_attention_would_be_found(tracking, decoder, monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", naive_attention)
    found = matrices(tracking, decoder)
    queries = {"cross": (HIDDEN, VISIBLE), "cross_self": (HIDDEN, HIDDEN), "joint": (HIDDEN + VISIBLE,) * 2}[decoder]
    assert any(shape[-2:] == queries for shape in found.shapes)
    assert min(growth(tracking, decoder)) > 6
