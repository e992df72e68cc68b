"""Parts of a dataset: as many labelled videos per class as an experiment allows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diffmae_video.data.manifest import Entry
from diffmae_video.data.seeding import generator_from


def labelled_subset(entries: Sequence[Entry], per_class: int, seed: int) -> list[Entry]:
    """``per_class`` videos of every class, in the order in which ``entries`` has them.

    Every class draws from a permutation of its own, which depends on the seed, the class number and the class's videos
    alone: with one seed, the subset of 5 per class is part of that of 10, and no class changes another's.

    Args:
        entries: the labelled videos of a dataset.
        per_class: >= 1.
        seed: >= 0.

    Raises:
        ValueError: a class with fewer videos, a video without a label, or ``per_class`` below 1.
    """
    if per_class < 1:
        raise ValueError(f"a subset needs at least 1 video per class, got {per_class}")
    places: dict[int, list[int]] = {}
    for place, entry in enumerate(entries):
        if entry.label < 0:
            raise ValueError(f"{entry.path} has no label: a subset of labelled videos needs one for every video")
        places.setdefault(entry.label, []).append(place)
    short = {label: len(own) for label, own in sorted(places.items()) if len(own) < per_class}
    if short:
        label, count = next(iter(short.items()))
        raise ValueError(
            f"{per_class} labelled videos per class are asked for, but {len(short)} of {len(places)} classes have "
            f"fewer: class {label} has {count}"
        )
    chosen = []
    for label, own in places.items():
        order = torch.randperm(len(own), generator=generator_from(seed, label)).tolist()
        chosen += [own[number] for number in order[:per_class]]
    return [entries[place] for place in sorted(chosen)]
