"""What an inpainting evaluation found, as tables, plots and pictures.

Written are ``metrics.json`` (a row per mask, method and number of steps), ``per_clip.csv``, ``table.md``,
``sheet_<mask>.png`` (the same clips by every method) and, where a model sampled with several numbers of steps and
matplotlib is installed, ``steps_<mask>.png``.
"""

from __future__ import annotations

import json
import logging
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffmae_video.benchmarking import format_table
from diffmae_video.data import write_image
from diffmae_video.engine.classification_report import csv_text
from diffmae_video.engine.disk import write_text
from diffmae_video.visualize import Panel, contact_sheet, line_plot

logger = logging.getLogger(__name__)

# measure -> (title in tables, digits, a larger value is better); in the order of the columns
MEASURES = {
    "psnr": ("PSNR dB", 2, True),
    "ssim": ("SSIM", 3, True),
    "lpips": ("LPIPS", 3, False),
    "frechet": ("Fréchet", 2, False),
    "frame_difference": ("frame difference", 2, False),
    "detail": ("detail", 2, None),
    "detail_and_seams": ("with seams", 2, None),
    "psnr_best": ("best PSNR dB", 2, True),
    "diversity": ("diversity", 1, None),
}
RATIOS = ("detail", "detail_and_seams")
SHEET_FRAMES = 2  # of every clip


@dataclass(frozen=True)
class Row:
    """One line of a table.

    ``values``: measure -> its value for every clip (one value of all clips for ``frechet``).
    """

    mask: str
    method: str
    sampler: str
    steps: int
    samples: int
    clips: int
    values: Mapping[str, Sequence[float]]
    seconds_per_clip: float

    @property
    def title(self) -> str:
        return f"{self.method}, {self.sampler}, {self.steps}" if self.sampler else self.method

    def mean(self, measure: str) -> float:
        """Over the clips; of ratios the median, which single flat clips cannot spoil. NaN is left out."""
        known = [value for value in self.values.get(measure, ()) if not math.isnan(value)]
        if not known:
            return math.nan
        return statistics.median(known) if measure in RATIOS else statistics.fmean(known)

    def flat(self) -> dict[str, object]:
        """For JSON: what the row is of, and its means."""
        means = {measure: self.mean(measure) for measure in MEASURES if measure in self.values}
        return {
            "mask": self.mask,
            "method": self.method,
            "sampler": self.sampler,
            "steps": self.steps,
            "samples": self.samples,
            "clips": self.clips,
            **{name: None if math.isnan(value) else value for name, value in means.items()},
            "seconds_per_clip": self.seconds_per_clip,
        }


def write_report(
    rows: Sequence[Row], sheets: Mapping[str, Mapping[str, Sequence[np.ndarray]]], folder: Path, summary: str
) -> str:
    """Writes the files of the module's description; returns the tables in Markdown.

    Args:
        rows: of all masks.
        sheets: mask -> title -> uint8 frames (T, H, W, 3) of the first clips.
        folder: created when missing; files in it are replaced.
        summary: which clips were measured, one line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps([row.flat() for row in rows], indent=1) + "\n")
    write_text(folder / "per_clip.csv", csv_text(_per_clip(rows)))
    text = tables(rows, summary)
    write_text(folder / "table.md", f"{text}\n")
    for mask, clips in sheets.items():
        name = re.sub(r"[^\w.-]+", "_", mask)
        write_image(folder / f"sheet_{name}.png", sheet(clips))
        own = [row for row in rows if row.mask == mask]
        if (picture := steps_plot(own)) is not None:
            write_image(folder / f"steps_{name}.png", picture)
    return text


def tables(rows: Sequence[Row], summary: str) -> str:
    """A Markdown table per mask."""
    parts = [f"{summary}. Inside the mask; detail 1 = as much as in the original."]
    for mask in dict.fromkeys(row.mask for row in rows):
        own = [row for row in rows if row.mask == mask]
        measures = [measure for measure in MEASURES if any(not math.isnan(row.mean(measure)) for row in own)]
        header = [f"mask {mask}", "steps", *(MEASURES[measure][0] for measure in measures), "s per clip"]
        lines = [
            [
                f"{row.method}, {row.sampler}" if row.sampler else row.method,
                row.steps or "-",
                *(_number(row.mean(measure), MEASURES[measure][1]) for measure in measures),
                f"{row.seconds_per_clip:.3g}",
            ]
            for row in own
        ]
        parts.append(format_table(header, lines))
    return "\n\n".join(parts)


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _per_clip(rows: Sequence[Row]) -> list[Sequence[object]]:
    measures = [measure for measure in MEASURES if measure != "frechet"]
    lines: list[Sequence[object]] = [["mask", "method", "sampler", "steps", "clip", *measures]]
    for row in rows:
        for clip in range(row.clips):
            values = [f"{row.values[m][clip]:.6g}" if m in row.values else "" for m in measures]
            lines.append([row.mask, row.method, row.sampler, row.steps, clip, *values])
    return lines


def sheet(clips: Mapping[str, Sequence[np.ndarray]]) -> np.ndarray:
    """A row per title, a few frames of every clip side by side."""
    rows = []
    for videos in clips.values():
        places = np.linspace(0, len(videos[0]) - 1, min(SHEET_FRAMES, len(videos[0]))).round().astype(int)
        rows.append(np.concatenate([video[places] for video in videos]))
    return contact_sheet(rows, titles=[title.replace(", ", "\n", 1) for title in clips], minimum=96)


def steps_plot(rows: Sequence[Row]) -> np.ndarray | None:
    """PSNR, SSIM and detail against sampling steps; None where no model took several numbers of steps."""
    names = dict.fromkeys((row.method, row.sampler) for row in rows if row.sampler)
    groups = {name: [row for row in rows if (row.method, row.sampler) == name] for name in names}
    if not any(len(group) > 1 for group in groups.values()):
        return None
    constant = [row for row in rows if not row.sampler]
    ends = [min(row.steps for row in rows if row.sampler), max(row.steps for row in rows)]
    panels = []
    for measure in ("psnr", "ssim", "detail"):
        series = {f"{a}, {b}": ([r.steps for r in g], [r.mean(measure) for r in g]) for (a, b), g in groups.items()}
        flat = {row.method: (ends, [row.mean(measure)] * 2) for row in constant}
        panels.append(Panel(series | flat, x_label="sampling steps", title=MEASURES[measure][0], log_x=True))
    try:
        return line_plot(panels)
    except ImportError as error:
        logger.warning("no plot of quality against steps: %s", error)
        return None
