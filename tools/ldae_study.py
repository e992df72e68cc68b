"""What of a diffusion model does l-DAE need? Its ablation in miniature: arms that differ in one thing.

    python tools/ldae_study.py cifar10 --data /path/to/cifar10-small --write-results RESULTS.md
    python tools/ldae_study.py motion_set --data data_demo/motion --arms pca_16 pixel --steps 500 --jobs 1

Every arm is a pre-training of the same network and linear probes on its frozen encoder, runs of tools/run_net.py. It
can be stopped at any moment: the same command goes on, and does nothing that is done. ``ldae_study_arms.py`` says what
is compared, docs/ldae.md what it means.

Exit codes: 0 all is complete; 1 some runs failed, which are named; 2 it cannot start; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from evidence_studies import Study, plan
from ldae_study_arms import STUDIES, LatentStudy, with_steps


def parse(arguments: Sequence[str] | None, studies: Mapping[str, LatentStudy]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(studies))
    parser.add_argument("--data", type=Path, required=True, help="folder of the dataset (motion_set: rendered there)")
    parser.add_argument("--output", type=Path, default=Path("runs/ldae"), help="default: runs/ldae")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these; --list names them")
    parser.add_argument("--list", action="store_true", help="name the arms and stop")
    parser.add_argument("--steps", type=int, default=3000, help="of every pre-training (default 3000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the probes (default: 0 1 2)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default 2)")
    parser.add_argument("--redo", action="store_true", help="delete and repeat runs that had other settings")
    parser.add_argument("--write-results", type=Path, metavar="RESULTS.md", help="put tables and plot into this page")
    options = parser.parse_args(arguments)
    if options.jobs < 1 or options.steps < 1 or min(options.seeds) < 0 or len(set(options.seeds)) < len(options.seeds):
        parser.error("--jobs and --steps must be at least 1, --seeds different numbers from 0 on")
    known = [arm.name for arm in studies[options.study].study.arms]
    if wrong := [name for name in options.arms or () if name not in known]:
        parser.error(f"--arms {' '.join(wrong)}: {options.study} has {', '.join(known)}")
    return options


def chosen(study: Study, options: argparse.Namespace) -> Study:
    """The study with the arms and steps that the options ask for."""
    arms = [arm for arm in study.arms if not options.arms or arm.name in options.arms]
    return with_steps(replace(study, arms=tuple(arms)), options.steps)


def run(latent: LatentStudy, options: argparse.Namespace) -> int:
    """Trains, probes and reports; returns the exit code."""
    from evidence import settle_changes
    from evidence_lists import prepare
    from evidence_records import configurations
    from evidence_runs import LOG, execute
    from ldae_study_report import report

    study, output = chosen(latent.study, options), options.output / latent.name
    runs = plan(study, output, options.seeds)
    configs = configurations(runs)
    settle_changes(runs, configs, options.redo)
    prepare(study.source, options.data, output / "lists", study.classes, study.test_split)
    failures = execute(runs, configs, options.jobs, say=lambda line: print(line, flush=True))
    report(latent, output, options.write_results)
    for failed, reason in failures:
        print(f"FAILED: {failed.name}: {reason}; see {failed.folder / LOG}", file=sys.stderr)
    return 1 if failures else 0


def main(arguments: Sequence[str] | None = None, studies: Mapping[str, LatentStudy] = STUDIES) -> int:
    options = parse(arguments, studies)
    latent = studies[options.study]
    if options.list:
        print("\n".join(f"{arm.name:14} {arm.title}" for arm in latent.study.arms))
        return 0
    # Imported here, so that --help and a wrong option answer at once.
    from evidence_lists import ListError
    from evidence_report import ReportError

    from diffmae_video.config import ConfigError

    try:
        return run(latent, options)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (ListError, ReportError, ConfigError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
