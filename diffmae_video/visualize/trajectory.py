"""The denoising of a clip, from t = T to 0: recorded while inpainting samples, shown as a strip or as a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from diffmae_video.visualize.layout import evenly_spaced
from diffmae_video.visualize.panels import contact_sheet, side_by_side

NOISY, CLEAN = "x_t", "estimate\nof x_0"


class Step(Protocol):
    """What a sampler tells about one of its network calls, see :class:`diffmae_video.inpainting.SamplingStep`."""

    number: int  # 1 to ``total``
    total: int
    t: int  # timestep
    noisy: torch.Tensor  # (B, C, T, H, W) float pixels in [0, 1]: what the network saw
    clean: torch.Tensor  # the same of its estimate of the result
    rows: Sequence[int]  # which clips of the batch these are


@dataclass(frozen=True)
class RecordedStep:
    """One step of one clip."""

    t: int
    noisy: np.ndarray  # uint8 (T, H, W, 3)
    clean: np.ndarray  # uint8 (T, H, W, 3)


class Trajectory:
    """Keeps some steps of a clip's denoising; give it to ``inpaint`` or ``inpaint_video`` as ``on_step``.

    Only the kept steps are copied, as uint8 frames in main memory. A chain that begins anew (a second pass, another
    call) replaces the one before.

    Args:
        most: steps that are kept at most, evenly spaced, the first and the last among them; at least 2.
        row: which clip of the batch; of a video there is only clip 0.

    Attributes:
        steps: list of :class:`RecordedStep`, noisiest first. The last one's ``clean`` is the result. A MAE, which takes
            no steps, leaves it empty.

    Raises:
        ValueError: ``most`` below 2.
    """

    def __init__(self, most: int = 8, row: int = 0):
        if most < 2:
            raise ValueError(f"a trajectory has a first and a last step: most must be at least 2, got {most}")
        self.most, self.row = most, row
        self.steps: list[RecordedStep] = []

    def __call__(self, step: Step) -> None:
        if self.row not in step.rows:
            return
        if step.number == 1:
            self.steps = []
        if step.number - 1 in evenly_spaced(step.total, self.most):
            place = list(step.rows).index(self.row)
            self.steps.append(RecordedStep(step.t, _frames(step.noisy[place]), _frames(step.clean[place])))


def trajectory_strip(trajectory: Trajectory, frame: int | None = None, minimum: int = 128) -> np.ndarray:
    """One frame at every recorded step: what the network saw, x_t, above what it made of it, its estimate of x_0.

    Args:
        trajectory: with recorded steps; they are the columns, t = T first.
        frame: number of the frame; None = the middle one of those in which something is hidden.
        minimum: frames smaller than this many pixels are enlarged.

    Returns:
        uint8 (H', W', 3).

    Raises:
        ValueError: nothing was recorded, or there is no such frame.
    """
    steps = _recorded(trajectory)
    count = len(steps[0].noisy)
    if frame is None:
        # Between the first step and the result all hidden pixels change, and no other does.
        changed = np.flatnonzero((steps[0].noisy != steps[-1].clean).any(axis=(1, 2, 3)))
        frame = int(changed[len(changed) // 2]) if len(changed) else count // 2
    if not 0 <= frame < count:
        raise ValueError(f"there is no frame {frame}: the recorded clip has frames 0 to {count - 1}")
    rows = [np.stack([step.noisy[frame] for step in steps]), np.stack([step.clean[frame] for step in steps])]
    return contact_sheet(rows, [NOISY, CLEAN], [f"t {step.t}" for step in steps], minimum)


def trajectory_video(
    trajectory: Trajectory, fps: float = 12.5, seconds_per_step: float | None = None, minimum: int = 256
) -> np.ndarray:
    """The denoising as a video: x_t beside the estimate of x_0, one recorded step after the other, t in the title.

    The clip plays on while the noise goes: it does not begin anew at every step. At the last step it is shown whole.

    Args:
        trajectory: with recorded steps.
        fps: frames per second at which the video will be played, > 0.
        seconds_per_step: how long a step is shown (at least a frame); None = once through the clip.
        minimum: panels smaller than this many pixels are enlarged.

    Returns:
        uint8 (T', H', W', 3), H' and W' even.

    Raises:
        ValueError: nothing was recorded, or a number that is not positive.
    """
    steps = _recorded(trajectory)
    for name, value in (("fps", fps), ("seconds_per_step", seconds_per_step)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    clip = len(steps[0].noisy)
    held = clip if seconds_per_step is None else max(round(fps * seconds_per_step), 1)
    parts = []
    for number, step in enumerate(steps):
        shown = np.arange(held) + number * held
        if step is steps[-1]:
            shown = np.arange(max(held, clip)) + number * held
        panels = {f"x_t, t = {step.t}": step.noisy, "the model's estimate of x_0": step.clean}
        parts.append(side_by_side({title: video[shown % clip] for title, video in panels.items()}, minimum))
    return np.concatenate(parts)


def _recorded(trajectory: Trajectory) -> list[RecordedStep]:
    if not trajectory.steps:
        raise ValueError(
            "no step was recorded: give the trajectory to inpaint or inpaint_video as on_step, with a DiffMAE and a "
            "mask that hides something (a MAE takes no steps)"
        )
    return trajectory.steps


def _frames(clip: torch.Tensor) -> np.ndarray:
    """Float pixels (C, T, H, W) in [0, 1] -> uint8 (T, H, W, C)."""
    pixels = (clip.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()
