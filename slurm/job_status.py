"""What has become of jobs: ``submit.py status`` and ``submit.py logs``."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

JOBS = "jobs.jsonl"  # in the folder slurm/ of a run's OUTPUT_DIR: a line per job of it, written by submission.py
JOB_ID = re.compile(r"\d+(_\d+)?")
COLUMNS = ("job", "name", "state", "exit code", "elapsed", "nodes or reason")


class UnknownJob(Exception):
    """Neither SLURM nor the folders here know what was asked for; the message says what would help."""


def status(name: str) -> str:
    """A table of jobs: of one job, or of all that a run has had; with a run also how far it has come.

    Args:
        name: number of a job (``12`` or ``12_3``), or a run's OUTPUT_DIR; "" = the user's own jobs in the queue.

    Raises:
        UnknownJob: no such run.
    """
    if not name:
        rows = [row.split("|") for row in _output("squeue", "--me", "--noheader", "--format", "%i|%j|%T||%M|%R")]
        return _table(rows) if rows else "no jobs of yours are in the queue"
    if JOB_ID.fullmatch(name):
        return _table(job_rows([name], {}))
    jobs = run_jobs(name)
    names = {job["job"]: job["name"] for job in jobs}
    return f"{_table(job_rows(list(names), names))}\n{_progress(name)}"


def log_path(name: str, rank: int) -> Path:
    """The log of a process: of a job, or of the newest job of a run.

    Raises:
        UnknownJob: the place of a job's logs is not known (any more).
    """
    if not JOB_ID.fullmatch(name):
        job = run_jobs(name)[-1]
        return Path(job["folder"]) / f"{job['job']}_{rank}_log.out"
    for line in _output("scontrol", "show", "job", name):
        if line.strip().startswith("StdOut="):
            return Path(re.sub(r"_0_log\.out$", f"_{rank}_log.out", line.strip().removeprefix("StdOut=")))
    for path in sorted(Path("runs").rglob(f"slurm/{JOBS}")):
        for job in _read_jobs(path):
            if job["job"] == name:
                return Path(job["folder"]) / f"{name}_{rank}_log.out"
    raise UnknownJob(f"SLURM has forgotten job {name}, and no run below runs/ had it: give its OUTPUT_DIR instead")


def show_log(path: Path, follow: bool) -> int:
    """Prints a log, and with ``follow`` what is added to it until Ctrl-C; returns an exit code.

    Raises:
        UnknownJob: there is no log yet.
    """
    if not follow and not path.exists():
        raise UnknownJob(f"{path} does not exist: the job has not started, or has fewer processes")
    command = ["tail", "-n", "+1", *(["-F"] if follow else []), str(path)]
    try:
        return subprocess.run(command).returncode
    except KeyboardInterrupt:
        return 0


def run_jobs(output_dir: str) -> list[dict[str, str]]:
    """All jobs that a run has had, oldest first: ``job``, ``name`` and the ``folder`` of their logs.

    Raises:
        UnknownJob: none.
    """
    path = Path(output_dir) / "slurm" / JOBS
    if not path.exists():
        raise UnknownJob(
            f"{output_dir} is neither the number of a job nor the OUTPUT_DIR of a submitted run: no {path}"
        )
    return _read_jobs(path)


def job_rows(jobs: Sequence[str], names: dict[str, str]) -> list[list[str]]:
    """Rows of ``COLUMNS``: from SLURM's accounts (sacct) where it keeps some, from its queue (squeue) otherwise.

    The queue forgets a job some minutes after its end (MinJobAge): it is UNKNOWN then.
    """
    rows = []
    for job in jobs:
        found = _output("sacct", "-X", "-n", "-P", "-j", job, "-o", "JobID,JobName,State,ExitCode,Elapsed,NodeList")
        if not found:
            found = _output("squeue", "-h", "-j", job, "-t", "all", "-o", "%i|%j|%T||%M|%R")
        unknown = [job, names.get(job, ""), "UNKNOWN", "", "", "SLURM keeps no accounts here and has forgotten it"]
        rows += [row.split("|") for row in found] or [unknown]
    return rows


def _read_jobs(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _progress(output_dir: str) -> str:
    log = Path(output_dir) / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    if not lines:
        return f"{output_dir}: no training step logged"
    last = json.loads(lines[-1])
    return (
        f"{output_dir}: step {last['step']}, {last['clips']} clips, epoch {last['epoch']:.4g}, loss {last['loss']:.4f}"
    )


def _output(*command: str) -> list[str]:
    """Lines that a SLURM command prints; none where it fails or is not installed."""
    environment = os.environ | {"SLURM_TIME_FORMAT": "standard"}
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    except FileNotFoundError as error:
        if command[0] == "sacct":
            return []
        raise UnknownJob(f"{command[0]} is not installed here: run this on a login node of the cluster") from error
    except subprocess.TimeoutExpired:
        raise UnknownJob(f"{command[0]} did not answer within 60 s") from None
    return result.stdout.splitlines() if result.returncode == 0 else []


def _table(rows: Sequence[Sequence[str]]) -> str:
    rows = [COLUMNS, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
