import logging
import os
import signal

import pytest
import torch
from engine_fakes import FakeClassifier, FakeModel, log_lines, make_trainer
from torch import nn

from diffmae_video.engine.checkpoint import ema_state, load_checkpoint
from diffmae_video.engine.ema import ExponentialMovingAverage
from diffmae_video.engine.errors import CheckpointError, TrainingInterrupted


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# --------------------------------------------------------------------------------------------------------- the average


def test_the_average_follows_its_formula_and_its_warm_up():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    ema = ExponentialMovingAverage(model, decay=0.2)
    expected = 1.0
    for n, (weight, decay) in enumerate([(2.0, 1 / 10), (4.0, 2 / 11), (-3.0, 0.2), (5.0, 0.2)]):  # 3 / 12 > 0.2
        model.weight.data.fill_(weight)
        ema.update()
        expected = decay * expected + (1 - decay) * weight
        assert ema.updates == n + 1
        assert ema.state_dict()["ema"]["weight"].item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 5.0


def test_averages_are_float32_whatever_the_weights_are():
    model = nn.Linear(4, 4).bfloat16()
    start = model.weight.detach().float().clone()
    ema = ExponentialMovingAverage(model, 0.999)
    for _ in range(3):
        model.weight.data.add_(1)
        ema.update()
    average = ema.state_dict()["ema"]["weight"]
    assert average.dtype == torch.float32
    assert torch.allclose(average, start + 2.8, atol=0.2)
    with ema.applied():
        assert model.weight.dtype == torch.bfloat16 and torch.equal(model.weight, average.bfloat16())


def test_buffers_and_frozen_weights_count_as_they_are():
    model = FakeClassifier(frozen=True)
    ema = ExponentialMovingAverage(model, 0.9)
    model(torch.randint(256, (4, 3, 2, 4, 4)))  # moves the statistics of the norm
    model.head["classifier"].weight.data.add_(1)
    ema.update()
    state, now = ema.state_dict()["ema"], model.state_dict()
    assert list(state) == list(now)
    changed = {name for name in state if not torch.equal(state[name], now[name])}
    assert changed == {"head.classifier.weight"}
    assert state["head.norm.num_batches_tracked"] == 1
    same = state["encoder.patch_embed.weight"].data_ptr() == model.encoder.patch_embed.weight.data_ptr()
    assert same  # so that it is written once


def test_a_weight_that_two_modules_share_has_one_average():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    ema = ExponentialMovingAverage(model, 0.9)
    model[0].weight.data.add_(1)
    ema.update()
    state = ema.state_dict()["ema"]
    assert torch.equal(state["0.weight"], state["1.weight"])
    assert not torch.equal(state["1.weight"], model[1].weight)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="must be in"):
        ExponentialMovingAverage(FakeModel(), decay)


# ----------------------------------------------------------------------------------------------- applied and restored


@pytest.fixture
def trained():
    model = FakeModel()
    ema = ExponentialMovingAverage(model, 0.9)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape))
    ema.update()
    return model, ema


def test_applied_shows_the_averages_and_gives_the_weights_back_exactly(trained):
    model, ema = trained
    own, averages, identities = values(model), ema.state_dict()["ema"], [id(p) for p in model.parameters()]
    with ema.applied():
        assert equal(values(model), averages) and not equal(values(model), own)
        with pytest.raises(RuntimeError, match="already"), ema.applied():
            pass
        assert equal(values(model), averages)  # the inner one has changed nothing
    assert equal(values(model), own) and [id(p) for p in model.parameters()] == identities
    with pytest.raises(ZeroDivisionError), ema.applied():
        raise ZeroDivisionError
    assert equal(values(model), own)


def test_restore_finishes_what_an_interrupt_cut_off(trained):
    model, ema = trained
    own = values(model)
    context = ema.applied()
    context.__enter__()
    model.first.weight.data = ema._originals[1]  # as if a signal had come after the first of the weights
    ema.restore()
    assert equal(values(model), own)
    ema.restore()
    assert equal(values(model), own)


def test_training_goes_on_from_its_own_weights_after_an_evaluation(trained):
    model, ema = trained
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    own, averages = values(model), {name: value.clone() for name, value in ema.state_dict()["ema"].items()}
    with ema.applied(), torch.no_grad():
        model(torch.zeros(1, 3, 2, 4, 4), generator=[torch.Generator()])
    model(torch.zeros(1, 3, 2, 4, 4), generator=[torch.Generator()]).loss.backward()
    optimizer.step()
    assert not equal(values(model), own)
    assert equal(ema.state_dict()["ema"], averages)


def test_another_models_averages_are_refused():
    state = ExponentialMovingAverage(FakeModel(width=8), 0.9).state_dict()
    with pytest.raises(ValueError, match=r"average of position is of shape \[1, 1, 8\], expected shape \[1, 1, 16\]"):
        ExponentialMovingAverage(FakeModel(), 0.9).load_state_dict(state)
    del state["ema"]["first.bias"]
    with pytest.raises(ValueError, match="average of first.bias is missing"):
        ExponentialMovingAverage(FakeModel(width=8), 0.9).load_state_dict(state)


# ---------------------------------------------------------------------------------------------------------- in a run


class WeightsSeen:
    """Keeps the weights that it is given; ``signal_at`` sends SIGTERM while it looks at them."""

    name, period = "weights", 2

    def __init__(self, signal_at=None):
        self.signal_at, self.seen = signal_at, {}

    def evaluate(self, model, step, monitor):
        self.seen[step] = values(model)
        if step == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"value": 0.0}


def checkpoint(folder, step):
    return load_checkpoint(folder / "checkpoints" / f"step_{step:08d}.pt")


def test_a_run_averages_every_step_and_evaluates_the_average(tmp_path, caplog):
    caplog.set_level(logging.INFO, "diffmae_video")
    evaluator, other = WeightsSeen(), WeightsSeen()
    make_trainer(tmp_path / "ema", steps=4, ema_decay=0.5, checkpoint_period=1, evaluators=[evaluator]).run()
    assert "averaged weights: decay 0.5" in caplog.text
    make_trainer(tmp_path / "plain", steps=4, checkpoint_period=1, evaluators=[other], keep_period=1).run()
    assert log_lines(tmp_path / "ema") == log_lines(tmp_path / "plain")
    state = checkpoint(tmp_path / "ema", 4)
    assert equal(state["model"], checkpoint(tmp_path / "plain", 4)["model"])
    assert equal(state["ema"], evaluator.seen[4]) and state["ema_updates"] == 4
    assert equal(ema_state(state), state["ema"])

    torch.manual_seed(0)
    expected = FakeModel().state_dict()
    for n in range(4):
        weights, decay = checkpoint(tmp_path / "plain", n + 1)["model"], min(0.5, (1 + n) / (10 + n))
        expected = {name: decay * value + (1 - decay) * weights[name] for name, value in expected.items()}
    assert all(torch.allclose(state["ema"][name], expected[name], atol=1e-6) for name in expected)

    plain = checkpoint(tmp_path / "plain", 4)
    assert "ema" not in plain and "ema_updates" not in plain
    assert equal(ema_state(plain), plain["model"]) and equal(other.seen[4], plain["model"])


def test_a_signal_while_the_averages_are_in_the_model_saves_the_weights(tmp_path):
    make_trainer(tmp_path / "straight", steps=6, ema_decay=0.9).run()
    with pytest.raises(TrainingInterrupted):
        make_trainer(tmp_path / "cut", steps=6, ema_decay=0.9, evaluators=[WeightsSeen(signal_at=4)]).run()
    assert (tmp_path / "cut" / "checkpoints" / "step_00000004.pt").exists()
    make_trainer(tmp_path / "cut", steps=6, ema_decay=0.9).run()
    for entry in ("model", "ema"):
        assert equal(checkpoint(tmp_path / "cut", 6)[entry], checkpoint(tmp_path / "straight", 6)[entry])


def test_switching_the_average_on_or_off_when_going_on_is_said(tmp_path, caplog):
    make_trainer(tmp_path, steps=3).run()
    trainer = make_trainer(tmp_path, steps=4, ema_decay=0.9)
    trainer.run()
    assert "step_00000003.pt has no averaged weights: the average starts from its weights" in caplog.text
    before, after = checkpoint(tmp_path, 3)["model"], checkpoint(tmp_path, 4)
    expected = {name: value.lerp(after["model"][name], 0.9) for name, value in before.items()}
    assert all(torch.allclose(after["ema"][name], expected[name], atol=1e-7) for name in expected)
    make_trainer(tmp_path, steps=5).run()
    assert "step_00000004.pt has averaged weights" in caplog.text and "ema" not in checkpoint(tmp_path, 5)


def test_a_checkpoint_with_broken_averages_is_refused(tmp_path):
    make_trainer(tmp_path, steps=3, ema_decay=0.9).run()
    state = checkpoint(tmp_path, 3)
    del state["ema"]["first.weight"]
    torch.save(state, tmp_path / "checkpoints" / "step_00000003.pt")
    with pytest.raises(CheckpointError, match="average of first.weight is missing"):
        make_trainer(tmp_path, steps=4, ema_decay=0.9).run()
