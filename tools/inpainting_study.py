"""What DiffMAE paints, measured: trains the models of a study, evaluates them, and writes tables and pictures.

    python tools/inpainting_study.py motion_set --data data_demo/motion --write-results RESULTS.md
    python tools/inpainting_study.py ut_interaction --data /path/to/ut-interaction --write-results RESULTS.md

Every model and every evaluation is one run of tools/run_net.py, whose command is printed. The tool can be stopped at
any moment: the same command goes on, and does nothing that is done. ``inpainting_studies.py`` says what is compared.

Exit codes: 0 all is complete; 1 a run failed, which is named; 2 it cannot start; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inpainting_studies import STUDIES, Command, Study

ROOT = Path(__file__).resolve().parent.parent
DONE = "done.json"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--data", type=Path, required=True, help="folder of the dataset (motion_set: rendered there)")
    parser.add_argument("--output", type=Path, default=Path("runs/inpainting_study"), help="default: that folder")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default 2)")
    parser.add_argument("--only", nargs="+", metavar="RUN", help="only the runs of these names, and no report")
    parser.add_argument("--write-results", type=Path, metavar="RESULTS.md", help="put the tables into this page")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    return options


def is_done(command: Command) -> bool:
    """Whether it was carried out with these very words."""
    file = command.folder / DONE
    return file.is_file() and json.loads(file.read_text()) == list(command.words)


def carry_out(command: Command) -> str:
    """Runs a command in its folder unless it is done; returns what went wrong, "" = nothing."""
    if is_done(command):
        return ""
    command.folder.mkdir(parents=True, exist_ok=True)
    print(f"$ python {shlex.join(command.words)}", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = command.folder / "run.log"
    with log.open("a") as file:
        status = subprocess.run(
            [sys.executable, *command.words], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment
        ).returncode
    if status:
        return f"{command.name}: exit code {status}; see {log}"
    (command.folder / DONE).write_text(json.dumps(list(command.words)))
    return ""


def run(study: Study, options: argparse.Namespace) -> int:
    """Trains, then evaluates, then reports; returns the exit code."""
    output = (options.output / study.name).resolve()
    lists = study.prepare(options.data.resolve(), output)
    for commands in (study.trainings(lists, output), study.evaluations(lists, output)):
        chosen = [command for command in commands if not options.only or command.name in options.only]
        with ThreadPoolExecutor(options.jobs) as pool:
            failures = [failure for failure in pool.map(carry_out, chosen) if failure]
        for failure in failures:
            print(f"FAILED: {failure}", file=sys.stderr)
        if failures:
            return 1
    if not options.only:
        from inpainting_study_report import report

        report(study, output, options.write_results)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    from evidence_lists import ListError
    from evidence_report import ReportError

    try:
        return run(STUDIES[options.study], options)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (ListError, ReportError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
