"""What ``evidence.py`` knows about its runs: ``evidence.json`` in the folder of each.

task, arm, labels, seed   where the run stands in the tables (labels 0 = all)
command                   what does the same by hand
configs                   YAML of its configuration and of those of the runs that it started from, the last first
finished                  whether it is complete
top1                      accuracy in [0, 1] at its end; none for a pre-training
clips                     clips seen in training
cpu_seconds, wall_seconds over all times that it was started and not killed
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence_studies import PRETRAIN, Run

from diffmae_video.config import ConfigError, dump, from_yaml, load_config
from diffmae_video.engine.checkpoint import FOLDER, config_changes, step_files
from diffmae_video.engine.disk import write_text

RECORD = "evidence.json"
Record = dict[str, Any]


def read_record(folder: Path) -> Record | None:
    """The record of a run; None where there is none."""
    file = folder / RECORD
    return json.loads(file.read_text()) if file.is_file() else None


def write_record(folder: Path, record: Record) -> None:
    write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")


def new_record(run: Run, configs: Sequence[str]) -> Record:
    place = {"task": run.task, "arm": run.arm, "labels": run.labels, "seed": run.seed}
    costs = {"cpu_seconds": 0.0, "wall_seconds": 0.0}
    return {**place, "command": run.command, "configs": list(configs), "finished": False, **costs}


def finish(run: Run, record: Record) -> str:
    """Enters what a run that went to its end has to show; returns what is wrong with it, or ""."""
    record["clips"] = sum(line["clips"] for line in _lines(run.folder / "log.jsonl")[-1:])
    if run.task == PRETRAIN:
        if not has_weights(run.folder):
            return "it has left no checkpoint"
    else:
        measured = [line for line in _lines(run.folder / "evaluations.jsonl") if "top1" in line]
        if not measured:
            return "it has left no accuracy in evaluations.jsonl"
        record["top1"], record["videos"] = measured[-1]["top1"], measured[-1].get("videos", 0)
    record["finished"] = True
    return ""


def has_weights(folder: Path) -> bool:
    return bool(step_files(folder / FOLDER))


def remove_weights(folder: Path) -> None:
    """Deletes the checkpoints of a run, and nothing else."""
    for file in step_files(folder / FOLDER).values():
        file.unlink(missing_ok=True)


def _lines(file: Path) -> list[Record]:
    """The records of a file of JSON lines, without a last one that a kill cut off."""
    lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


# -------------------------------------------------------------------------------------------------- the configurations


def configurations(runs: Sequence[Run]) -> dict[Path, list[str]]:
    """For every run, by its folder: YAML of its configuration, then of those of the runs that it starts from.

    ``runs`` are in an order in which a run comes after what it starts from. Raises ConfigError.
    """
    chains: dict[Path, list[str]] = {}
    for run in runs:
        chains[run.folder] = [dump(load_config(run.files, run.overrides)), *(chains[run.after] if run.after else [])]
    return chains


def changes(record: Record, configs: Sequence[str]) -> list[str]:
    """The lines in which the configurations of a record differ from ``configs``; none where they do the same.

    Where a run lies makes no difference, nor does a key that has come since and has its default.
    """
    saved = record["configs"]
    if list(saved) == list(configs):
        return []
    if len(saved) != len(configs):
        return [f"it started from {len(saved) - 1} other runs, now from {len(configs) - 1}"]
    pairs = [(_placeless(old), _placeless(new)) for old, new in zip(saved, configs, strict=True) if old != new]
    return [line for old, new in pairs for line in config_changes(old, new) if not line.startswith("?")]


def _placeless(text: str) -> str:
    """A configuration without the folders of runs; one that this version cannot read, as it is."""
    try:
        cfg = from_yaml(text).clone()
    except ConfigError:
        return text
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = "", ""
    return dump(cfg)
