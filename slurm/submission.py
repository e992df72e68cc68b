"""Gives planned runs to SLURM, through submitit."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import submitit
import training_job
from job_plan import PlannedRun, SubmissionError
from job_status import JOBS
from submitit.core.utils import FailedJobError, FailedSubmissionError
from training_job import TrainingJob

from diffmae_video.config import dump

ROOT = Path(__file__).resolve().parent.parent
# Tasks find the job's class in what was pickled: this folder is on nobody's path.
cloudpickle.register_pickle_by_value(training_job)


class _Executor(submitit.SlurmExecutor):
    """submitit's, which also shows its sbatch file where SLURM is not installed."""

    @classmethod
    def affinity(cls) -> int:
        return 2

    def script(self, elements: int) -> str:
        if elements > 1:
            self.parameters["map_count"] = elements
        return self._make_submission_file_text(self._submitit_command_str, "dry-run")


def run_command(configuration: Path) -> tuple[str, ...]:
    """What a task's child process runs."""
    return (sys.executable, "-u", str(ROOT / "tools" / "run_net.py"), "--cfg", str(configuration))


def parameters(run: PlannedRun, after: str = "", parallel: int = 0) -> dict[str, Any]:
    """What submitit is told about the job of a run (or of the array of which it is the first).

    Args:
        run: first of the job.
        after: id of the job that has to succeed before this one starts; "" = none.
        parallel: elements of an array that run at the same time; 0 = all.
    """
    resources = run.resources
    cpus = resources.cpus_per_task or run.cfg.DATA_LOADER.NUM_WORKERS + 1
    values = {
        "name": run.name,
        "nodes": resources.nodes,
        "tasks_per_node": resources.processes_per_node,
        "gpus_per_node": resources.gpus_per_node or None,
        "cpus_per_task": cpus,
        "mem_gb": resources.memory_gb,
        "timeout_min": resources.timeout_min,
        "signal_delay_s": resources.signal_delay,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
        "comment": resources.comment,
        "setup": list(resources.setup),
        "dependency": f"afterok:{after}" if after else None,
        "array_parallelism": parallel,
        "stderr_to_stdout": True,
        # Since 22.05 srun does not take the number of cores over from sbatch. A process that fails ends all; one that
        # has ended well ends none: the first one may still be evaluating.
        "srun_args": [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1", "--wait=0"],
        "additional_parameters": {
            "requeue" if resources.requeue else "no-requeue": True,
            # A job whose predecessor has failed is cancelled, where it would wait for ever.
            **({"kill-on-invalid-dep": "yes"} if after else {}),
            **resources.sbatch,
        },
    }
    return {key: value for key, value in values.items() if value}


def executor_for(runs: Sequence[PlannedRun], folder: Path, after: str = "", parallel: int = 0) -> _Executor:
    """submitit's executor for one job, or for an array of one element per run."""
    requeues = runs[0].resources.max_requeues
    executor = _Executor(folder=folder, max_num_timeout=requeues)
    executor.update_parameters(**executor._convert_parameters(parameters(runs[0], after, parallel)))
    return executor


def submit(runs: Sequence[PlannedRun], base: str, after: str = "", parallel: int = 0) -> list[submitit.Job]:
    """One job, or one array of several runs; gives a job per run.

    ``base``/slurm gets a folder with the resolved configurations, which are what the job runs however the files change
    until then, the sbatch file and the logs. Every run's OUTPUT_DIR/slurm/jobs.jsonl gets a line.

    Raises:
        SubmissionError: SLURM refuses.
    """
    folder = new_folder(Path(base).absolute() / "slurm")
    jobs = [training_job_of(run, path) for run, path in write_configurations(runs, folder)]
    executor = executor_for(runs, folder, after, parallel)
    try:
        with outside_of_jobs(), executor.batch():
            submitted = [executor.submit(job) for job in jobs]
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        raise SubmissionError(f"SLURM did not take the job {runs[0].name}: {' '.join(str(error).split())}") from error
    for run, job in zip(runs, submitted, strict=True):
        record(run, job.job_id, folder)
    return submitted


def preview(runs: Sequence[PlannedRun], base: str, after: str = "", parallel: int = 0) -> str:
    """What ``submit`` would do with the same arguments: sbatch's file, and what every process runs. Writes nothing."""
    folder = Path(base).absolute() / "slurm" / "<TIME>"
    paths = [folder / name for name in configuration_names(len(runs))]
    executor = executor_for(runs, folder, after, parallel)
    lines = [executor.script(len(runs)).strip(), ""]
    for run, path in zip(runs, paths, strict=True):
        lines += [f"# {run.name} into {run.cfg.OUTPUT_DIR}: {run.resources}", *(f"# {note}" for note in run.notes)]
        lines += [f"# each of {run.resources.processes} processes:", shlex.join(run_command(path)), ""]
    return "\n".join(lines)


def training_job_of(run: PlannedRun, configuration: Path) -> TrainingJob:
    """What submitit pickles. SLURM kills at the limit, so the run has less than the delay to save its state."""
    patience = max(run.resources.signal_delay - 20, run.resources.signal_delay / 2)
    return TrainingJob(run_command(configuration), os.getcwd(), run.resources.requeue, patience)


def new_folder(parent: Path) -> Path:
    """A folder of its own for every submission, named by the time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in itertools.count():
        folder = parent / (f"{stamp}-{number}" if number else stamp)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("count() does not end")


def configuration_names(runs: int) -> list[str]:
    return [f"config_{number}.yaml" for number in range(runs)] if runs > 1 else ["config.yaml"]


def write_configurations(runs: Sequence[PlannedRun], folder: Path) -> Iterator[tuple[PlannedRun, Path]]:
    for run, name in zip(runs, configuration_names(len(runs)), strict=True):
        (folder / name).write_text(dump(run.cfg), encoding="utf-8")
        yield run, folder / name


def record(run: PlannedRun, job: str, folder: Path) -> None:
    path = Path(run.cfg.OUTPUT_DIR) / "slurm" / JOBS
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"job": job, "name": run.name, "folder": str(folder)}) + "\n")


@contextlib.contextmanager
def outside_of_jobs() -> Iterator[None]:
    """A job that is submitted from inside another one (an interactive shell on a node) inherits nothing of that."""
    inside = "SLURM_JOB_ID" in os.environ
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if inside and name.startswith(("SLURM_", "SRUN_", "SUBMITIT_")) and name != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ.update(hidden)
