"""A test's result as files that people and programs read, and as a paragraph for the terminal.

Written are ``metrics.json`` (the measures, accuracies in [0, 1]), ``predictions.csv`` (one row per video),
``per_class.csv``, ``confusion.png``, and, where views were scored, ``views.csv``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from diffmae_video.data import write_image
from diffmae_video.engine.classification import ClassificationResult
from diffmae_video.engine.disk import write_atomically
from diffmae_video.visualize import confusion_matrix

WEAKEST = 3  # classes named in the summary


def write_report(result: ClassificationResult, class_names: Sequence[str], folder: str | Path) -> list[Path]:
    """Writes the files of the module's description.

    Args:
        result: of a test.
        class_names: of classes 0, 1, ...; a class beyond their end is called by its number.
        folder: created when missing; files in it are replaced.

    Returns:
        The files.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = _names(result, class_names)
    metrics = result.metrics() | {"unreadable_videos_are": result.unreadable}
    tables = {"predictions.csv": _predictions(result, names), "per_class.csv": _per_class(result, names)}
    if result.view_scores is not None:
        tables["views.csv"] = _views(result)
        metrics |= {"views": result.view_scores.shape[1], "crops": result.crops}
    _write(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    for name, rows in tables.items():
        _write(folder / name, csv_text(rows))
    picture = write_image(folder / "confusion.png", confusion_matrix(result.confusion().numpy(), names))
    return [folder / "metrics.json", *(folder / name for name in tables), picture]


def summary(result: ClassificationResult, class_names: Sequence[str] = ()) -> str:
    """One paragraph: what was tested, how much was right, what could not be read, and where it fails most."""
    names, metrics = _names(result, class_names), result.metrics()
    what = f"{len(result.paths)} videos"
    views = 1 if result.view_scores is None else result.view_scores.shape[1]
    if views > 1:
        what += f", {views // result.crops} clips x {result.crops} crops each"
    parts = [f"top-1 {metrics['top1']:.2%}"]
    parts += [f"top-5 {metrics['top5']:.2%}"] if "top5" in metrics else []
    parts += [f"mean over classes {metrics['class_mean_top1']:.2%}"]
    parts += [f"a single view {metrics['view_top1']:.2%}"] if views > 1 else []
    text = f"{what}: {', '.join(parts)}."
    if result.unread:
        fate = "left out" if result.unreadable == "leave_out" else "counted as wrong"
        text += f" {len(result.unread)} more could not be read and are {fate}: {result.unread[0].path} ..."
    return text + _weakest(result, names)


def _weakest(result: ClassificationResult, names: list[str]) -> str:
    accuracy, confused = result.class_top1().tolist(), most_confused(result)
    order = sorted((number for number, share in enumerate(accuracy) if share < 1), key=lambda number: accuracy[number])
    shown = [
        f"{names[number]} {accuracy[number]:.0%}"
        + (f" (taken for {names[confused[number][0]]})" if confused[number][1] else "")
        for number in order[:WEAKEST]
    ]
    return f" Weakest: {', '.join(shown)}." if shown else ""


def most_confused(result: ClassificationResult) -> list[tuple[int, int]]:
    """For every class, the one that its videos are wrongly taken for most often, and how many are; (-1, 0) if none."""
    counts, others = result.confusion().fill_diagonal_(0).max(dim=1)
    return [(other, count) if count else (-1, 0) for other, count in zip(others.tolist(), counts.tolist(), strict=True)]


def _names(result: ClassificationResult, class_names: Sequence[str]) -> list[str]:
    return [*class_names, *map(str, range(len(class_names), result.num_classes))][: result.num_classes]


def _predictions(result: ClassificationResult, names: list[str]) -> Iterable[Sequence[object]]:
    yield "path", "label", "class", "predicted", "predicted_class", "score", "correct", "top5", "unreadable"
    for path, label, ranking, scores in zip(
        result.paths, result.labels.tolist(), result.ranking.tolist(), result.scores, strict=True
    ):
        best = ranking[0]
        score = f"{scores[best].item():.9g}"  # nine digits give every float32 back
        top = " ".join(map(str, ranking))
        yield path, label, names[label], best, names[best], score, int(best == label), top, ""
    for video in result.unread:
        yield video.path, video.label, names[video.label], "", "", "", "", "", video.reason


def _per_class(result: ClassificationResult, names: list[str]) -> Iterable[Sequence[object]]:
    yield "label", "class", "videos", "top1", "most_often_taken_for", "times"
    videos, accuracy = result.class_videos().tolist(), result.class_top1().tolist()
    for number, (other, times) in enumerate(most_confused(result)):
        share = f"{accuracy[number]:.6f}" if videos[number] else ""
        yield number, names[number], videos[number], share, names[other] if times else "", times


def _views(result: ClassificationResult) -> Iterable[Sequence[object]]:
    yield "view", "clip", "crop", "top1"
    for view, accuracy in enumerate(result.view_top1().tolist()):
        yield view, view // result.crops, view % result.crops, f"{accuracy:.6f}"


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    # surrogateescape: a file's name may hold bytes that are no UTF-8
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))
