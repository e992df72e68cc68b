"""Mixup and CutMix on batches of clips, with label smoothing.

Zhang et al., arXiv 1710.09412; Yun et al., arXiv 1905.04899; in timm's convention: clip i is mixed with clip
B - 1 - i, a batch is mixed by one of the two, chosen at random, and smoothing spreads over all classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

MODES = ("batch", "elem")


def smooth_targets(labels: torch.Tensor, num_classes: int, smoothing: float = 0.0) -> torch.Tensor:
    """float (B, K): smoothing / K everywhere, and 1 - smoothing more at the label; rows sum to 1.

    Args:
        labels: int64 (B,), each in [0, num_classes).
        num_classes: K.
        smoothing: in [0, 1).

    Raises:
        ValueError: a label outside [0, num_classes); -1 is a clip without a label. Labels on another device are not
            looked at, which would wait for all it has to do.
    """
    if labels.device.type == "cpu" and len(labels) and not (0 <= int(labels.min()) and int(labels.max()) < num_classes):
        found = sorted({int(label) for label in labels if not 0 <= label < num_classes})
        raise ValueError(
            f"labels {found} are outside [0, {num_classes}): check the number of classes and that every video of the "
            "list has a label (-1 = none)"
        )
    targets = torch.full((len(labels), num_classes), smoothing / num_classes, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + smoothing / num_classes)


@dataclass(frozen=True)
class Mixing:
    """Mixes every clip of a batch with its mirror image in the batch order, and their targets by the same share.

    The box that CutMix takes from the other clip is the same in all frames. What share of a clip is left, lambda, is
    Beta(alpha, alpha) distributed; CutMix's lambda is corrected to the area that the box really covers, as it may
    reach beyond the frame. The middle clip of an odd batch is its own partner and stays as it is. With repeated
    augmentation, the clips of one video should not be each other's partners: keep them adjacent (as the loader gives
    them), with an even number of videos per batch.

    Attributes:
        num_classes: K.
        mixup_alpha, cutmix_alpha: 0 switches one of them off; both 0: only smoothing.
        probability: of mixing a batch (``mode="elem"``: a clip) at all.
        switch_probability: of CutMix rather than Mixup, where both are on.
        mode: "batch": one lambda, kind and box for all clips; "elem": each clip draws its own.
        smoothing: label smoothing, in [0, 1).
    """

    num_classes: int
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    probability: float = 1.0
    switch_probability: float = 0.5
    mode: str = "batch"
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")
        if min(self.mixup_alpha, self.cutmix_alpha) < 0:
            raise ValueError(f"alphas must not be negative, got {self.mixup_alpha} and {self.cutmix_alpha}")
        if not (0 <= self.probability <= 1 and 0 <= self.switch_probability <= 1 and 0 <= self.smoothing < 1):
            raise ValueError(f"probabilities must be in [0, 1] and smoothing in [0, 1), got {self}")
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}; choose one of {', '.join(MODES)}")

    def __call__(
        self, clips: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixed clips and soft targets.

        Args:
            clips: floating point (B, C, T, H, W), on any device; left unchanged.
            labels: int64 (B,) in [0, num_classes), on the same device.
            generator: one per batch, on the CPU.

        Returns:
            (clips of the same shape and type, float32 targets (B, K) whose rows sum to 1).

        Raises:
            ValueError: clips of integers or of another number of axes; see :func:`smooth_targets`.
        """
        if clips.ndim != 5 or not clips.is_floating_point():
            raise ValueError(f"mixing takes float clips (B, C, T, H, W), got {clips.dtype} {tuple(clips.shape)}")
        targets = smooth_targets(labels, self.num_classes, self.smoothing)
        own, share = self.draw(len(clips), clips.shape[3], clips.shape[4], generator)
        if bool((share == 1).all()):
            return clips, targets
        own, share = own.to(clips.device, clips.dtype), share.to(clips.device)
        return torch.lerp(clips.flip(0), clips, own), torch.lerp(targets.flip(0), targets, share[:, None])

    def draw(
        self, batch: int, height: int, width: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How much of each clip stays: by pixel, float (B or 1, 1, 1, H, W), and as lambda of the target, (B or 1,)."""
        # NumPy, because torch's Beta distribution takes no generator.
        seed = int(torch.randint(2**62, (), generator=generator))
        rng = np.random.default_rng(seed)
        drawn = [self._draw_one(height, width, rng) for _ in range(batch if self.mode == "elem" else 1)]
        own, share = zip(*drawn, strict=True)
        return torch.stack(own)[:, None, None], torch.tensor(share, dtype=torch.float32)

    def _draw_one(self, height: int, width: int, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
        own = torch.ones(height, width)
        mixed, cut, place_y, place_x = rng.random(4)
        alphas = self.mixup_alpha, self.cutmix_alpha
        if mixed >= self.probability or not any(alphas):
            return own, 1.0
        cutting = bool(cut < self.switch_probability) if all(alphas) else self.cutmix_alpha > 0
        share = float(rng.beta(alphas[cutting], alphas[cutting]))
        if not cutting:
            return own.fill_(share), share
        top, bottom = _cut(height, share, place_y)
        left, right = _cut(width, share, place_x)
        own[top:bottom, left:right] = 0
        return own, 1 - (bottom - top) * (right - left) / (height * width)


def _cut(length: int, share: float, place: float) -> tuple[int, int]:
    """Where a box of CutMix begins and ends along one axis: its centre anywhere, its length sqrt(1 - share) of all."""
    half = int(length * np.sqrt(1 - share)) // 2
    centre = int(place * length)
    return max(0, centre - half), min(length, centre + half)
