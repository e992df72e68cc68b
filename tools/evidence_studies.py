"""The studies of ``evidence.py``: what is compared with what, as tables; and the runs that a table stands for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRETRAIN = "pretrain"  # the task of runs that make the weights of an arm


@dataclass(frozen=True)
class Arm:
    """One way to come to the weights that a recognition task starts from.

    Attributes:
        name: in folder names.
        title: in tables and plots.
        configs: files of its pre-training, in the study's folder of configs; none = random weights.
        overrides: KEY, VALUE, ... of its pre-training.
        encoder: KEY, VALUE, ... of its pre-training and of all that starts from it: what the encoder reads.
        per_seed: one pre-training for every seed; otherwise all seeds share one.
        seed: of the one that they share.
        extra_steps: optimiser steps that its recognition runs take beyond those of the others, such as the price of
            a pre-training.
        tasks: names of the tasks that it takes part in; none = all.
    """

    name: str
    title: str
    configs: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    encoder: tuple[str, ...] = ()
    per_seed: bool = False
    seed: int = 0
    extra_steps: int = 0
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recognition:
    """One way to use the weights.

    Attributes:
        name: in folder names.
        title: in tables and plots.
        configs: its files, in the study's folder of configs.
        overrides: KEY, VALUE, ...
        steps: labels per class -> optimiser steps; a count that is not there takes what the files say.
        after: name of another task: this one trains nothing but measures the classifiers of that one, on other data.
    """

    name: str
    title: str
    configs: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    steps: Mapping[int, int] = field(default_factory=dict)
    after: str = ""


@dataclass(frozen=True)
class Study:
    """One dataset, and all that is tried on it.

    Attributes:
        name: on the command line, in folder names and in RESULTS.md.
        title: of the plot.
        source: what ``--data`` is: "manifest", "class_folders" or "motion_set"; see ``evidence_lists.py``.
        arms, tasks: every task is run with every arm, label count and seed.
        labels: labels per class; 0 = all.
        most_labels: videos of a class where all are used, for the plot; the mean where classes differ.
        chance: accuracy of guessing, in [0, 1].
        configs: folder of the config files.
        classes: numbers of the classes to recognise, which become 0, 1, ...; None = all. Pre-training sees all.
        test_split: of the manifest; what the accuracies are measured on.
        floor: what the linear classifier on pixels sees: "whole" or "moving" ones; "" = there is none.
    """

    name: str
    title: str
    source: str
    arms: tuple[Arm, ...]
    tasks: tuple[Recognition, ...]
    labels: tuple[int, ...]
    most_labels: int
    chance: float
    configs: Path
    classes: tuple[int, ...] | None = None
    test_split: str = "val"
    floor: str = "whole"


@dataclass(frozen=True)
class Run:
    """One call of ``run_net.py``.

    Attributes:
        folder: its OUTPUT_DIR.
        files, overrides: its configuration.
        arm, task, labels, seed: where it stands in the tables; labels is 0 for all, and in pre-training.
        after: folder of the run that it starts from; None = of none.
    """

    folder: Path
    files: tuple[str, ...]
    overrides: tuple[str, ...]
    arm: str
    task: str
    labels: int
    seed: int
    after: Path | None = None

    @property
    def name(self) -> str:
        return "/".join(self.folder.parts[-4 if self.task != PRETRAIN else -3 :])

    @property
    def command(self) -> str:
        """What a person types, in the folder of the repository, to do the same."""
        files = [str(Path(file).relative_to(ROOT)) if Path(file).is_relative_to(ROOT) else file for file in self.files]
        return shlex.join(["python", "tools/run_net.py", "--cfg", *files, *self.overrides])


def plan(study: Study, output: Path, seeds: Sequence[int]) -> list[Run]:
    """All runs of a study, pre-training first; every run comes after the one that it starts from.

    Args:
        output: folder of the study; the lists are in ``output/lists``.
        seeds: of the runs; a pre-training that all of them share has that of its arm.
    """
    pretrainings = list(_pretrainings(study, output, seeds))
    runs = [
        _recognition(study, output, arm, task, labels, seed)
        for task in study.tasks
        for labels in study.labels
        for seed in seeds
        for arm in study.arms
        if not arm.tasks or task.name in arm.tasks
    ]
    return pretrainings + runs


def with_requirements(selected: Sequence[Run], runs: Sequence[Run]) -> list[Run]:
    """``selected`` and all that they start from, in the order of ``runs``."""
    by_folder = {run.folder: run for run in runs}
    needed: set[Path] = set()
    for run in selected:
        folder: Path | None = run.folder
        while folder is not None and folder not in needed:
            needed.add(folder)
            folder = by_folder[folder].after
    return [run for run in runs if run.folder in needed]


def _pretrainings(study: Study, output: Path, seeds: Sequence[int]) -> Iterator[Run]:
    for arm in study.arms:
        for seed in (seeds if arm.per_seed else [arm.seed]) if arm.configs else []:
            folder = _pretraining_folder(output, arm, seed)
            data = (output / "lists" / "unlabelled").resolve()
            yield Run(
                folder,
                _files(study, arm.configs),
                (*_common(folder, data, seed), *arm.encoder, *arm.overrides),
                arm.name,
                PRETRAIN,
                labels=0,
                seed=seed,
            )


def _recognition(study: Study, output: Path, arm: Arm, task: Recognition, labels: int, seed: int) -> Run:
    folder = _folder(output, task.name, arm, labels, seed)
    after = _pretraining_folder(output, arm, seed) if arm.configs else None
    overrides = [*_common(folder, (output / "lists" / "labelled").resolve(), seed)]
    if task.after:
        after = _folder(output, task.after, arm, labels, seed)
        overrides += ["TASK", "test"]
    overrides += ["DATA.LABELS_PER_CLASS", str(labels)]
    if labels in task.steps:
        overrides += ["SOLVER.MAX_STEPS", str(task.steps[labels] + arm.extra_steps)]
    elif arm.extra_steps:
        raise ValueError(f"{study.name}: {arm.name} takes more steps, but {task.name} does not say than how many")
    if after is not None:
        overrides += ["MODEL.WEIGHTS", str(after)]
    overrides += [*arm.encoder, *task.overrides]
    return Run(folder, _files(study, task.configs), tuple(overrides), arm.name, task.name, labels, seed, after)


def _common(folder: Path, data: Path, seed: int) -> tuple[str, ...]:
    return "OUTPUT_DIR", str(folder), "DATA.PATH_TO_DATA_DIR", str(data), "SEED", str(seed)


def _files(study: Study, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(study.configs / name) for name in names)


def _pretraining_folder(output: Path, arm: Arm, seed: int) -> Path:
    return output / PRETRAIN / arm.name / f"seed_{seed if arm.per_seed else arm.seed}"


def _folder(output: Path, task: str, arm: Arm, labels: int, seed: int) -> Path:
    return output / task / arm.name / f"labels_{labels or 'all'}" / f"seed_{seed}"


# -------------------------------------------------------------------------------------------------------- the studies

CONFIGS = ROOT / "configs" / "evidence"

DIFFMAE = Arm("diffmae", "DiffMAE", ("diffmae.yaml",))
MAE = Arm("mae", "MAE", ("mae.yaml",))
SCRATCH = Arm("scratch", "from scratch")
PROBES = (
    Recognition("linear", "linear probe", ("linear.yaml",)),
    Recognition("attentive", "attentive probe", ("attentive.yaml",)),
)


def _longer(steps: int) -> Arm:
    """From scratch for ``steps`` more: whether a longer fine-tuning makes up for the pre-training."""
    return Arm("scratch_long", "from scratch, longer", extra_steps=steps, tasks=("finetune",))


def _finetune(steps: Mapping[int, int]) -> Recognition:
    return Recognition("finetune", "fine-tuning", ("finetune.yaml",), steps=steps)


STUDIES = {
    study.name: study
    for study in (
        Study(
            name="miracl",
            title="MIRACL-VC1, ten phrases, speakers not seen in training",
            source="manifest",
            arms=(DIFFMAE, MAE, SCRATCH, _longer(300)),
            tasks=(_finetune({5: 200, 10: 250, 25: 300, 100: 500}), *PROBES),
            labels=(5, 10, 25, 100),
            most_labels=100,
            chance=0.1,
            configs=CONFIGS / "miracl",
            classes=tuple(range(10, 20)),
            floor="moving",
        ),
        Study(
            name="ut_interaction",
            title="UT-Interaction, six actions, sequences not seen in training",
            source="manifest",
            arms=(DIFFMAE, MAE, SCRATCH, _longer(100)),
            tasks=(_finetune({5: 100, 0: 150}), *PROBES),
            labels=(5, 0),
            most_labels=12,
            chance=1 / 6,
            configs=CONFIGS / "ut_interaction",
        ),
        Study(
            name="motion_set",
            title="Rendered motion set, ten motions",
            source="motion_set",
            arms=(DIFFMAE, SCRATCH),
            tasks=(
                Recognition("linear", "linear probe, known photographs", ("linear.yaml",)),
                Recognition(
                    "linear_unseen",
                    "linear probe, new photographs",
                    ("linear.yaml",),
                    ("TEST.SPLIT", "unseen"),
                    after="linear",
                ),
            ),
            labels=(8, 16, 0),
            most_labels=32,
            chance=0.1,
            configs=CONFIGS / "motion_set",
        ),
        Study(
            name="cifar10",
            title="CIFAR-10, 3,000 training images, clips of one frame",
            source="class_folders",
            arms=(DIFFMAE, MAE, SCRATCH),
            tasks=(_finetune({10: 150, 100: 300, 0: 500}), *PROBES),
            labels=(10, 100, 0),
            most_labels=300,
            chance=0.1,
            configs=CONFIGS / "cifar10",
            test_split="test",
        ),
    )
}
