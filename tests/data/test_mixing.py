from __future__ import annotations

import pytest
import torch

from diffmae_video.data.mixing import Mixing, smooth_targets

CLASSES = 7


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch_of(count=6, size=16, dtype=torch.float32):
    clips = torch.randn(count, 3, 4, size, size + 4, generator=generator()).to(dtype)
    return clips, torch.arange(count) % CLASSES


def test_smoothed_targets():
    targets = smooth_targets(torch.tensor([2, 0]), 4, 0.1)
    assert targets.tolist() == [pytest.approx([0.025, 0.025, 0.925, 0.025]), pytest.approx([0.925] + [0.025] * 3)]
    assert torch.equal(smooth_targets(torch.tensor([1]), 3), torch.tensor([[0.0, 1.0, 0.0]]))
    with pytest.raises(ValueError, match=r"labels \[-1, 4\] are outside \[0, 4\)"):
        smooth_targets(torch.tensor([-1, 4, 2]), 4)


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_mixup_is_its_definition(mode):
    clips, labels = batch_of()
    before = clips.clone()
    mixing = Mixing(CLASSES, cutmix_alpha=0.0, mode=mode, smoothing=0.0)
    mixed, targets = mixing(clips, labels, generator(1))
    share = targets.gather(1, labels[:, None])[:, 0]  # labels of partners differ here, so this is lambda
    assert ((share > 0) & (share < 1)).all() and (len(set(share.tolist())) == (1 if mode == "batch" else 6))
    expected = share.view(-1, 1, 1, 1, 1) * clips + (1 - share.view(-1, 1, 1, 1, 1)) * clips.flip(0)
    assert torch.allclose(mixed, expected, atol=1e-6)
    assert torch.allclose(targets.gather(1, labels.flip(0)[:, None])[:, 0], 1 - share)
    assert torch.equal(clips, before), "the clips that were passed must not change"


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_cutmix_is_its_definition(mode):
    clips, labels = batch_of()
    mixing = Mixing(CLASSES, mixup_alpha=0.0, mode=mode, smoothing=0.0)
    boxes = set()
    for seed in range(20):
        mixed, targets = mixing(clips, labels, generator(seed))
        own, other = mixed == clips, mixed == clips.flip(0)
        assert (own | other).all(), "every pixel is exactly one of the two"
        assert torch.equal(own, own[:, :1, :1].expand_as(own)), "the same box in every channel and frame"
        share = targets.gather(1, labels[:, None])[:, 0]
        assert torch.allclose(share, own[:, 0, 0].float().mean((1, 2)), atol=1e-6), "lambda is the area that is left"
        for clip in other[:, 0, 0]:
            rows, columns = clip.any(1).nonzero().flatten(), clip.any(0).nonzero().flatten()
            assert clip.sum() == len(rows) * len(columns), "one rectangle"
            boxes.add((tuple(rows.tolist()), tuple(columns.tolist())))
        assert mode == "elem" or len({clip.sum().item() for clip in other[:, 0, 0]}) == 1
    assert len(boxes) > (15 if mode == "batch" else 60)


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_targets_sum_to_one(mode):
    clips, labels = batch_of()
    for seed in range(20):
        _, targets = Mixing(CLASSES, mode=mode)(clips, labels, generator(seed))
        assert targets.shape == (6, CLASSES) and targets.dtype == torch.float32
        assert torch.allclose(targets.sum(1), torch.ones(6)) and (targets >= 0.1 / CLASSES - 1e-6).all()


def shares(mixing, count=4000, size=100):
    drawn = [mixing.draw(1, size, size, generator(seed)) for seed in range(count)]
    return torch.cat([own for own, _ in drawn]).flatten(1), torch.cat([share for _, share in drawn])


def test_distributions():
    _, share = shares(Mixing(CLASSES, cutmix_alpha=0.0, mixup_alpha=0.8), size=2)
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1))
    assert share.mean() == pytest.approx(0.5, abs=0.02) and share.var() == pytest.approx(1 / 10.4, abs=0.005)
    own, share = shares(Mixing(CLASSES, mixup_alpha=0.0, cutmix_alpha=1.0), count=1000)
    assert torch.allclose(own.mean(1), share, atol=1e-5)
    # Beta(1, 1) before boxes are cut off at the frame's edge; the part beyond it leaves more of the own clip
    assert 0.6 < share.mean() < 0.75 and share.min() < 0.2 and share.max() > 0.97


def test_probabilities():
    own, share = shares(Mixing(CLASSES, probability=0.3, mixup_alpha=1.0), count=1000, size=16)
    assert (share == 1).float().mean() == pytest.approx(0.7, abs=0.05)
    own, share = shares(Mixing(CLASSES, switch_probability=0.25), count=1000, size=16)
    cut = ((own == 0) | (own == 1)).all(1)
    assert cut.float().mean() == pytest.approx(0.25, abs=0.05)
    for off in (Mixing(CLASSES, 0.0, 0.0), Mixing(CLASSES, probability=0.0)):
        clips, labels = batch_of()
        mixed, targets = off(clips, labels, generator())
        assert torch.equal(mixed, clips) and torch.equal(targets, smooth_targets(labels, CLASSES, 0.1))


def test_the_generator_decides():
    clips, labels = batch_of()
    mixing = Mixing(CLASSES, mode="elem")
    results = [mixing(clips, labels, generator(seed)) for seed in (3, 3, 4)]
    torch.manual_seed(9)
    assert torch.equal(results[0][0], mixing(clips, labels, generator(3))[0])
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0])


def test_odd_batches_and_half_precision():
    clips, labels = batch_of(5, dtype=torch.bfloat16)
    mixed, targets = Mixing(CLASSES, cutmix_alpha=0.0, smoothing=0.0)(clips, labels, generator())
    assert mixed.dtype == torch.bfloat16 and torch.equal(mixed[2], clips[2]) and targets[2, 2] == 1
    mixed, _ = Mixing(CLASSES)(clips[:1], labels[:1], generator())
    assert torch.equal(mixed, clips[:1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"mixup_alpha": -1.0}, "alphas"),
        ({"mode": "pair"}, "unknown mode 'pair'; choose one of batch, elem"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"switch_probability": 2.0}, "probabilities"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mixing(**({"num_classes": 3} | arguments))


def test_bad_clips():
    with pytest.raises(ValueError, match=r"float clips \(B, C, T, H, W\), got torch.uint8"):
        Mixing(3)(torch.zeros(2, 3, 2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), generator())
