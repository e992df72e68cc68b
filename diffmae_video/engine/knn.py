"""Recognition without training: the labels of a video's nearest neighbours, by the features of a frozen encoder.

The weighted nearest-neighbour classifier of Wu et al. (arXiv 1805.01978), with the settings of DINO (arXiv 2104.14294):
the k training features of highest cosine similarity s vote for their classes, each with weight exp(s / temperature).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from diffmae_video.data import EvaluationClips
from diffmae_video.engine.classification import (
    ClassificationResult,
    check_labels,
    gather_rows,
    make_result,
    watched,
)
from diffmae_video.engine.errors import RunError
from diffmae_video.engine.evaluation import evaluation
from diffmae_video.engine.world import Peers
from diffmae_video.engine.wrapping import autocast


class Features(NamedTuple):
    """One vector for every video that could be read, in the order of the dataset, on the CPU."""

    features: torch.Tensor  # float32 (n, D)
    labels: torch.Tensor  # int64 (n,); -1 = none
    paths: list[str]  # n


def extract(
    model: nn.Module,
    clips: EvaluationClips,
    device: torch.device,
    precision: str = "bf16",
    views_per_forward: int = 32,
    peers: Peers | None = None,
) -> Features | None:
    """The features of all videos: the mean over a video's views of ``model.pooled(model.normalize(view))``.

    The mean is over features as the model gives them, as DINO's code does for several scales; :func:`knn_predict`
    then normalises it. The model's modes and the random state are afterwards as before.

    Args:
        model: on ``device``; ``pooled`` makes (B, D) of normalised clips (B, C, T, H, W).
        clips: the videos.
        device: of the model.
        precision: "bf16" or "fp32".
        views_per_forward: clips that go through the model at a time.
        peers: as of :func:`classification.classify`.

    Raises:
        RunError: no video could be read.
    """
    features, labels, paths = [], [], []
    with evaluation(model, device), autocast(precision, device):
        for batch in watched(clips, "extracted the features of"):
            parts = batch.clips.split(views_per_forward)
            own = torch.cat([model.pooled(model.normalize(views.to(device))).cpu() for views in parts])
            features.append(own.double().unflatten(0, (-1, clips.views)).mean(1).float())
            labels.append(batch.labels[:: clips.views])
            paths += batch.paths[:: clips.views]
    rows = gather_rows(peers, f"features of {clips.dataset.entry(0).path}", clips, (features, labels, paths))
    if rows is None:
        return None
    features, labels, paths = rows
    if not paths:
        raise RunError(f"none of {len(clips.unreadable)} videos could be read: {': '.join(clips.unreadable[0])}")
    return Features(torch.cat(features), torch.cat(labels), paths)


def knn_predict(
    train_features: torch.Tensor,
    train_labels: torch.Tensor,
    features: torch.Tensor,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int = 0,
    chunk: int = 1024,
) -> torch.Tensor:
    """Class scores by the k nearest neighbours.

    Args:
        train_features: float (n, D), of any length.
        train_labels: int64 (n,), in [0, num_classes).
        features: float (m, D), on the same device.
        k: neighbours, at most n.
        temperature: > 0; the smaller, the more the nearest ones count.
        num_classes: K; 0 = the largest label + 1.
        chunk: rows of ``features`` compared at a time, which takes chunk * n * 4 bytes.

    Returns:
        float32 (m, K): the votes, divided by their sum (which keeps exp from overflowing and changes no ranking).

    Raises:
        ValueError: a number out of its range, or shapes that do not fit.
    """
    num_classes = num_classes or int(train_labels.max()) + 1
    if train_features.shape[1:] != features.shape[1:] or len(train_features) != len(train_labels):
        shapes = tuple(train_features.shape), tuple(train_labels.shape), tuple(features.shape)
        raise ValueError(f"expected features (n, D), labels (n,) and features (m, D), got {shapes}")
    if not 1 <= k <= len(train_features):
        raise ValueError(f"{k} neighbours of {len(train_features)} training videos: choose 1 to {len(train_features)}")
    if temperature <= 0 or chunk < 1:
        raise ValueError(f"temperature must be above 0 and chunk at least 1, got {temperature} and {chunk}")
    if int(train_labels.min()) < 0 or int(train_labels.max()) >= num_classes:
        raise ValueError(f"training labels must be in 0 to {num_classes - 1}: every training video needs a label")
    train_features = F.normalize(train_features.float(), dim=1)
    scores = []
    for rows in F.normalize(features.float(), dim=1).split(chunk):
        similarity, nearest = (rows @ train_features.T).topk(k, dim=1)
        votes = (similarity / temperature).softmax(dim=1)
        empty = torch.zeros(len(rows), num_classes, device=rows.device)
        scores.append(empty.scatter_add_(1, train_labels[nearest], votes))
    return torch.cat(scores)


def knn_result(
    train: Features,
    test: Features,
    clips: EvaluationClips,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int = 0,
    unreadable: str = "leave_out",
    device: torch.device | str = "cpu",
) -> ClassificationResult:
    """The measures of a nearest-neighbour test; a report is written of it as of any other result.

    Args:
        train, test: what :func:`extract` gave.
        clips: those that ``test`` was extracted from, which know what could not be read.
        k, temperature, num_classes: see :func:`knn_predict`; 0 classes = as many as the training labels have.
        unreadable: "leave_out" or "wrong".
        device: where neighbours are looked for.

    Raises:
        RunError: a test label that no training video can have.
        ValueError: see :func:`knn_predict`.
    """
    num_classes = num_classes or int(train.labels.max()) + 1
    check_labels(clips, num_classes)
    known, labels, asked = (part.to(device) for part in (train.features, train.labels, test.features))
    scores = knn_predict(known, labels, asked, k, temperature, num_classes).cpu()
    return make_result(clips, unreadable, test.paths, [test.labels], [scores])
