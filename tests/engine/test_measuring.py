"""Runs that measure: what they compute, and what stays in their folder."""

from __future__ import annotations

import csv
import json
import logging

import pytest
import torch

from diffmae_video.data import ClipDataset, Entry, EvaluationClips, read_manifest
from diffmae_video.engine import KnnRun, RunError, TestRun
from diffmae_video.models import SpaceTimeViT, VideoClassifier

CPU = torch.device("cpu")


@pytest.fixture
def model():
    torch.manual_seed(0)
    encoder = SpaceTimeViT((3, 4, 32, 32), (2, 16, 16), width=16, depth=2, heads=2, drop_path=0.9)
    return VideoClassifier(encoder, 3, dropout=0.9, init_std=1.0)


def views(entries, clips=1, crops=1, batch=4) -> EvaluationClips:
    return EvaluationClips(ClipDataset(entries, 4, 2, 32, train=False, test_clips=clips, test_crops=crops), batch)


def options(model, entries, folder, **more) -> dict:
    shared = {"model": model, "clips": views(entries), "class_names": ["right", "down"], "output_dir": folder}
    return shared | {"config_text": "SEED: 3\n", "device": CPU, "precision": "fp32", "unreadable": "leave_out"} | more


def knn_run(model, train, entries, folder, k=3, temperature=0.1, **more) -> KnnRun:
    return KnnRun(train_clips=views(train), k=k, temperature=temperature, **options(model, entries, folder, **more))


def clip_of(entry: Entry) -> torch.Tensor:
    """The clips (R, C, T, S, S) of one video as a float batch that a model takes: two of them."""
    dataset = ClipDataset([entry], 4, 2, 32, train=False, test_clips=2)
    return dataset[(0, 0)].clips.float() / 127.5 - 1


def records(folder, name="evaluations.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_test_is_the_mean_over_views_without_dropout_or_drop_path(model, sample_videos, tmp_path):
    entries = read_manifest(sample_videos)
    model.train()
    state = torch.get_rng_state()
    result = TestRun(**options(model, entries, tmp_path, clips=views(entries, clips=2))).run()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules()), "as it was before"
    assert result.paths == [entry.path for entry in entries]
    with torch.no_grad():
        expected = torch.stack([model.eval()(clip_of(entry)).softmax(-1).mean(0) for entry in entries])
    torch.testing.assert_close(result.scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision, exact", [("fp32", True), ("bf16", False)])
def test_precision_is_that_of_the_forward_pass(model, sample_videos, tmp_path, precision, exact):
    entries = read_manifest(sample_videos, "val")
    scores = [TestRun(**options(model, entries, tmp_path, precision=kind)).run().scores for kind in ("fp32", precision)]
    assert torch.equal(*scores) == exact
    torch.testing.assert_close(*scores, rtol=0.2, atol=0.1)


def test_neighbours_vote_by_the_features_of_the_model(model, sample_videos, tmp_path):
    train, entries = read_manifest(sample_videos), read_manifest(sample_videos, "val")
    clips = {"train_clips": views(train, clips=2), "clips": views(entries, clips=2)}
    result = KnnRun(k=3, temperature=0.1, **{**options(model, entries, tmp_path), **clips}).run()
    with torch.no_grad():
        known, asked = (
            torch.nn.functional.normalize(torch.stack([model.eval().pooled(clip_of(e)).mean(0) for e in part]), dim=1)
            for part in (train, entries)
        )
    expected = torch.zeros(2, 3)
    for row, similarity in zip(expected, asked @ known.T, strict=True):
        for index in similarity.argsort(descending=True)[:3]:
            row[train[index].label] += torch.exp(similarity[index] / 0.1)
    torch.testing.assert_close(result.scores, expected / expected.sum(1, keepdim=True), rtol=1e-3, atol=1e-4)
    assert result.num_classes == 3, "those of the model"


def test_more_neighbours_than_training_videos_are_all_of_them(model, sample_videos, tmp_path, caplog):
    train, entries = read_manifest(sample_videos), read_manifest(sample_videos, "val")
    with caplog.at_level(logging.INFO, "diffmae_video"):
        every = knn_run(model, train, entries, tmp_path, k=20).run()
    assert "KNN.K is 20, but there are 6 training videos: all of them vote" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "diffmae_video"):
        assert torch.equal(knn_run(model, train, entries, tmp_path, k=6).run().scores, every.scores)
    assert "KNN.K" not in caplog.text and "6 training videos vote; 6 videos, all readable" in caplog.text


def test_what_stays(model, sample_videos, tmp_path, caplog):
    entries = read_manifest(sample_videos, "val")
    line = '{"step": 5000, "evaluator": "test", "top1": 0.5}\n'
    (tmp_path / "evaluations.jsonl").write_text(line)
    with caplog.at_level(logging.INFO, "diffmae_video"):
        result = TestRun(**options(model, entries, tmp_path, description=["weights: a, b"])).run()
    knn_run(model, entries, entries, tmp_path).run()
    assert (tmp_path / "evaluations.jsonl").read_text().startswith(line), "what training wrote is kept"
    _, tested, neighbours = records(tmp_path)
    assert tested == {"step": 0, "evaluator": "test", **result.metrics()}
    assert neighbours["evaluator"] == "knn" and "loss" not in neighbours
    for name in ("test", "knn"):
        assert (tmp_path / name / "config.yaml").read_text() == "SEED: 3\n"
        with (tmp_path / name / "predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [(row["path"], row["class"]) for row in rows] == [
            (entries[0].path, "right"),
            (entries[1].path, "down"),
        ]
    assert not (tmp_path / "config.yaml").exists(), "that of the folder is its training's"
    text = caplog.text
    for said in (f"output: {tmp_path}", "weights: a, b", "test of 2 videos, 1 clips x 1 crops each, fp32 on cpu"):
        assert said in text
    assert "top-1" in text and str(tmp_path / "test") in text


def test_nothing_is_written_where_nothing_can_be_read(model, sample_videos, damaged_videos, tmp_path):
    broken = [Entry(str(damaged_videos["text.mp4"]), 0)]
    for run in (
        TestRun(**options(model, broken, tmp_path)),
        knn_run(model, broken, read_manifest(sample_videos, "val"), tmp_path),
        knn_run(model, read_manifest(sample_videos), broken, tmp_path),
    ):
        with pytest.raises(RunError, match=r"none of 1 videos could be read.*text\.mp4"):
            run.run()
    assert not list(tmp_path.iterdir())


def test_unread_videos_are_wrong_where_asked(model, sample_videos, damaged_videos, tmp_path):
    entries = [*read_manifest(sample_videos, "val"), Entry(str(damaged_videos["zeros.mp4"]), 1)]
    result = TestRun(**options(model, entries, tmp_path, unreadable="wrong")).run()
    assert result.counted == 3 and len(result.unread) == 1
    (record,) = records(tmp_path)
    assert (record["videos"], record["unreadable"]) == (3, 1)
    assert record["top1"] == result.correct.sum().item() / 3
