"""One of the processes that ``benchmark.py scaling`` has train together; scaling_parallel.py starts it.

Takes optimiser steps of random clips on one thread, through the engine's own code, and writes the seconds of every
timed one: those of the process that took longest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import torch
from benchmark_sampler import now
from fvcore.common.config import CfgNode
from scaling_curves import make_batch

from diffmae_video.build import build_model
from diffmae_video.build.training import build_wrap_plan
from diffmae_video.config import load_config
from diffmae_video.engine import PretrainTask, RunError, World, joined, make_optimizer, parameter_groups, select_device
from diffmae_video.engine.interrupts import Interrupts
from diffmae_video.engine.stepping import Stepper
from diffmae_video.engine.world import world_from_environment
from diffmae_video.engine.wrapping import unwrap, wrap


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True, help="clips of every process")
    parser.add_argument("--steps", type=int, required=True, help="that are timed, after one that is not")
    parser.add_argument("--report", type=Path, required=True, help="file for the seconds")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    return parser.parse_args()


def make_stepper(cfg: CfgNode, world: World, device: torch.device, batch: int) -> Stepper:
    """Of the wrapped model, for ``batch`` clips of every process."""
    model = wrap(build_model(cfg).to(device).train(), build_wrap_plan(cfg), device, world)
    return Stepper(
        model=model,
        task=PretrainTask(cfg.DIFFUSION.STEPS),
        optimizer=make_optimizer(cfg.SOLVER.OPTIMIZER, parameter_groups(model, cfg.SOLVER.WEIGHT_DECAY)),
        clips_per_step=batch * world.size,
        accumulation=1,
        precision=cfg.TRAIN.PRECISION,
        clip_grad_norm=cfg.SOLVER.CLIP_GRAD_NORM,
        device=device,
        seed=cfg.SEED,
        interrupts=Interrupts(),
        rank=world.rank,
        world_size=world.size,
    )


def main() -> int:
    options = parse_arguments()
    torch.set_num_threads(1)  # also where a process is alone
    try:
        world = world_from_environment()
        cfg = load_config([options.cfg], options.overrides)
        device = select_device(cfg.DEVICE, world.local_rank if world.size > 1 else None)
        with joined(world, device, cfg.DISTRIBUTED.TIMEOUT) as peers:
            stepper, seconds = make_stepper(cfg, world, device, options.batch), []
            shape = unwrap(stepper.model).clip_shape
            sample = make_batch(shape, options.batch, device, first=options.batch * world.rank)
            for number in range(options.steps + 1):
                started = now(device)
                stepper.gradient(itertools.repeat(sample), number)
                stepper.update()
                seconds.append(now(device) - started)
            everyone = peers.gather("seconds", seconds[1:])
            if world.is_first:
                slowest = [max(times) for times in zip(*everyone, strict=True)]
                options.report.write_text(json.dumps({"seconds": slowest, "threads": torch.get_num_threads()}))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
