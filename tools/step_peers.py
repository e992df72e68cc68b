"""VideoMAE of Hugging Face's ``transformers`` as its users train it: what ``benchmark.py step`` compares with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

from diffmae_video.data import ClipBatch
from diffmae_video.engine import parameter_groups
from diffmae_video.engine.wrapping import autocast

# Of its clips, on the [0, 1] scale: the network takes its own targets out of what was normalised with these.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BETAS, WEIGHT_DECAY = (0.9, 0.95), 0.05


class Size(NamedTuple):
    """Of an encoder or a decoder."""

    width: int
    depth: int
    heads: int


def make_videomae(
    clip_shape: tuple[int, ...],
    patch_size: tuple[int, ...],
    sizes: tuple[Size, Size],
    mlp_ratio: float = 4.0,
    seed: int = 0,
) -> nn.Module:
    """A ``VideoMAEForPreTraining`` with random weights, in training mode, with fused attention (its own default).

    Args:
        clip_shape: (C, T, H, W), with C = 3 and H = W.
        patch_size: (pt, ph, pw), with ph = pw.
        sizes: of encoder and decoder.

    Raises:
        ValueError: clips or patches that it does not take, or ``transformers`` is not installed.
    """
    (channels, frames, height, width), (pt, ph, pw), (encoder, decoder) = clip_shape, patch_size, sizes
    if height != width or ph != pw or channels != 3:
        raise ValueError(
            f"VideoMAE takes square clips of 3 channels and square patches, not {clip_shape} and {patch_size}: "
            "change DATA.CROP_SIZE or MODEL.PATCH_SIZE"
        )
    library = _transformers()
    config = library.VideoMAEConfig(
        image_size=height,
        patch_size=ph,
        num_frames=frames,
        tubelet_size=pt,
        **_of("", encoder, mlp_ratio),
        **_of("decoder_", decoder, mlp_ratio),
        norm_pix_loss=True,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return library.VideoMAEForPreTraining(config).train()


def _of(part: str, size: Size, mlp_ratio: float) -> dict[str, int]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    values = (*size, int(size.width * mlp_ratio))
    return {f"{part}{name}": value for name, value in zip(names, values, strict=True)}


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            f"a step is compared with VideoMAE of transformers: pip install transformers: {error}"
        ) from error
    return transformers


class VideoMAETask:
    """Its loss, as a task of the engine: on uint8 clips (B, T, C, H, W), normalised as its processor does.

    Args:
        make_mask: batch -> (B, N) bool on the clips' device, True = hidden. A mask is made once for every size of a
            batch: its users' loaders draw masks beside the training process.
    """

    def __init__(self, make_mask: Callable[[int], torch.Tensor]):
        self.make_mask = make_mask
        self._masks: dict[int, torch.Tensor] = {}

    def loss(
        self, model: nn.Module, batch: ClipBatch, generators: Sequence[torch.Generator], shared: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        size = len(batch.clips)
        if size not in self._masks:
            self._masks[size] = self.make_mask(size)
        pixels = normalize(batch.clips)
        return model(pixel_values=pixels, bool_masked_pos=self._masks[size]).loss, {}


def normalize(clips: torch.Tensor) -> torch.Tensor:
    """uint8 clips (B, T, C, H, W) -> float ones; the scale is part of mean and deviation, as in its processor."""
    mean, std = (torch.tensor(values, device=clips.device).mul(255).reshape(1, 1, -1, 1, 1) for values in (MEAN, STD))
    return clips.float().sub_(mean).div_(std)


class PlainTraining:
    """Optimiser steps as a plain training loop takes them: gradient, clipping of its norm, torch's AdamW.

    The learning rate is 0: a step computes the same, and runs of several precisions keep the same weights.
    """

    def __init__(
        self, model: nn.Module, called: nn.Module, task: VideoMAETask, clip_grad_norm: float, device: torch.device
    ) -> None:
        self.model, self.called, self.task = model, called, task
        self.clip_grad_norm, self.device = clip_grad_norm, device
        groups = parameter_groups(model, WEIGHT_DECAY)
        fused = {"fused": True} if device.type == "cuda" else {}
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, **fused)

    def step(self, batch: ClipBatch, precision: str) -> torch.Tensor:
        """Returns the loss, on the device."""
        with autocast(precision, self.device):
            loss, _ = self.task.loss(self.called, batch, [], torch.Generator())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
        self.optimizer.step()
        return loss.detach()
