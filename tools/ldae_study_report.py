"""What came out of a study of ``ldae_study.py``: tables in Markdown and a plot, for RESULTS.md."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from evidence_records import Record
from evidence_report import ReportError, accuracies, collect, replace_between_marks, spread
from evidence_studies import PRETRAIN
from ldae_study_arms import ONE_LEVEL, PIXEL, SCRATCH, LatentStudy, pca_name

from diffmae_video.benchmarking import format_table
from diffmae_video.data.writing import write_image
from diffmae_video.engine import RunError, find_checkpoint
from diffmae_video.visualize import Panel, line_plot

FIRST_ROW = 5  # of the paper's table, as docs/ldae.md numbers it: what is before needs a convolutional VAE


def report(latent: LatentStudy, output: Path, page: Path | None) -> None:
    """``results.md`` and a plot in the folder of the study; on ``page`` the same between its marks, the plot beside it.

    Raises:
        ReportError: the page lacks the marks ``ldae_<study>``, or matplotlib is not installed.
    """
    records = collect(latent.study, output)
    text = markdown(latent, records, output)
    (output / "results.md").write_text(f"{text}\n")
    print(f"\n{text}\n\n{output / 'results.md'}")
    name = f"ldae_{latent.name}"
    picture = plot(latent, records, output / f"{name}.png")
    if page is None:
        return
    shown = ""
    if picture is not None:
        place = Path("docs") / "results" / f"{name}.png"
        (page.parent / place).parent.mkdir(parents=True, exist_ok=True)
        (page.parent / place).write_bytes(picture.read_bytes())
        shown = f"\n\n![{latent.study.title}]({place.as_posix()})"
    replace_between_marks(page, name, text + shown)


# -------------------------------------------------------------------------------------------------------------- tables


def markdown(latent: LatentStudy, records: Sequence[Record], output: Path) -> str:
    """The widths, the kinds of noise, the rows of the deconstruction, and what the runs have cost."""
    measured = [record for record in records if "top1" in record]
    if not measured:
        return "No run is finished yet."
    videos = sorted({record.get("videos", 0) for record in measured})
    steps = sorted({record["clips"] for record in records if record["task"] == PRETRAIN})
    seeds = len({record["seed"] for record in measured})
    intro = (
        f"Top-1 accuracy (%) of linear probes on {' or '.join(map(str, videos))} test clips, mean ± standard deviation "
        f"over {seeds} seed{'s' * (seeds > 1)} of the probe; guessing gives {100 * latent.study.chance:.0f} %. Every "
        f"arm was pre-trained once, on {' or '.join(f'{clips:,}' for clips in steps)} clips."
    )
    parts = [intro, _widths(latent, records, output), _rows(latent, records), _costs(records)]
    return "\n\n".join(part for part in parts if part)


def _cells(latent: LatentStudy, records: Sequence[Record], arm: str) -> list[str]:
    return [spread(accuracies(records, task.name, arm, 0)) for task in latent.study.tasks]


def _is_measured(records: Sequence[Record], arm: str) -> bool:
    return any("top1" in record and record["arm"] == arm for record in records)


def _widths(latent: LatentStudy, records: Sequence[Record], output: Path) -> str:
    shares = explained(latent, output)
    head = ["noise in", "variance explained", *(task.title for task in latent.study.tasks)]
    lines = [
        [f"{width} principal components", shares.get(width, "-"), *_cells(latent, records, pca_name(width))]
        for width in latent.widths
        if _is_measured(records, pca_name(width))
    ]
    titles = {arm.name: arm.title for arm in latent.study.arms}
    lines += [
        [title, note, *_cells(latent, records, arm)]
        for arm, title, note in (
            (PIXEL, "pixels", "100 %"),
            (ONE_LEVEL, f"{latent.base} components, {titles[ONE_LEVEL]}", shares.get(latent.base, "-")),
            (SCRATCH, titles[SCRATCH], "-"),
        )
        if _is_measured(records, arm)
    ]
    return format_table(head, lines)


def _rows(latent: LatentStudy, records: Sequence[Record]) -> str:
    """Those that were run; nothing where that is l-DAE alone, which the other table has."""
    titles = {arm.name: arm.title for arm in latent.study.arms} | {latent.rows[-1]: "original image: l-DAE"}
    numbered = [(f"{number}: {titles[arm]}", arm) for number, arm in enumerate(latent.rows, FIRST_ROW)]
    run = [(title, arm) for title, arm in (*numbered, (titles["ddpm"], "ddpm")) if _is_measured(records, arm)]
    if len(run) < 2:
        return ""
    lines = [[title, *_cells(latent, records, arm)] for title, arm in run]
    return format_table(["row of the deconstruction", *(task.title for task in latent.study.tasks)], lines)


def explained(latent: LatentStudy, output: Path) -> dict[int, str]:
    """Width -> share of the variance of patches, from the tokenizer of the first PCA that was pre-trained."""
    for width in latent.widths:
        try:
            state, _ = find_checkpoint(output / PRETRAIN / pca_name(width) / "seed_0")
        except (FileNotFoundError, RunError):
            continue
        total = state["model"]["image_tokenizer.variances"].cumsum(0)
        return {each: f"{100 * (total[each - 1] / total[-1]).item():.2f} %" for each in latent.widths}
    return {}


def _costs(records: Sequence[Record]) -> str:
    own = [record for record in records if record["task"] == PRETRAIN]
    if not own:
        return ""
    seconds = [record["cpu_seconds"] for record in own]
    rate = sum(record["clips"] for record in own) / sum(seconds)
    total = sum(record.get("cpu_seconds", 0) for record in records) / 3600
    return (
        f"A pre-training took {statistics.mean(seconds) / 60:.1f} minutes of one core ({rate:.0f} clips/s); all runs "
        f"together {total:.2f} hours."
    )


# ---------------------------------------------------------------------------------------------------------------- plot


def plot(latent: LatentStudy, records: Sequence[Record], file: Path) -> Path | None:
    """Accuracy against components, a panel per task, and along the rows of the deconstruction; None without a result.

    Raises:
        ReportError: matplotlib is not installed.
    """
    panels = [panel for panel in (*_width_panels(latent, records), _row_panel(latent, records)) if panel.series]
    if not panels:
        return None
    try:
        picture = line_plot(panels, latent.study.title)
    except ImportError as error:
        raise ReportError(str(error)) from error
    return write_image(file, picture)


def _points(
    latent: LatentStudy, records: Sequence[Record], task: str, arms: Sequence[tuple[float, str]]
) -> tuple[list[float], list[float]]:
    """(xs, mean accuracies) of the arms (x, name) that have results."""
    means = [(x, accuracies(records, task, name, 0)) for x, name in arms]
    found = [(x, statistics.mean(values)) for x, values in means if values]
    return [x for x, _ in found], [y for _, y in found]


def _width_panels(latent: LatentStudy, records: Sequence[Record]) -> list[Panel]:
    panels = []
    titles = {PIXEL: "noise in pixels", ONE_LEVEL: "a single noise level", SCRATCH: "random encoder"}
    for task in latent.study.tasks:
        pca = _points(latent, records, task.name, [(width, pca_name(width)) for width in latent.widths])
        ends = latent.widths[0], latent.widths[-1]
        levels = {title: _points(latent, records, task.name, [(x, arm) for x in ends]) for arm, title in titles.items()}
        panels.append(
            Panel(
                {"noise in principal components": pca} if pca[0] else {},
                {title: points for title, points in levels.items() if points[0]},
                title=task.title,
                x_label="principal components",
                y_label="top-1 accuracy (%)",
                log_x=True,
            )
        )
    return panels


def _row_panel(latent: LatentStudy, records: Sequence[Record]) -> Panel:
    rows = list(enumerate(latent.rows, FIRST_ROW))
    lines = {f"rows, {task.title}": _points(latent, records, task.name, rows) for task in latent.study.tasks}
    return Panel(
        {title: points for title, points in lines.items() if len(points[0]) > 1},
        title="steps of the deconstruction",
        x_label=f"row {FIRST_ROW} (patch-VAE) to {FIRST_ROW + len(rows) - 1} (l-DAE)",
        y_label="top-1 accuracy (%)",
    )
