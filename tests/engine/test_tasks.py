import pytest
import torch
from engine_fakes import CLIP, GRID, MASKS, FakeModel
from torch import nn

from diffmae_video.data import ClipBatch, Mixing, RandomErasing
from diffmae_video.diffusion import NoiseSchedule
from diffmae_video.engine.randomness import clip_generators, mix, seed_step, shared_generator
from diffmae_video.engine.tasks import ClassifyTask, PretrainTask, timestep_metrics
from diffmae_video.models import DECODERS, DiffMAE, MaskMix, SpaceTimeViT, VideoClassifier, make_mask

CLASSES = 4


def make_batch(size: int = 6, labels: list[int] | None = None) -> ClipBatch:
    clips = torch.randint(256, (size, *CLIP), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.full((size,), -1) if labels is None else torch.tensor(labels)
    return ClipBatch(clips, labels, torch.arange(size), ["a.mp4"] * size, [])


def make_classifier() -> VideoClassifier:
    torch.manual_seed(0)
    encoder = SpaceTimeViT(CLIP, (1, 2, 2), width=8, depth=1, heads=2)
    return VideoClassifier(encoder, CLASSES, init_std=2.0)


def loss_of(task, model, batch: ClipBatch, seed: int = 0, step: int = 0):
    """(loss, metrics) as the trainer computes them."""
    return task.loss(model, batch, clip_generators(seed, batch.clip_ids), shared_generator(seed, step, 0))


def classify(batch: ClipBatch, erasing: float = 0.0, model=None, seed: int = 5, **mixing):
    """(loss, metrics) of a batch; nothing is mixed unless asked for."""
    off = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "smoothing": 0.0}
    task = ClassifyTask(Mixing(CLASSES, **{**off, **mixing}), RandomErasing(erasing) if erasing else None)
    return loss_of(task, make_classifier() if model is None else model, batch, seed)


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
    loss, metrics = loss_of(PretrainTask(1000), model, batch)
    output = model(model.normalize(batch.clips), generator=clip_generators(0, batch.clip_ids))
    assert torch.equal(loss, output.loss)
    sums = torch.stack(list(metrics.values())).sum(dim=0)
    assert sums[1] == 6 and torch.allclose(sums[0] / 6, loss)


def test_pretraining_without_diffusion_has_no_quarters():
    batch = make_batch()
    assert loss_of(PretrainTask(), FakeModel(diffusion=False), batch)[1] == {}


def test_pretrain_task_finds_what_it_needs_inside_a_wrapper():
    batch = make_batch()
    wrapped = torch.compile(FakeModel(dropout=0.0), backend="eager")
    assert isinstance(wrapped, nn.Module)
    loss, _ = loss_of(PretrainTask(mask_mix=MASKS), wrapped, batch)
    assert loss.isfinite()


# -------------------------------------------------------------------------------------------------------- mix of masks


def make_diffmae(strategy: str = "tube", ratio: float = 0.5) -> DiffMAE:
    torch.manual_seed(0)
    encoder = SpaceTimeViT(CLIP, (1, 2, 2), width=8, depth=1, heads=2)
    decoder = DECODERS["cross_self"](
        grid=encoder.grid, encoder_width=8, width=8, depth=1, heads=2, mlp_ratio=2.0, patch_values=12,
        position="separable",
    )  # fmt: skip
    return DiffMAE(encoder, decoder, NoiseSchedule("linear", 1000), mask_strategy=strategy, mask_ratio=ratio)


@pytest.mark.parametrize("strategy, ratio", [("random", 0.7), ("frame", 0.5), ("tube", 0.3)])
def test_a_mix_of_one_strategy_is_that_strategy(strategy, ratio):
    """The same masks, timesteps and noise to the bit: a mix changes what is drawn for the batch, not for a clip."""
    batch, only = make_batch(), MaskMix((strategy,), (1.0,), ((ratio, ratio),))
    loss, metrics = loss_of(PretrainTask(1000, only), make_diffmae("block", 0.2), batch)
    plain, plain_metrics = loss_of(PretrainTask(1000), make_diffmae(strategy, ratio), batch)
    assert torch.equal(loss, plain)
    own = metrics.pop(f"loss_mask_{strategy}")
    assert own[1] == 6 and torch.allclose(own[0] / 6, loss)
    assert metrics.keys() == plain_metrics.keys() == {f"loss_t_q{q}" for q in (1, 2, 3, 4)}
    assert all(torch.equal(metrics[name], plain_metrics[name]) for name in metrics)


def test_the_masks_of_a_mix_are_those_it_draws():
    class Recording(FakeModel):
        def forward(self, clip, mask=None, **drawn):
            seen.append(mask)
            return super().forward(clip, mask, **drawn)

    seen, batch, model = [], make_batch(), Recording(dropout=0.0)
    for step in range(12):
        _, metrics = loss_of(PretrainTask(1000, MASKS), model, batch, seed=4, step=step)
        choice = MASKS.draw(shared_generator(4, step, 0))
        expected = make_mask(choice.strategy, GRID, choice.ratio, 6, clip_generators(4, batch.clip_ids))
        assert torch.equal(seen[-1], expected)
        counts = {name: int(value[1]) for name, value in metrics.items() if name.startswith("loss_mask_")}
        assert counts == {f"loss_mask_{name}": 6 * (name == choice.strategy) for name in MASKS.strategies}
    assert len({int(mask[0].sum()) for mask in seen}) > 2


def test_a_mix_masks_clips_of_fewer_frames():
    batch = make_batch()
    short = batch._replace(clips=batch.clips[:, :, :1])
    mix_of_spaces = MaskMix(("random", "center"), (1.0, 1.0), ((0.5, 0.75), (0.25, 0.25)))
    for step in range(4):
        loss, _ = loss_of(PretrainTask(1000, mix_of_spaces), make_diffmae(), short, step=step)
        assert loss.isfinite()


def test_what_clips_share_depends_on_seed_step_and_micro_batch_alone():
    seeds = [shared_generator(*key).initial_seed() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]]
    assert len(set(seeds)) == 5
    draws = [torch.rand(3, generator=shared_generator(7, 5, 3)).tolist() for _ in range(2)]
    assert draws[0] == draws[1]
    assert shared_generator(7, 5, 3).device.type == "cpu"


# ---------------------------------------------------------------------------------------------------------- randomness


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


# ----------------------------------------------------------------------------------------------------- classification

LABELS = [3, 0, 1, 1, 2, 0]


def soft_cross_entropy(scores: torch.Tensor, targets: torch.Tensor) -> float:
    shares = scores.double().exp() / scores.double().exp().sum(dim=1, keepdim=True)
    return -(targets.double() * shares.log()).sum(dim=1).mean().item()


def test_the_loss_without_mixing_is_the_cross_entropy_of_smoothed_labels():
    batch, model = make_batch(labels=LABELS), make_classifier()
    loss, metrics = classify(batch, smoothing=0.1)
    targets = torch.full((6, CLASSES), 0.1 / CLASSES)
    targets[torch.arange(6), batch.labels] += 0.9
    scores = model(model.normalize(batch.clips))
    assert loss.item() == pytest.approx(soft_cross_entropy(scores, targets), rel=1e-5)
    right = sum(int(row.argmax()) == label for row, label in zip(scores, LABELS, strict=True))
    assert {name: value.tolist() for name, value in metrics.items()} == {"train_top1": [right, 6]}


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0)], ids=["mixup", "cutmix"])
def test_erasing_and_mixing_depend_on_the_clips_generators_alone(alphas):
    """Computed once more: boxes clip by clip, then one mix for the batch, seeded by its first clip."""
    batch, model = make_batch(labels=LABELS), make_classifier()
    mixing, erasing = Mixing(CLASSES, *alphas, smoothing=0.1), RandomErasing(0.9)
    loss, metrics = loss_of(ClassifyTask(mixing, erasing), model, batch, seed=9)
    seeds = [mix("clip", 9, number) for number in range(6)]
    generators = [torch.Generator().manual_seed(mix("erase", seed)) for seed in seeds]
    pairs = zip(model.normalize(batch.clips), generators, strict=True)
    clips = torch.stack([erasing(clip, generator) for clip, generator in pairs])
    assert not torch.equal(clips, model.normalize(batch.clips))
    mixed, targets = mixing(clips, batch.labels, torch.Generator().manual_seed(mix("mix", seeds[0])))
    assert not torch.equal(mixed, clips)
    assert loss.item() == pytest.approx(soft_cross_entropy(model(mixed), targets), rel=1e-5)
    assert metrics == {}, "the label of a mixed clip is not what its highest score should be"


def test_global_randomness_neither_matters_nor_moves():
    batch, options = make_batch(labels=LABELS), {"erasing": 0.9, "mixup_alpha": 0.8, "cutmix_alpha": 1.0}
    model = make_classifier()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    loss, _ = classify(batch, model=model, **options)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(classify(batch, model=model, **options)[0], loss)
    assert not torch.equal(classify(batch, model=model, seed=6, **options)[0], loss)


def test_the_batch_is_left_as_it_was():
    batch = make_batch(labels=LABELS)
    clips, labels = batch.clips.clone(), batch.labels.clone()
    classify(batch, erasing=0.9, mixup_alpha=0.8, cutmix_alpha=1.0)
    assert torch.equal(batch.clips, clips) and torch.equal(batch.labels, labels)


def test_without_mixing_the_gradient_does_not_depend_on_accumulation():
    """Boxes belong to the clips: two halves of a batch are erased as the whole is."""

    def part(batch: ClipBatch, own: slice) -> ClipBatch:
        return ClipBatch(batch.clips[own], batch.labels[own], batch.clip_ids[own], batch.paths[own], [])

    def gradient(parts: list[ClipBatch]) -> tuple[torch.Tensor, torch.Tensor]:
        model, counted = make_classifier(), torch.zeros(2)
        for own in parts:
            loss, metrics = classify(own, erasing=0.9, smoothing=0.1, model=model)
            (loss / len(parts)).backward()
            counted += metrics["train_top1"]
        return torch.cat([p.grad.flatten() for p in model.parameters()]), counted

    batch = make_batch(labels=LABELS)
    (whole, counted), (halves, counted_) = (
        gradient(parts) for parts in ([batch], [part(batch, slice(0, 3)), part(batch, slice(3, 6))])
    )
    torch.testing.assert_close(halves, whole, rtol=1e-4, atol=1e-6)
    assert torch.equal(counted, counted_) and counted[1] == 6


@pytest.mark.parametrize(
    "options, counted",
    [
        ({}, True),
        ({"smoothing": 0.1}, True),
        ({"mixup_alpha": 0.8, "probability": 0.0}, True),
        ({"mixup_alpha": 0.8}, False),
        ({"cutmix_alpha": 1.0, "probability": 0.01}, False),
    ],
)
def test_training_accuracy_is_counted_where_clips_are_not_mixed(options, counted):
    assert ("train_top1" in classify(make_batch(labels=LABELS), **options)[1]) == counted


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_a_label_that_the_model_does_not_have_is_refused(wrong):
    with pytest.raises(ValueError, match=rf"labels \[{wrong}\] are outside \[0, {CLASSES}\)"):
        classify(make_batch(labels=[0, wrong, 1, 1, 1, 1]))


def test_scores_are_compared_in_float32_whatever_the_models_precision():
    class Half(VideoClassifier):
        def forward(self, clip):
            return super().forward(clip).bfloat16()

    batch, model = make_batch(labels=LABELS), make_classifier()
    exact, _ = classify(batch, model=model)
    model.__class__ = Half
    loss, _ = classify(batch, model=model)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=0.05)


def test_a_classifier_is_found_inside_a_wrapper():
    batch, model = make_batch(labels=LABELS), make_classifier()
    wrapped = torch.compile(model, backend="eager")
    assert torch.allclose(classify(batch, model=wrapped)[0], classify(batch, model=model)[0])
