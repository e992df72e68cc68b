import copy
import math

import pytest
import torch
from engine_fakes import FakeModel
from torch import nn

from diffmae_video.engine.optimizer import LrSchedule, make_adamw, parameter_groups, restore_optimizer, set_lr


def test_biases_norms_and_named_parameters_are_not_decayed():
    model = FakeModel()
    model.second.bias.requires_grad_(False)
    decayed, plain = parameter_groups(model, 0.05, model.no_weight_decay())
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[p] for p in decayed["params"]} == {"first.weight", "second.weight"}
    assert {names[p] for p in plain["params"]} == {"position", "first.bias", "norm.weight", "norm.bias"}
    assert decayed["weight_decay"] == 0.05 and plain["weight_decay"] == 0.0


def test_a_name_that_is_no_parameter_is_refused():
    with pytest.raises(ValueError, match="positoin"):
        parameter_groups(FakeModel(), 0.05, {"positoin"})


def test_schedule_warms_up_linearly_and_decays_as_half_a_cosine():
    schedule = LrSchedule(peak=2.0, warmup_clips=100, total_clips=300, min_lr=0.5)
    assert [schedule(clips) for clips in (0, 25, 100)] == [0.0, 0.5, 2.0]
    assert schedule(200) == pytest.approx((2.0 + 0.5) / 2)
    assert schedule(150) == pytest.approx(0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert schedule(300) == schedule(400) == 0.5
    assert LrSchedule(1.0, 0, 10)(0) == 1.0


def test_peak_is_scaled_by_the_effective_batch_and_says_so():
    schedule = LrSchedule.from_base(1.5e-4, 64, 256, warmup_clips=10, total_clips=100)
    assert schedule.peak == pytest.approx(3.75e-5)
    assert "3.75e-05 = 0.00015 x batch 64 / 256" in str(schedule)


def train_once(optimizer, parameter):
    parameter.grad = parameter.detach().sin()
    optimizer.step()


def test_restored_state_goes_on_exactly_but_settings_are_those_of_this_run():
    a, b = (nn.Parameter(torch.arange(6.0).reshape(2, 3)) for _ in range(2))
    first = make_adamw([{"params": [a], "weight_decay": 0.1}])
    set_lr(first, 0.1)
    train_once(first, a)
    second = make_adamw([{"params": [b], "weight_decay": 0.1}])
    restore_optimizer(second, copy.deepcopy(first.state_dict()))
    b.data.copy_(a.data)
    set_lr(second, 0.1)
    train_once(first, a)
    train_once(second, b)
    assert torch.equal(a, b)

    third = make_adamw([{"params": [b], "weight_decay": 0.7}], betas=(0.5, 0.6))
    restore_optimizer(third, copy.deepcopy(first.state_dict()))
    assert third.param_groups[0]["weight_decay"] == 0.7 and third.param_groups[0]["betas"] == (0.5, 0.6)
    assert third.state[b]["step"] == 2


def test_state_of_other_groups_is_refused():
    a, b = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    saved = make_adamw([{"params": [a]}, {"params": [b]}]).state_dict()
    with pytest.raises(ValueError, match="2 parameter groups were saved"):
        restore_optimizer(make_adamw([{"params": [a, b]}]), saved)
    with pytest.raises(ValueError):
        restore_optimizer(make_adamw([{"params": [a, b]}, {"params": []}]), saved)
