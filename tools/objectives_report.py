"""What came out of a study of ``objectives_study.py``: a table, a sentence and a plot, for RESULTS.md."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from evidence_report import ReportError, accuracies, collect, replace_between_marks
from evidence_studies import PRETRAIN, Arm, Study
from inpainting_study_report import place_picture
from objectives_measure import CLIPS, LOSSES
from objectives_studies import LEVELS, MAE
from PIL import Image

from diffmae_video.benchmarking import format_table
from diffmae_video.visualize import Panel, line_plot

Losses = dict[str, list[dict]]  # arm -> what ``heldout.json`` holds, in the order of the seeds
LAST = str(LEVELS[-1])


def report(study: Study, output: Path, page: Path | None) -> None:
    """``results.md`` and a plot in the folder of the study; on ``page`` the same between its marks.

    Raises:
        ReportError: nothing to report, or a page without the marks.
    """
    losses = read_losses(study, output)
    if not losses:
        raise ReportError(f"no pre-training of {study.name} is measured: none of the arms that ran has one")
    text = f"{table(study, output, losses)}\n\n{verdict(study, losses)}"
    picture = output / f"{study.name}.png"
    Image.fromarray(draw(study, output, losses)).save(picture)
    (output / "results.md").write_text(f"{text}\n")
    print(f"\n{text}\n\n{output / 'results.md'}, {picture}")
    if page is not None:
        place = Path("docs") / "results" / picture.name
        replace_between_marks(page, study.name, f"{text}\n\n![{study.title}]({place.as_posix()})")
        place_picture(picture, page.parent / place)


def seed_folders(output: Path, arm: Arm) -> list[Path]:
    """Folders of an arm's measured pre-trainings, in the order of their seeds."""
    folders = [file.parent for file in (output / PRETRAIN / arm.name).glob(f"seed_*/{LOSSES}")]
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("seed_")))


def read_losses(study: Study, output: Path) -> Losses:
    """Of the arms that were pre-trained."""
    found = {
        arm.name: [json.loads((folder / LOSSES).read_text()) for folder in seed_folders(output, arm)]
        for arm in study.arms
    }
    return {name: lines for name, lines in found.items() if lines}


def at(losses: Losses, arm: str, level: str) -> list[float]:
    """Held-out losses of all seeds; none where the arm has no such level."""
    return [line["losses"][level] for line in losses[arm] if level in line["losses"]]


def plus_minus(values: Sequence[float], digits: int) -> str:
    """``mean ± standard deviation``, of the sample."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def table(study: Study, output: Path, losses: Losses) -> str:
    """Markdown: loss at t = T and at less noise, and accuracy of the linear probe, a line per objective."""
    records = collect(study, output)
    shown = [str(level) for level in (LEVELS[-1], 100, 25)]
    header = ["objective", "loss at t = T", *(f"t = {level}" for level in shown[1:]), "linear probe (%)"]
    lines = []
    for arm in study.arms:
        if arm.configs and arm.name not in losses:
            continue
        cells = [plus_minus(at(losses, arm.name, level), 4) if arm.configs else "-" for level in shown]
        lines.append([arm.title, *cells, plus_minus(accuracies(records, study.tasks[0].name, arm.name, 0), 1)])
    floor = next(iter(losses.values()))[0]["floor"]
    lines.append(["every patch's mean colour", f"{floor:.4f}", *["-"] * len(shown)])
    clips = max(record["clips"] for record in records if record["task"] == PRETRAIN)
    minutes, seeds = sum(record["cpu_seconds"] for record in records) / 60, max(map(len, losses.values()))
    return (
        f"Mean ± standard deviation over {seeds} seeds, of the weights and of everything else random; "
        f"{clips:,} clips seen in pre-training; loss on {CLIPS} held-out clips under the same masks.\n\n"
        f"{format_table(header, lines)}\n\nAll runs together: {minutes:.0f} CPU minutes."
    )


def verdict(study: Study, losses: Losses) -> str:
    """How far every DiffMAE is from MAE at t = T, in units of what the seed alone does."""
    mae = at(losses, MAE.name, LAST) if MAE.name in losses else []
    if len(mae) < 2:
        return "Differences from MAE are told from two seeds on."
    sentences = []
    for arm in (arm for arm in study.arms if arm.name in losses):
        own = at(losses, arm.name, LAST)
        if arm.name == MAE.name or len(own) != len(mae):
            continue
        gap = statistics.mean(own) - statistics.mean(mae)
        spread = ((statistics.variance(own) + statistics.variance(mae)) / 2) ** 0.5
        sentences.append(
            f"{arm.title}: {gap:+.4f} against MAE ({gap / statistics.mean(mae):+.1%}), {abs(gap) / spread:.1f} times "
            "the standard deviation over seeds."
        )
    return "\n".join(f"- {sentence}" for sentence in sentences)


def draw(study: Study, output: Path, losses: Losses) -> np.ndarray:
    """Left, the held-out loss against the timestep; right, the loss in training; means over the seeds."""
    by_level, training = {}, {}
    for arm in (arm for arm in study.arms if arm.name in losses):
        levels = [level for level in LEVELS if at(losses, arm.name, str(level))]
        means = [statistics.mean(at(losses, arm.name, str(level))) for level in levels]
        # A model without noise does the same at every timestep.
        by_level[arm.title] = (levels, means) if len(levels) > 1 else (LEVELS, means * len(LEVELS))
        logs = [read_log(folder) for folder in seed_folders(output, arm)]
        curves = [[line["loss"] for line in log] for log in logs]
        training[arm.title] = ([line["clips"] for line in logs[0]], np.mean(curves, axis=0))
    return line_plot(
        [
            Panel(by_level, title="held-out clips", x_label="timestep t of 1000", y_label="loss", log_x=True),
            Panel(training, title="in training", x_label="clips seen"),
        ],
        study.title,
    )


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
