"""The benchmark of starting up, with one round and few commands; and what it makes of a run's marks and imports."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = (
    "DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 1 DATA.CROP_SIZE 32 DATA_LOADER.NUM_WORKERS 0 MODEL.PATCH_SIZE [2,8,8] "
    "MODEL.ENCODER.WIDTH 24 MODEL.ENCODER.DEPTH 1 MODEL.ENCODER.HEADS 2 MODEL.DECODER.WIDTH 24 MODEL.DECODER.DEPTH 1 "
    "MODEL.DECODER.HEADS 2 SOLVER.BATCH_SIZE 4 TRAIN.TENSORBOARD False DEVICE cpu"
).split()
IMPORTTIME = """\
import time: self [us] | cumulative | imported package
import time:       100 |        100 |   torch._C
import time:       200 |        300 | torch
a line of the program | itself
import time:        50 |         50 | yaml.reader
"""


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import benchmark_startup

    return benchmark_startup


def test_a_round(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "TOOLS", ("tools/run_net.py",))
    monkeypatch.setattr(tool, "MODULES", ())
    monkeypatch.setattr(tool, "interleave", partial(tool.interleave, warmup=0))
    output = tmp_path / "report.json"
    assert tool.run(ROOT / "configs/demo/pretrain.yaml", TINY, 1, output) == 0
    report, printed = json.loads(output.read_text()), capsys.readouterr().out
    assert {"machine", "versions", "command", "config", "figures", "first_step", "import_shares"} <= set(report)
    figures = report["figures"]
    assert {"python", "import torch", "run_net.py --help", tool.FIRST_STEP} <= set(figures)
    assert figures["import torch"]["times_torch"]["median"] == 1 and tool.TRACED not in figures
    assert all(figure["seconds"]["median"] > 0 and title in printed for title, figure in figures.items())
    *phases, whole = report["first_step"].values()
    assert list(report["first_step"])[:-1] == list(tool.PHASES)
    assert all(phase["median"] >= 0 for phase in phases)
    assert sum(phase["median"] for phase in phases) == pytest.approx(whole["median"])
    assert 0 < whole["median"] < figures[tool.FIRST_STEP]["seconds"]["median"], "the process ends after the step"
    shares = report["import_shares"]
    assert next(iter(shares)) == "torch" and sum(share["median"] for share in shares.values()) == pytest.approx(100)


def test_recipes_without_a_first_step_are_refused(tool, tmp_path):
    for config, overrides in (("K400/test_7x3.yaml", []), ("demo/pretrain.yaml", ["NUM_GPUS", "2"])):
        with pytest.raises(ValueError, match="expected a recipe of pre-training in one process"):
            tool.run(ROOT / "configs" / config, overrides, 1, tmp_path / "report.json")


def test_a_command_that_fails_stops_the_benchmark(tool):
    with pytest.raises(RuntimeError, match="exit code 3, expected 0:\nno luck"):
        tool.Command(["-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"]).run()


def test_imports_are_summed_by_package(tool):
    assert tool.imports_by_package(IMPORTTIME) == {"torch": 300, "yaml": 50}


def test_every_command_a_person_types_is_measured(tool):
    scripts = [*(ROOT / "tools").glob("*.py"), *(ROOT / "slurm").glob("*.py")]
    commands = {f"{path.parent.name}/{path.name}" for path in scripts if '__name__ == "__main__"' in path.read_text()}
    assert set(tool.TOOLS) == commands - {"tools/scaling_worker.py", "tools/startup_run.py"}
