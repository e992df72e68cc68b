import copy
import logging
import math

import pytest
import torch
from engine_fakes import FakeClassifier, FakeModel, make_trainer
from torch import nn

from diffmae_video.engine.checkpoint import load_checkpoint
from diffmae_video.engine.errors import CheckpointError
from diffmae_video.engine.lars import LARS
from diffmae_video.engine.optimizer import (
    LrSchedule,
    describe_groups,
    layer_of,
    make_adamw,
    make_optimizer,
    parameter_groups,
    restore_optimizer,
    set_lr,
)
from diffmae_video.models import SpaceTimeViT, VideoClassifier


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


def test_state_of_another_optimizer_is_refused():
    groups = [{"params": [nn.Parameter(torch.zeros(2, 2))]}]
    for saved, current in (("adamw", "sgd"), ("sgd", "lars"), ("lars", "adamw")):
        state = make_optimizer(saved, groups).state_dict()
        with pytest.raises(ValueError, match=f"optimizer saved is {saved}, this run's is {current}"):
            restore_optimizer(make_optimizer(current, groups), state)


# ------------------------------------------------------------------------------------------------------ layer decay

# Published fine-tuning recipes: (layer decay, blocks, width, heads, peak of the last layer)
RECIPES = {"B": (0.65, 12, 768, 12, 1e-3), "L": (0.75, 24, 1024, 16, 2e-3), "H": (0.8, 32, 1280, 16, 1.6e-3)}
FIRST = ("encoder.class_token", "encoder.position.space", "encoder.position.time", "encoder.patch_embed")


def expected_exponent(name: str, depth: int) -> int:
    """By how many layers a parameter lies below the head, read off the names without the code under test."""
    if any(name.startswith(first) for first in FIRST):
        return depth + 1
    for block in range(depth):
        if f"blocks.{block}." in name:
            return depth - block
    return 0


@pytest.mark.parametrize("size", RECIPES)
def test_every_layer_of_the_published_recipes_has_its_rate(size):
    decay, depth, width, heads, peak = RECIPES[size]
    with torch.device("meta"):
        model = FakeClassifier(
            classes=400, clip_shape=(3, 16, 224, 224), patch_size=(2, 16, 16), width=width, depth=depth, heads=heads
        )
    groups = parameter_groups(model, 0.05, model.no_weight_decay(), layer_decay=decay)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(names)  # every parameter in exactly one group
    assert len(groups) == 2 * (depth + 2)

    optimizer = make_optimizer("sgd", groups)
    set_lr(optimizer, peak)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            rate = peak
            for _ in range(expected_exponent(name, depth)):
                rate *= decay
            assert group["lr"] == pytest.approx(rate, rel=1e-12), name
            decayed = name.endswith("weight") and "norm" not in name
            assert group["weight_decay"] == (0.05 if decayed else 0.0), name


def test_groups_run_from_the_input_to_the_head_and_say_what_they_are():
    model = FakeClassifier()  # 3 blocks
    groups = parameter_groups(model, 0.05, model.no_weight_decay(), layer_decay=0.5)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert [group["layer"] for group in groups] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [group["lr_scale"] for group in groups[::2]] == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    assert [group["name"] for group in groups[:2]] == ["layer 0, decayed", "layer 0, not decayed"]
    assert {names[p] for p in groups[0]["params"]} == {"encoder.patch_embed.weight"}
    assert {names[p] for p in groups[1]["params"]} == {"encoder.patch_embed.bias", *model.no_weight_decay()}
    assert {names[p] for p in groups[8]["params"]} == {"head.classifier.weight"}
    plain = {"encoder.norm.weight", "encoder.norm.bias", "head.norm.weight", "head.norm.bias", "head.classifier.bias"}
    assert {names[p] for p in groups[9]["params"]} == plain


def test_without_layer_decay_there_are_the_two_groups_of_earlier_checkpoints():
    model = FakeClassifier()
    groups = parameter_groups(model, 0.05, model.no_weight_decay(), layer_decay=1.0)
    assert [set(group) for group in groups] == [{"params", "weight_decay"}] * 2
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]


def test_frozen_parameters_are_in_no_group():
    model = FakeClassifier(frozen=True)
    for decay in (1.0, 0.5):
        groups = parameter_groups(model, 0.05, model.no_weight_decay(), layer_decay=decay)
        assert sum(len(group["params"]) for group in groups) == len(list(model.head.parameters()))
        assert all(group.get("lr_scale", 1.0) == 1.0 for group in groups)


@pytest.mark.parametrize("kind", ["finetune", "linear", "attentive"])
@pytest.mark.parametrize("position", ["separable", "learned", "sincos"])
def test_the_real_classifier_has_every_trained_parameter_in_one_group(kind, position):
    encoder = SpaceTimeViT((3, 2, 4, 4), (1, 2, 2), width=8, depth=2, heads=2, position=position, class_token=True)
    model = VideoClassifier(encoder, num_classes=3, kind=kind, probe_heads=2, probe_depth=2)
    names = {parameter: name for name, parameter in model.named_parameters()}
    trained = sorted(name for parameter, name in names.items() if parameter.requires_grad)
    for decay in (1.0, 0.75):
        groups = parameter_groups(model, 0.05, model.no_weight_decay(), layer_decay=decay)
        assert sorted(names[p] for group in groups for p in group["params"]) == trained
    layers = {names[p]: group["layer"] for group in groups for p in group["params"]}
    if kind == "finetune":
        assert {layer for name, layer in layers.items() if name.startswith("encoder.")} == {0, 1, 2}
    assert {layer for name, layer in layers.items() if name.startswith("head.")} == {3}


def test_layers_by_name():
    numbers = {
        "encoder.patch_embed.bias": 0,
        "encoder.blocks.0.attn.qkv.weight": 1,
        "encoder.blocks.11.norm1.bias": 12,
        "encoder.norm.weight": 13,
        "head.classifier.weight": 13,
        "head.blocks.0.mlp.weight": 13,  # of an attentive probe
        "head.position": 13,
    }
    assert {name: layer_of(name, 12) for name in numbers} == numbers
    with pytest.raises(ValueError, match="no block of an encoder with 12"):
        layer_of("encoder.blocks.12.norm1.bias", 12)


def test_layer_decay_that_cannot_be_is_refused():
    for decay in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"in \(0, 1\]"):
            parameter_groups(FakeClassifier(), 0.05, layer_decay=decay)
    with pytest.raises(ValueError, match="encoder of blocks, not FakeModel"):
        parameter_groups(FakeModel(), 0.05, layer_decay=0.75)


def test_the_lowest_rate_is_scaled_with_the_layer_too():
    schedule = LrSchedule(peak=1.0, warmup_clips=10, total_clips=100, min_lr=0.01)
    optimizer = make_optimizer("adamw", parameter_groups(FakeClassifier(), 0.05, layer_decay=0.5))
    for clips, head in ((5, 0.5), (10, 1.0), (100, 0.01)):
        set_lr(optimizer, schedule(clips))
        rates = [group["lr"] for group in optimizer.param_groups]
        assert (rates[0], rates[-1]) == pytest.approx((head / 16, head))


def test_the_rates_are_listed_once_per_layer():
    groups = parameter_groups(FakeClassifier(depth=8), 0.05, layer_decay=0.5)
    title, *rows = describe_groups(groups, 1.024)
    assert "9 = head" in title
    assert rows == [
        "  0: 0.002, 1: 0.004, 2: 0.008, 3: 0.016, 4: 0.032, 5: 0.064, 6: 0.128",
        "  7: 0.256, 8: 0.512, 9: 1.02",
    ]
    assert describe_groups(parameter_groups(FakeClassifier(), 0.05), 1.0) == []


def test_a_run_logs_its_rates_and_refuses_other_layers(tmp_path, caplog):
    caplog.set_level(logging.INFO, "diffmae_video")
    make_trainer(tmp_path, steps=3, recognition={}, layer_decay=0.5).run()
    assert "peak learning rate by layer" in caplog.text and "0: 0.000625, 1: 0.00125" in caplog.text
    groups = load_checkpoint(tmp_path / "checkpoints" / "step_00000003.pt")["optimizer"]["param_groups"]
    assert [group["lr_scale"] for group in groups[::2]] == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    with pytest.raises(CheckpointError, match="10 parameter groups were saved, this optimizer has 2"):
        make_trainer(tmp_path, steps=4, recognition={}).run()


def test_groups_of_other_layers_are_refused():
    saved = make_adamw(parameter_groups(FakeClassifier(), 0.05, layer_decay=0.5))
    model = FakeClassifier()
    model.encoder.blocks[0].requires_grad_(False)
    frozen = parameter_groups(model, 0.05, layer_decay=0.5)
    state = saved.state_dict()
    del state["param_groups"][-2:]
    with pytest.raises(ValueError, match="group 'layer 1, decayed' was saved, this optimizer has 'layer 2, decayed'"):
        restore_optimizer(make_adamw(frozen), state)


# ----------------------------------------------------------------------------------------------- SGD, LARS, frozen


def test_sgd_is_plain_momentum_with_decay():
    weight = nn.Parameter(torch.tensor([[2.0]]))
    optimizer = make_optimizer("sgd", [{"params": [weight], "weight_decay": 0.5}], momentum=0.5)
    set_lr(optimizer, 0.1)
    for expected in (
        2 - 0.1 * 2,
        1.8 - 0.1 * (0.5 * 2 + 1 + 0.5 * 1.8),
    ):  # buffer: 1 + 0.5 * 2, then half of that + ...
        weight.grad = torch.ones(1, 1)
        optimizer.step()
        assert weight.item() == pytest.approx(expected)


def test_optimizers_are_made_with_their_settings():
    groups = parameter_groups(FakeModel(), 0.05)
    adamw = make_optimizer("adamw", groups, betas=(0.9, 0.999), eps=1e-6)
    assert adamw.defaults["betas"] == (0.9, 0.999) and adamw.defaults["eps"] == 1e-6
    lars = make_optimizer("lars", groups, momentum=0.8)
    assert isinstance(lars, LARS) and lars.defaults["trust_coefficient"] == 0.001
    assert {group["momentum"] for group in lars.param_groups} == {0.8}
    assert [group["weight_decay"] for group in lars.param_groups] == [0.05, 0.0]
    with pytest.raises(ValueError, match="unknown optimizer 'adam': choose one of adamw, sgd, lars"):
        make_optimizer("adam", groups)


class Modes:
    """An evaluator that notes nothing but makes the trainer switch modes."""

    name, period = "modes", 1

    def evaluate(self, model, step, monitor):
        assert not any(module.training for module in model.modules())
        return {"value": 0.0}


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_a_probe_trains_its_head_alone_and_saves_all(tmp_path, caplog, optimizer):
    caplog.set_level(logging.INFO, "diffmae_video")
    options = {"recognition": {"frozen": True}, "optimizer": optimizer, "evaluators": [Modes()], "ema_decay": 0.5}
    trainer = make_trainer(tmp_path, steps=3, extra_description=["7 videos of 3 classes", "fitted: all"], **options)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    assert "7 videos of 3 classes" in caplog.text and "fitted: all" in caplog.text
    assert trainer.model.head.training and not any(module.training for module in trainer.model.encoder.modules())
    state = load_checkpoint(tmp_path / "checkpoints" / "step_00000003.pt")
    for entry in ("model", "ema"):
        assert state[entry].keys() == before.keys()
        changed = {name for name, value in before.items() if not torch.equal(state[entry][name], value)}
        assert changed == {name for name in before if name.startswith("head.")}
    assert all(parameter.grad is None for parameter in trainer.model.encoder.parameters())


def test_the_embedding_of_the_timestep_belongs_to_the_lowest_layer():
    assert layer_of("encoder.time_embed.fc1.weight", 3) == layer_of("encoder.patch_embed.weight", 3) == 0
    assert layer_of("encoder.blocks.1.modulation.weight", 3) == 2
