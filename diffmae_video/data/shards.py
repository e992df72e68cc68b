"""Folders of tar shards (WebDataset layout) as a list of videos, and the order in which to read them.

``read_shards`` gives entries whose paths are those of packed files (``diffmae_video.data.packed``), so that everything
that reads files reads shards. What a shard holds is written in the folder's ``index.json`` (by
``datasets/write_shards.py``) or found once by reading the headers of its members.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from diffmae_video.data.manifests.common import MEDIA_EXTENSIONS, SPLIT_NAMES, Entry, split_names
from diffmae_video.data.packed import packed_path, shard_of
from diffmae_video.data.shard_index import (
    INDEX,
    SCANNED_INDEX,
    Shard,
    ShardError,
    is_index,
    read_index,
    scan_folder,
    scan_shard,
)

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

UNFINISHED = "write_shards.unfinished"  # stands in the folder while its shards are being written
NAMED = 5  # files named in an error; the others are counted


def is_shard_folder(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an index of shards, or tar files directly in it, and so is one for ``read_shards``."""
    folder = Path(folder)
    if (folder / UNFINISHED).exists() or (folder / SCANNED_INDEX).exists() or is_index(folder / INDEX):
        return True
    return any(folder.glob("*.tar"))


def shard_folder(folder: Path, split: str) -> Path | None:
    """Where the shards of a split are: in the folder of its name, else in ``folder`` itself; None = nowhere."""
    places = [*(folder / name for name in split_names(split)), folder]
    return next((place for place in places if is_shard_folder(place)), None)


def read_shards(path: str | os.PathLike[str], split: str = "train") -> list[Entry]:
    """The samples of a folder of shards, in the order of the shards and of the samples in them.

    Args:
        path: a folder of tar shards; a folder that holds one such folder per split; or one ``.tar`` file. Where names
            of shards contain a split (``imagenet-train-000000.tar``), only those of ``split`` are read.
        split: "train", "val", "test", ...

    Raises:
        FileNotFoundError: a shard that ``index.json`` lists is missing, or there is none of this split.
        ShardError: an unfinished folder, a damaged index, a shard that is not the one in the index, no sample.
    """
    path = Path(path)
    if path.is_file():
        folder, shards = path.parent, [scan_shard(path)]
    else:
        folder = shard_folder(path, split) or path
        shards = _of_split(load_shards(folder), split, folder)
    entries = [
        Entry(packed_path(folder / shard.name, offset, size, f"{key}.{ext}"), label)
        for shard in shards
        for key, ext, offset, size, label in zip(
            shard.key, shard.ext, shard.offset, shard.bytes, shard.label, strict=True
        )
    ]
    if not entries:
        raise ShardError(f"the shards in {folder} hold no video or image ({' '.join(MEDIA_EXTENSIONS)})")
    return entries


def load_shards(folder: Path) -> list[Shard]:
    """All shards of a folder, by name; see ``read_shards`` for what it raises."""
    if (folder / UNFINISHED).exists():
        raise ShardError(f"{folder} is unfinished: run the same datasets/write_shards.py command again to complete it")
    if (folder / INDEX).is_file():
        shards = read_index(folder / INDEX)
        _check_listed(folder, shards)
        return shards
    return scan_folder(folder)


def _check_listed(folder: Path, shards: Sequence[Shard]) -> None:
    """All shards of an index are there and none besides; a truncated one is only reported, most of it is readable."""
    sizes = {file.name: file.stat().st_size for file in folder.glob("*.tar")}
    missing = [shard.name for shard in shards if shard.name not in sizes]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of the {len(shards)} shards that its {INDEX} lists: {_some(missing)}; copy "
            "them again, or write them again with datasets/write_shards.py"
        )
    if unlisted := sorted(sizes.keys() - {shard.name for shard in shards}):
        raise ShardError(
            f"{folder} holds {len(unlisted)} shards that its {INDEX} does not list: {_some(unlisted)}; move them away, "
            f"or remove {INDEX} to have every shard read"
        )
    longer = [shard.name for shard in shards if sizes[shard.name] > shard.size]
    if longer:
        raise ShardError(f"not the shards that {folder / INDEX} describes: {_some(longer)}; copy the folder again")
    for shard in shards:
        if sizes[shard.name] < shard.size:
            lost = sum(o + b > sizes[shard.name] for o, b in zip(shard.offset, shard.bytes, strict=True))
            logger.warning(
                "%s is truncated (%d of %d bytes): %d of its %d samples cannot be read and will be counted as "
                "unreadable; copy it again",
                folder / shard.name, sizes[shard.name], shard.size, lost, len(shard),
            )  # fmt: skip


def _of_split(shards: list[Shard], split: str, folder: Path) -> list[Shard]:
    splits = {shard.name: _named_split(shard.name) for shard in shards}
    if not any(splits.values()):
        return shards
    chosen = [shard for shard in shards if splits[shard.name] == split]
    if not chosen:
        raise FileNotFoundError(
            f"{folder} has no shards of the split {split!r}, only of {', '.join(sorted(set(splits.values()) - {''}))}"
        )
    return chosen


def _named_split(name: str) -> str:
    """ "val" for ``imagenet-validation-000000.tar``; "" where no part of the name is that of a split."""
    parts = re.split(r"[-_.]", name.lower())
    return next((split for part in parts for split, names in SPLIT_NAMES.items() if part in names), "")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


class ShardOrder:
    """The order of an epoch that reads shards mostly one after the other.

    The shards are permuted; each ``window`` consecutive ones are then taken together and their samples permuted. So
    at any time only ``window`` shards are being read, by all processes together, and yet every sample comes exactly
    once per epoch. A function of (seed, epoch) alone, for ``DrawSampler(order=...)``.

    Args:
        sizes: samples of every shard, >= 1 each.
        seed: >= 0.
        window: shards whose samples are mixed, >= 1.
    """

    def __init__(self, sizes: Sequence[int], seed: int, window: int) -> None:
        if window < 1 or not sizes or min(sizes) < 1:
            raise ValueError(f"a shuffle window of {window} over {len(sizes)} shards: both must be at least 1")
        import torch  # here, because reading a list needs no torch

        self._sizes = torch.tensor(sizes)
        self._starts = self._sizes.cumsum(0) - self._sizes
        self._seed = seed
        self._window = window

    def __call__(self, epoch: int) -> torch.Tensor:
        """A permutation of all samples, int64 (sum of sizes,)."""
        import torch

        from diffmae_video.data.seeding import generator_from

        generator = generator_from(self._seed, epoch)
        shards = torch.randperm(len(self._sizes), generator=generator)
        parts = []
        for window in shards.split(self._window):
            samples = torch.cat([self._starts[shard] + torch.arange(self._sizes[shard]) for shard in window])
            parts.append(samples[torch.randperm(len(samples), generator=generator)])
        return torch.cat(parts)


class _Listed(Protocol):
    """What knows its videos by number: a ``ClipDataset``."""

    def __len__(self) -> int: ...

    def entry(self, index: int) -> Entry: ...


def shard_order(videos: _Listed, seed: int, window: int) -> ShardOrder | None:
    """The ``ShardOrder`` of a dataset; None if none of its videos lies in a shard.

    Ordinary files that stand together in a mixed list count as one shard.
    """
    shards = (shard_of(videos.entry(index).path) for index in range(len(videos)))
    groups = [(shard, sum(1 for _ in group)) for shard, group in groupby(shards)]
    if not any(shard for shard, _ in groups):
        return None
    return ShardOrder([size for _, size in groups], seed, window)
