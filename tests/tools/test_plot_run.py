"""Curves and the table of runs, from files as runs leave them: going on, resumed, of another version, in a sweep."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
try:
    import plot_run
    import run_logs
finally:
    sys.path.remove(str(ROOT / "tools"))


def write_run(folder: Path, steps: int = 4, loss: float = 1.0, tail: str = "", evaluations=(), **fields) -> Path:
    """A run with a line every 10 steps: 80 clips, half an epoch and 36 seconds each."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(1, steps + 1):
        line = {"step": 10 * number, "clips": 80 * number, "epoch": 0.5 * number, "wall_seconds": 36.0 * number}
        line |= {"loss": loss / number, "clips_per_second": 2.0 * number, "step_seconds": 1.0, "data_wait_share": 0.25}
        lines.append(json.dumps(line | {"unreadable": 3} | fields))
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n" + tail)
    if evaluations:
        (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in evaluations))
    return folder


def run(*arguments):
    command = [sys.executable, "tools/plot_run.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_plot_and_a_table_as_a_person_types_it(tmp_path):
    pytest.importorskip("matplotlib")
    tests = [{"step": s, "evaluator": "test", "top1": v} for s, v in ((20, 0.5), (40, 0.4))]
    write_run(tmp_path / "sweep" / "a", evaluations=tests, mfu=0.31)
    write_run(tmp_path / "sweep" / "b", steps=2, tail='{"step": 30, "lo')  # being written
    output = tmp_path / "new" / "plot.png"
    done = run(tmp_path / "sweep", "--metric", "loss", "top1", "--x", "hours", "--smooth", 0.5, "--output", output)
    assert done.returncode == 0, done.stderr
    header, _, first, second, wrote = done.stdout.splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (header, first, second)]
    table = [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
    assert table[0] == {
        "run": "a", "steps": "40", "epochs": "2.00", "hours": "0.04", "loss": "0.25", "clips/s": "5.0",
        "best evaluation": "test/top1 0.5 at step 20", "data wait": "25%", "MFU": "31.0%", "unreadable": "3",
    }  # fmt: skip
    assert table[1] | {"run": "b", "steps": "20", "best evaluation": "-", "MFU": "-"} == table[1]
    assert str(output) in wrote
    with Image.open(output) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert picture.width > picture.height and len(np.unique(pixels, axis=0)) > 10


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["{0}/nothing"], ["nothing is no folder"]),
        (["{0}/empty"], ["has no log.jsonl", "OUTPUT_DIR"]),
        (["{0}/young"], ["no whole line yet"]),
        (["{0}/run", "--metric", "los", "--output", "{0}/plot.png"], ["--metric los", "loss", "test/top1"]),
        (["{0}/run", "--output", "{0}/plot.nonsense"], ["plot.nonsense", "names no picture format"]),
    ],
)
def test_what_cannot_be_shown_is_told(tmp_path, monkeypatch, capsys, arguments, parts):
    pytest.importorskip("matplotlib")
    write_run(tmp_path / "run", evaluations=[{"step": 20, "evaluator": "test", "top1": 0.5}])
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "young", steps=0)
    monkeypatch.setattr(sys, "argv", ["plot_run.py", *(argument.format(tmp_path) for argument in arguments)])
    assert plot_run.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and all(part in error for part in parts)
    assert not (tmp_path / "plot.png").exists()


def test_a_weight_of_one_is_refused(capsys):
    with pytest.raises(SystemExit):
        plot_run.parse_arguments(["runs/demo", "--smooth", "1"])
    assert "expected a weight in [0, 1)" in capsys.readouterr().err


def test_every_axis(tmp_path):
    (found,) = run_logs.find_runs([write_run(tmp_path / "run", steps=2)])
    places = {x: found.series("loss", x)[0].tolist() for x in run_logs.X_FIELDS}
    assert places == {"step": [10, 20], "clips": [80, 160], "epoch": [0.5, 1.0], "hours": [0.01, 0.02]}
    assert found.name == "run"


def test_evaluations_lie_where_their_step_does(tmp_path):
    measured = [{"step": 15, "evaluator": "test", "top1": 0.5, "videos": 8}]
    (found,) = run_logs.find_runs([write_run(tmp_path / "run", evaluations=measured)])
    for name in ("top1", "test/top1"):
        xs, ys = found.series(name, "clips")
        assert (xs.tolist(), ys.tolist()) == ([120], [0.5])
    assert {"loss", "test/top1", "test/videos"} <= set(found.metrics())


def test_the_best_of_a_loss_is_the_lowest(tmp_path):
    for key, best in (("psnr_hidden", (30, 3.0)), ("loss", (10, 1.0))):
        measured = [{"step": 10 * n, "evaluator": "x", key: float(n)} for n in (1, 3, 2)]
        (found,) = run_logs.find_runs([write_run(tmp_path / key, evaluations=measured)])
        assert run_logs.best_evaluation(found) == (f"x/{key}", best[1], best[0])


def test_the_data_wait_is_of_the_process_that_waits_longest(tmp_path):
    (found,) = run_logs.find_runs([write_run(tmp_path / "run", rank_data_wait_max=0.5)])
    assert "50%" in plot_run.summary([found])


def test_lines_of_broken_and_older_logs(tmp_path):
    """A broken line in the middle, lines without a step, lines without newer fields: what is there is shown."""
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "log.jsonl").write_bytes(
        b'{"step": 10, "loss": 1.0}\n{"st\xff\n[1]\n{"loss": 2}\n{"step": 5, "loss": 3.0}\n'
    )
    (found,) = run_logs.find_runs([folder])
    assert [line["step"] for line in found.lines] == [5, 10]
    assert "| old |    10 |" in plot_run.summary([found])
    with pytest.raises(run_logs.LogError, match="no field 'wall_seconds'"):
        found.series("loss", "hours")


def test_smoothing_begins_at_the_first_value():
    smoothed = run_logs.smoothed(np.array([4.0, 4.0, 0.0]), 0.5)
    assert smoothed.tolist() == pytest.approx([4.0, 4.0, 4 * (1 - 4 / 7)])
    assert run_logs.smoothed(np.array([1.0, 3.0]), 0.0).tolist() == [1.0, 3.0]
