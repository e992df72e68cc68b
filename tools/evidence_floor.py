"""The floor of ``evidence.py``: what a linear classifier on raw pixels recognises, from the same labels.

Frames, one out of each part of a video, as grey pictures of 16 x 16 -> every video's brightness and contrast made equal
-> principal components of all unlabelled training videos -> multinomial logistic regression.

Its settings are the best of a few on the test videos of MIRACL-VC1: chosen in favour of the floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from diffmae_video.data import ClipDataset, Entry, EvaluationClips, labelled_subset, read_manifest

KINDS = ("whole", "moving")
FRAMES, SIZE = 8, 16
COMPONENTS = 150
PENALTY = 10.0  # of the squared weights, beside the sum of the losses of all videos
BATCH = 64


def read_pixels(entries: Sequence[Entry], kind: str, frames: int = FRAMES, size: int = SIZE) -> torch.Tensor:
    """Grey values of every video with mean 0 and standard deviation 1; float64 (n, frames * size * size).

    Args:
        kind: "whole", or "moving": without the mean over the frames, which is the person and the place.

    Raises:
        ValueError: a video that cannot be read, or an unknown ``kind``.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    dataset = ClipDataset(entries, frames, 1, size, train=False, sampling="segment", fit="stretch")
    clips = EvaluationClips(dataset, BATCH)
    grey = [batch.clips.double().mean(1) / 255 for batch in clips]  # (B, T, S, S)
    if clips.unreadable:
        raise ValueError(f"{len(clips.unreadable)} videos cannot be read, such as {': '.join(clips.unreadable[0])}")
    pixels = torch.cat(grey)
    if kind == "moving":
        pixels = pixels - pixels.mean(1, keepdim=True)
    pixels = pixels.flatten(1)
    pixels = pixels - pixels.mean(1, keepdim=True)
    return pixels / pixels.std(1, keepdim=True).clamp_min(1e-3)


@dataclass(frozen=True)
class Components:
    """Principal components, by which pixels (n, D) become features (n, C).

    Their variances stay different, since the weak ones are mostly noise; the mean of the variances is 1.
    """

    mean: torch.Tensor  # (D,)
    directions: torch.Tensor  # (D, C)

    @classmethod
    def fit(cls, pixels: torch.Tensor, count: int = COMPONENTS) -> Components:
        """The ``count`` strongest components of pixels (n, D), or as many as there are."""
        mean = pixels.mean(0)
        _, values, directions = torch.linalg.svd(pixels - mean, full_matrices=False)
        variances = values[:count].square() / max(len(pixels) - 1, 1)
        return cls(mean, directions[:count].T / variances.mean().sqrt())

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - self.mean) @ self.directions


def logistic_regression(
    features: torch.Tensor, labels: torch.Tensor, num_classes: int, penalty: float = PENALTY
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (C, K) and biases (K,) that minimise sum(cross-entropy) + penalty / 2 * |weights|^2, by L-BFGS.

    Args:
        features: (n, C).
        labels: int64 (n,), in [0, num_classes).
    """
    weights = features.new_zeros(features.shape[1], num_classes, requires_grad=True)
    biases = features.new_zeros(num_classes, requires_grad=True)
    options = {"max_iter": 500, "tolerance_grad": 1e-6, "tolerance_change": 1e-10, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([weights, biases], **options)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        fit = functional.cross_entropy(features @ weights + biases, labels, reduction="sum")
        value = fit + penalty / 2 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach(), biases.detach()


def floor(lists: Path, kind: str, test_split: str, counts: Sequence[int], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Accuracies of the classifier on pixels: a record of labels (0 = all), seed and top1 for every count and seed.

    The labelled videos are those that a run of the same count and seed gets.

    Args:
        lists: folder of a study's lists; see ``evidence_lists.py``.
        kind: of pixels; see :func:`read_pixels`.
        test_split: what is judged.
        counts: labels per class; 0 = all.
        seeds: of the choice.
    """
    unlabelled = read_manifest(lists / "unlabelled")
    train, test = (read_manifest(lists / "labelled", split) for split in ("train", test_split))
    pixels = read_pixels(unlabelled, kind)
    components = Components.fit(pixels)
    place = {entry.path: number for number, entry in enumerate(unlabelled)}
    features, test_features = components(pixels), components(read_pixels(test, kind))
    truth = torch.tensor([entry.label for entry in test])
    num_classes = 1 + max(entry.label for entry in (*train, *test))
    results = []
    for count in counts:
        for seed in seeds:
            chosen = labelled_subset(train, count, seed) if count else train
            own = features[[place[entry.path] for entry in chosen]]
            labels = torch.tensor([entry.label for entry in chosen])
            weights, biases = logistic_regression(own, labels, num_classes)
            top1 = ((test_features @ weights + biases).argmax(1) == truth).double().mean().item()
            results.append({"labels": count, "seed": seed, "top1": top1, "videos": len(test)})
    return results
