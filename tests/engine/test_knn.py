"""Nearest neighbours, against loops that spell the formula out."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
import torch
from torch import nn

from diffmae_video.data import ClipDataset, Entry, EvaluationClips, read_manifest
from diffmae_video.engine.classification_report import summary, write_report
from diffmae_video.engine.errors import RunError
from diffmae_video.engine.knn import extract, knn_predict, knn_result


def features(count, seed=0, width=16):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([number * 7 % 5 for number in range(50)])


def by_loops(train, labels, asked, k, temperature, num_classes):
    """The votes of every query, not divided by anything."""

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    rows = []
    for query in asked.double().tolist():
        ranked = sorted(((cosine(query, row), label) for row, label in zip(train.tolist(), labels, strict=True)))[::-1]
        votes = defaultdict(float)
        for similarity, label in ranked[:k]:
            votes[int(label)] += math.exp(similarity / temperature)
        rows.append([votes[number] for number in range(num_classes)])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1.0), (50, 0.2)])
@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_votes_are_those_of_the_formula(k, temperature, chunk):
    train, asked = features(50), 30 * features(23, seed=1)
    scores = knn_predict(train, LABELS, asked, k, temperature, num_classes=6, chunk=chunk)
    votes = by_loops(train, LABELS, asked, k, temperature, 6)
    assert scores.shape == (23, 6) and scores.dtype == torch.float32
    assert torch.allclose(scores.double(), votes / votes.sum(1, keepdim=True), atol=1e-5)
    assert torch.equal(scores.argmax(1), votes.argmax(1))


def test_the_nearest_neighbour_of_a_video_is_itself_and_length_does_not_matter():
    train = features(50)
    assert torch.equal(knn_predict(train, LABELS, train, k=1).argmax(1), LABELS)
    assert torch.allclose(
        knn_predict(9 * train, LABELS, features(3, 2)), knn_predict(train, LABELS, 0.1 * features(3, 2))
    )
    assert knn_predict(train, LABELS, train, k=20, temperature=0.001).isfinite().all()


def test_bad_arguments():
    train = features(50)
    for options, message in [
        ({"k": 51}, "51 neighbours of 50 training videos"),
        ({"k": 0}, "choose 1 to 50"),
        ({"temperature": 0.0}, "temperature"),
        ({"num_classes": 3}, "0 to 2"),
        ({"chunk": 0}, "chunk"),
    ]:
        with pytest.raises(ValueError, match=message):
            knn_predict(train, LABELS, train, **options)
    with pytest.raises(ValueError, match="every training video needs a label"):
        knn_predict(train, LABELS - 1, train)
    with pytest.raises(ValueError, match="expected features"):
        knn_predict(train, LABELS[:9], train)


class Colours(nn.Module):
    """The features are the mean colours of the four quarters of a clip."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.sizes: list[int] = []

    def normalize(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.float() / 255 - 0.5

    def pooled(self, clips: torch.Tensor) -> torch.Tensor:
        assert not self.training and not torch.is_grad_enabled()
        self.sizes.append(len(clips))
        return self.scale * nn.functional.adaptive_avg_pool3d(clips, (1, 2, 2)).flatten(1)


def clips_of(entries, **options):
    dataset = ClipDataset(entries, 4, 3, 32, train=False, **({"test_clips": 2, "test_crops": 1} | options))
    return EvaluationClips(dataset, batch_size=3, num_workers=options.pop("num_workers", 0))


def test_features_are_the_mean_over_the_views_in_the_order_of_the_list(sample_videos, damaged_videos):
    entries = read_manifest(sample_videos)
    entries.insert(2, Entry(str(damaged_videos["zeros.mp4"]), 1))
    model, clips = Colours().train(), clips_of(entries, test_clips=3)
    made = extract(model, clips, torch.device("cpu"), "fp32", views_per_forward=4)
    assert model.training and max(model.sizes) == 4
    read = [0, 1, 3, 4, 5, 6]
    assert made.paths == [entries[index].path for index in read]
    assert made.labels.tolist() == [entries[index].label for index in read]
    model.eval()
    with torch.no_grad():
        for row, index in enumerate(read):
            views = [model.pooled(model.normalize(view[None]))[0] for view in clips.dataset[(0, index)].clips]
            assert len(views) == 3 and torch.allclose(made.features[row], sum(views) / 3, atol=1e-6)


def test_a_test_of_nearest_neighbours(sample_videos, damaged_videos, tmp_path):
    train_entries = read_manifest(sample_videos)
    test_entries = [Entry("/nowhere/gone.mp4", 1), *train_entries[::-1], *read_manifest(sample_videos, "val")]
    model, device = Colours(), torch.device("cpu")
    clips = clips_of(test_entries)
    train = extract(model, clips_of(train_entries), device, "fp32")
    test = extract(model, clips, device, "fp32")
    result = knn_result(train, test, clips, k=1, unreadable="wrong")
    assert result.paths == [entry.path for entry in test_entries[1:]]
    assert result.correct[:6].all(), "videos of the training set are their own nearest neighbours"
    values = result.metrics()
    assert values["videos"] == 9 and values["unreadable"] == 1 and "loss" not in values and "view_top1" not in values
    assert values["top1"] == result.correct.sum().item() / 9
    files = {file.name for file in write_report(result, ["right", "down"], tmp_path)}
    assert files == {"metrics.json", "predictions.csv", "per_class.csv", "confusion.png"}
    assert summary(result).startswith("8 videos: top-1")
    with pytest.raises(RunError, match="classes 0 to 0"):
        knn_result(train._replace(labels=torch.zeros(6, dtype=torch.int64)), test, clips, k=1)
    with pytest.raises(RunError, match="none of 1 videos could be read"):
        extract(model, clips_of(test_entries[:1]), device)
