"""What came out of a study of ``evidence.py``: results.json, tables in Markdown, and a plot."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence_records import RECORD, Record
from evidence_studies import PRETRAIN, Recognition, Study

PIXELS = "pixels"
FLOOR_TITLE = "linear classifier on pixels"
COLOURS = ("#0072b2", "#d55e00", "#555555", "#aaaaaa", "#009e73", "#cc79a7", "#56b4e9")


class ReportError(ValueError):
    """The report cannot be written; the message says why."""


def collect(study: Study, output: Path) -> list[Record]:
    """The finished runs of a study and the results of its floor, in the order of its tables.

    A record has what ``evidence_records.py`` lists, but for the configurations. Those of the floor have the arm and
    the task "pixels".
    """
    runs = [json.loads(file.read_text()) for file in output.rglob(RECORD)]
    left_out = ("configs", "finished")
    found = [{key: run[key] for key in run if key not in left_out} for run in runs if run["finished"]]
    if (file := output / "floor.json").is_file():
        found += [{"task": PIXELS, "arm": PIXELS, **line} for line in json.loads(file.read_text())]
    tasks = [PRETRAIN, PIXELS, *(task.name for task in study.tasks)]
    arms = [PIXELS, *(arm.name for arm in study.arms)]
    known = [run for run in found if run["task"] in tasks and run["arm"] in arms]
    return sorted(known, key=lambda r: (tasks.index(r["task"]), arms.index(r["arm"]), _count(study, r), r["seed"]))


def _count(study: Study, run: Record) -> int:
    return run["labels"] or study.most_labels


def write_results(study: Study, data: str, records: Sequence[Record], file: Path) -> None:
    """All records as JSON."""
    content = {"study": study.name, "data": data, "chance": study.chance, "runs": list(records)}
    file.write_text(json.dumps(content, indent=1) + "\n")


# -------------------------------------------------------------------------------------------------------------- tables


def accuracies(records: Sequence[Record], task: str, arm: str, labels: int) -> list[float]:
    """Those of all seeds, in percent."""
    place = (task, arm, labels)
    return [100 * record["top1"] for record in records if (record["task"], record["arm"], record["labels"]) == place]


def spread(values: Sequence[float]) -> str:
    """``mean ± standard deviation``, of the sample."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def rows(study: Study, task: Recognition) -> list[tuple[str, str, str]]:
    """(title, task, arm) of every line of a task's table and plot."""
    arms = [arm for arm in study.arms if not arm.tasks or task.name in arm.tasks]
    # The floor is measured on the study's own test clips; a task that comes after another one has others.
    floor = [(FLOOR_TITLE, PIXELS, PIXELS)] if study.floor and not task.after else []
    return [(arm.title, task.name, arm.name) for arm in arms] + floor


def table(study: Study, task: Recognition, records: Sequence[Record]) -> str:
    """Markdown: a line per arm, a column per label count."""
    cells = [
        [title, *(spread(accuracies(records, own, arm, n)) for n in study.labels)]
        for title, own, arm in rows(study, task)
    ]
    head = [f"{task.title}, labels per class", *(str(n) if n else f"all ({study.most_labels})" for n in study.labels)]
    lines = [head, ["---", *["--:"] * len(study.labels)], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(study: Study, records: Sequence[Record]) -> str:
    """The tables of all tasks, and what the numbers are over and have cost."""
    measured = [record for record in records if "top1" in record]
    if not measured:
        return "No run is finished yet."
    seeds, videos = sorted({r["seed"] for r in measured}), sorted({r.get("videos", 0) for r in measured})
    intro = (
        f"Top-1 accuracy (%) on {' or '.join(map(str, videos))} test clips, mean ± standard deviation over "
        f"{len(seeds)} seed{'s' * (len(seeds) > 1)}; guessing gives {100 * study.chance:.0f} %."
    )
    gaps = _gaps(study, records, len(seeds))
    parts = [intro, *(table(study, task, records) for task in study.tasks), *([gaps] if gaps else [])]
    return "\n\n".join([*parts, costs(study, records)])


def _gaps(study: Study, records: Sequence[Record], seeds: int) -> str:
    """Says where a cell has fewer seeds than the others."""
    places = {(own, arm, n) for task in study.tasks for _, own, arm in rows(study, task) for n in study.labels}
    missing = sum(max(seeds - len(accuracies(records, *place)), 0) for place in places)
    return f"{missing} of {seeds * len(places)} results are missing." if missing else ""


def costs(study: Study, records: Sequence[Record]) -> str:
    """Markdown: clips seen and CPU time of one run, by task and arm."""
    lines = [["one run, mean", "clips seen in training", "CPU minutes"], ["---", "--:", "--:"]]
    titles = {PRETRAIN: "pre-training", **{task.name: task.title for task in study.tasks}}
    for task, title in titles.items():
        for arm in study.arms:
            if own := [r for r in records if (r["task"], r["arm"]) == (task, arm.name)]:
                clips, seconds = (statistics.mean(r[key] for r in own) for key in ("clips", "cpu_seconds"))
                lines.append([f"{title}, {arm.title}", f"{clips:,.0f}", f"{seconds / 60:.1f}"])
    total = sum(record.get("cpu_seconds", 0) for record in records) / 3600
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\nAll runs together: {total:.2f} CPU hours."


# ---------------------------------------------------------------------------------------------------------------- plot


def plot(study: Study, records: Sequence[Record], file: Path) -> None:
    """Accuracy against labels per class, a panel per task and a line per arm; PNG.

    Raises:
        ReportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ReportError("the plot needs matplotlib: pip install -c constraints.txt matplotlib") from error
    count = len(study.tasks)
    figure = Figure(figsize=(4.2 * count, 4.0), layout="constrained")
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, study.tasks, strict=True):
        _panel(axes, study, task, records)
    panels[0].set_ylabel("top-1 accuracy (%)")
    handles = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(study.title)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100)


def _panel(axes: Any, study: Study, task: Recognition, records: Sequence[Record]) -> None:
    colours = {arm.name: colour for arm, colour in zip(study.arms, COLOURS, strict=False)} | {PIXELS: "black"}
    counts = [n or study.most_labels for n in study.labels]
    for title, own, arm in rows(study, task):
        points = [(count, accuracies(records, own, arm, n)) for count, n in zip(counts, study.labels, strict=True)]
        points = [(count, values) for count, values in points if values]
        if points:
            means = [statistics.mean(values) for _, values in points]
            errors = [statistics.stdev(values) if len(values) > 1 else 0 for _, values in points]
            style = {"linestyle": ":", "linewidth": 1} if arm == PIXELS else {"marker": "o", "markersize": 4}
            xs = [count for count, _ in points]
            axes.errorbar(xs, means, errors, label=title, color=colours[arm], capsize=2, **style)
    axes.axhline(100 * study.chance, color="black", linewidth=0.5, linestyle="--", label="guessing")
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(n) if n else f"all ({study.most_labels})" for n in study.labels])
    axes.minorticks_off()
    axes.set_xlabel("labels per class")
    axes.set_title(task.title)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


# ---------------------------------------------------------------------------------------------------------- RESULTS.md


def fill_in(page: Path, study: Study, tables: str, plot_file: Path) -> None:
    """Puts the tables between the marks of the study on a page, and the plot into ``docs/results`` beside it.

    Raises:
        ReportError, FileNotFoundError: see :func:`replace_between_marks`.
    """
    picture = Path("docs") / "results" / f"{study.name}.png"
    replace_between_marks(page, study.name, f"{tables}\n\n![{study.title}]({picture.as_posix()})")
    (page.parent / picture).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(plot_file, page.parent / picture)


def replace_between_marks(page: Path, name: str, text: str) -> None:
    """Puts a text between the lines ``<!-- name:begin -->`` and ``<!-- name:end -->`` of a page.

    Raises:
        ReportError: the page does not have both marks, once each and in order.
        FileNotFoundError: no such page.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = page.read_text()
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise ReportError(f"{page} needs the marks {begin} and {end}, once each: the tables go between them")
    before, after = old.split(begin)[0], old.split(end)[1]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")
