"""One inpainting of the page: it can be watched, it can be stopped, and its results are files in one folder."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from page_input import Clip, Limits, Refused

from diffmae_video.baselines import mean_fill, nearest_patch_fill
from diffmae_video.data.writing import write_image, write_video
from diffmae_video.inpainting import inpaint_video
from diffmae_video.mask_input import patch_in_pixels
from diffmae_video.quality import psnr
from diffmae_video.visualize import Trajectory, masked_frames, side_by_side, trajectory_strip

SHOWN_STEPS = 8
COMPARISON_WIDTH = 1920  # pixels; a page shows no more


class Stopped(Exception):
    """The job was stopped before it was done; the message says why."""


@dataclass(frozen=True)
class Settings:
    """How it is sampled; see ``inpaint_video``."""

    steps: int = 20
    sampler: str = "ddim"
    seed: int = 0
    spacing: str = "trailing"
    fit: str = "resize"
    feather: int = 0

    def check(self, limits: Limits) -> None:
        """Raises Refused for more steps than the page allows; what else can be wrong, ``inpaint_video`` says."""
        if not 1 <= self.steps <= limits.steps:
            raise Refused(f"{self.steps} steps: expected 1 to {limits.steps}")


@dataclass(frozen=True)
class Result:
    """What is shown of a finished job; files are .png for an image, else .mp4."""

    comparison: Path  # masked input | inpainted | original
    inpainted: Path
    psnr: dict[str, float]  # dB inside the mask, against the original
    trajectory: np.ndarray | None  # uint8 (H', W', 3); None for a MAE, which takes no steps


class Job:
    """An inpainting in a thread of ``pool``.

    Attributes:
        done, total: network steps; ``total`` is 0 until the first is done.
        trajectory: the denoising so far.
    """

    def __init__(
        self,
        pool: Executor,
        model: torch.nn.Module,
        clip: Clip,
        mask: np.ndarray,
        settings: Settings,
        seconds: float,
    ):
        self.done, self.total = 0, 0
        self.trajectory = Trajectory(SHOWN_STEPS)
        self._seconds, self._deadline = seconds, None
        self._reason = ""
        self._lock = threading.Lock()
        self._future: Future[np.ndarray] = pool.submit(self._work, model, clip, mask, settings)

    def _work(self, model: torch.nn.Module, clip: Clip, mask: np.ndarray, settings: Settings) -> np.ndarray:
        self._deadline = time.monotonic() + self._seconds
        self._check()
        return inpaint_video(
            model,
            clip.frames,
            mask,
            settings.steps,
            settings.sampler,
            settings.seed,
            settings.fit,
            self._progress,
            spacing=settings.spacing,
            feather=settings.feather,
            on_step=self.trajectory,
        )

    def _progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self._check()

    def _check(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            self.stop(
                f"stopped after {self._seconds:.0f} s, the longest that a job may take here: choose fewer steps, "
                "fewer frames or a smaller video"
            )
        if self._reason:
            raise Stopped(self._reason)

    def stop(self, reason: str) -> None:
        """Ends the job after the network step that it is at; the first reason counts. Nothing if it is done."""
        with self._lock:
            self._reason = self._reason or reason
        self._future.cancel()

    def watch(self, seconds: float = 0.25) -> Iterator[None]:
        """Yields about every so many seconds until the job is done, or shall stop."""
        while not wait([self._future], seconds).done:
            yield
            self._check()

    def result(self) -> np.ndarray:
        """uint8 (T, H, W, 3), once it is done; raises Stopped, or ValueError with what ``inpaint_video`` refused."""
        if self._future.cancelled():
            raise Stopped(self._reason)
        return self._future.result()


def strip_of(trajectory: Trajectory) -> np.ndarray | None:
    """Picture of the steps so far, while others may be added in another thread; None before the first."""
    taken = copy.copy(trajectory)
    taken.steps = list(trajectory.steps)
    return trajectory_strip(taken) if taken.steps else None


def write_result(
    folder: str | Path, clip: Clip, mask: np.ndarray, filled: np.ndarray, job: Job, model: torch.nn.Module, fit: str
) -> Result:
    """Files and numbers of what a job returned.

    Args:
        folder: where the files go.
        clip, mask, fit, model: of the job.
        filled: its result, uint8 (T, H, W, 3).
    """
    folder, frames = Path(folder), clip.frames
    fills = {"inpainted": filled, "mean colour of what is visible": mean_fill(frames, mask)}
    patch = patch_in_pixels(frames.shape[:3], model.clip_shape[1:], model.patch_size, fit)
    try:
        fills["nearest visible patch"] = nearest_patch_fill(frames, mask, patch)
    except ValueError:  # every patch hides something: there is none to copy
        pass
    values = {title: psnr(fill, frames, mask) for title, fill in fills.items()}
    panels = {"masked input": masked_frames(frames, mask), "inpainted": filled, "original": frames}
    comparison = side_by_side(panels, max_width=COMPARISON_WIDTH)
    stem = f"{Path(clip.name).stem}_inpainted"
    return Result(
        _write(folder / "comparison", comparison, clip),
        _write(folder / stem, filled, clip),
        values,
        strip_of(job.trajectory),
    )


def _write(path: Path, frames: np.ndarray, clip: Clip) -> Path:
    if clip.is_picture:
        return write_image(path.with_name(path.name + ".png"), frames[0])
    return write_video(path.with_name(path.name + ".mp4"), frames, clip.fps)
