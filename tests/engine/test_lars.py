import copy

import pytest
import torch
from torch import nn

from diffmae_video.engine.lars import LARS


def test_two_steps_by_hand():
    """w = (3, 4), |w| = 5; g = (0, 2), no decay: u = g, factor 0.01 * 5 / 2 = 0.025, v = (0, 0.05)."""
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    optimizer = LARS([weight], lr=2.0, momentum=0.5, trust_coefficient=0.01)
    weight.grad = torch.tensor([[0.0, 2.0]])
    optimizer.step()
    assert weight.tolist()[0] == pytest.approx([3.0, 3.9])
    # |w| = sqrt(9 + 15.21); g = (6, 8), |g| = 10: factor 0.01 * |w| / 10, v = 0.5 * (0, 0.05) + factor * g
    weight.grad = torch.tensor([[6.0, 8.0]])
    optimizer.step()
    factor = 0.01 * 24.21**0.5 / 10
    assert weight.tolist()[0] == pytest.approx([3.0 - 2 * factor * 6, 3.9 - 2 * (0.025 + factor * 8)])


def test_decay_enters_the_update_and_its_norm():
    """w = (1, 0), g = (0, 1), decay 0.75: u = (0.75, 1), |u| = 1.25, factor 0.001 * 1 / 1.25 = 0.0008."""
    weight = nn.Parameter(torch.tensor([[1.0, 0.0]]))
    weight.grad = torch.tensor([[0.0, 1.0]])
    LARS([weight], lr=100.0, momentum=0.0, weight_decay=0.75).step()
    assert weight.tolist()[0] == pytest.approx([1 - 0.08 * 0.75, -0.08])


def test_norms_and_biases_have_neither_decay_nor_factor():
    bias = nn.Parameter(torch.tensor([1.0, 2.0]))
    bias.grad = torch.tensor([0.5, -0.5])
    LARS([bias], lr=0.1, weight_decay=10.0).step()
    assert bias.tolist() == pytest.approx([0.95, 2.05])
    assert torch.equal(bias.grad, torch.tensor([0.5, -0.5]))


@pytest.mark.parametrize(("weight", "gradient"), [(0.0, 1.0), (1.0, 0.0)])
def test_zero_weights_and_zero_gradients_take_plain_steps(weight, gradient):
    parameter = nn.Parameter(torch.full((2, 2), weight))
    parameter.grad = torch.full((2, 2), gradient)
    LARS([parameter], lr=0.5).step()
    assert torch.equal(parameter, torch.full((2, 2), weight - 0.5 * gradient))


def test_parameters_without_gradient_stay_and_need_no_state():
    moved, still = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    moved.grad = torch.ones(2, 2)
    optimizer = LARS([moved, still], lr=1.0)
    optimizer.step()
    assert torch.equal(still, torch.ones(2, 2)) and not torch.equal(moved, still)
    assert still not in optimizer.state


def test_a_saved_state_goes_on_exactly():
    torch.manual_seed(0)
    layers = [nn.Linear(4, 3), nn.Linear(4, 3)]
    clips, first = torch.randn(6, 4), LARS(layers[0].parameters(), lr=3.0, weight_decay=0.1)

    def train(layer, optimizer):
        optimizer.zero_grad()
        loss = layer(clips).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [train(layers[0], first) for _ in range(5)]
    assert losses[-1] < losses[0]
    layers[1].load_state_dict(layers[0].state_dict())
    second = LARS(layers[1].parameters(), lr=3.0, weight_decay=0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert train(layers[0], first) == train(layers[1], second)
    assert torch.equal(layers[0].weight, layers[1].weight) and torch.equal(layers[0].bias, layers[1].bias)


def test_a_closure_is_called_with_gradients():
    weight = nn.Parameter(torch.ones(2, 2))

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert LARS([weight], lr=1.0).step(closure).item() == 4.0
    assert weight[0, 0].item() == pytest.approx(1 - 0.001)  # the factor 0.001 * 2 / 4 times the gradient 2


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"momentum": 1.0}, {"weight_decay": -0.1}, {"trust_coefficient": 0.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LARS([nn.Parameter(torch.ones(1))], **wrong)
