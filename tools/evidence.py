"""The evidence that pre-training helps: one command per dataset, from files to tables and a plot (RESULTS.md).

    python tools/evidence.py miracl --data /path/to/miracl-vc1-lips
    python tools/evidence.py miracl --report-only --write-results RESULTS.md

It writes lists, pre-trains, trains classifiers from the pre-trained weights and from scratch at several label counts
and seeds, and reports. It can be stopped at any moment: the same command goes on, and does nothing that is done.
``evidence_studies.py`` and ``evidence_partial.py`` say what is compared, ``configs/evidence/`` how it is trained.

Exit codes: 0 all runs are complete; 1 some failed, which are named; 2 it cannot start; 130 Ctrl-C (143 SIGTERM).
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from evidence_partial import PARTIAL_DECODING
from evidence_studies import PRETRAIN, STUDIES, Run, Study, plan, with_requirements

ALL_STUDIES = STUDIES | {PARTIAL_DECODING.name: PARTIAL_DECODING}
FLOOR = "floor"
CHANGES_SHOWN = 6


def parse_arguments(arguments: Sequence[str] | None, studies: Mapping[str, Study]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(studies))
    parser.add_argument("--data", type=Path, help="folder of the dataset (motion_set: where it is or will be rendered)")
    parser.add_argument("--output", type=Path, default=Path("runs/evidence"), help="default: runs/evidence")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default 2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument(
        "--only", nargs="+", metavar="TASK", help="pretrain, floor, finetune, linear, ...; and what those start from"
    )
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these, such as diffmae scratch")
    parser.add_argument("--labels", type=int, nargs="+", help="only these label counts; 0 = all")
    parser.add_argument("--keep-checkpoints", action="store_true", help="those of classifiers too")
    parser.add_argument("--redo", action="store_true", help="delete and repeat runs that had other settings")
    parser.add_argument("--report-only", action="store_true", help="no runs: tables and plot of what is finished")
    parser.add_argument("--write-results", type=Path, metavar="RESULTS.md", help="put the tables into this page")
    options = parser.parse_args(arguments)
    if options.jobs < 1 or min(options.seeds) < 0 or len(set(options.seeds)) < len(options.seeds):
        parser.error("--jobs must be at least 1, --seeds different numbers from 0 on")
    if options.data is None and not options.report_only:
        parser.error("--data is needed, but for --report-only")
    study = studies[options.study]
    known = {
        "only": [PRETRAIN, FLOOR, *(task.name for task in study.tasks)],
        "arms": [arm.name for arm in study.arms],
        "labels": list(study.labels),
    }
    for name, choices in known.items():
        if wrong := [str(value) for value in getattr(options, name) or () if value not in choices]:
            parser.error(f"--{name} {' '.join(wrong)}: {study.name} has {', '.join(map(str, choices))}")
    return options


def select(runs: Sequence[Run], options: argparse.Namespace) -> list[Run]:
    """The runs that ``--only``, ``--arms`` and ``--labels`` name, and all that those start from."""
    chosen = [
        run
        for run in runs
        if (not options.only or run.task in options.only)
        and (not options.arms or run.arm in options.arms)
        and (not options.labels or run.task == PRETRAIN or run.labels in options.labels)
    ]
    return with_requirements(chosen, runs)


def settle_changes(runs: Sequence[Run], configs: Mapping[Path, Sequence[str]], redo: bool) -> None:
    """Deletes the runs that were made, or begun, with other settings if ``redo``; otherwise raises ``SystemExit``."""
    import shutil

    from evidence_records import changes, read_record

    changed = {}
    for run in runs:
        record = read_record(run.folder)
        if record is not None and (lines := changes(record, configs[run.folder])):
            changed[run.folder] = lines
    if redo:
        for folder in changed:
            print(f"deleted, to be done anew: {folder}")
            shutil.rmtree(folder)
    elif changed:
        folder, lines = next(iter(changed.items()))
        shown = [*lines[:CHANGES_SHOWN], *(["..."] if len(lines) > CHANGES_SHOWN else [])]
        print(
            f"error: {len(changed)} runs were made with other settings; {folder}:\n  " + "\n  ".join(shown) + "\n"
            "Give --redo to delete and repeat them, or another --output",
            file=sys.stderr,
        )
        raise SystemExit(2)


def measure_floor(study: Study, output: Path, options: argparse.Namespace) -> None:
    """Writes ``floor.json``, unless it is there for these seeds."""
    file = output / "floor.json"
    wanted = {(labels, seed) for labels in study.labels for seed in options.seeds}
    there = json.loads(file.read_text()) if file.is_file() else []
    if not study.floor or (options.only and FLOOR not in options.only):
        return
    if wanted <= {(line["labels"], line["seed"]) for line in there}:
        return
    import torch
    from evidence_floor import floor

    torch.set_num_threads(options.jobs)
    print("linear classifier on pixels ...", flush=True)
    results = floor(output / "lists", study.floor, study.test_split, study.labels, options.seeds)
    kept = [line for line in there if line["seed"] not in options.seeds]
    file.write_text(json.dumps(kept + results, indent=1) + "\n")


def report(study: Study, output: Path, options: argparse.Namespace) -> None:
    """results.json, results.md and the plot in the folder of the study; with ``--write-results`` also on that page."""
    from evidence_report import collect, fill_in, markdown, plot, write_results

    records = collect(study, output)
    tables, picture = markdown(study, records), output / f"{study.name}.png"
    write_results(study, str(options.data or ""), records, output / "results.json")
    (output / "results.md").write_text(f"{tables}\n")
    plot(study, records, picture)
    print(f"\n{tables}\n\n{output / 'results.json'}, {output / 'results.md'}, {picture}")
    if options.write_results is not None:
        fill_in(options.write_results, study, tables, picture)


def carry_out(study: Study, output: Path, options: argparse.Namespace) -> int:
    """Lists, runs, floor and report; returns the exit code."""
    from evidence_lists import prepare
    from evidence_records import configurations
    from evidence_runs import LOG, execute

    runs = plan(study, output, options.seeds)
    chosen = select(runs, options)
    configs = configurations(chosen)
    settle_changes(chosen, configs, options.redo)
    prepare(study.source, options.data, output / "lists", study.classes, study.test_split)
    folders = {run.folder for run in chosen}
    later = [run for run in runs if run.folder not in folders]
    failures = execute(chosen, configs, options.jobs, options.keep_checkpoints, later, say=_say)
    measure_floor(study, output, options)
    report(study, output, options)
    for run, reason in failures:
        print(f"FAILED: {run.name}: {reason}; see {run.folder / LOG}", file=sys.stderr)
    return 1 if failures else 0


def _say(line: str) -> None:
    print(line, flush=True)


def main(arguments: Sequence[str] | None = None, studies: Mapping[str, Study] = ALL_STUDIES) -> int:
    options = parse_arguments(arguments, studies)
    study, output = studies[options.study], options.output / options.study
    # Imported here, so that --help and a wrong option answer at once.
    from evidence_lists import ListError
    from evidence_report import ReportError

    from diffmae_video.config import ConfigError

    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if options.report_only:
            if not output.is_dir():
                raise FileNotFoundError(f"there is nothing to report in {output}")
            report(study, output, options)
            return 0
        return carry_out(study, output, options)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (ListError, ReportError, ConfigError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main())
