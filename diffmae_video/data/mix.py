"""Several sources in one run: videos beside images, long clips beside short ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from diffmae_video.data.dataset import ClipDataset, ClipSample
from diffmae_video.data.manifest import Entry


class MixDataset(Dataset):
    """The clips of several datasets; those of the second have the indices after those of the first, and so on.

    Clips of different sources may have different lengths: ``MixSampler`` keeps them in different batches. A video
    that cannot be read is replaced by another one of its source.

    Args:
        sources: at least one; all give the same number of clips per draw.

    Raises:
        ValueError: no sources, or different numbers of clips per draw.
    """

    def __init__(self, sources: Sequence[ClipDataset]) -> None:
        if not sources:
            raise ValueError("a mix needs at least one source")
        if len({source.repeats for source in sources}) > 1:
            raise ValueError(f"sources of a mix differ in clips per draw: {[source.repeats for source in sources]}")
        self.sources = list(sources)
        self._ends = np.cumsum([len(source) for source in sources])

    @property
    def sizes(self) -> list[int]:
        """Number of videos of every source."""
        return [len(source) for source in self.sources]

    def __len__(self) -> int:
        """Number of videos of all sources."""
        return int(self._ends[-1])

    def entry(self, index: int) -> Entry:
        """Path and label of a video."""
        source, place = self._place(index)
        return source.entry(place)

    def __getitem__(self, draw_and_index: tuple[int, int]) -> ClipSample:
        """The clips of one draw; see ``ClipDataset``."""
        draw, index = draw_and_index
        source, place = self._place(index)
        return source[(draw, place)]

    def _place(self, index: int) -> tuple[ClipDataset, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of a mix of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.sources[number], index - int(self._ends[number]) + len(self.sources[number])
