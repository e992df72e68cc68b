"""Dual masking (VideoMAE V2) at work: one network trained with a decoder that sees half of the hidden tokens, and with
one that sees all of them; the two take turns, step by step, on the same batches.

    python tools/dual_masking.py --data data_demo/motion --write-results RESULTS.md

It reports clips per second of a step without reading, the loss at the start and at the end, and the loss on held-out
clips, of which both then decode every hidden token.

Exit codes: 0 done; 2 it cannot start.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "evidence" / "motion_set" / "videomae_v2.yaml"
BATCHES = 40  # that are read before the clock starts, and then gone round
SHARE = 10  # the first and the last tenth of the steps are the start and the end
MARK = "dual_masking"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the motion set (datasets/motion_set.md)")
    parser.add_argument("--cfg", type=Path, default=CONFIG, help="a recipe with MODEL.DECODER.PREDICT_RATIO below 1")
    parser.add_argument("--steps", type=int, default=150, help="of each of the two (default 150)")
    parser.add_argument("--write-results", type=Path, metavar="RESULTS.md", help="put the table into this page")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="of the configuration")
    options = parser.parse_args(arguments)
    if options.steps < SHARE:
        parser.error(f"--steps must be at least {SHARE}")
    return options


class Training:
    """One of the two: ``step(number)`` trains on batch ``number``, and ``losses`` has what came out.

    Args:
        cfg: of a pre-training.
        batches: that it goes round.
        steps: of the whole training, for its learning rates.
    """

    def __init__(self, cfg: Any, batches: Sequence[Any], steps: int):
        import torch

        from diffmae_video.build import build_model
        from diffmae_video.engine import LrSchedule, PretrainTask, make_optimizer, parameter_groups
        from diffmae_video.engine.interrupts import Interrupts
        from diffmae_video.engine.stepping import Stepper

        solver = cfg.SOLVER
        self.model, self.batches, self.losses = build_model(cfg), batches, []
        groups = parameter_groups(self.model, solver.WEIGHT_DECAY, self.model.no_weight_decay())
        self.optimizer = make_optimizer(solver.OPTIMIZER, groups, tuple(solver.BETAS), solver.MOMENTUM)
        total = steps * solver.BATCH_SIZE
        self.schedule: Callable[[float], float] = LrSchedule.from_base(
            solver.BASE_LR, solver.BATCH_SIZE, solver.BASE_BATCH_SIZE, 0.1 * total, total, solver.MIN_LR
        )
        self.stepper = Stepper(
            model=self.model,
            task=PretrainTask(),
            optimizer=self.optimizer,
            clips_per_step=solver.BATCH_SIZE,
            accumulation=1,
            precision=cfg.TRAIN.PRECISION,
            clip_grad_norm=solver.CLIP_GRAD_NORM,
            device=torch.device("cpu"),
            seed=cfg.SEED,
            interrupts=Interrupts(),
        )

    def step(self, number: int) -> None:
        from diffmae_video.engine.optimizer import set_lr

        done = len(self.losses)
        set_lr(self.optimizer, self.schedule(done * self.stepper.local_clips))
        result = self.stepper.gradient(iter([self.batches[number % len(self.batches)]]), done)
        self.stepper.update()
        self.losses.append(result.loss)


def run(options: argparse.Namespace) -> str:
    """Trains and measures; returns the table."""
    from objectives_measure import floor_loss, held_out_loss

    from diffmae_video.benchmarking import interleave, pin_to_one_core
    from diffmae_video.build import build_dataset, build_loader
    from diffmae_video.config import ConfigError, load_config
    from diffmae_video.data import EvaluationClips

    overrides = ["DATA.PATH_TO_DATA_DIR", str(options.data), *options.overrides]
    cfg = load_config([options.cfg], overrides)
    ratio = cfg.MODEL.DECODER.PREDICT_RATIO
    if ratio == 1:
        raise ConfigError(f"{options.cfg} decodes every hidden token: MODEL.DECODER.PREDICT_RATIO must be below 1")
    pin_to_one_core()
    batches = list(itertools.islice(build_loader(cfg, build_dataset(cfg, "train")), BATCHES))
    everything = load_config([options.cfg], [*overrides, "MODEL.DECODER.PREDICT_RATIO", "1.0"])
    steps = options.steps + 1  # one of them is for warming up
    trainings = {f"{ratio:.0%}": Training(cfg, batches, steps), "all": Training(everything, batches, steps)}
    seconds = interleave({name: training.step for name, training in trainings.items()}, options.steps)
    clips = next(iter(EvaluationClips(build_dataset(cfg, cfg.TEST.SPLIT), 1000))).clips
    held_out = {}
    for name, training in trainings.items():
        training.model.eval().predict_ratio = 1.0
        held_out[name] = held_out_loss(training.model, clips, None)
    floor = floor_loss(training.model, clips)
    return f"{table(trainings, seconds, held_out, cfg.SOLVER.BATCH_SIZE)} Every patch's mean colour has {floor:.3f}."


def table(
    trainings: dict[str, Training], seconds: dict[str, list[float]], held_out: dict[str, float], batch: int
) -> str:
    """Markdown: speed and losses, a line per training, and the ratio of the speeds within a round."""
    from diffmae_video.benchmarking import Spread, format_table

    lines = []
    for name, training in trainings.items():
        share = max(len(training.losses) // SHARE, 1)
        start, end = statistics.mean(training.losses[:share]), statistics.mean(training.losses[-share:])
        speed = Spread.of(batch / value for value in seconds[name])
        lines.append([name, speed, f"{start:.3f}", f"{end:.3f}", f"{held_out[name]:.3f}"])
    half, everything = seconds.values()
    faster = Spread.of(slow / fast for fast, slow in zip(half, everything, strict=True))
    header = ["hidden tokens decoded in training", "clips per second", "loss, first tenth", "last tenth", "held-out"]
    return (
        f"{format_table(header, lines)}\n\n{len(half)} steps each of {batch} clips; within a round, the decoder that "
        f"sees {next(iter(trainings))} is {faster} times as fast."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    # Imported here, so that --help and a wrong option answer at once.
    from evidence_report import ReportError, replace_between_marks

    from diffmae_video.config import ConfigError
    from diffmae_video.engine import RunError

    try:
        text = run(options)
        print(text)
        if options.write_results is not None:
            replace_between_marks(options.write_results, MARK, text)
    except (ConfigError, ReportError, RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
