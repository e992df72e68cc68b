"""Which runs a command line describes, what they ask SLURM for, and whether that can work."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fvcore.common.config import CfgNode

from diffmae_video.build.training import check_shares
from diffmae_video.config import load_config
from diffmae_video.engine import RunError, World

EVALUATIONS = ("test", "knn", "inpaint_eval")  # tasks that train nothing
ONE_PROCESS_TASKS = ("inpaint_eval",)


class SubmissionError(Exception):
    """What was asked for cannot be submitted; the message says why and what to do."""


@dataclass(frozen=True)
class Resources:
    """What a job asks SLURM for; None and "" leave it to the cluster.

    Attributes:
        nodes: machines.
        gpus_per_node: GPUs of each, one process per GPU; 0 = a job without.
        tasks_per_node: processes on each machine of a job without GPUs.
        cpus_per_task: cores of a process; 0 = one for it and one for each of its data loaders.
        memory_gb: of each node.
        timeout_min: minutes until SLURM ends the job.
        signal_delay: seconds before that at which the run is told to save and is queued again.
        max_requeues: times that a job which reached its limit is queued again. Preemptions do not count.
        requeue: whether it is queued again at all.
        partition, account, qos, constraint, exclude, comment: as of sbatch.
        setup: shell lines before the processes start.
        sbatch: further options of sbatch, by their long name.
    """

    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int = 1
    cpus_per_task: int = 0
    memory_gb: float | None = None
    timeout_min: int = 1440
    signal_delay: int = 120
    max_requeues: int = 20
    requeue: bool = True
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    exclude: str = ""
    comment: str = ""
    setup: tuple[str, ...] = ()
    sbatch: dict[str, str] = field(default_factory=dict)

    @property
    def processes_per_node(self) -> int:
        return self.gpus_per_node or self.tasks_per_node

    @property
    def processes(self) -> int:
        return self.nodes * self.processes_per_node

    def single(self) -> Resources:
        """One process of it."""
        return replace(self, nodes=1, gpus_per_node=min(self.gpus_per_node, 1), tasks_per_node=1)

    def __str__(self) -> str:
        unit = "GPU" if self.gpus_per_node else "CPU process"
        plural = "" if self.processes_per_node == 1 else ("es" if unit.endswith("s") else "s")
        nodes = f"{self.nodes} node{'' if self.nodes == 1 else 's'}"
        return f"{nodes} x {self.processes_per_node} {unit}{plural}, {self.timeout_min} minutes"


@dataclass(frozen=True)
class PlannedRun:
    """One run of ``run_net.py`` that is to become a job, or an element of a job array.

    Attributes:
        name: of the job.
        cfg: its configuration, validated.
        resources: of its job.
        notes: what was decided for the user, a sentence each.
    """

    name: str
    cfg: CfgNode
    resources: Resources
    notes: tuple[str, ...] = ()


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(files, overrides) of ``FILE [FILE ...] [KEY VALUE ...]``.

    Raises:
        SubmissionError: no file.
    """
    is_file = [word.endswith((".yaml", ".yml")) for word in words] + [False]
    files, overrides = list(words[: is_file.index(False)]), list(words[is_file.index(False) :])
    if not files:
        raise SubmissionError(f"expected a .yaml file, got {' '.join(words) or 'nothing'}")
    return files, overrides


def plan_run(words: Sequence[str], name: str, resources: Resources) -> PlannedRun:
    """The run of ``FILE [FILE ...] [KEY VALUE ...]``.

    Raises:
        ConfigError: as ``load_config``.
        SubmissionError: a configuration that does not fit the resources.
    """
    files, overrides = split_words(words)
    run = PlannedRun(name or Path(files[0]).stem, load_config(files, overrides), resources)
    check(run)
    return run


def plan_sweep(
    words: Sequence[str], name: str, resources: Resources, sweeps: Sequence[Sequence[str]]
) -> list[PlannedRun]:
    """A run for every combination of the values in ``sweeps``, each ``[KEY, VALUE, VALUE, ...]``.

    Their OUTPUT_DIRs are folders in the configuration's own, named by keys and values, unless OUTPUT_DIR is swept.
    """
    files, overrides = split_words(words)
    for sweep in sweeps:
        if len(sweep) < 2:
            raise SubmissionError(f"--sweep {' '.join(sweep)}: expected a KEY and its values")
    base, name = load_config(files, overrides).OUTPUT_DIR, name or Path(files[0]).stem
    keys, runs = [sweep[0] for sweep in sweeps], []
    for values in itertools.product(*(sweep[1:] for sweep in sweeps)):
        pairs = dict(zip(keys, values, strict=True))
        part = "_".join(f"{key.rpartition('.')[2]}_{value}" for key, value in pairs.items())
        output = {"OUTPUT_DIR": f"{base}/{re.sub(r'[^A-Za-z0-9._+-]+', '-', part)}"} | pairs
        words = [*files, *overrides, *itertools.chain.from_iterable(output.items())]
        runs.append(plan_run(words, name, resources))
    return runs


def plan_chain(first: PlannedRun, words: Sequence[str]) -> list[PlannedRun]:
    """``first`` and the runs of ``FILE [KEY VALUE ...] [FILE ...]``, each of which follows the one before.

    A run whose configuration names no MODEL.WEIGHTS starts from (or measures) the OUTPUT_DIR of the one before.
    """
    starts = [i for i, word in enumerate(words) if word.endswith((".yaml", ".yml"))]
    if not starts or starts[0]:
        raise SubmissionError(f"--chain {' '.join(words)}: expected a .yaml file first")
    runs, ends = [first], [*starts[1:], len(words)]
    for start, end in zip(starts, ends, strict=True):
        part, previous, notes = list(words[start:end]), runs[-1], []
        cfg = load_config(*split_words(part))
        if cfg.MODEL.WEIGHTS:
            notes.append(f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS}: as its configuration says")
        else:
            part += ["MODEL.WEIGHTS", previous.cfg.OUTPUT_DIR]
            notes.append(f"MODEL.WEIGHTS {previous.cfg.OUTPUT_DIR}: the run before, as its configuration names none")
        resources = first.resources
        if cfg.TASK in ONE_PROCESS_TASKS and resources.processes > 1:
            resources = resources.single()
            notes.append(f"one process: TASK {cfg.TASK!r} runs in one")
        name = f"{first.name}-{Path(part[0]).stem}"
        runs.append(replace(plan_run(part, name, resources), notes=tuple(notes)))
    return runs


def check(run: PlannedRun) -> None:
    """Raises SubmissionError for a configuration that would fail once its job has started."""
    cfg, resources = run.cfg, run.resources
    if cfg.NUM_GPUS > 1:
        raise SubmissionError(
            f"{run.name}: NUM_GPUS is {cfg.NUM_GPUS}, but SLURM starts the processes: leave it at 1 and give "
            "--gpus-per-node"
        )
    if cfg.DEVICE.startswith("cuda") and not resources.gpus_per_node:
        raise SubmissionError(f"{run.name}: DEVICE is {cfg.DEVICE!r}, but the job has no GPUs: give --gpus-per-node")
    if cfg.DEVICE == "cpu" and resources.gpus_per_node:
        raise SubmissionError(
            f"{run.name}: DEVICE is 'cpu', but the job asks for {resources.gpus_per_node} GPUs per node: set "
            "--gpus-per-node 0 (and --tasks-per-node), or DEVICE to auto"
        )
    if cfg.TASK in ONE_PROCESS_TASKS and resources.processes > 1:
        raise SubmissionError(
            f"{run.name}: TASK {cfg.TASK!r} runs in one process, not in {resources.processes}: set --nodes 1 and "
            "--gpus-per-node 1 (without GPUs --tasks-per-node 1)"
        )
    if cfg.TASK in EVALUATIONS:
        return
    try:
        check_shares(cfg, World(size=resources.processes))
    except RunError as error:
        raise SubmissionError(f"{run.name}: {error}") from error


def check_folders(runs: Sequence[PlannedRun]) -> None:
    """Raises SubmissionError if two of the runs would train in one folder. (A test may write beside what it tests.)"""
    seen: dict[str, str] = {}
    for run in runs:
        if run.cfg.TASK in EVALUATIONS:
            continue
        folder = os.path.realpath(run.cfg.OUTPUT_DIR)
        if folder in seen:
            raise SubmissionError(
                f"{run.name} and {seen[folder]} have the same OUTPUT_DIR {run.cfg.OUTPUT_DIR}: give each its own"
            )
        seen[folder] = run.name
