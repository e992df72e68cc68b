"""What ``ldae_study.py`` compares: arms of l-DAE that differ in one thing each, under one network and one probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from evidence_studies import CONFIGS, Arm, Recognition, Study

PCA, PIXEL, ONE_LEVEL, SCRATCH = "pca", "pixel", "one_level", "scratch"
DEFAULT_LATENT_DIM = 32  # as config/defaults.py has it: a tokenizer without components refuses any other


@dataclass(frozen=True)
class LatentStudy:
    """One dataset.

    Attributes:
        study: its arms and tasks, for the machinery of ``evidence.py``.
        widths: numbers of principal components that are tried, ascending; the last is all of them.
        base: that of all other arms.
        rows: names of the arms that are rows of the paper's deconstruction, in its order; the last is l-DAE.
    """

    study: Study
    widths: tuple[int, ...]
    base: int
    rows: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.study.name


def with_steps(study: Study, steps: int) -> Study:
    """The study with so many optimiser steps of every pre-training."""
    length = ("SOLVER.MAX_STEPS", str(steps))
    arms = [replace(arm, overrides=(*arm.overrides, *length)) if arm.configs else arm for arm in study.arms]
    return replace(study, arms=tuple(arms))


def pca_name(width: int) -> str:
    return f"{PCA}_{width}"


def _ldae(**keys: object) -> tuple[str, ...]:
    """``TOKENIZER="pixel"`` -> MODEL.LDAE.TOKENIZER pixel."""
    return tuple(word for key, value in keys.items() for word in (f"MODEL.LDAE.{key}", str(value)))


def _arms(config: str, widths: Sequence[int]) -> tuple[list[Arm], list[Arm], list[Arm]]:
    """(widths of the PCA, kinds of noise, rows of the deconstruction before l-DAE)."""

    def arm(name: str, title: str, *overrides: str, encoder: tuple[str, ...] = ()) -> Arm:
        return Arm(name, title, (config,), overrides, encoder)

    unset = _ldae(LATENT_DIM=DEFAULT_LATENT_DIM)  # which pixels do not have
    latent, from_image = _ldae(INPUT="latent"), _ldae(OUTPUT="latent")
    noise = ("MODEL.PREDICTION", "eps", *from_image, *_ldae(TIME_WEIGHT=False), "DIFFUSION.SCHEDULE")
    components = [arm(pca_name(n), f"{n} principal components", *_ldae(LATENT_DIM=n)) for n in widths]
    kinds = [
        arm(PIXEL, "noise in pixels", *_ldae(TOKENIZER="pixel"), *unset),
        arm(ONE_LEVEL, "a single noise level", "DIFFUSION.TRAIN_RANGE", "[0.5, 0.5]"),
        arm("ddpm", "DDPM: noise in pixels is predicted", *noise, "linear", *_ldae(TOKENIZER="pixel"), *unset),
    ]
    gamma = "linear_gamma"
    learned = [
        arm(
            name, f"{title}, noise predicted", *noise, gamma,
            encoder=(*latent, *_ldae(TOKENIZER=name)),
        )
        for name, title in (("patch_vae", "patch-VAE"), ("patch_ae", "patch-AE"))
    ]  # fmt: skip
    rows = [
        *learned,
        arm("patch_pca", "patch-PCA, noise predicted", *noise, gamma, encoder=latent),
        arm("clean_latent", "clean latent predicted", *from_image, "DIFFUSION.SCHEDULE", gamma, encoder=latent),
        arm("gamma_1", "signal of scale 1", *from_image, encoder=latent),
        arm("image_input", "image input", *from_image),
        arm("image_output", "image output, clean latent", *_ldae(RESIDUAL_WEIGHT=0.0)),
    ]
    return components, kinds, rows


def _study(
    name: str,
    title: str,
    source: str,
    test_split: str,
    most_labels: int,
    widths: tuple[int, ...],
    base: int,
    tasks: Sequence[tuple[str, str, tuple[str, ...], str]],
) -> LatentStudy:
    components, kinds, rows = _arms(f"{name}.yaml", widths)
    study = Study(
        name=name,
        title=title,
        source=source,
        arms=(*components, *kinds, *rows, Arm(SCRATCH, "random encoder")),
        tasks=tuple(
            Recognition(task, title, (f"{name}_linear.yaml",), overrides, after=after)
            for task, title, overrides, after in tasks
        ),
        labels=(0,),
        most_labels=most_labels,
        chance=0.1,
        configs=CONFIGS / "ldae",
        test_split=test_split,
        floor="",
    )
    return LatentStudy(study, widths, base, tuple(arm.name for arm in rows) + (pca_name(base),))


STUDIES = {
    each.name: each
    for each in (
        _study(
            "cifar10",
            "CIFAR-10, 3,000 training images, patches of 4 x 4",
            "class_folders",
            "test",
            300,
            widths=(4, 8, 16, 32, 48),
            base=16,
            tasks=[("linear", "linear probe", (), "")],
        ),
        _study(
            "motion_set",
            "Rendered motion set, tubes of 8 x 8 x 8",
            "motion_set",
            "val",
            32,
            widths=(4, 16, 64, 256, 1536),
            base=64,
            tasks=[
                ("linear", "known photographs", (), ""),
                ("linear_unseen", "new photographs", ("TEST.SPLIT", "unseen"), "linear"),
            ],
        ),
    )
}
