"""Looks at every file of a dataset before a run does: what cannot be read, is missing, too short or there twice.

    python tools/check_dataset.py --data /data/k400 --clip 16x4 --crop 224
    python tools/check_dataset.py --cfg configs/K400/ViT_L.yaml DATA.PATH_TO_DATA_DIR /data/k400
    python tools/check_dataset.py --data /data/k400 --decode full --workers 64 --output k400_check

Writes to the output folder, for every split, a list without the files that have a problem (DATA.PATH_TO_DATA_DIR of a
run can be that folder), report.json with every finding, and report.txt to read. Ctrl-C writes what is known by then.

Exit codes: 0 nothing found; 1 problems found, see the report; 2 the check could not be made; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diffmae_video.data.checking import (
    DECODE_LEVELS,
    PROBLEMS,
    FileCheck,
    Requirements,
    check_file,
    check_files,
    find_duplicates,
    statistics,
)
from diffmae_video.data.decoding import BACKENDS
from diffmae_video.data.manifest import FORMATS, Entry, read_manifest

if TYPE_CHECKING:
    from rich.console import Console

# A file that is in two splits stays in the one that results are measured on.
SPLITS = ("val", "test", "train")
DROPPED = ("missing", "unreadable", "duplicate")
LISTED = 20  # findings of one kind that report.txt names; report.json has all


class Source(NamedTuple):
    """Where a dataset is, as for ``read_manifest``."""

    path: str
    format: str = "auto"
    prefix: str = ""
    labels: str = ""
    fold: int = 1


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with ``cfg`` (files) and ``overrides`` told apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", help="what DATA.PATH_TO_DATA_DIR takes: a folder, a list, shards")
    where.add_argument(
        "--cfg", nargs="+", metavar="FILE", help="YAML files, then KEY VALUE pairs: the data of that run"
    )
    parser.add_argument("--format", default="auto", choices=FORMATS, help="with --data: as DATA.FORMAT")
    parser.add_argument("--prefix", default="", help="with --data: as DATA.PATH_PREFIX")
    parser.add_argument("--labels", default="", help="with --data: as DATA.LABELS")
    parser.add_argument("--fold", type=int, default=1, help="with --data: as DATA.FOLD")
    parser.add_argument("--clip", type=_clip, help="with --data: TxR, e.g. 16x4; shorter videos are reported as short")
    parser.add_argument("--crop", type=int, default=0, help="with --data: pixels; smaller videos are reported as small")
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), metavar="SPLIT", help="those that exist of these")
    parser.add_argument("--decode", default="ends", choices=DECODE_LEVELS, help="how much of every video to decode")
    parser.add_argument(
        "--drop", nargs="*", default=list(DROPPED), choices=PROBLEMS, help="left out of the clean lists"
    )
    parser.add_argument("--decoder", default="auto", choices=BACKENDS)
    parser.add_argument("--timeout", type=float, default=60, help="seconds per file, then it counts as unreadable")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="files looked at at once")
    parser.add_argument("--output", type=Path, default=Path("dataset_check"), help="folder of lists and reports")
    parsed = parser.parse_args(arguments)
    if parsed.timeout <= 0 or parsed.workers < 1:
        parser.error("--timeout and --workers must be positive")
    is_file = [item.endswith((".yaml", ".yml")) for item in parsed.cfg or []] + [False]
    parsed.cfg, parsed.overrides = (
        (parsed.cfg or [])[: is_file.index(False)],
        (parsed.cfg or [])[is_file.index(False) :],
    )
    if parsed.data is None and not parsed.cfg:
        parser.error(f"--cfg {parsed.overrides[0]}: expected a .yaml file")
    return parsed


def _clip(text: str) -> int:
    """``16x4`` -> the frames from the first to the last of such a clip."""
    frames, _, rate = text.partition("x")
    if not (frames.isdigit() and rate.isdigit() and int(frames) and int(rate)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected frames x sampling rate, e.g. 16x4")
    return (int(frames) - 1) * int(rate) + 1


def sources_of(arguments: argparse.Namespace) -> list[tuple[Source, Requirements]]:
    """The sources to check, and what a run asks of each."""
    if not arguments.cfg:
        source = Source(arguments.data, arguments.format, arguments.prefix, arguments.labels, arguments.fold)
        return [(source, Requirements(arguments.clip or 0, arguments.crop))]
    from diffmae_video.build import data_sources
    from diffmae_video.config import load_config

    cfg = load_config(arguments.cfg, arguments.overrides)
    return [
        (
            Source(source.path, source.format, source.prefix, cfg.DATA.LABELS, cfg.DATA.FOLD),
            Requirements((source.num_frames - 1) * source.sampling_rate + 1, cfg.DATA.CROP_SIZE),
        )
        for source in data_sources(cfg)
    ]


def read_splits(source: Source, splits: Sequence[str]) -> dict[str, list[Entry]]:
    """The entries of every split that there is; a source without splits is all "train".

    Raises FileNotFoundError, ValueError: there is none; the message is that of the last split.
    """
    found: dict[str, list[Entry]] = {}
    error: Exception | None = None
    for split in splits:
        try:
            path, layout, prefix, labels, fold = source
            found[split] = read_manifest(path, split, prefix, layout, labels, fold, keep_missing=True)
        except (FileNotFoundError, ValueError) as reason:
            error = reason
    if not found:
        raise error
    lists = list(found.values())
    if len(lists) > 1 and all(entries == lists[0] for entries in lists):
        return {"train" if "train" in found else splits[0]: lists[0]}
    return found


def check_split(
    name: str, entries: list[Entry], requirements: Requirements, arguments: argparse.Namespace, console: Console
) -> tuple[list[FileCheck], bool]:
    """(what was found, in the order of the list; whether the check was interrupted)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    check = functools.partial(
        check_file,
        requirements=requirements,
        decode=arguments.decode,
        decoder=arguments.decoder,
        timeout=arguments.timeout,
    )
    results: dict[int, FileCheck] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[found]} with a problem"), console=console) as progress:
        task = progress.add_task(name, total=len(entries), found=0)
        running = check_files(entries, check, arguments.workers)
        try:
            for number, result in running:
                results[number] = result
                progress.update(task, advance=1, found=sum(bool(r.problem) for r in results.values()))
        except KeyboardInterrupt:
            running.close()
            return [results[number] for number in sorted(results)], True
    return [results[number] for number in range(len(entries))], False


def mark_duplicates(splits: dict[str, list[FileCheck]]) -> dict[str, list[FileCheck]]:
    """The same, with every file that repeats another one, of any split, marked."""
    everything = [check for checks in splits.values() for check in checks]
    for number, first in find_duplicates(everything).items():
        reason = "listed twice" if first == everything[number].path else f"same content as {first}"
        everything[number] = everything[number]._replace(problem="duplicate", reason=reason)
    remaining = iter(everything)
    return {name: [next(remaining) for _ in checks] for name, checks in splits.items()}


def write_list(path: Path, checks: list[FileCheck]) -> None:
    """A list that ``read_manifest`` reads: ``path,label``; for folders of frames ``name 0 last label``."""
    of_folders = bool(checks) and all(os.path.isdir(check.path) for check in checks)
    with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
        for check in checks:
            name = os.path.abspath(check.path)
            if of_folders:
                file.write(f"{name} 0 {check.info.frames - 1} {check.label}\n")
            else:
                file.write(f"{name},{check.label}\n")


def write_report(output: Path, splits: dict[str, list[FileCheck]], drop: Sequence[str], interrupted: bool) -> None:
    """Clean lists, report.json and report.txt."""
    output.mkdir(parents=True, exist_ok=True)
    report: dict[str, object] = {"interrupted": interrupted, "dropped": list(drop), "splits": {}}
    lines = ["INTERRUPTED: files that were not looked at are in no list\n"] if interrupted else []
    for name, checks in splits.items():
        clean = [check for check in checks if check.problem not in drop]
        write_list(output / f"{name}.csv", clean)
        found = [check for check in checks if check.problem]
        summary = statistics(checks)
        report["splits"][name] = {
            **summary,
            "clean": len(clean),
            "findings": [{"path": c.path, "label": c.label, "problem": c.problem, "reason": c.reason} for c in found],
        }
        lines += [f"{name}: {len(checks)} files, {len(clean)} in {name}.csv", *_summary_lines(summary)]
        for problem in PROBLEMS:
            of_kind = [check for check in found if check.problem == problem]
            lines += [f"  {problem}: {len(of_kind)}"] if of_kind else []
            lines += [f"    {check.path}: {check.reason}" for check in of_kind[:LISTED]]
            lines += [f"    ... and {len(of_kind) - LISTED} more in report.json"] if len(of_kind) > LISTED else []
        lines.append("")
    (output / "report.json").write_text(json.dumps(report, indent=1))
    (output / "report.txt").write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")


def _summary_lines(summary: dict) -> list[str]:
    lines = []
    for name in ("frames", "fps", "duration", "width", "height"):
        if numbers := summary[name]:
            lines.append(f"  {name}: {numbers['min']:g} to {numbers['max']:g}, median {numbers['median']:g}")
    labels = {label: count for label, count in summary["labels"].items() if label != "-1"}
    if labels:
        counts = labels.values()
        lines.append(f"  labels: {len(labels)} classes of {min(counts)} to {max(counts)} files")
    if without := summary["labels"].get("-1"):
        lines.append(f"  without label: {without} files")
    lines.append("  sizes: " + ", ".join(f"{size} ({count})" for size, count in list(summary["sizes"].items())[:8]))
    return lines


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Makes the check; returns the exit code."""
    results: dict[str, list[FileCheck]] = {}
    interrupted = False
    sources = sources_of(arguments)
    for place, (source, requirements) in enumerate(sources):
        for split, entries in read_splits(source, arguments.splits).items():
            name = split if len(sources) == 1 else f"source_{place}_{split}"
            results[name], interrupted = check_split(name, entries, requirements, arguments, console)
            if interrupted:
                break
        if interrupted:
            break
    results = mark_duplicates(results)
    write_report(arguments.output, results, arguments.drop, interrupted)
    console.print(
        (arguments.output / "report.txt").read_text(errors="replace"), markup=False, highlight=False, soft_wrap=True
    )
    console.print(f"written to {arguments.output}", markup=False, highlight=False, soft_wrap=True)
    if interrupted:
        return 130
    return int(any(check.problem for checks in results.values() for check in checks))


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = parse_arguments(arguments)
    # Imported here, so that --help and a wrong option answer at once.
    from rich.console import Console

    from diffmae_video.config import ConfigError

    try:
        return run(parsed, Console())
    except (ConfigError, OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
