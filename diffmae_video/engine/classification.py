"""How well a classifier recognises the videos of a test set: every view by itself, and the mean of a video's views.

The scores of a video are the mean of the softmax of its K x S views, as in the published tests (MAE-ST, VideoMAE). No
video is ever replaced or shuffled; one that cannot be read is reported, and left out or counted as wrong by choice.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from diffmae_video.data import ClipBatch, EvaluationClips
from diffmae_video.engine.errors import RunError
from diffmae_video.engine.monitor import Monitor
from diffmae_video.engine.world import Peers

logger = logging.getLogger(__name__)

UNREADABLE = ("leave_out", "wrong")
TOP = 5
PROGRESS_SECONDS = 30  # between two log lines of a long test


class UnreadVideo(NamedTuple):
    """A video of the test set that could not be read."""

    path: str
    label: int
    reason: str


@dataclass(frozen=True)
class ClassificationResult:
    """What was predicted for V videos of K classes from R views each, in the order of the test set.

    Attributes:
        paths: V.
        labels: int64 (V,).
        scores: float32 (V, K), the larger the likelier.
        view_scores: float32 (V, R, K), view k * S + s from crop s of clip k; None where views were not scored.
        crops: S.
        unread: the videos that could not be read; no part of V.
        unreadable: what becomes of them in the measures: "leave_out", or "wrong".
        probabilities: whether scores are a network's class probabilities, of which there is a ``loss``.
    """

    paths: list[str]
    labels: torch.Tensor
    scores: torch.Tensor
    view_scores: torch.Tensor | None = None
    crops: int = 1
    unread: tuple[UnreadVideo, ...] = ()
    unreadable: str = "leave_out"
    probabilities: bool = True

    def __post_init__(self) -> None:
        if self.unreadable not in UNREADABLE:
            raise ValueError(f"unknown choice {self.unreadable!r}: choose one of {', '.join(UNREADABLE)}")
        if not len(self.paths) == len(self.labels) == len(self.scores):
            raise ValueError(
                f"{len(self.paths)} paths, {len(self.labels)} labels and {len(self.scores)} rows of scores"
            )

    @property
    def num_classes(self) -> int:
        return self.scores.shape[1]

    @property
    def counted(self) -> int:
        """Videos that the measures are over."""
        return len(self.paths) + (len(self.unread) if self.unreadable == "wrong" else 0)

    @cached_property
    def ranking(self) -> torch.Tensor:
        """The likeliest classes of every video, at most 5, the first one first; int64 (V, min(5, K)).

        Of classes with the same score, the one with the lower number comes first.
        """
        return self.scores.argsort(dim=-1, descending=True, stable=True)[:, :TOP]

    @property
    def correct(self) -> torch.Tensor:
        """bool (V,)"""
        return self.ranking[:, 0] == self.labels

    def confusion(self) -> torch.Tensor:
        """int64 (K, K): how many videos of class i (row) were taken for class j (column); unread ones are in none."""
        cells = self.labels * self.num_classes + self.ranking[:, 0]
        return torch.bincount(cells, minlength=self.num_classes**2).reshape(self.num_classes, self.num_classes)

    def class_videos(self) -> torch.Tensor:
        """Videos of every class that the measures are over; int64 (K,)."""
        counts = torch.bincount(self.labels, minlength=self.num_classes)
        if self.unreadable == "wrong" and self.unread:
            counts += torch.bincount(torch.tensor([video.label for video in self.unread]), minlength=self.num_classes)
        return counts

    def class_top1(self) -> torch.Tensor:
        """Accuracy of every class; float64 (K,), NaN for a class without a video."""
        return self.confusion().diagonal().double() / self.class_videos()

    def view_top1(self) -> torch.Tensor:
        """Accuracy of every view by itself, over the videos; float64 (R,)."""
        if self.view_scores is None:
            raise ValueError("these videos have no scores per view")
        correct = self.view_scores.argmax(-1) == self.labels[:, None]  # of equal scores the first, as in the ranking
        return correct.sum(0).double() / self.counted

    def metrics(self) -> dict[str, float]:
        """Accuracies in [0, 1], and how many videos they are over.

        ``top1``; ``top5`` of more than 5 classes; ``view_top1``, the mean accuracy of single views;
        ``class_mean_top1``, the mean over the classes that have videos; ``loss``, the mean of -ln(score of the label)
        over the videos that were read; ``videos`` and ``unreadable``, counts.
        """
        values = {"top1": self.correct.sum().item() / self.counted}
        if self.num_classes > TOP:
            values["top5"] = (self.ranking == self.labels[:, None]).sum().item() / self.counted
        if self.view_scores is not None:
            values["view_top1"] = self.view_top1().mean().item()
        values["class_mean_top1"] = self.class_top1().nanmean().item()
        if self.probabilities:
            own = self.scores.double().gather(1, self.labels[:, None])
            values["loss"] = -own.clamp_min(torch.finfo(torch.float32).tiny).log().mean().item()
        return values | {"videos": self.counted, "unreadable": len(self.unread)}


def classify(
    model: nn.Module,
    clips: EvaluationClips,
    views_per_forward: int = 32,
    unreadable: str = "leave_out",
    peers: Peers | None = None,
) -> ClassificationResult | None:
    """The classes of all videos. Call it inside ``engine.evaluation.evaluation`` and ``autocast``, as the trainer does.

    Args:
        model: ``model(model.normalize(uint8 (B, C, T, H, W)))`` gives class scores before the softmax, (B, K).
        clips: the test set.
        views_per_forward: clips that go through the model at a time: what bounds its memory.
        unreadable: "leave_out" or "wrong".
        peers: the processes that measure together, each with its own part of the videos: the first one gets the result
            of all, the others None. None = this one alone.

    Raises:
        RunError: labels that the model does not have, no video that can be read, or scores that are not finite.
    """
    device = next(model.parameters()).device
    paths: list[str] = []
    labels, scores, view_scores = [], [], []
    for batch in watched(clips, "tested"):
        logits = [model(model.normalize(views.to(device))).cpu() for views in batch.clips.split(views_per_forward)]
        own = torch.cat(logits).double().softmax(-1).unflatten(0, (-1, clips.views))  # (B, R, K)
        if not own.isfinite().all():
            raise RunError(f"the model gives scores that are not finite, in {batch.paths[0]} or the videos after it")
        if not paths:
            check_labels(clips, own.shape[-1])
        paths += batch.paths[:: clips.views]
        labels.append(batch.labels[:: clips.views])
        scores.append(own.mean(1).float())
        view_scores.append(own.float())
    rows = gather_rows(peers, "classified videos", clips, (paths, labels, scores, view_scores))
    return None if rows is None else make_result(clips, unreadable, *rows)


def gather_rows(
    peers: Peers | None, name: str, clips: EvaluationClips, rows: tuple[list, ...]
) -> tuple[list, ...] | None:
    """Lists with what this process made of its part of the videos -> those of all, on the first process; else None.

    ``clips`` of the first process then accounts for all videos, too. ``name``: what the rows are.
    """
    parts = [(rows, clips.account())] if peers is None else peers.gather(name, (rows, clips.account()))
    if parts is None:
        return None
    clips.join([account for _, account in parts])
    return tuple(sum(lists, []) for lists in zip(*(own for own, _ in parts), strict=True))


def make_result(
    clips: EvaluationClips,
    unreadable: str,
    paths: list[str],
    labels: list[torch.Tensor],
    scores: list[torch.Tensor],
    view_scores: list[torch.Tensor] | None = None,
) -> ClassificationResult:
    """The result for the videos that ``clips`` has just given, in parts, with those that it could not give.

    Raises:
        RunError: no video could be read.
    """
    entries = [clips.dataset.entry(index) for index in clips.unreadable_indices]
    unread = tuple(
        UnreadVideo(path, entry.label, " ".join(reason.split()))
        for (path, reason), entry in zip(clips.unreadable, entries, strict=True)
    )
    if not paths:
        raise RunError(f"none of {len(unread)} videos could be read; the first: {unread[0].path}: {unread[0].reason}")
    return ClassificationResult(
        paths,
        torch.cat(labels),
        torch.cat(scores),
        torch.cat(view_scores) if view_scores else None,
        clips.dataset.test_crops,
        unread,
        unreadable,
        probabilities=view_scores is not None,
    )


def check_labels(clips: EvaluationClips, num_classes: int) -> None:
    """Raises ``RunError`` if a video has no label, or one that ``num_classes`` classes do not have."""
    labels = clips.dataset.labels[np.asarray(clips.indices)]
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        path, label = clips.dataset.entry(clips.indices[wrong[0]])
        what = "no label" if label < 0 else f"label {label}"
        raise RunError(
            f"{path} has {what}, but the model has the classes 0 to {num_classes - 1}: {len(wrong)} of {len(labels)} "
            "videos cannot be judged. Test it on a labelled list of the classes it was trained on"
        )


def watched(clips: EvaluationClips, what: str) -> Iterator[ClipBatch]:
    """The batches of ``clips``; a log line now and then says how many videos were dealt with."""
    reported = time.monotonic()
    for batch in clips:
        yield batch
        if time.monotonic() - reported > PROGRESS_SECONDS:
            reported = time.monotonic()
            logger.info("%s %d of %d videos", what, clips.read + len(clips.unreadable), len(clips.indices))


class ClassificationEvaluator:
    """Measures a classifier on a test set while it trains; see ``evaluation.py`` for what an evaluator is.

    Args:
        clips: the test set.
        period: optimiser steps between two evaluations; 0 = only after the last one.
        name: of the evaluation in the log.
        views_per_forward: see :func:`classify`.
        unreadable: "leave_out" or "wrong": what becomes of videos that cannot be read.

    Attributes:
        result: the ``ClassificationResult`` of the last evaluation; None before the first.

    Raises:
        ValueError: an unknown choice for ``unreadable``, or ``views_per_forward`` below 1.
    """

    def __init__(
        self,
        clips: EvaluationClips,
        period: int = 0,
        name: str = "test",
        views_per_forward: int = 32,
        unreadable: str = "leave_out",
    ):
        if unreadable not in UNREADABLE:
            raise ValueError(f"unknown choice {unreadable!r}: choose one of {', '.join(UNREADABLE)}")
        if views_per_forward < 1:
            raise ValueError(f"views_per_forward must be at least 1, got {views_per_forward}")
        self.clips, self.name = clips, name
        self.period = period or sys.maxsize
        self.views_per_forward, self.unreadable = views_per_forward, unreadable
        self.result: ClassificationResult | None = None

    def evaluate(self, model: nn.Module, step: int, monitor: Monitor | None) -> dict[str, float]:
        """See :meth:`ClassificationResult.metrics`; raises what :func:`classify` raises."""
        self.result = classify(model, self.clips, self.views_per_forward, self.unreadable)
        return self.result.metrics()
