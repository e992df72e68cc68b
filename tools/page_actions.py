"""What the page does when something on it is touched: plain values in, what is to be shown out. No Gradio in here."""

from __future__ import annotations

import html
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inpaint import hidden_ratio
from page_input import Clip, ClipReader, Limits, Refused, Sample
from page_job import Job, Result, Settings, Stopped, strip_of, write_result
from page_mask import PAINTED, MaskChoice, build_mask

from diffmae_video.visualize import frame_sheet, masked_frames, upscale

CANVAS = 320  # pixels, about, of the shorter side of the frame that is painted on
PREVIEW_COLUMNS = 4
CANCELLED = "cancelled"
SIDES = ("left", "top", "right", "bottom")

Values = Mapping[str, Any]  # name of a control -> what it is set to


@dataclass(frozen=True)
class View:
    """What the page shows of a job; None = as it is."""

    status: str  # HTML
    result: Result | None = None
    strip: np.ndarray | None = None  # of the denoising so far, uint8 (H, W, 3)


class Actions:
    """The models, and the jobs that run.

    Args:
        models: name on the page -> DiffMAE or MAE.
        samples: what can be chosen without uploading; at least one.
        limits: see ``page_input``.
        folder: where jobs write; nothing is left there.
    """

    def __init__(self, models: Mapping[str, torch.nn.Module], samples: Sequence[Sample], limits: Limits, folder: Path):
        self.models, self.samples, self.limits, self.folder = models, samples, limits, folder
        self.reader = ClipReader(limits)
        self.jobs: dict[str, Job] = {}  # running, by the visitor's session
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="inpaint")

    def close(self) -> None:
        """Ends what is running."""
        for job in list(self.jobs.values()):
            job.stop("the server is closing")
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.reader.close()

    def ratio(self, kind: str, model: str) -> float:
        """The share of patches that a strategy hides unless somebody says another."""
        return hidden_ratio(Namespace(ratio=None, mask=kind), self.models[model])

    def first_frame(self, values: Values) -> np.ndarray | None:
        """To paint on: uint8 (H, W, 3), enlarged; None where there is no input."""
        try:
            return upscale(self._clip(values).frames[:1], CANVAS)[0]
        except Refused:
            return None

    def look(self, values: Values) -> tuple[str, np.ndarray | None]:
        """What the input is and what of it is hidden: HTML, and a few masked frames on a picture.

        What is painted is seen where it is painted: there is no picture of it.
        """
        try:
            clip = self._clip(values)
            if values["kind"] == PAINTED:
                return note(f"{clip.describe()}. {self._painted_share(values, clip)}"), None
            mask = self._mask(values, clip, "")
        except Refused as error:
            return wrong(error), None
        shown = {"": masked_frames(clip.frames, mask)}
        sheet = frame_sheet(shown, PREVIEW_COLUMNS, None if clip.is_picture else clip.indices)
        return note(f"{clip.describe()}. Hidden: {mask.mean():.0%}"), sheet

    def run(self, values: Values, session: str) -> Iterator[View]:
        """Inpaints, and says how far it is; ends with the result or with what was wrong."""
        try:
            yield from self._run(values, session)
        except Stopped as stopped:
            yield View(note(stopped) if str(stopped) == CANCELLED else wrong(stopped))
        except ValueError as error:  # Refused, or what inpaint_video refuses
            yield View(wrong(error))

    def cancel(self, session: str) -> str:
        """Ends the visitor's job, if there is one; HTML."""
        if job := self.jobs.get(session):
            job.stop(CANCELLED)
        return note(CANCELLED)

    def _clip(self, values: Values) -> Clip:
        if not values["source"]:
            raise Refused("choose a sample, or upload a video or an image, first")
        return self.reader(values["source"], *(whole(values, name) for name in ("start", "count", "stride")))

    def _mask(self, values: Values, clip: Clip, folder: str) -> np.ndarray:
        choice = MaskChoice(
            values["kind"],
            values["ratio"],
            tuple(values[side] / 100 for side in SIDES),
            values["keyframes"],
            values["frames"],
            values.get("editor"),
            whole(values, "grow"),
        )
        return build_mask(choice, clip, self.models[values["model"]], values["fit"], whole(values, "seed"), folder)

    def _painted_share(self, values: Values, clip: Clip) -> str:
        if "editor" not in values:
            return "Hidden: what is painted"
        with tempfile.TemporaryDirectory(prefix="look_", dir=self.folder) as folder:
            try:
                return f"Hidden: {self._mask(values, clip, folder).mean():.1%}"
            except Refused as error:  # nothing is painted yet, or all of it
                return str(error).capitalize()

    def _run(self, values: Values, session: str) -> Iterator[View]:
        yield View(bar(0, 0, "reading the input"))
        clip, model = self._clip(values), self.models[values["model"]]
        settings = Settings(
            whole(values, "steps"),
            values["sampler"],
            whole(values, "seed"),
            values["spacing"],
            values["fit"],
            whole(values, "feather"),
        )
        settings.check(self.limits)
        with tempfile.TemporaryDirectory(prefix="job_", dir=self.folder) as folder:
            mask = self._mask(values, clip, folder)
            job = self.jobs[session] = Job(self._pool, model, clip, mask, settings, self.limits.job_seconds)
            try:
                yield from _watched(job)
                filled = job.result()
            finally:
                job.stop(CANCELLED)  # the visitor left; nothing where it is done
                if self.jobs.get(session) is job:
                    del self.jobs[session]
            yield View(bar(job.total, job.total, "writing the result"))
            result = write_result(folder, clip, mask, filled, job, model, settings.fit)
            yield View(note("done") + table(result.psnr), result, result.trajectory)


def _watched(job: Job) -> Iterator[View]:
    shown = 0
    for _ in job.watch():
        words = f"step {job.done} of {job.total}" if job.total else "waiting for the network"
        steps = len(job.trajectory.steps)
        yield View(bar(job.done, job.total, words), strip=strip_of(job.trajectory) if steps != shown else None)
        shown = steps


def whole(values: Values, name: str) -> int:
    """The whole number that a control is set to; raises Refused where it is empty."""
    if values[name] is None:
        raise Refused(f"{name}: expected a whole number, and nothing was entered")
    return int(values[name])


def note(text: object) -> str:
    """HTML of a sentence."""
    return f"<div role='status'>{html.escape(str(text))}</div>"


def wrong(error: Exception) -> str:
    """HTML of what a visitor can put right."""
    return f"<div role='alert' class='wrong'>{html.escape(' '.join(str(error).split()))}</div>"


def bar(done: int, total: int, words: str) -> str:
    """HTML of a progress bar with words under it; one without a length where ``total`` is 0."""
    value = f"value='{done}' max='{total}'" if total else ""
    return f"<progress {value}></progress>{note(words)}"


def table(values: Mapping[str, float]) -> str:
    """HTML of the PSNR of each fill."""
    rows = (f"<tr><td>{html.escape(title)}</td><td>{value:.2f} dB</td></tr>" for title, value in values.items())
    return (
        "<p>PSNR inside the mask, against the original (says nothing where something is to be removed):</p>"
        f"<table>{''.join(rows)}</table>"
    )
