"""Estimates the memory of training on every GPU, without one, and how many clips fit.

    python tools/estimate_memory.py --cfg configs/K400/ViT_H.yaml [more.yaml ...] [KEY VALUE ...]
        [--cards 8 64] [--batch 16 32] [--gib 80] [--spare 0.1]

Counts parameters, and what one training step makes on tensors without values, with activation checkpointing and
without, under DDP (which is also what one GPU needs) and under FSDP over several numbers of cards. First the count is
compared with what a small model really takes on this CPU. Nothing of it was ever measured on a GPU: docs/scaling.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # of torch's profiler, which reports its start and end otherwise

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

GIB = 2**30
# Bytes of an optimiser's state for every trained parameter: AdamW has two moments, the others one.
MOMENTS = {"adamw": 8, "sgd": 4, "lars": 4}
SMALL = (
    "DATA.CROP_SIZE 96 DATA.NUM_FRAMES 8 MODEL.ENCODER.SIZE tiny MODEL.DECODER.WIDTH 128 MODEL.DECODER.HEADS 4 "
    "MODEL.DECODER.DEPTH 4 MASK.RATIO 0.75 TRAIN.PRECISION bf16"
)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cfg", nargs="+", required=True, metavar="FILE", help="YAML files, then KEY VALUE pairs that override them"
    )
    parser.add_argument("--cards", nargs="+", type=int, default=[8, 64], help="of FSDP (default 8 64)")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16], help="clips of a micro-batch on each card")
    parser.add_argument("--gib", type=float, default=80.0, help="memory of a card in GiB (default 80)")
    parser.add_argument("--spare", type=float, default=0.1, help="share of it that is not planned with (default 0.1)")
    parsed = parser.parse_args(arguments)
    if min(parsed.batch) < 1 or min(parsed.cards) < 2 or parsed.gib <= 0 or not 0 <= parsed.spare < 1:
        parser.error("--batch must be at least 1, --cards at least 2, --gib above 0 and --spare in [0, 1)")
    is_file = [item.endswith((".yaml", ".yml")) for item in parsed.cfg] + [False]
    first = is_file.index(False)
    parsed.files, parsed.overrides = parsed.cfg[:first], parsed.cfg[first:]
    return parsed


@dataclass(frozen=True)
class Estimate:
    """Bytes on one card.

    Attributes:
        state: weights, gradients, what the optimiser keeps, the average.
        working: whole weights and gradients of the blocks that compute (FSDP), copies of weights (autocast).
        per_clip: what a clip adds at the worst moment.
    """

    state: float
    working: float
    per_clip: float

    def total(self, batch: int) -> float:
        return self.state + self.working + batch * self.per_clip

    def largest_batch(self, room: float) -> int:
        """The most clips that fit into ``room`` bytes; 0 = not even one."""
        return max(math.floor((room - self.state - self.working) / self.per_clip), 0)


def estimate(sizes, moments: int, average: bool, cards: int = 1, sharded: bool = False, bf16: bool = False) -> Estimate:
    """From what ``memory_tracking.measure`` counted; everything is kept in float32.

    Args:
        sizes: of ``measure``, for the same wrapping.
        moments: bytes of optimiser state per trained parameter.
        average: whether there is a moving average of the weights.
        cards, sharded: FSDP over so many; else every card has everything.
        bf16: whole blocks of FSDP are bfloat16.
    """
    state = 4 * sizes.parameters + (4 + moments + 4 * average) * sizes.trained
    if not sharded:
        return Estimate(state + sizes.buffers, sizes.fixed, sizes.per_clip)
    # Whole at a time: what is outside of the blocks with its gradient; the block that computes and the next one, which
    # is on its way; the gradient of one block, and a float32 copy of it that is summed.
    block = sizes.block * (3 * (2 if bf16 else 4) + 4)
    return Estimate(state / cards + sizes.buffers, sizes.fixed + 8 * sizes.outside + block, sizes.per_clip)


def report(options: argparse.Namespace) -> list[str]:
    """Lines: how well counting works here, the model, the table."""
    from diffmae_video.benchmarking import format_table
    from diffmae_video.config import ConfigError, load_config

    cfg = load_config(options.files, options.overrides)
    if cfg.TASK in ("test", "knn", "inpaint_eval"):
        raise ConfigError(f"TASK is {cfg.TASK!r}, which trains nothing: there is no training step to estimate")
    header = ["parallel", "checkpointing", "state GiB", "working GiB", "kept MiB/clip", "peak MiB/clip"]
    header += [*(f"GiB at {batch}" for batch in options.batch), f"clips in {options.gib:g} GiB"]
    rows, trained = _rows(cfg, options)
    average = ", averaged weights" if cfg.TRAIN.EMA_DECAY else ""
    return [
        *_check_lines(),
        f"{trained / 1e6:.1f} M trained parameters, {cfg.TRAIN.PRECISION}, {cfg.SOLVER.OPTIMIZER}{average}; "
        f"{options.spare:.0%} of a card is left free",
        "",
        format_table(header, rows),
    ]


def _rows(cfg, options: argparse.Namespace) -> tuple[list[list[object]], int]:
    """The rows of the table, and the number of trained parameters."""
    from memory_tracking import measure

    from diffmae_video.engine.wrapping import WrapPlan

    bf16, room = cfg.TRAIN.PRECISION == "bf16", options.gib * GIB * (1 - options.spare)
    moments, average = MOMENTS[cfg.SOLVER.OPTIMIZER], cfg.TRAIN.EMA_DECAY > 0
    rows = []
    for checkpointing, parallel in (("none", "ddp"), ("none", "fsdp"), ("full", "ddp"), ("full", "fsdp")):
        sharded = parallel == "fsdp"
        plan = WrapPlan(checkpointing, parallel=parallel, fsdp_precision="bf16" if bf16 and sharded else "fp32")
        sizes = measure(cfg, plan, sharded)
        for cards in options.cards if sharded else [1]:
            figures = estimate(sizes, moments, average, cards, sharded, bf16)
            rows.append(
                [
                    f"FSDP over {cards}" if sharded else "one card, or DDP",
                    checkpointing,
                    f"{figures.state / GIB:.2f}",
                    f"{figures.working / GIB:.2f}",
                    f"{sizes.kept_per_clip / 2**20:.0f}",
                    f"{figures.per_clip / 2**20:.0f}",
                    *(f"{figures.total(batch) / GIB:.1f}" for batch in options.batch),
                    figures.largest_batch(room),
                ]
            )
    return rows, sizes.trained


def _check_lines() -> list[str]:
    """What is counted for a small model, and what it takes; on this machine."""
    from memory_tracking import compare

    from diffmae_video.config import load_config
    from diffmae_video.engine.wrapping import WrapPlan

    lines = []
    for checkpointing in ("none", "full"):
        counted, measured = compare(load_config((), SMALL.split()), WrapPlan(checkpointing), batch=8)
        lines.append(
            f"check, activation checkpointing {checkpointing}: a step of 8 clips of a small model counts as "
            f"{counted / 2**20:.1f} MiB, and takes {measured / 2**20:.1f} MiB here ({counted / measured - 1:+.1%})"
        )
    return lines


def main() -> int:
    options = parse_arguments()
    from diffmae_video.config import ConfigError

    try:
        print(*report(options), sep="\n")
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
