"""The networks that ``benchmark.py step`` compares, and a step of each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from fvcore.common.config import CfgNode
from step_peers import MEAN, STD, PlainTraining, Size, VideoMAETask, make_videomae
from torch import nn

from diffmae_video.build import build_model
from diffmae_video.config import load_config, resolve_encoder
from diffmae_video.data import ClipBatch
from diffmae_video.engine import PretrainTask, World, make_optimizer, parameter_groups, select_device
from diffmae_video.engine.flops import flops_per_clip
from diffmae_video.engine.interrupts import Interrupts
from diffmae_video.engine.randomness import clip_generators
from diffmae_video.engine.stepping import Stepper
from diffmae_video.engine.tasks import Task
from diffmae_video.engine.wrapping import WrapPlan, autocast, wrap
from diffmae_video.models import make_mask

CLIP_GRAD_NORM = 1.0  # of optimiser steps, in every program
SAME_SIZE, DEFAULT, PARTIAL = 1.5, 2.5, 4.0  # goals: so many times as fast as VideoMAE
SHARES = (0.5, 0.25)  # of the hidden tokens, with partial decoding


class Way(NamedTuple):
    """A network to train.

    Attributes:
        name: as the table has it.
        decoder: of VideoMAE; None = a network of ours.
        overrides: of ours, what it changes in the recipe.
        rival: name of the VideoMAE that the goal is measured against.
        goal: how many times as fast it is to be; None = no goal.
    """

    name: str
    decoder: Size | None = None
    overrides: tuple[str, ...] = ()
    rival: str = ""
    goal: float | None = None


def make_ways(cfg: CfgNode) -> dict[str, Way]:
    """Name -> way, VideoMAE at its own size first: half the encoder's width and half the blocks of our decoder.

    Of a recipe with our decoder of 512 x 8 on a ViT-B that is 384 x 4, its published size.
    """
    width, depth, kind = cfg.MODEL.DECODER.WIDTH, cfg.MODEL.DECODER.DEPTH, cfg.MODEL.DECODER.TYPE
    half = max(depth // 2, 1)
    sizes = [(resolve_encoder(cfg)[0] // 2, half), (width, half), (width, depth)]
    # Heads of 64 channels, as VideoMAE has them, on both sides.
    decoders = [Size(own_width, blocks, max(own_width // 64, 1)) for own_width, blocks in dict.fromkeys(sizes)]
    peers = [Way(peer_name(size), decoder=size) for size in decoders]
    ratio = cfg.MODEL.ENCODER.MLP_RATIO
    joint = [
        Way(f"ours, joint {size.width} x {size.depth}", None, like_videomae(size, ratio), peer_name(size), SAME_SIZE)
        for size in decoders
    ]
    crosses = []
    for own_kind, blocks in dict.fromkeys([(kind, depth), (kind, half), ("cross", half)]):
        name, goal = f"ours, {own_kind} {width} x {blocks}", None if crosses else DEFAULT
        changed = ("MODEL.DECODER.TYPE", own_kind, "MODEL.DECODER.DEPTH", str(blocks), "MODEL.DECODER.PREDICT_RATIO")
        crosses.append(Way(name, None, (*changed, "1.0"), peers[0].name, goal))
        crosses += [
            Way(f"{name}, {share:.0%} decoded", None, (*changed, str(share)), peers[0].name, PARTIAL)
            for share in SHARES
        ]
    return {way.name: way for way in [*peers, *joint, *crosses]}


def peer_name(size: Size) -> str:
    return f"VideoMAE, {size.width} x {size.depth}"


def like_videomae(size: Size, mlp_ratio: float = 4.0) -> tuple[str, ...]:
    """Overrides that turn a DiffMAE recipe into the network of configs/VideoMAE, with a decoder of ``size``."""
    changed = {
        "DATA.MEAN": list(MEAN),
        "DATA.STD": list(STD),
        "MODEL.NAME": "MAE",
        "MODEL.TARGET": "normalized_per_channel",
        "MODEL.INPUT_SCALING": "none",
        "MODEL.ENCODER.POSITION": "sincos_1d",
        "MODEL.ENCODER.CLASS_TOKEN": False,
        "MODEL.DECODER.TYPE": "joint",
        "MODEL.DECODER.POSITION": "sincos_1d",
        "MODEL.DECODER.WIDTH": size.width,
        "MODEL.DECODER.DEPTH": size.depth,
        "MODEL.DECODER.HEADS": size.heads,
        "MODEL.DECODER.MLP_RATIO": mlp_ratio,
        "MODEL.DECODER.PREDICT_RATIO": 1.0,
        "TRAIN.VISUALIZE_PERIOD": 0,
    }
    return tuple(str(item) for pair in changed.items() for item in pair)


def select(ways: dict[str, Way], patterns: Sequence[str]) -> list[Way]:
    """The ways whose names contain one of the patterns (``*`` is anything), and what these are measured against.

    Raises:
        ValueError: a pattern that no name contains.
    """
    matching = {
        pattern: [name for name in ways if fnmatch(name.lower(), f"*{pattern.lower()}*")] for pattern in patterns
    }
    for pattern, found in matching.items():
        if not found:
            raise ValueError(f"no way is called like {pattern!r}: choose from {'; '.join(ways)}")
    chosen = {next(iter(ways)), *itertools.chain(*matching.values())}
    chosen |= {ways[name].rival for name in chosen}
    return [way for name, way in ways.items() if name in chosen]


class Clips:
    """Random uint8 clips on a device; every batch has the first ones of them, and no copy.

    Args:
        shape: of a clip, in the order that a program wants.
    """

    def __init__(self, shape: tuple[int, int, int, int], device: torch.device):
        self.shape, self.device = shape, device
        self._pool = torch.empty(0, *shape, dtype=torch.uint8)

    def batch(self, size: int) -> ClipBatch:
        if len(self._pool) < size:
            generator = torch.Generator().manual_seed(0)
            drawn = torch.randint(256, (size, *self.shape), generator=generator, dtype=torch.uint8)
            self._pool = drawn.to(self.device)
        ids = torch.arange(size)
        return ClipBatch(self._pool[:size], torch.full_like(ids, -1), ids, ["clip.mp4"] * size, [])


class Training(Protocol):
    """Optimiser steps."""

    optimizer: torch.optim.Optimizer

    def step(self, batch: ClipBatch, precision: str) -> torch.Tensor | float:
        """A whole one; returns the loss."""
        ...


class OurTraining:
    """Optimiser steps as our trainer takes them, at a learning rate of 0: see ``PlainTraining``."""

    def __init__(self, cfg: CfgNode, model: nn.Module, called: nn.Module, task: Task, device: torch.device):
        groups = parameter_groups(model, cfg.SOLVER.WEIGHT_DECAY, model.no_weight_decay())
        self.optimizer = make_optimizer("adamw", groups, tuple(cfg.SOLVER.BETAS))
        self._fixed = {"model": called, "task": task, "device": device, "seed": cfg.SEED, "interrupts": Interrupts()}
        self._steppers: dict[tuple[int, str], Stepper] = {}

    def step(self, batch: ClipBatch, precision: str) -> float:
        key = len(batch.clips), precision
        if key not in self._steppers:
            changing = {"clips_per_step": key[0], "precision": precision, "optimizer": self.optimizer}
            self._steppers[key] = Stepper(**self._fixed, **changing, accumulation=1, clip_grad_norm=CLIP_GRAD_NORM)
        result = self._steppers[key].gradient(itertools.repeat(batch), 0)
        self._steppers[key].update()
        return result.loss


class Program:
    """A network in training, for every precision.

    Args:
        model: bare, on its device, in training mode.
        called: the same as it is called, maybe compiled.
        task: its loss.
        clips: its input.
        training: its steps are whole optimiser steps; None = forward and backward pass alone.
    """

    def __init__(
        self, model: nn.Module, called: nn.Module, task: Task, clips: Clips, training: Training | None
    ) -> None:
        self.model, self.called, self.task, self.clips, self.training = model, called, task, clips, training

    def step(self, size: int, precision: str) -> torch.Tensor | float:
        """One step on ``size`` clips, after which the device is done and no gradient is left; returns the loss."""
        batch, device = self.clips.batch(size), self.clips.device
        if self.training is not None:
            loss = self.training.step(batch, precision)
        else:
            generators = clip_generators(0, batch.clip_ids, device)
            with autocast(precision, device):
                loss, _ = self.task.loss(self.called, batch, generators, torch.Generator())
            loss.backward()
            loss = loss.detach()
        self.clear()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return loss

    def clear(self) -> None:
        """Drops the gradients, also those that a step left which did not end."""
        self.model.zero_grad(set_to_none=True)

    def flops_per_clip(self, precision: str) -> float | None:
        """Operations of a forward and a backward pass; to be asked before anything is compiled."""
        return flops_per_clip(self.model, self.task, self.clips.shape, precision)

    def kept_bytes(self) -> int:
        """Of what is there between two steps: weights, and what an optimiser keeps."""
        states = [] if self.training is None else self.training.optimizer.state.values()
        kept = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.model.state_dict().values(), *kept))


class Workshop:
    """Makes the programs of ways, of one recipe and on its device.

    Args:
        config, overrides: the recipe.
        optimizer_step: steps are whole optimiser steps.

    Raises:
        ValueError: a recipe that pre-trains no masked autoencoder.
    """

    def __init__(self, config: Path, overrides: Sequence[str], optimizer_step: bool):
        self.config, self.overrides, self.optimizer_step = config, overrides, optimizer_step
        self.cfg = load_config([config], overrides)
        if self.cfg.TASK != "pretrain" or self.cfg.MODEL.NAME != "DiffMAE":
            raise ValueError(
                f"{config} is no recipe of pre-training a DiffMAE: choose one, such as configs/K400/ViT_B.yaml"
            )
        self.device = select_device(self.cfg.DEVICE)
        size, patch = self.cfg.DATA.CROP_SIZE, tuple(self.cfg.MODEL.PATCH_SIZE)
        self.clip_shape, self.patch_size = (len(self.cfg.DATA.MEAN), self.cfg.DATA.NUM_FRAMES, size, size), patch
        self.grid = tuple(side // part for side, part in zip(self.clip_shape[1:], patch, strict=True))
        channels, frames, height, width = self.clip_shape
        self._clips = Clips(self.clip_shape, self.device)
        self._clips_of_peers = Clips((frames, channels, height, width), self.device)

    def make(self, way: Way, compiled: bool) -> Program:
        return self._ours(way, compiled) if way.decoder is None else self._peer(way, compiled)

    def mask(self, batch: int) -> torch.Tensor:
        """Of the recipe's kind, (B, N), True = hidden."""
        mask = self.cfg.MASK
        return make_mask(mask.STRATEGY, self.grid, mask.RATIO, batch, torch.Generator().manual_seed(0)).to(self.device)

    def _peer(self, way: Way, compiled: bool) -> Program:
        encoder, ratio = Size(*resolve_encoder(self.cfg)), self.cfg.MODEL.ENCODER.MLP_RATIO
        model = make_videomae(self.clip_shape, self.patch_size, (encoder, way.decoder), ratio, self.cfg.SEED)
        model, task = model.to(self.device), VideoMAETask(self.mask)
        called = torch.compile(model, dynamic=False) if compiled else model
        training = PlainTraining(model, called, task, CLIP_GRAD_NORM, self.device) if self.optimizer_step else None
        return Program(model, called, task, self._clips_of_peers, training)

    def _ours(self, way: Way, compiled: bool) -> Program:
        cfg = load_config([self.config], [*self.overrides, *way.overrides])
        model, task = build_model(cfg).to(self.device).train(), PretrainTask(cfg.DIFFUSION.STEPS)
        called = wrap(model, WrapPlan(compile="blocks" if compiled else "none"), self.device, World())
        training = OurTraining(cfg, model, called, task, self.device) if self.optimizer_step else None
        return Program(model, called, task, self._clips, training)
