"""Runs a configuration on a SLURM cluster.

    python slurm/submit.py --cfg configs/K400/ViT_L.yaml [KEY VALUE ...] --nodes 4 --gpus-per-node 8 --partition P
    python slurm/submit.py --cfg pretrain.yaml --chain finetune.yaml test.yaml --gpus-per-node 8
    python slurm/submit.py --cfg pretrain.yaml --sweep SEED 0 1 2 --sweep SOLVER.BASE_LR 1e-4 3e-4 --gpus-per-node 1
    python slurm/submit.py status [OUTPUT_DIR | JOB]
    python slurm/submit.py logs OUTPUT_DIR | JOB [--rank R] [--follow]

A job that reaches its time limit or is preempted saves its state, is queued again and goes on exactly. slurm/README.md
says more. Exit codes: 0 submitted; 2 it cannot be, and one line says why.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import job_status

if TYPE_CHECKING:
    from job_plan import PlannedRun, Resources


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """``command`` ("submit", "status" or "logs") and its options."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = arguments.pop(0) if arguments[:1] in (["status"], ["logs"]) else "submit"
    parser = argparse.ArgumentParser(
        prog="submit.py" if command == "submit" else f"submit.py {command}",
        description=__doc__ if command == "submit" else job_status.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    {"submit": _submit_options, "status": _status_options, "logs": _logs_options}[command](parser)
    parsed = parser.parse_args(arguments)
    parsed.command = command
    return parsed


def _submit_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    words = "FILE [FILE ...] [KEY VALUE ...]"
    add("--cfg", nargs="+", required=True, metavar="WORD", help=f"{words}: the run, as run_net.py takes it")
    add("--chain", nargs="+", metavar="WORD", help="FILE [KEY VALUE ...] [FILE ...]: runs that follow, one by one")
    sweep = "KEY VALUE [VALUE ...]: a job array with a run per value; several: per combination"
    add("--sweep", nargs="+", action="append", default=[], metavar="WORD", help=sweep)
    add("--parallel", type=int, default=0, metavar="N", help="elements of the array that run at a time (default all)")
    add("--name", default="", help="of the job (default: of the first file)")
    add("--dry-run", action="store_true", help="print what would be submitted, and submit nothing")
    size = parser.add_argument_group("size")
    size.add_argument("--nodes", type=_positive, default=1, metavar="N", help="machines (default 1)")
    size.add_argument("--gpus-per-node", type=int, default=0, metavar="N", help="one process per GPU (default 0)")
    size.add_argument("--tasks-per-node", type=_positive, default=1, metavar="N", help="processes without GPUs (1)")
    cpus = "cores per process (default: DATA_LOADER.NUM_WORKERS + 1)"
    size.add_argument("--cpus-per-task", type=int, default=0, metavar="N", help=cpus)
    size.add_argument("--memory-gb", type=float, metavar="N", help="of each node (default: the cluster's)")
    time = parser.add_argument_group("time")
    time.add_argument("--timeout-min", type=_positive, default=1440, metavar="N", help="limit of one start (1440)")
    signal_delay = "before the limit at which the state is saved and the job queued again (default 120)"
    time.add_argument("--signal-delay", type=_positive, default=120, metavar="SECONDS", help=signal_delay)
    requeues = "times that it is queued again at the limit; preemptions do not count (default 20)"
    time.add_argument("--max-requeues", type=int, default=20, metavar="N", help=requeues)
    time.add_argument("--no-requeue", action="store_true", help="never queue it again: it only saves its state")
    place = parser.add_argument_group("handed to sbatch")
    for option in ("partition", "account", "qos", "constraint", "exclude", "comment"):
        place.add_argument(f"--{option}", default="")
    setup = "shell line before the processes start, such as 'module load cuda'; may be repeated"
    place.add_argument("--setup", action="append", default=[], metavar="LINE", help=setup)
    other = "any other option, such as reservation=name; may be repeated"
    place.add_argument("--sbatch", action="append", default=[], type=_pair, metavar="OPTION=VALUE", help=other)


def _status_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", metavar="OUTPUT_DIR | JOB", help="(default: all of yours)")


def _logs_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="OUTPUT_DIR | JOB")
    parser.add_argument("--rank", type=int, default=0, help="whose log (default 0)")
    parser.add_argument("--follow", action="store_true", help="go on printing what is added, until Ctrl-C")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return value


def _pair(text: str) -> tuple[str, str]:
    option, equals, value = text.partition("=")
    if not option or not equals:
        raise argparse.ArgumentTypeError(f"{text}: expected OPTION=VALUE, without dashes")
    return option, value


# -------------------------------------------------------------------------------------------------------------- submit


def resources_of(options: argparse.Namespace) -> Resources:
    from job_plan import Resources

    same = ("nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "memory_gb", "timeout_min", "signal_delay")
    same += ("max_requeues", "partition", "account", "qos", "constraint", "exclude", "comment")
    return Resources(
        **{name: getattr(options, name) for name in same},
        requeue=not options.no_requeue,
        setup=tuple(options.setup),
        sbatch=dict(options.sbatch),
    )


def plan(options: argparse.Namespace) -> list[list[PlannedRun]]:
    """Jobs in the order in which they follow each other, each a list of runs: several are an array."""
    from job_plan import SubmissionError, check_folders, plan_chain, plan_run, plan_sweep

    resources = resources_of(options)
    if options.sweep and options.chain:
        raise SubmissionError("--sweep and --chain cannot be combined: submit one command for each of the chains")
    if options.sweep:
        jobs = [plan_sweep(options.cfg, options.name, resources, options.sweep)]
    else:
        first = plan_run(options.cfg, options.name, resources)
        jobs = [[run] for run in (plan_chain(first, options.chain) if options.chain else [first])]
    check_folders([run for job in jobs for run in job])
    return jobs


def submit_all(options: argparse.Namespace) -> None:
    """Submits the jobs (or prints them, ``dry_run``) and says where everything is."""
    import submission

    from diffmae_video import __file__ as package
    from diffmae_video import __version__

    jobs, after = plan(options), ""
    folder = Path(package).parent
    print(f"code: diffmae_video {__version__} in {folder}, as it is when a job starts (it is not copied)")
    for runs in jobs:
        # The array's logs lie above the folders of its runs.
        base = str(Path(runs[0].cfg.OUTPUT_DIR).parent) if len(runs) > 1 else runs[0].cfg.OUTPUT_DIR
        if options.dry_run:
            print(submission.preview(runs, base, "<JOB BEFORE>" if runs is not jobs[0] else "", options.parallel))
            continue
        submitted = submission.submit(runs, base, after, options.parallel)
        for run, job in zip(runs, submitted, strict=True):
            print(describe(run, job.job_id, str(job.paths.stdout), after))
        after = submitted[0].job_id


def describe(run: PlannedRun, job: str, log: str, after: str) -> str:
    lines = [f"job {job}: {run.name}, TASK {run.cfg.TASK}, {run.resources}, into {run.cfg.OUTPUT_DIR}"]
    lines += [f"starts when job {after} has succeeded"] if after else []
    lines += [*run.notes, f"log     {log}"]
    me = f"python {shlex.quote(sys.argv[0])}"
    lines += [f"follow  {me} logs {job} --follow", f"status  {me} status {job}", f"end     scancel {job}"]
    return "\n  ".join(lines)


def main() -> int:
    options = parse_arguments()
    if options.command != "submit":
        try:
            if options.command == "logs":
                return job_status.show_log(job_status.log_path(options.name, options.rank), options.follow)
            print(job_status.status(options.name))
            return 0
        except job_status.UnknownJob as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    # Imported here, so that --help, status and logs answer at once.
    from job_plan import SubmissionError

    from diffmae_video.config import ConfigError

    try:
        submit_all(options)
        return 0
    except (ConfigError, SubmissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
