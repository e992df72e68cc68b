import json
import logging
import math
import os
import signal

import pytest
import torch
from engine_fakes import MASKS, FakeDataset, FakeModel, FakeSampler, collate, log_lines, make_trainer
from torch.utils.data import DataLoader

from diffmae_video.data import UnreadableVideo
from diffmae_video.engine.checkpoint import load_checkpoint
from diffmae_video.engine.disk import temporary_path
from diffmae_video.engine.errors import (
    CheckpointError,
    DataFailed,
    NonFiniteLoss,
    RunError,
    TooManyUnreadable,
    TrainingInterrupted,
)
from diffmae_video.engine.randomness import shared_generator
from diffmae_video.engine.tasks import PretrainTask


def parameters(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def checkpoint_names(folder) -> list[str]:
    return sorted(name for name in os.listdir(folder / "checkpoints") if name.endswith(".pt"))


class TaskAt(PretrainTask):
    """Pre-training that calls ``action(model, loss)`` in its n-th call (from 1) and returns the result as the loss."""

    def __init__(self, call, action):
        super().__init__()
        self.call, self.action, self.calls = call, action, 0

    def loss(self, *arguments):
        loss, metrics = super().loss(*arguments)
        self.calls += 1
        return (self.action(loss) if self.calls == self.call else loss), metrics


# ------------------------------------------------------------------------------------------------- the optimiser step


def test_accumulation_gives_the_gradient_of_one_large_batch(tmp_path):
    runs = []
    for accumulation in (1, 2, 4):
        trainer = make_trainer(
            tmp_path / str(accumulation), model=FakeModel(dropout=0.0), accumulation=accumulation, steps=4
        )
        runs.append((trainer, FakeModel(dropout=0.0).state_dict()))
    state = runs[0][1]
    logs = []
    for trainer, _ in runs:
        trainer.model.load_state_dict(state)
        trainer.run()
        logs.append(log_lines(trainer.output_dir))
        assert torch.allclose(parameters(trainer), parameters(runs[0][0]), atol=1e-6)
    for one, two, four in zip(*logs, strict=True):
        for name in ("loss", "grad_norm", "loss_t_q1"):
            assert one.get(name) == pytest.approx(two.get(name), rel=1e-5)
            assert one.get(name) == pytest.approx(four.get(name), rel=1e-5)


def test_every_micro_batch_draws_a_mask_of_the_mix(tmp_path):
    """Its choice is that of (seed, step, number of the micro-batch), and its losses add up to the step's."""
    make_trainer(tmp_path, task=PretrainTask(1000, MASKS), accumulation=2, steps=12).run()
    pairs = set()
    for line in log_lines(tmp_path):
        names = {MASKS.draw(shared_generator(3, line["step"] - 1, number)).strategy for number in (0, 1)}
        losses = {name: value for name, value in line.items() if name.startswith("loss_mask_")}
        assert losses.keys() == {f"loss_mask_{name}" for name in names}
        assert line["loss"] == pytest.approx(sum(losses.values()) / len(losses), rel=1e-5)
        pairs.add(len(names))
    assert pairs == {1, 2}, "some steps mix two strategies"


def test_micro_batches_of_unequal_size_count_by_their_clips(tmp_path):
    def uneven(start_draw):
        for batch in FakeSampler(start_draw, per_step=4, micro_batches=1):
            yield from (collate([FakeDataset()[item] for item in part]) for part in (batch[:3], batch[3:]))

    state, results = FakeModel(dropout=0.0).state_dict(), []
    for name, options in (("one", {"accumulation": 1}), ("uneven", {"accumulation": 2, "make_loader": uneven})):
        trainer = make_trainer(tmp_path / name, model=FakeModel(dropout=0.0), steps=3, **options)
        trainer.model.load_state_dict(state)
        trainer.run()
        results.append((parameters(trainer), log_lines(tmp_path / name)[-1]["loss"]))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-6)


@pytest.mark.parametrize("limit", [0.0, 0.01])
def test_gradient_norm_is_logged_and_the_update_is_clipped(tmp_path, limit):
    model = FakeModel(dropout=0.0)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = make_trainer(
        tmp_path, model=model, optimizer=optimizer, schedule=lambda clips: 0.5, clip_grad_norm=limit, steps=1
    )
    trainer.run()
    logged = log_lines(tmp_path)[0]["grad_norm"]
    moved = (parameters(trainer) - before).norm().item() / 0.5
    assert logged > 0.05
    assert moved == pytest.approx(limit or logged, rel=1e-3)


def test_learning_rate_follows_the_clips_seen(tmp_path):
    trainer = make_trainer(tmp_path, steps=6)
    trainer.run()
    assert [line["lr"] for line in log_lines(tmp_path)] == [trainer.schedule(8 * step) for step in range(6)]


def test_bf16_runs_the_loss_under_autocast(tmp_path):
    seen = []

    class Task(PretrainTask):
        def loss(self, *arguments):
            seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
            return super().loss(*arguments)

    trainer = make_trainer(tmp_path, task=Task(), precision="bf16", steps=2)
    trainer.run()
    assert set(seen) == {(True, torch.bfloat16)}
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    with pytest.raises(ValueError, match="fp16"):
        make_trainer(tmp_path / "b", precision="fp16").run()


def test_a_loader_that_ends_or_gives_other_sizes_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="never ends"):
        make_trainer(tmp_path / "a", make_loader=lambda draw: []).run()
    with pytest.raises(ValueError, match="gave 6 clips for a step of 8"):
        batch = collate([FakeDataset()[draw, 0] for draw in range(3)])
        make_trainer(tmp_path / "b", accumulation=1, make_loader=lambda draw: [batch]).run()
    with pytest.raises(ValueError, match="8 clips per step cannot be split"):
        make_trainer(tmp_path / "c", accumulation=3)


# --------------------------------------------------------------------------------------------- what stops a run, how


@pytest.mark.parametrize(
    "break_loss",
    [
        lambda loss: loss * math.nan,
        lambda loss: loss + math.inf,
        lambda loss: loss + torch.where(loss > 0, torch.sqrt(loss * 0), 0),  # a finite loss with an infinite gradient
    ],
    ids=["nan", "inf", "gradient"],
)
def test_a_non_finite_loss_stops_and_keeps_every_checkpoint(tmp_path, break_loss):
    trainer = make_trainer(tmp_path, task=TaskAt(2 * 7 + 2, break_loss))  # second micro-batch of step 8
    with pytest.raises(NonFiniteLoss, match=r"step 8: the loss is .*video_\d.mp4") as error:
        trainer.run()
    assert checkpoint_names(tmp_path) == ["step_00000003.pt", "step_00000006.pt"]
    assert "step_00000006.pt" in str(error.value) and "\n" not in str(error.value)
    assert parameters(trainer).isfinite().all() and trainer.progress.step == 7
    assert (tmp_path / "nonfinite_step_00000008.txt").read_text().count("video_") == 4
    assert [line["step"] for line in log_lines(tmp_path)] == list(range(1, 8))
    make_trainer(tmp_path).run()  # and it can go on
    assert log_lines(tmp_path)[-1]["step"] == 12


def test_unreadable_files_are_counted_and_listed_once(tmp_path, caplog):
    trainer = make_trainer(tmp_path, failing=(0, 3, 4, 9))
    trainer.run()
    assert trainer.progress.unreadable == 4 and log_lines(tmp_path)[-1]["unreadable"] == 4
    assert (tmp_path / "unreadable.txt").read_text() == "bad_0.mp4\tno frames\nbad_1.mp4\tno frames\n"
    assert caplog.text.count("bad_0.mp4") == 1


def test_too_many_unreadable_files_stop_the_run(tmp_path):
    options = {"failing": tuple(range(0, 100, 2)), "max_unreadable_fraction": 0.2, "steps": 20, "keep_period": 5}
    with pytest.raises(TooManyUnreadable, match=r"20 of 60 draws \(33.3%\)") as error:
        make_trainer(tmp_path, **options).run()
    assert str(tmp_path / "unreadable.txt") in str(error.value)
    # 20 failures are reached in step 10, whose state is saved: a higher limit goes on from there.
    assert "step_00000010.pt" in checkpoint_names(tmp_path)
    progress = make_trainer(tmp_path, **{**options, "max_unreadable_fraction": 0.6}).run()
    assert progress.step == 20 and progress.unreadable == 40


class UnreadableDataset(FakeDataset):
    def __getitem__(self, item):
        if item[0] >= 12:
            raise UnreadableVideo("clips/a.mp4", "no frames")
        return super().__getitem__(item)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_draw_without_any_readable_file_stops_the_run(tmp_path, num_workers):
    def loader(start_draw):
        sampler, context = FakeSampler(start_draw, 4, 2), "fork" if num_workers else None
        return DataLoader(
            UnreadableDataset(), batch_sampler=sampler, collate_fn=collate, num_workers=num_workers,
            multiprocessing_context=context,
        )  # fmt: skip

    with pytest.raises(DataFailed, match="for a draw: clips/a.mp4: no frames$"):
        make_trainer(tmp_path, make_loader=loader).run()
    assert checkpoint_names(tmp_path) == ["step_00000003.pt"]


def test_few_failures_never_stop_a_run(tmp_path):
    assert make_trainer(tmp_path, failing=tuple(range(19)), max_unreadable_fraction=0.0, steps=8).run().unreadable == 19


def interrupting(number):
    def action(loss):
        os.kill(os.getpid(), number)
        return loss

    return action


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_interrupted_run_saves_its_last_complete_step_and_goes_on_exactly(tmp_path, number, code, num_workers):
    make_trainer(tmp_path / "straight", steps=8).run()
    options = {"steps": 8, "num_workers": num_workers}
    trainer = make_trainer(tmp_path / "stopped", task=TaskAt(2 * 4 + 2, interrupting(number)), **options)
    with pytest.raises(TrainingInterrupted, match="after step 4; newest checkpoint: .*step_00000004.pt") as stop:
        trainer.run()
    assert stop.value.exit_code == code
    assert checkpoint_names(tmp_path / "stopped") == ["step_00000003.pt", "step_00000004.pt"]
    make_trainer(tmp_path / "stopped", **options).run()
    assert log_lines(tmp_path / "stopped") == log_lines(tmp_path / "straight")


def test_a_signal_during_the_update_waits_for_the_step_to_be_complete(tmp_path):
    trainer = make_trainer(tmp_path)
    update = trainer.optimizer.step

    def step():
        os.kill(os.getpid(), signal.SIGINT)
        update()

    trainer.optimizer.step = step
    with pytest.raises(TrainingInterrupted, match="after step 1;"):
        trainer.run()
    state = load_checkpoint(tmp_path / "checkpoints" / "step_00000001.pt")
    assert torch.equal(state["model"]["first.weight"], trainer.model.first.weight)
    assert state["progress"]["clips"] == 8 and len(log_lines(tmp_path)) == 1


def test_an_interrupt_before_the_first_step_saves_nothing(tmp_path):
    with pytest.raises(TrainingInterrupted, match="after step 0; newest checkpoint: none"):
        make_trainer(tmp_path, task=TaskAt(1, interrupting(signal.SIGINT))).run()
    assert checkpoint_names(tmp_path) == []


def test_a_full_disk_does_not_stop_training(tmp_path, caplog):
    trainer = make_trainer(tmp_path, steps=9)
    temporary_path(trainer.checkpoints.path(6)).symlink_to("/dev/full")
    assert trainer.run().step == 9
    assert checkpoint_names(tmp_path) == ["step_00000003.pt", "step_00000009.pt"]
    assert "step 6 was NOT saved" in caplog.text


def test_a_full_disk_at_the_end_is_an_error(tmp_path):
    trainer = make_trainer(tmp_path, steps=6)
    temporary_path(trainer.checkpoints.path(6)).symlink_to("/dev/full")
    with pytest.raises(RunError, match="last checkpoint could not be written"):
        trainer.run()
    make_trainer(tmp_path, steps=6).run()
    assert checkpoint_names(tmp_path) == ["step_00000003.pt", "step_00000006.pt"]


# ---------------------------------------------------------------------------------------------- start, and going on


def test_the_start_says_what_runs(tmp_path, caplog):
    caplog.set_level(logging.INFO, "diffmae_video")
    make_trainer(tmp_path, weights_from="elsewhere.pt").run()
    count = sum(p.numel() for p in FakeModel().parameters()) / 1e6
    for text in (
        f"FakeModel, {count:.2f} M parameters",
        "effective batch: 8 clips per step = 4 per micro-batch x 2 accumulated x 1 processes, from 4 videos",
        "length: 12 steps, 96 clips; 12 steps to go",
        "learning rate: peak 0.01",
        "starts from: elsewhere.pt",
        "training is complete",
    ):
        assert text in caplog.text
    assert (tmp_path / "config.yaml").read_text() == "SEED: 3\n"
    assert load_checkpoint(tmp_path / "checkpoints" / "step_00000012.pt")["config"] == "SEED: 3\n"
    caplog.clear()
    make_trainer(tmp_path, steps=14).run()
    assert "step_00000012.pt (step 12, 96 clips)" in caplog.text and "2 steps to go" in caplog.text


def test_without_auto_resume_another_run_is_not_touched(tmp_path):
    make_trainer(tmp_path, steps=3, auto_resume=False).run()
    before = log_lines(tmp_path)
    with pytest.raises(CheckpointError, match="AUTO_RESUME is False"):
        make_trainer(tmp_path, steps=6, auto_resume=False).run()
    assert log_lines(tmp_path) == before


def test_a_checkpoint_of_another_model_is_refused_with_both_shapes(tmp_path):
    make_trainer(tmp_path, steps=3).run()
    with pytest.raises(CheckpointError, match=r"does not fit.*first.weight.*\[16, 96\].*\[8, 96\]") as error:
        make_trainer(tmp_path, steps=3, model=FakeModel(width=8)).run()
    assert "\n" not in str(error.value)


def test_a_changed_configuration_is_said(tmp_path, caplog):
    make_trainer(tmp_path, steps=3).run()
    make_trainer(tmp_path, steps=4, config_text="SEED: 4\n").run()
    assert "differs from the checkpoint's: - SEED: 3" in caplog.text and "+ SEED: 4" in caplog.text


def test_another_batch_size_keeps_the_schedule_in_clips(tmp_path):
    make_trainer(tmp_path, steps=6, total_steps=3).run()  # 24 of 48 clips
    trainer = make_trainer(tmp_path, steps=12, videos_per_step=2)  # the same 48 clips in steps of 4
    trainer.schedule = make_trainer(tmp_path / "unused", steps=6).schedule
    trainer.run()
    resumed = log_lines(tmp_path)[3:]
    assert [line["clips"] for line in resumed] == list(range(28, 49, 4))
    assert [line["lr"] for line in resumed] == [trainer.schedule(clips) for clips in range(24, 48, 4)]
    assert trainer.progress.draws == 24


def test_keep_period_is_saved_even_between_checkpoint_periods(tmp_path):
    make_trainer(tmp_path, steps=9, checkpoint_period=4, keep_period=3).run()
    assert checkpoint_names(tmp_path) == [f"step_0000000{step}.pt" for step in (3, 6, 8, 9)]


# -------------------------------------------------------------------------------------------------------- evaluators


class NoisyEvaluator:
    """Changes all that an evaluator could: mode, random state, gradients."""

    name, period = "noisy", 2

    def __init__(self):
        self.seen = []

    def evaluate(self, model, step, monitor):
        self.seen.append((step, model.training, torch.is_grad_enabled()))
        torch.rand(100)
        torch.manual_seed(99)
        model(model.normalize(torch.zeros(2, 3, 2, 4, 4)), generator=[torch.Generator()] * 2)
        return {"value": float(step)}


def test_evaluators_run_on_schedule_and_change_nothing(tmp_path):
    evaluator = NoisyEvaluator()
    torch.manual_seed(0)
    state = FakeModel().state_dict()
    for name, evaluators in (("with", [evaluator]), ("without", [])):
        model = FakeModel()
        model.load_state_dict(state)
        trainer = make_trainer(tmp_path / name, steps=5, model=model, evaluators=evaluators)
        trainer.run()
        assert model.training and model.dropout.training
    assert evaluator.seen == [(step, False, False) for step in (2, 4, 5)]
    assert log_lines(tmp_path / "with") == log_lines(tmp_path / "without")
    lines = [json.loads(line) for line in (tmp_path / "with" / "evaluations.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, "evaluator": "noisy", "value": float(step)} for step in (2, 4, 5)]
