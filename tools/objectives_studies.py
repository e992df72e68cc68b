"""The studies of ``objectives_study.py``: one network under objectives that differ in one thing at a time."""

from __future__ import annotations

from dataclasses import replace

from evidence_studies import CONFIGS, SCRATCH, Arm, Recognition, Study

MAE = Arm("mae", "MAE: a learned mask token", ("mae.yaml",), per_seed=True)
T_LAST = Arm("t_last", "DiffMAE at t = T only, noise as it is", ("t_last.yaml",), per_seed=True)
T_LAST_SCALED = Arm(
    "t_last_scaled",
    "DiffMAE at t = T only, input times sqrt(abar)",
    ("t_last.yaml",),
    ("MODEL.INPUT_SCALING", "signal"),
    per_seed=True,
)
DIFFMAE = Arm("diffmae", "DiffMAE, all t", ("diffmae.yaml",), per_seed=True)

# Timesteps, counted from 1, at which the held-out loss is measured; of 1000, the last is T.
LEVELS = (10, 25, 50, 100, 150, 250, 1000)


def _at(steps: int, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
    """Arms that pre-train for ``steps`` optimiser steps, and one that does not at all."""
    length = ("SOLVER.MAX_STEPS", str(steps))
    return (*(replace(arm, overrides=(*arm.overrides, *length)) for arm in arms), SCRATCH)


# By the name on the command line; their own is that of the folder and of the marks in RESULTS.md.
STUDIES = {
    "cifar10": Study(
        name="objectives_cifar10",
        title="CIFAR-10, 3,000 training images",
        source="class_folders",
        arms=_at(700, (MAE, T_LAST, T_LAST_SCALED, DIFFMAE)),
        tasks=(Recognition("linear", "linear probe", ("linear.yaml",), steps={0: 200}),),
        labels=(0,),
        most_labels=300,
        chance=0.1,
        configs=CONFIGS / "cifar10",
        test_split="test",
        floor="",
    ),
    "motion_set": Study(
        name="objectives_motion_set",
        title="Rendered motion set",
        source="motion_set",
        arms=_at(400, (MAE, T_LAST, T_LAST_SCALED, DIFFMAE)),
        tasks=(Recognition("linear", "linear probe", ("linear.yaml",), steps={0: 150}),),
        labels=(0,),
        most_labels=32,
        chance=0.1,
        configs=CONFIGS / "motion_set",
        floor="",
    ),
}
