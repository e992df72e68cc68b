import torch
from engine_fakes import CLIP, FakeModel
from torch import nn

from diffmae_video.data import ClipBatch
from diffmae_video.engine.randomness import clip_generators, mix, seed_step
from diffmae_video.engine.tasks import PretrainTask, timestep_metrics


def make_batch(size: int = 6) -> ClipBatch:
    clips = torch.randint(256, (size, *CLIP), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ClipBatch(clips, torch.full((size,), -1), torch.arange(size), ["a.mp4"] * size, [])


def test_quarters_of_the_timesteps():
    t = torch.tensor([0, 249, 250, 749, 750, 999])
    metrics = timestep_metrics(torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0, 11.0]), t, 1000)
    assert {name: value.tolist() for name, value in metrics.items()} == {
        "loss_t_q1": [4.0, 2.0],
        "loss_t_q2": [5.0, 1.0],
        "loss_t_q3": [7.0, 1.0],
        "loss_t_q4": [20.0, 2.0],
    }


def test_pretrain_loss_is_the_models_and_its_quarters_add_up_to_it():
    model, batch = FakeModel(dropout=0.0), make_batch()
    loss, metrics = PretrainTask(1000).loss(model, batch, clip_generators(0, batch.clip_ids))
    output = model(model.normalize(batch.clips), generator=clip_generators(0, batch.clip_ids))
    assert torch.equal(loss, output.loss)
    sums = torch.stack(list(metrics.values())).sum(dim=0)
    assert sums[1] == 6 and torch.allclose(sums[0] / 6, loss)


def test_pretraining_without_diffusion_has_no_quarters():
    batch = make_batch()
    assert PretrainTask().loss(FakeModel(diffusion=False), batch, clip_generators(0, batch.clip_ids))[1] == {}


def test_pretrain_task_finds_normalize_inside_a_wrapper():
    batch = make_batch()
    wrapped = torch.compile(FakeModel(dropout=0.0), backend="eager")
    assert isinstance(wrapped, nn.Module)
    loss, _ = PretrainTask().loss(wrapped, batch, clip_generators(0, batch.clip_ids))
    assert loss.isfinite()


def test_clip_generators_depend_on_seed_and_clip_alone():
    def draw(seed, ids):
        return torch.stack([torch.randn(4, generator=g) for g in clip_generators(seed, torch.tensor(ids))])

    assert torch.equal(draw(0, [5, 6]), draw(0, [6, 5]).flip(0))
    assert not torch.equal(draw(0, [5]), draw(1, [5]))
    assert len({tuple(row) for row in draw(0, list(range(100))).tolist()}) == 100


def test_seeding_a_step_makes_global_randomness_a_function_of_it():
    def draw(*arguments):
        seed_step(*arguments)
        return torch.rand(3).tolist()

    state = torch.get_rng_state()
    try:
        assert draw(0, 7) == draw(0, 7)
        assert draw(0, 7) not in (draw(0, 8), draw(1, 7), draw(0, 7, 1))
    finally:
        torch.set_rng_state(state)


def test_mixing_is_fixed_for_all_time():
    """Changing it would change every run that is resumed."""
    assert mix("clip", 0, 0) == 7341717495515469918
    assert len({mix("clip", 0, 1), mix("clip", 1, 0), mix("step", 1, 0), mix("step", 1)}) == 4
