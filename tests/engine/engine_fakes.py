"""A model, a dataset and a run that are small enough to be killed twenty times in a test, and obey the same contracts
as the real ones. Also what runs in the processes that are killed (see ``run_in_process``)."""

from __future__ import annotations

import ctypes
import json
import math
import multiprocessing
import os
import runpy
import signal
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from diffmae_video.data import ClipBatch
from diffmae_video.engine.checkpoint_manager import CheckpointManager
from diffmae_video.engine.ema import ExponentialMovingAverage
from diffmae_video.engine.lars import LARS
from diffmae_video.engine.monitor import Monitor
from diffmae_video.engine.optimizer import LrSchedule, make_optimizer, parameter_groups
from diffmae_video.engine.tasks import PretrainTask
from diffmae_video.engine.trainer import Trainer
from diffmae_video.engine.world import Peers, World
from diffmae_video.models import MaskMix, SpaceTimeViT, make_mask, tokens_to_pixel_mask

CLIP = (3, 2, 4, 4)  # C, T, H, W
GRID = (2, 2, 2)  # t, h, w of tokens of (1, 2, 2)
MASKS = MaskMix(("random", "tube", "frame"), (2.0, 1.0, 1.0), ((0.3, 0.9), (0.25, 0.75), (0.5, 0.5)))
VIDEOS, REPEATS = 7, 2  # an epoch of 7 videos ends inside a step of 2


class Output(NamedTuple):
    loss: torch.Tensor
    pred: torch.Tensor
    mask: torch.Tensor
    per_clip_loss: torch.Tensor
    t: torch.Tensor | None
    parts: dict[str, torch.Tensor] = {}


class FakeModel(nn.Module):
    """Denoises whole clips with two linear layers, of which a given mask, (B, 8) on ``GRID``, blackens a part.

    t and noise are drawn per clip, dropout globally.
    """

    def __init__(self, width: int = 16, dropout: float = 0.2, diffusion: bool = True):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 1, width))
        self.first, self.norm = nn.Linear(math.prod(CLIP), width), nn.LayerNorm(width)
        self.second, self.dropout = nn.Linear(width, math.prod(CLIP)), nn.Dropout(dropout)
        self.diffusion = diffusion

    def normalize(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.float() / 127.5 - 1

    def no_weight_decay(self) -> set[str]:
        return {"position"}

    def make_mask(self, batch, generator=None, frames=None, choice=None) -> torch.Tensor:
        return make_mask(choice.strategy, (frames, *GRID[1:]), choice.ratio, batch, generator)

    def forward(self, clip, mask=None, t=None, noise=None, generator=None) -> Output:
        if mask is not None:
            clip = clip.masked_fill(tokens_to_pixel_mask(mask, GRID, (1, 2, 2))[:, None], -1)
        x0 = clip.flatten(1)
        t = torch.cat([torch.randint(1000, (1,), generator=g) for g in generator])
        noise = torch.stack([torch.randn(x0.shape[1], generator=g) for g in generator])
        hidden = self.norm(self.first(x0 + noise * (t[:, None] / 1000))) + self.position[0]
        pred = self.second(self.dropout(torch.tanh(hidden)))
        per_clip = (pred - x0).square().mean(dim=1)
        return Output(per_clip.mean(), pred, torch.ones(len(x0), 1), per_clip, t if self.diffusion else None)


class FakeClassifier(nn.Module):
    """A real encoder and a head with a norm that keeps statistics; with ``frozen`` only the head learns.

    ``shape`` are arguments of the encoder.
    """

    def __init__(self, classes: int = 3, frozen: bool = False, **shape):
        super().__init__()
        small = {"clip_shape": CLIP, "patch_size": (1, 2, 2), "width": 8, "depth": 3, "heads": 2, "class_token": True}
        self.encoder = SpaceTimeViT(**{**small, "drop_path": 0.2, **shape})
        width = self.encoder.width
        self.head = nn.ModuleDict({"norm": nn.BatchNorm1d(width), "classifier": nn.Linear(width, classes)})
        self.frozen = frozen
        self.encoder.requires_grad_(not frozen)

    def no_weight_decay(self) -> set[str]:
        return {"encoder.class_token", "encoder.position.space", "encoder.position.time"}

    def train(self, mode: bool = True) -> FakeClassifier:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        tokens = self.encoder.encode(clips.float() / 127.5 - 1)
        return self.head["classifier"](self.head["norm"](tokens.mean(dim=1)))


class FakeRecognition:
    """A task with labels made of the clips' ids."""

    def loss(self, model, batch, generators, shared):
        return nn.functional.cross_entropy(model(batch.clips), batch.clip_ids % 3), {}


class FakeDataset(Dataset):
    """Clips made of (draw, index); draws in ``failing`` report an unreadable file."""

    def __init__(self, failing: tuple[int, ...] = ()):
        self.failing = failing

    def __getitem__(self, item: tuple[int, int]):
        draw, index = item
        generator = torch.Generator().manual_seed(1000 * draw + index)
        clips = torch.randint(256, (REPEATS, *CLIP), generator=generator, dtype=torch.uint8)
        failures = [(f"bad_{draw % 3}.mp4", f"bad_{draw % 3}.mp4: no\nframes")] if draw in self.failing else []
        return clips, draw, f"video_{index}.mp4", failures


class FakeSampler:
    """Micro-batches of (draw, index) from ``start_draw`` on, one permutation of the videos per epoch."""

    def __init__(self, start_draw: int, per_step: int, micro_batches: int, rank: int = 0, world_size: int = 1):
        self.start_draw, self.per_step, self.micro_batches = start_draw, per_step, micro_batches
        self.rank, self.world_size = rank, world_size

    def __iter__(self):
        step_start, local = self.start_draw, self.per_step // self.world_size
        while True:
            draws = range(step_start + self.rank * local, step_start + (self.rank + 1) * local)
            items = [(draw, self._index(draw)) for draw in draws]
            size = local // self.micro_batches
            yield from (items[i * size : (i + 1) * size] for i in range(self.micro_batches))
            step_start += self.per_step

    def _index(self, draw: int) -> int:
        order = torch.randperm(VIDEOS, generator=torch.Generator().manual_seed(draw // VIDEOS))
        return order[draw % VIDEOS].item()


def collate(samples) -> ClipBatch:
    ids = torch.tensor([draw * REPEATS + r for _, draw, _, _ in samples for r in range(REPEATS)])
    clips = torch.cat([clips for clips, _, _, _ in samples])
    paths = [path for _, _, path, _ in samples for _ in range(REPEATS)]
    failures = [failure for *_, failures in samples for failure in failures]
    return ClipBatch(clips, torch.full((len(ids),), -1), ids, paths, failures)


def end_with_parent(worker: int) -> None:
    """A loader's worker notices that its parent was killed only if that happened after its first moments."""
    parent_death_signal = 1  # PR_SET_PDEATHSIG of Linux
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)


def make_trainer(
    folder: str | Path,
    steps: int = 12,
    videos_per_step: int = 4,
    accumulation: int = 2,
    num_workers: int = 0,
    failing: tuple[int, ...] = (),
    log_period: int = 1,
    checkpoint_period: int = 3,
    keep_period: int = 0,
    model: nn.Module | None = None,
    task=None,
    peers: Peers | None = None,
    tensorboard: bool = False,
    recognition: dict | None = None,
    optimizer: str | torch.optim.Optimizer = "adamw",
    layer_decay: float = 1.0,
    **options,
) -> Trainer:
    """A run of the fakes, of the classifier with ``recognition`` (its arguments); ``options`` replace the trainer's."""
    folder, clips_per_step = Path(folder), videos_per_step * REPEATS
    torch.manual_seed(0)
    if recognition is not None:
        model, task = FakeClassifier(**recognition), FakeRecognition()
    elif model is None:
        model = FakeModel()
    if isinstance(optimizer, str):
        optimizer = make_optimizer(optimizer, parameter_groups(model, 0.05, layer_decay=layer_decay))

    def make_loader(start_draw: int) -> DataLoader:
        world = World() if peers is None else peers.world
        sampler = FakeSampler(start_draw, videos_per_step, accumulation, world.rank, world.size)
        context = "fork" if num_workers else None
        return DataLoader(
            FakeDataset(failing), batch_sampler=sampler, collate_fn=collate, num_workers=num_workers,
            multiprocessing_context=context, worker_init_fn=end_with_parent if num_workers else None,
        )  # fmt: skip

    arguments = {
        "model": model,
        "task": task or PretrainTask(1000),
        "optimizer": optimizer,
        "schedule": LrSchedule(1e-2, 2 * clips_per_step, steps * clips_per_step),
        "make_loader": make_loader,
        "total_steps": steps,
        "clips_per_step": clips_per_step,
        "draws_per_step": videos_per_step,
        "accumulation": accumulation,
        "precision": "fp32",
        "clip_grad_norm": 0.5,
        "checkpoints": CheckpointManager(
            folder / "checkpoints", keep_period, world=World() if peers is None else peers.world
        ),
        "checkpoint_period": checkpoint_period,
        "monitor": Monitor(folder, steps * clips_per_step, VIDEOS, log_period, tensorboard, terminal=False),
        "device": torch.device("cpu"),
        "seed": 3,
        "max_unreadable_fraction": 0.5,
        "output_dir": folder,
        "config_text": "SEED: 3\n",
        "peers": peers,
    }
    return Trainer(**{**arguments, **options})


TIMINGS = ("clips_per_second", "step_seconds", "data_wait_share", "wall_seconds")


def log_lines(folder: str | Path, name: str = "log.jsonl") -> list[dict]:
    """The lines of a run's log without what depends on the clock; floats compare exactly."""
    lines = [json.loads(line) for line in (Path(folder) / name).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS and "rank" not in key} for line in lines]


# ----------------------------------------------------------------------------------------- in a process of its own


def kill_at_call(owner: object, name: str, call: int) -> None:
    """Replaces ``owner.name`` by one that SIGKILLs this process at its ``call``-th call (from 1), before acting."""
    original, calls = getattr(owner, name), [0]

    def counting(*arguments, **keywords):
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **keywords)

    setattr(owner, name, counting)


KILL_SPOTS = {
    "forward": (FakeModel, "forward"),  # twice per step with accumulation 2
    "update": (torch.optim.AdamW, "step"),
    "lars": (LARS, "step"),
    "average": (ExponentialMovingAverage, "update"),  # after the optimiser's update, before the counts
    "write": (os, "write"),  # inside the temporary file
    "fsync": (os, "fsync"),
    "replace": (os, "replace"),  # the checkpoint, then ``latest``
    "unlink": (os, "unlink"),
    "rmdir": (os, "rmdir"),  # of a checkpoint that is a folder
}


def train(folder: str, kill: tuple[str, int] | None = None, **options) -> None:
    """Trains to the end, or until ``kill`` = (spot, number of its call) ends the process."""
    torch.set_num_threads(1)
    trainer = make_trainer(folder, **options)
    if kill is not None:
        kill_at_call(*KILL_SPOTS[kill[0]], kill[1])
    trainer.run()


def train_rank(folder: str, rank: int, world_size: int, **options) -> None:
    """One of several processes that train together, each on its part of every step."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/rendezvous", world_size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(FakeModel(dropout=0.0))
    peers = Peers(World(rank, world_size, rank), torch.distributed.FileStore(f"{folder}/peers", world_size))
    make_trainer(folder, model=model, peers=peers, **options).run()
    torch.distributed.barrier()
    # Without tearing down: the wrapper's destructor can wait for a thread of gloo's that waits for the interpreter.
    os._exit(0)


def run_in_process(
    function: str, *arguments, wait: bool = True, file: str = __file__, **keywords
) -> multiprocessing.Process:
    """Calls a function of ``file`` in a new process; with ``wait``, returns when it has ended (``exitcode``: how).

    The process is forked from a server that has imported torch and used no thread of it: fast, and safe wherever in
    the test session it happens.
    """
    context = multiprocessing.get_context("forkserver")
    # torch._dynamo: torch.optim imports it at its first step, which takes longer than these runs.
    # sharded_checkpoints: what it needs of torch takes long too, where it is used.
    preload = ["diffmae_video.engine.trainer", "torch._dynamo", "diffmae_video.engine.sharded_checkpoints"]
    context.set_forkserver_preload(preload)
    call = {"CALL": (function, arguments, keywords)}
    process = context.Process(target=runpy.run_path, args=(file, call, "process_of_its_own"))
    process.start()
    if wait:
        finish(process)
    return process


def finish(process: multiprocessing.Process, seconds: float = 60) -> None:
    """Waits for a process, and ends one that hangs: the test session would wait for it for ever."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError(f"a process of the test did not end within {seconds} s")


if __name__ == "process_of_its_own":
    _function, _arguments, _keywords = CALL  # noqa: F821 (given by run_in_process)
    globals()[_function](*_arguments, **_keywords)
