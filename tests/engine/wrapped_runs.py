"""Runs of small real models, wrapped in every way, in one process or in several; what test_wrapped_runs.py compares."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

if __name__ == "process_of_its_own":
    sys.path.insert(0, str(Path(__file__).parent))

from engine_fakes import REPEATS, FakeRecognition, finish, make_trainer

from diffmae_video.build import build_model
from diffmae_video.config import load_config
from diffmae_video.engine.optimizer import LrSchedule, make_optimizer, parameter_groups
from diffmae_video.engine.tasks import PretrainTask
from diffmae_video.engine.world import Peers, World
from diffmae_video.engine.wrapping import WrapPlan, wrap

# Clips of 3 x 2 x 4 x 4 and patches of 1 x 2 x 2, as the fakes have them. Widths that neither 2 nor 4 processes divide.
SMALL = (
    "DATA.NUM_FRAMES 2 DATA.CROP_SIZE 4 MODEL.PATCH_SIZE [1,2,2] MODEL.DECODER.DEPTH 2 "
    "MODEL.ENCODER.WIDTH 18 MODEL.ENCODER.DEPTH 3 MODEL.ENCODER.HEADS 3 MODEL.ENCODER.CLASS_TOKEN True "
)
MASKED = (
    "MASK.STRATEGY random MASK.RATIO 0.5 MODEL.DECODER.WIDTH 10 MODEL.DECODER.HEADS 1 MODEL.DECODER.POSITION separable "
)
KINDS = {
    "DiffMAE": MASKED,
    "MAE": f"{MASKED} MODEL.NAME MAE MODEL.DECODER.TYPE joint",
    "LatentDAE": "MODEL.NAME LatentDAE MODEL.LDAE.TOKENIZER pixel MODEL.LDAE.INPUT latent DIFFUSION.SCHEDULE cosine",
    "finetune": "TASK finetune MODEL.NUM_CLASSES 3",
    "attentive": "TASK attentive MODEL.NUM_CLASSES 3 MODEL.HEAD.PROBE_DEPTH 2",
    "linear": "TASK linear MODEL.NUM_CLASSES 3",
}
STEPS = 4


def build(kind: str, overrides: str = "") -> nn.Module:
    """A small model of ``KINDS``, its initial weights always the same."""
    model = build_model(load_config((), f"{SMALL} {KINDS[kind]} {overrides}".split()))
    if kind == "LatentDAE":
        model.tokenizer.finish(torch.ones(model.tokenizer.latent_dim), "none")
    return model


class Classify(FakeRecognition):
    """With normalised clips."""

    def loss(self, model, batch, generators, shared):
        return super().loss(model, batch._replace(clips=batch.clips.float() / 127.5 - 1), generators, shared)


class Features:
    """An evaluator: some of the features of a clip."""

    name, period = "features", 2

    def evaluate(self, model: nn.Module, step: int, monitor) -> dict[str, float]:
        tokens = model.encode(torch.linspace(-1, 1, 96).reshape(1, 3, 2, 4, 4))
        return {f"token_{i}": value.item() for i, value in enumerate(tokens[0, :, 0].float())}


def train(
    folder: str,
    peers: Peers,
    plan: dict | None = None,
    kind: str = "DiffMAE",
    overrides: str = "",
    until: int = STEPS,
    optimizer: str = "adamw",
    layer_decay: float = 1.0,
    **options,
) -> None:
    """Trains until step ``until`` of a run of ``STEPS``, or goes on from there."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    model = wrap(build(kind, overrides), WrapPlan(**plan or {}), torch.device("cpu"), peers.world)
    groups = parameter_groups(getattr(model, "module", model), 0.05, layer_decay=layer_decay)
    trainer = make_trainer(
        folder,
        model=model,
        task=PretrainTask(1000) if kind in ("DiffMAE", "MAE", "LatentDAE") else Classify(),
        optimizer=make_optimizer(optimizer, groups),
        peers=peers,
        steps=until,
        schedule=LrSchedule(1e-2, 2 * 4 * REPEATS, STEPS * 4 * REPEATS),
        evaluators=[Features()],
        **{"accumulation": 2, "ema_decay": 0.9, "clip_grad_norm": 0.5, **options},
    )
    trainer.run()


def run_jobs(jobs: Sequence[dict], rank: int, size: int, meeting: str) -> None:
    """The jobs one after the other, in one of ``size`` processes."""
    torch.set_num_threads(1)
    world, peers = World(rank, size, rank), Peers()
    if size > 1:
        store = torch.distributed.FileStore(f"{meeting}/group", size)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
        peers = Peers(world, torch.distributed.FileStore(f"{meeting}/peers", size))
    for job in jobs:
        train(peers=peers, **job)
    if size > 1:
        torch.distributed.barrier()
    # Without tearing down: see engine_fakes.train_rank.
    os._exit(0)


def together(jobs: Sequence[dict], size: int, meeting: Path) -> None:
    """Runs jobs, which are arguments of :func:`train`, in ``size`` new processes; ``meeting`` is a new folder."""
    meeting.mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diffmae_video.build", "torch._dynamo"])
    processes = []
    for rank in range(size):
        call = {"CALL": (list(jobs), rank, size, str(meeting))}
        processes.append(context.Process(target=runpy.run_path, args=(__file__, call, "process_of_its_own")))
        processes[-1].start()
    for process in processes:
        finish(process, 120)
        assert process.exitcode == 0


if __name__ == "process_of_its_own":
    run_jobs(*CALL)  # noqa: F821 (given by together)
