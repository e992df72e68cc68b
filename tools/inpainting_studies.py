"""What ``inpainting_study.py`` trains and measures, as commands of tools/run_net.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from evidence_lists import check, read_items, write_list

STEPS = (1, 2, 5, 10, 20, 50, 250, 1000)


class Command(NamedTuple):
    """One run: its name, its folder, and the words after ``python``."""

    name: str
    folder: Path
    words: tuple[str, ...]


class Arm(NamedTuple):
    """A model: what differs from the recipe of the study."""

    name: str
    title: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """What is compared on one dataset.

    Attributes:
        recipe: of all models, but for what their arms change.
        source: kind of the data, see ``evidence_lists.prepare``.
        splits: that are measured, with their titles; none of them was trained on.
        masks: that are measured, as ``INPAINT.MASKS`` takes them.
        steps: optimiser steps of the two models that are compared.
        clips: that are measured of each split, but half as many for the curve.
        curve: sampling steps of the plot of quality against steps; () = none.
        ablation: models that train for ``ablation_steps``; the first is the recipe itself.
    """

    name: str
    title: str
    recipe: str
    source: str
    splits: tuple[tuple[str, str], ...]
    masks: tuple[str, ...]
    steps: int
    clips: int = 20
    curve: tuple[int, ...] = STEPS
    ablation: tuple[Arm, ...] = ()
    ablation_steps: int = 0

    @property
    def compared(self) -> tuple[Arm, ...]:
        return Arm("diffmae", "DiffMAE"), Arm("mae", "MAE", ("MODEL.NAME", "MAE"))

    def prepare(self, data: Path, output: Path) -> Path:
        """Makes sure of the data; returns the folder with its lists."""
        items = read_items(self.source, data, self.splits[0][0])
        check(items, ("train", *(split for split, _ in self.splits)))
        for split in dict.fromkeys(item.split for item in items):
            write_list(
                output / "lists" / f"{split}.csv", [(item.path, item.label) for item in items if item.split == split]
            )
        return output / "lists"

    def trainings(self, lists: Path, output: Path) -> list[Command]:
        jobs = [(arm, self.steps) for arm in self.compared] + [(arm, self.ablation_steps) for arm in self.ablation]
        return [
            self._command(arm.name, output, lists, arm.overrides, "SOLVER.MAX_STEPS", str(steps)) for arm, steps in jobs
        ]

    def evaluations(self, lists: Path, output: Path) -> list[Command]:
        first, second = (arm.name for arm in self.compared)
        commands = [
            self._evaluation(
                f"compare_{split}", first, split, lists, output,
                "INPAINT.MASKS", json.dumps(self.masks), "INPAINT.STEPS", "[5, 20]", "INPAINT.SAMPLES", "2",
                "INPAINT.MAX_CLIPS", str(self.clips), "INPAINT.COMPARE", json.dumps([str(output / second)]),
                "INPAINT.FEATURE_WEIGHTS", str(output / second),
            )
            for split, _ in self.splits
        ]  # fmt: skip
        if self.curve:
            commands.append(
                self._evaluation(
                    "steps", first, self.splits[0][0], lists, output,
                    "INPAINT.MASKS", '["tube"]', "INPAINT.STEPS", json.dumps(self.curve),
                    "INPAINT.SAMPLERS", '["ddim", "dpmpp_2m"]', "INPAINT.FILLS", "[]",
                    "INPAINT.MAX_CLIPS", str(self.clips // 2),
                )
            )  # fmt: skip
        for arm in self.ablation:
            commands.append(
                self._evaluation(
                    f"eval_{arm.name}", arm.name, self.splits[0][0], lists, output,
                    "INPAINT.MASKS", '["tube"]', "INPAINT.STEPS", "[1, 5, 20]", "INPAINT.FILLS", "[]",
                    "INPAINT.MAX_CLIPS", str(self.clips), *arm.overrides,
                )
            )  # fmt: skip
        return commands

    def _evaluation(self, name: str, weights: str, split: str, lists: Path, output: Path, *overrides: str) -> Command:
        return self._command(
            name, output, lists, overrides,
            "TASK", "inpaint_eval", "MODEL.WEIGHTS", str(output / weights), "TEST.SPLIT", split,
            "TEST.BATCH_SIZE", "20", "DATA_LOADER.NUM_WORKERS", "0",
        )  # fmt: skip

    def _command(self, name: str, output: Path, lists: Path, overrides: Sequence[str], *more: str) -> Command:
        words = (
            "tools/run_net.py", "--cfg", self.recipe, "DATA.PATH_TO_DATA_DIR", str(lists), "OUTPUT_DIR",
            str(output / name), "TRAIN.VISUALIZE_PERIOD", "0", *more, *overrides,
        )  # fmt: skip
        return Command(name, output / name, words)


def _arm(name: str, title: str, **keys: str) -> Arm:
    """``rho="1.0"`` and so on as overrides."""
    names = {
        "rho": "DIFFUSION.RHO",
        "scaling": "MODEL.INPUT_SCALING",
        "prediction": "MODEL.PREDICTION",
        "decoder": "MODEL.DECODER.TYPE",
        "model": "MODEL.NAME",
    }
    return Arm(name, title, tuple(word for key, value in keys.items() for word in (names[key], value)))


STUDIES = {
    study.name: study
    for study in (
        Study(
            name="motion_set",
            title="Rendered motion set",
            recipe="configs/demo/pretrain.yaml",
            source="motion_set",
            splits=(("val", "known photographs, new paths"), ("unseen", "photographs never seen")),
            masks=("tube", "0.25,0.25,0.75,0.75", "every-second-frame", "right-half"),
            steps=2000,
            ablation=(
                _arm("wiener", "the recipe: rho 0.6, predicts x0, decoder cross_self"),
                _arm("wiener_rho_1.0", "rho 1.0", rho="1.0"),
                _arm("wiener_rho_1.0_v", "rho 1.0, predicts v", rho="1.0", prediction="v"),
                _arm("wiener_cross", "decoder cross", decoder="cross"),
                _arm("wiener_joint", "decoder joint", decoder="joint"),
                _arm("base", "input scaling signal", rho="0.6", scaling="signal"),
            ),
            ablation_steps=800,
        ),
        Study(
            name="ut_interaction",
            title="UT-Interaction, sequences not seen in training",
            recipe="configs/inpaint/ut_interaction.yaml",
            source="manifest",
            splits=(("val", "sequences not seen in training"),),
            masks=("tube", "0.25,0.25,0.75,0.75", "every-second-frame", "right-half"),
            steps=1000,
            curve=(),
        ),
    )
}
