"""Measuring a classifier whose scores can be worked out from the pixels."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from diffmae_video.data import ClipDataset, Entry, EvaluationClips, read_manifest
from diffmae_video.engine.classification import ClassificationEvaluator, ClassificationResult, UnreadVideo, classify
from diffmae_video.engine.classification_report import most_confused, summary, write_report
from diffmae_video.engine.errors import RunError
from diffmae_video.engine.evaluation import evaluation
from diffmae_video.engine.monitor import Monitor


class ColourClassifier(nn.Module):
    """Scores that are linear in the mean colour of a clip; remembers how many clips it was given at a time."""

    def __init__(self, num_classes: int = 7):
        super().__init__()
        weight = torch.randn(num_classes, 3, generator=torch.Generator().manual_seed(5))
        self.weight = nn.Parameter(20 * weight)
        self.sizes: list[int] = []

    def normalize(self, clips: torch.Tensor) -> torch.Tensor:
        assert clips.dtype == torch.uint8 and clips.dim() == 5
        return clips.float() / 255

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(clips))
        return clips.mean(dim=(2, 3, 4)) @ self.weight.T


def test_entries(sample_videos, damaged_videos):
    """8 videos of 2 classes, and between them two that cannot be read."""
    entries = read_manifest(sample_videos) + read_manifest(sample_videos, "val")
    bad = [Entry(str(damaged_videos["zeros.mp4"]), 1), Entry("/nowhere/gone.mp4", 0)]
    return [*entries[:3], bad[0], *entries[3:5], bad[1], *entries[5:]]


test_entries.__test__ = False
READ = [0, 1, 2, 4, 5, 7, 8, 9]


def views_of(entries, clips=2, crops=3):
    return ClipDataset(entries, 4, 3, 32, train=False, test_clips=clips, test_crops=crops)


def run(model, clips, **options):
    with evaluation(model, torch.device("cpu")):
        return classify(model, clips, **options)


def test_scores_are_the_mean_of_the_softmax_of_all_views(sample_videos, damaged_videos):
    entries = test_entries(sample_videos, damaged_videos)
    dataset, model = views_of(entries), ColourClassifier()
    result = run(model, EvaluationClips(dataset, batch_size=3), views_per_forward=5)
    assert max(model.sizes) == 5 and sum(model.sizes) == 8 * 6
    assert result.paths == [entries[index].path for index in READ]
    assert result.labels.tolist() == [entries[index].label for index in READ]
    assert result.scores.shape == (8, 7) and result.view_scores.shape == (8, 6, 7) and result.crops == 3
    for row, index in enumerate(READ):
        total = np.zeros(7)
        for view, clip in enumerate(dataset[(0, index)].clips):
            colour = np.array([channel.double().mean().item() / 255 for channel in clip])
            logits = model.weight.detach().double().numpy() @ colour
            share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            assert np.allclose(result.view_scores[row, view].numpy(), share, atol=1e-5)
            total += share / 6
        assert np.allclose(result.scores[row].numpy(), total, atol=1e-5)
        assert result.ranking[row].tolist() == np.argsort(-total)[:5].tolist()


@pytest.mark.parametrize(("num_workers", "batch_size"), [(0, 1), (2, 1), (2, 4)])
def test_nothing_is_shuffled_or_substituted(sample_videos, damaged_videos, num_workers, batch_size):
    entries = test_entries(sample_videos, damaged_videos)
    expected = run(ColourClassifier(), EvaluationClips(views_of(entries), batch_size=10))
    result = run(ColourClassifier(), EvaluationClips(views_of(entries), batch_size, num_workers))
    assert result.paths == expected.paths == [entries[index].path for index in READ]
    assert torch.allclose(result.view_scores, expected.view_scores, atol=1e-6)
    assert [(video.path, video.label) for video in result.unread] == [entries[3], entries[6]]
    assert all(video.reason for video in result.unread)
    backwards = run(ColourClassifier(), EvaluationClips(views_of(entries), 3, num_workers, indices=[9, 6, 0]))
    assert backwards.paths == [entries[9].path, entries[0].path]
    assert torch.allclose(backwards.scores, expected.scores[[7, 0]], atol=1e-6)


def by_hand(unreadable="leave_out", unread=()):
    """Four videos of classes 0, 0, 2, 3 out of 8, two views each."""
    scores = torch.full((4, 2, 8), 0.01)
    scores[0, :, 0] = torch.tensor([0.9, 0.2])  # right in both views
    scores[1, 0, 3], scores[1, 1, 0] = 0.9, 0.3  # view 1 is right, their mean is not
    scores[2, :, 5], scores[2, 0, 2] = 0.4, 0.5  # view 0 is right
    scores[3, :, 4:] = torch.tensor([0.5, 0.6, 0.7, 0.8])  # wrong: 7, 6, 5, 4, then 0 as the first of equals
    paths = ["a.mp4", "b, c.mp4", "d.mp4", "e.mp4"]
    labels = torch.tensor([0, 0, 2, 3])
    return ClassificationResult(paths, labels, scores.mean(1), scores, 2, tuple(unread), unreadable)


def test_measures_by_hand():
    result = by_hand()
    assert result.ranking[:, 0].tolist() == [0, 3, 5, 7] and result.ranking[3].tolist() == [7, 6, 5, 4, 0]
    values = result.metrics()
    losses = [-math.log(share) for share in (0.55, (0.01 + 0.3) / 2, (0.5 + 0.01) / 2, 0.01)]
    assert values == {
        "top1": 0.25,
        "top5": 0.75,
        "view_top1": 3 / 8 + 1 / 8,
        "class_mean_top1": pytest.approx((0.5 + 0 + 0) / 3),
        "loss": pytest.approx(sum(losses) / 4),
        "videos": 4,
        "unreadable": 0,
    }
    assert result.view_top1().tolist() == [0.5, 0.5]
    assert result.class_videos().tolist() == [2, 0, 1, 1, 0, 0, 0, 0]
    confusion = result.confusion()
    assert confusion.sum() == 4 and confusion[0, 0] == confusion[0, 3] == confusion[2, 5] == confusion[3, 7] == 1
    assert most_confused(result)[:4] == [(3, 1), (-1, 0), (5, 1), (7, 1)]


def test_unreadable_videos_are_left_out_or_wrong():
    unread = [UnreadVideo("x.mp4", 0, "no frame"), UnreadVideo("y.mp4", 6, "no such file")]
    left_out, wrong = by_hand("leave_out", unread).metrics(), by_hand("wrong", unread).metrics()
    assert left_out == by_hand().metrics() | {"unreadable": 2}
    assert wrong["videos"] == 6 and wrong["unreadable"] == 2 and wrong["loss"] == left_out["loss"]
    assert (wrong["top1"], wrong["top5"], wrong["view_top1"]) == pytest.approx((1 / 6, 3 / 6, 4 / 12))
    assert wrong["class_mean_top1"] == pytest.approx((1 / 3 + 0 + 0 + 0) / 4)
    with pytest.raises(ValueError, match="leave_out, wrong"):
        by_hand("substitute")


def test_few_classes_and_scores_without_views():
    result = ClassificationResult(["a"], torch.tensor([1]), torch.tensor([[0.5, 0.5]]), probabilities=False)
    assert result.metrics() == {"top1": 0.0, "class_mean_top1": 0.0, "videos": 1, "unreadable": 0}
    with pytest.raises(ValueError, match="no scores per view"):
        result.view_top1()


def test_the_evaluator(sample_videos, damaged_videos, tmp_path):
    entries = test_entries(sample_videos, damaged_videos)
    evaluator = ClassificationEvaluator(EvaluationClips(views_of(entries), 4), period=3, unreadable="wrong")
    monitor = Monitor(tmp_path, 8, 8, terminal=False)
    values = evaluator.evaluate(ColourClassifier(), 6, monitor)
    assert evaluator.name == "test" and evaluator.period == 3
    assert values == evaluator.result.metrics() and values["videos"] == 10 and values["unreadable"] == 2
    assert values["top1"] == evaluator.result.correct.sum().item() / 10
    monitor.open(0, 0)
    monitor.record_evaluation(evaluator.name, 6, values)
    monitor.close()
    assert json.loads((tmp_path / "evaluations.jsonl").read_text()) == {"step": 6, "evaluator": "test", **values}
    again = evaluator.evaluate(ColourClassifier(), 7, monitor)
    assert again == values, "a second evaluation starts anew"
    assert ClassificationEvaluator(evaluator.clips).period > 10**12, "only after the last step"
    for wrong in ({"unreadable": "replace"}, {"views_per_forward": 0}):
        with pytest.raises(ValueError):
            ClassificationEvaluator(evaluator.clips, **wrong)


def test_what_cannot_be_judged(sample_videos, damaged_videos):
    entries = read_manifest(sample_videos)
    unlabelled = [*entries[:2], Entry(entries[2].path, -1), *entries[3:]]
    with pytest.raises(RunError, match=r"clip_2.mp4 has no label.*1 of 6 videos"):
        run(ColourClassifier(), EvaluationClips(views_of(unlabelled), 2))
    with pytest.raises(RunError, match="clip_1.mp4 has label 1, but the model has the classes 0 to 0: 3 of 6"):
        run(ColourClassifier(1), EvaluationClips(views_of(entries), 2))
    with pytest.raises(RunError, match="none of 2 videos could be read; the first: .*zeros.mp4"):
        bad = test_entries(sample_videos, damaged_videos)
        run(ColourClassifier(), EvaluationClips(views_of(bad), 2, indices=[3, 6]))
    model = ColourClassifier()
    model.weight.data[:] = torch.nan
    with pytest.raises(RunError, match="not finite"):
        run(model, EvaluationClips(views_of(entries), 2))


# -------------------------------------------------------------------------------------------------------------- report


def rows_of(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


NAMES = ["run", "jump", "sit, slowly", "stand"]  # of eight classes: the others are called by their numbers


def test_report_files_hold_the_same_numbers(tmp_path):
    result = by_hand("wrong", [UnreadVideo("bad\udcff.mp4", 2, "no frame at all")])
    files = write_report(result, NAMES, tmp_path / "report")
    assert {file.name for file in files} == {file.name for file in (tmp_path / "report").iterdir()}
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics == result.metrics() | {"unreadable_videos_are": "wrong", "views": 2, "crops": 2}

    rows = rows_of(tmp_path / "report" / "predictions.csv")
    assert [row["path"] for row in rows] == [*result.paths, "bad\udcff.mp4"]
    read, (unread,) = rows[:4], rows[4:]
    assert [int(row["label"]) for row in read] == result.labels.tolist()
    assert [row["class"] for row in read] == ["run", "run", "sit, slowly", "stand"]
    assert [row["predicted_class"] for row in read] == ["run", "stand", "5", "7"]
    assert sum(int(row["correct"]) for row in read) / len(rows) == metrics["top1"]
    tops = [[int(number) for number in row["top5"].split()] for row in read]
    assert tops == result.ranking.tolist() and [int(row["predicted"]) for row in read] == [top[0] for top in tops]
    assert sum(int(row["label"]) in top for row, top in zip(read, tops, strict=True)) / len(rows) == metrics["top5"]
    assert torch.equal(torch.tensor([float(row["score"]) for row in read]), result.scores.max(1).values)
    assert unread["unreadable"] == "no frame at all" and unread["predicted"] == unread["correct"] == ""

    rows = rows_of(tmp_path / "report" / "per_class.csv")
    assert [int(row["videos"]) for row in rows] == [2, 0, 2, 1, 0, 0, 0, 0]
    shares = [float(row["top1"]) for row in rows if row["top1"]]
    assert sum(shares) / len(shares) == pytest.approx(metrics["class_mean_top1"], abs=1e-6)
    assert (rows[0]["most_often_taken_for"], rows[0]["times"]) == ("stand", "1")
    assert (rows[1]["top1"], rows[1]["most_often_taken_for"]) == ("", "")

    rows = rows_of(tmp_path / "report" / "views.csv")
    assert [(row["clip"], row["crop"]) for row in rows] == [("0", "0"), ("0", "1")]
    assert np.mean([float(row["top1"]) for row in rows]) == pytest.approx(metrics["view_top1"], abs=1e-6)
    with Image.open(tmp_path / "report" / "confusion.png") as picture:
        assert picture.width > 8 * 40 and picture.height > 8 * 40


def test_a_report_without_views_replaces_an_older_one(tmp_path):
    result = ClassificationResult(["a"], torch.tensor([1]), torch.tensor([[0.4, 0.6]]), probabilities=False)
    for _ in range(2):
        assert not [file for file in write_report(result, [], tmp_path) if file.name == "views.csv"]
    assert rows_of(tmp_path / "predictions.csv")[0]["predicted_class"] == "1"


def test_the_summary_says_what_counts():
    text = summary(by_hand("leave_out", [UnreadVideo("x.mp4", 0, "no frame")]), NAMES)
    assert text == (
        "4 videos, 1 clips x 2 crops each: top-1 25.00%, top-5 75.00%, mean over classes 16.67%, a single view 50.00%. "
        "1 more could not be read and are left out: x.mp4 ... Weakest: sit, slowly 0% (taken for 5), stand 0% (taken "
        "for 7), run 50% (taken for stand)."
    )
    perfect = ClassificationResult(["a"], torch.tensor([1]), torch.tensor([[0.4, 0.6]]))
    assert summary(perfect) == "1 videos: top-1 100.00%, mean over classes 100.00%."
