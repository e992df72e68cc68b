"""The loader's benchmark with a few short rounds, as a person types it, and the helpers that time and report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffmae_video.benchmarking import Spread, format_table, interleave, write_report

ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "tools/benchmark.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_loader(tmp_path, monkeypatch):
    pytest.importorskip("decord", reason="VideoMAE's way of loading needs decord")
    output = tmp_path / "report.json"
    arguments = ("loader", "--rounds", 1, "--frames", 70, "--cache", tmp_path / "videos", "--output", output)
    done = run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(output.read_text())
    assert {"machine", "versions", "command", "config", "files", "figures", "ratios"} <= set(report)
    assert report["config"] | {"rounds": 1, "video_frames": 70, "threads": 1} == report["config"]
    assert report["versions"]["torch"] and report["machine"]["cores"] >= 1
    files = report["files"]
    assert set(files) == set(report["figures"]) == {"light", "heavy", "reencoded"}
    assert all((file["frames"], file["width"], file["height"]) == (70, 340, 256) for file in files.values())
    assert files["light"]["keyframes"] == 1 and files["reencoded"]["keyframes"] == 6
    assert files["heavy"]["bytes"] > 5 * files["light"]["bytes"]
    for kind, figures in report["figures"].items():
        assert set(figures) == set(report["methods"]), kind
        for method, figure in figures.items():
            assert 0 < figure["low"] <= figure["median"] <= figure["high"]
            assert method in done.stdout
    for ratio in report["ratios"]:
        assert ratio["name"] in done.stdout and ratio["met"] == (ratio["ratio"]["median"] >= ratio["goal"])

    rendered = {path: path.stat().st_mtime_ns for path in (tmp_path / "videos").rglob("video.mp4")}
    monkeypatch.syspath_prepend(ROOT / "tools")
    from benchmark_videos import prepare

    assert set(prepare(tmp_path / "videos", 70).values()) == set(rendered)
    assert {path: path.stat().st_mtime_ns for path in rendered} == rendered, "videos must be rendered once"


@pytest.mark.parametrize("arguments", [("loader", "--rounds", "0"), ("unknown",), ()])
def test_wrong_arguments(arguments):
    done = run(*arguments)
    assert done.returncode == 2 and "usage" in done.stderr


def test_candidates_take_turns_and_the_first_changes():
    calls = []
    candidates = {name: (lambda number, name=name: calls.append((number, name))) for name in "abc"}
    seconds = interleave(candidates, rounds=3, warmup=1)
    assert [number for number, _ in calls] == [-1] * 3 + [0] * 3 + [1] * 3 + [2] * 3
    rounds = ["".join(name for _, name in calls[start : start + 3]) for start in (3, 6, 9)]
    assert rounds == ["abc", "bca", "cab"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    with pytest.raises(ValueError, match="at least one"):
        interleave({}, rounds=1)
    with pytest.raises(ValueError, match="at least one"):
        interleave(candidates, rounds=0)


def test_spread_and_report(tmp_path):
    spread = Spread.of([5, 1, 3, 2, 4])
    assert spread == (3, 2, 4) and str(spread) == "3.00 (2.00 - 4.00)"
    assert Spread.of([7]) == (7, 7, 7)
    write_report(tmp_path / "new" / "report.json", {"a": {"b": spread}, "c": [spread]})
    expected = {"median": 3, "low": 2, "high": 4}
    assert json.loads((tmp_path / "new" / "report.json").read_text()) == {"a": {"b": expected}, "c": [expected]}
    lines = format_table(["name", "n"], [["long name", 1], ["b", 20]]).splitlines()
    assert lines == ["| name      |  n |", "| --------- | -: |", "| long name |  1 |", "| b         | 20 |"]


def test_sampler(tmp_path):
    output = tmp_path / "report.json"
    small = ["MODEL.ENCODER.WIDTH", "32", "MODEL.ENCODER.DEPTH", "4", "MODEL.DECODER.WIDTH", "32", "DEVICE", "cpu"]
    arguments = ["sampler", *small, "--cfg", "configs/demo/pretrain.yaml", "--rounds", 1, "--batch", 2, "--steps", 2]
    done = run(*arguments, "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(output.read_text())
    assert (report["config"]["batch"], report["config"]["visible"], report["config"]["hidden"]) == (2, 64, 64)
    ways = [figure["way"] for figure in report["figures"]]
    assert ways[0] == "ours, fp32" and "naive, bf16" in ways and len(ways) == 8
    assert all(way in done.stdout for way in ways) and set(report["shares"]) == {"fp32", "bf16"}
    assert 0 <= report["largest_difference"] <= 0.51, "all ways paint the same, up to the rounding of pixels"
    assert report["figures"][0]["ratio"]["median"] == 1
    refused = run("sampler", "MODEL.NAME", "MAE", "--cfg", "configs/demo/pretrain.yaml", "--output", output)
    assert refused.returncode == 2 and "is no DiffMAE" in refused.stderr


def test_monitor(tmp_path):
    output = tmp_path / "report.json"
    small = ["MODEL.ENCODER.WIDTH", "32", "MODEL.ENCODER.DEPTH", "4", "MODEL.DECODER.WIDTH", "32", "DEVICE", "cpu"]
    done = run("monitor", *small, "--rounds", 1, "--batch", 2, "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(output.read_text())
    assert set(report["cost_percent"]) == {"no line after the step", "a line after the step"}
    assert report["step_seconds"]["median"] > 0 and "a line after the step" in done.stdout
    done = run("monitor", "--cfg", "configs/K400/test_7x3.yaml", "--output", output)
    assert done.returncode == 2 and "choose a recipe of pre-training" in done.stderr
