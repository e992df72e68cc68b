"""Seeds derived from what is being computed, not from what was computed before.

A generator that is carried along would have to be restored to the bit, and its state would depend on batch size, number
of processes and evaluations in between. Seeds here are a function of (run seed, clip) or (run seed, step) alone, so a
resumed run, or one on another number of processes, draws the same numbers.

Mixing: the first 8 bytes of BLAKE2b over the purpose's name and the integers (64-bit little-endian). Neighbouring
integers give unrelated seeds, and the purposes cannot collide.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import torch


def mix(purpose: str, *integers: int) -> int:
    """A seed in [0, 2**63) from a purpose and integers in [-2**63, 2**63)."""
    message = purpose.encode() + b"\0" + struct.pack(f"<{len(integers)}q", *integers)
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little") >> 1


def clip_generators(
    seed: int, clip_ids: Sequence[int] | torch.Tensor, device: torch.device | str = "cpu"
) -> list[torch.Generator]:
    """One generator per clip, for its mask, timestep and noise.

    Args:
        seed: of the run.
        clip_ids: (B,) integers; the same id always gives the same generator.
        device: where the generators live (that of the tensors they fill).
    """
    ids = clip_ids.tolist() if isinstance(clip_ids, torch.Tensor) else clip_ids
    return [torch.Generator(device).manual_seed(mix("clip", seed, clip_id)) for clip_id in ids]


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seeds torch's global generators for one optimiser step: what layers such as drop path draw from."""
    torch.manual_seed(mix("step", seed, step, rank))


def shared_generator(seed: int, step: int, micro_batch: int) -> torch.Generator:
    """A generator on the CPU for what all clips of a micro-batch share, in every process the same.

    It is not a function of the clips: another number of micro-batches puts other clips together.

    Args:
        seed: of the run.
        step: number of the optimiser step.
        micro_batch: number of the micro-batch in it.
    """
    return torch.Generator().manual_seed(mix("micro-batch", seed, step, micro_batch))
