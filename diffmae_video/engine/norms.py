"""How large the parameters are, and how much an optimiser step changes them.

Both as L2 norms of all trained parameters as one vector; docs/monitoring.md says what they tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from diffmae_video.engine.sharding import total_norm


def copies(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    """The parameters as they are now; of sharded ones this process's part."""
    return [parameter.detach().clone() for parameter in parameters]


def update_norms(parameters: Sequence[nn.Parameter], before: Sequence[torch.Tensor]) -> dict[str, float]:
    """``param_norm`` of the parameters, and ``update_norm`` of their change since ``before``, which is overwritten.

    Processes that share the parameters all call this and get the same.
    """
    values = [parameter.detach() for parameter in parameters]
    for old, value in zip(before, values, strict=True):
        old.sub_(value)  # its sign does not matter to a norm
    param_norm, update_norm = torch.stack([total_norm(values), total_norm(before)]).tolist()
    return {"param_norm": param_norm, "update_norm": update_norm}
