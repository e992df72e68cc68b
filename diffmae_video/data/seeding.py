"""Independent random generators from a few integers, the same on every machine and in every process."""

from __future__ import annotations

import numpy as np
import torch


def generator_from(*key: int) -> torch.Generator:
    """A CPU generator that depends on all of ``key`` (integers >= 0) and on nothing else.

    Neighbouring keys give unrelated generators, which plain sums such as seed + draw would not.
    """
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
