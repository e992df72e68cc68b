"""Is MAE the last step of DiffMAE's diffusion? The same network under MAE, DiffMAE at t = T only, and DiffMAE.

    python tools/objectives_study.py cifar10 --data /path/to/cifar10-small --write-results RESULTS.md
    python tools/objectives_study.py motion_set --data data_demo/motion --write-results RESULTS.md

It pre-trains on the same clips under the same masks, measures the loss on held-out clips at t = T and at less noise,
and trains linear probes. It can be stopped at any moment: the same command goes on, and does nothing that is done.
``objectives_studies.py`` says what is compared.

Exit codes: 0 all is complete; 1 some runs failed, which are named; 2 it cannot start; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from evidence_studies import Study, plan
from objectives_studies import STUDIES


def parse(arguments: Sequence[str] | None, studies: Mapping[str, Study]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(studies))
    parser.add_argument("--data", type=Path, required=True, help="folder of the dataset (motion_set: rendered there)")
    parser.add_argument("--output", type=Path, default=Path("runs/objectives"), help="default: runs/objectives")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default 2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these, such as mae t_last; default: all")
    parser.add_argument("--redo", action="store_true", help="delete and repeat runs that had other settings")
    parser.add_argument("--write-results", type=Path, metavar="RESULTS.md", help="put the table into this page")
    options = parser.parse_args(arguments)
    if options.jobs < 1 or min(options.seeds) < 0 or len(set(options.seeds)) < len(options.seeds):
        parser.error("--jobs must be at least 1, --seeds different numbers from 0 on")
    known = [arm.name for arm in studies[options.study].arms]
    if unknown := [arm for arm in options.arms or () if arm not in known]:
        parser.error(f"--arms {' '.join(unknown)}: {options.study} has {', '.join(known)}")
    return options


def run(study: Study, options: argparse.Namespace) -> int:
    """Trains, measures and reports; returns the exit code."""
    from evidence import settle_changes
    from evidence_lists import prepare
    from evidence_records import configurations
    from evidence_runs import LOG, execute
    from objectives_measure import measure
    from objectives_report import report

    output = options.output / study.name
    runs = [run for run in plan(study, output, options.seeds) if not options.arms or run.arm in options.arms]
    configs = configurations(runs)
    settle_changes(runs, configs, options.redo)
    prepare(study.source, options.data, output / "lists", study.classes, study.test_split)
    failures = execute(runs, configs, options.jobs, say=lambda line: print(line, flush=True))
    for failed, reason in failures:
        print(f"FAILED: {failed.name}: {reason}; see {failed.folder / LOG}", file=sys.stderr)
    if failures:
        return 1
    measure(study, output, options.seeds)
    report(study, output, options.write_results)
    return 0


def main(arguments: Sequence[str] | None = None, studies: Mapping[str, Study] = STUDIES) -> int:
    options = parse(arguments, studies)
    # Imported here, so that --help and a wrong option answer at once.
    from evidence_lists import ListError
    from evidence_report import ReportError

    from diffmae_video.config import ConfigError
    from diffmae_video.engine import RunError

    try:
        return run(studies[options.study], options)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (ListError, ReportError, ConfigError, RunError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
