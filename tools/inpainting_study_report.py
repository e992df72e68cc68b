"""What came out of a study of ``inpainting_study.py``: tables, plots and sheets, for RESULTS.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence_report import replace_between_marks
from inpainting_studies import Study
from PIL import Image

from diffmae_video.benchmarking import format_table
from diffmae_video.engine.inpainting_report import MEASURES

Row = dict[str, Any]  # a line of metrics.json
ABLATION_STEPS = (1, 5, 20)
COLOURS = 160


def rows_of(folder: Path) -> list[Row]:
    """The lines of an evaluation; none where it was not run."""
    file = folder / "inpaint_eval" / "metrics.json"
    return json.loads(file.read_text()) if file.is_file() else []


def report(study: Study, output: Path, page: Path | None) -> None:
    """``results.md`` in the folder of the study; on ``page`` the same between its marks, pictures beside it."""
    parts, pictures = [], {}
    for split, title in study.splits:
        folder = output / f"compare_{split}"
        parts.append(f"**{title[0].upper()}{title[1:]}**\n\n{compare(rows_of(folder))}")
        pictures[f"inpainting_{study.name}_{split}.png"] = folder / "inpaint_eval" / "sheet_tube.png"
    if study.curve:
        parts.append(f"**Quality against sampling steps**\n\n{steps(rows_of(output / 'steps'))}")
        pictures[f"inpainting_{study.name}_steps.png"] = output / "steps" / "inpaint_eval" / "steps_tube.png"
    if study.ablation:
        parts.append(f"**What matters, after {study.ablation_steps} steps of training**\n\n{ablation(study, output)}")
    text = "\n\n".join(parts)
    (output / "results.md").write_text(f"{text}\n")
    print(f"\n{text}\n\n{output / 'results.md'}")
    if page is None:
        return
    shown = []
    for name, file in pictures.items():
        if file.is_file():
            place_picture(file, page.parent / "docs" / "results" / name)
            shown.append(f"![{study.title}, {name.removesuffix('.png').replace('_', ' ')}](docs/results/{name})")
    replace_between_marks(page, f"inpainting_{study.name}", "\n\n".join([text, *shown]))


def place_picture(file: Path, place: Path) -> None:
    """A copy for a repository: of 160 colours, a fifth of the size."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(COLOURS).save(place, optimize=True)


def _value(row: Row, measure: str) -> str:
    value = row.get(measure)
    return "-" if value is None else f"{value:.{MEASURES[measure][1]}f}"


def compare(rows: Sequence[Row]) -> str:
    """A Markdown table per mask: every way to fill it."""
    tables = []
    for mask in dict.fromkeys(row["mask"] for row in rows):
        own = [row for row in rows if row["mask"] == mask]
        measures = [m for m in MEASURES if any(row.get(m) is not None for row in own)]
        header = [f"{mask} ({own[0]['clips']} clips)", *(MEASURES[m][0] for m in measures)]
        lines = [[_title(row), *(_value(row, m) for m in measures)] for row in own]
        tables.append(format_table(header, lines))
    return "\n\n".join(tables)


def _title(row: Row) -> str:
    return f"{row['method']}, {row['sampler']}, {row['steps']} steps" if row["sampler"] else row["method"]


def steps(rows: Sequence[Row]) -> str:
    """A Markdown table: quality and time against steps, and what 20 steps keep of 1000."""
    lines, sentences = [], []
    for sampler in dict.fromkeys(row["sampler"] for row in rows if row["sampler"]):
        own = {row["steps"]: row for row in rows if row["sampler"] == sampler}
        measures = ("psnr", "ssim", "detail", "detail_and_seams")
        lines += [
            [f"{sampler}, {count}", *(_value(row, m) for m in measures), f"{row['seconds_per_clip']:.3f}"]
            for count, row in own.items()
        ]
        if {20, 1000} <= set(own):
            few, many = own[20], own[1000]
            sentences.append(
                f"{sampler}: 20 steps give {few['psnr'] / many['psnr']:.1%} of the PSNR of 1000 and "
                f"{few['ssim'] / many['ssim']:.1%} of its SSIM, "
                f"{many['seconds_per_clip'] / few['seconds_per_clip']:.1f} times as fast."
            )
    header = ["sampler, steps", "PSNR dB", "SSIM", "detail", "with seams", "seconds per clip"]
    return "\n\n".join([format_table(header, lines), *sentences])


def ablation(study: Study, output: Path) -> str:
    """A Markdown table: PSNR, SSIM and detail at several numbers of steps, a line per model."""
    lines = []
    for arm in study.ablation:
        rows = {row["steps"]: row for row in rows_of(output / f"eval_{arm.name}")}
        cells = [
            f"{_value(rows[n], 'psnr')} / {_value(rows[n], 'ssim')} / {_value(rows[n], 'detail_and_seams')}"
            if n in rows
            else "not run"
            for n in ABLATION_STEPS
        ]
        lines.append([arm.title, *cells])
    return format_table(["PSNR / SSIM / detail with seams", *(f"{n} steps" for n in ABLATION_STEPS)], lines)
