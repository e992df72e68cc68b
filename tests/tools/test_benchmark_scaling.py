"""The scaling benchmark on tiny models: what is counted, what is skipped, several processes, the paper model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffmae_video.build import build_model
from diffmae_video.config import ConfigError
from diffmae_video.engine import PretrainTask
from diffmae_video.engine.flops import flops_per_clip

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
MODULES = ("scaling_options", "scaling_points", "scaling_curves", "scaling_parallel", "benchmark_scaling")
TINY = (
    "DEVICE cpu DATA.NUM_FRAMES 4 DATA.CROP_SIZE 32 MODEL.PATCH_SIZE [2,8,8] MODEL.ENCODER.WIDTH 24 "
    "MODEL.ENCODER.DEPTH 2 MODEL.ENCODER.HEADS 2 MODEL.DECODER.WIDTH 24 MODEL.DECODER.DEPTH 1 MODEL.DECODER.HEADS 2 "
    "MASK.RATIO 0.75 TRAIN.PRECISION fp32"
).split()
FEW = "--size tiny --sizes small --frames 8 --resolutions 64 --ratios 0.5 --decoder-crop 32 --paper-sizes base".split()


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    return SimpleNamespace(**{name: __import__(name) for name in MODULES})


def options_of(tools, *arguments, overrides=TINY):
    parser = argparse.ArgumentParser()
    tools.scaling_options.add_scaling(parser)
    cfg = ["--cfg", str(ROOT / "configs/K400/ViT_B.yaml")]
    options = parser.parse_args([*overrides, *FEW, *map(str, arguments), *cfg])
    tools.scaling_options.check_scaling(parser, options)
    return options


def test_curves(tools, tmp_path, capsys):
    report, picture = tmp_path / "new" / "report.json", tmp_path / "plots" / "curves.png"
    options = options_of(tools, "--processes", "--rounds", 2, "--output", report, "--plot", picture)
    assert tools.benchmark_scaling.run(options) == 0
    printed, found = capsys.readouterr().out, json.loads(report.read_text())
    assert {"machine", "versions", "command", "config", "curves", "paper"} <= set(found) and "processes" not in found
    assert found["config"]["rounds"] == 2 and found["threads"] == torch.get_num_threads()
    labels = {name: [point["label"] for point in points] for name, points in found["curves"].items()}
    assert labels["frames"] == ["4", "8"] and labels["resolution"] == ["32", "64"]
    assert labels["ratio"] == ["0.5", "0.75"] and labels["size"] == ["the recipe's own", "small"]
    assert len(labels["decoder"]) == 6 and "cross, 8 frames" in labels["decoder"]
    for name, points in found["curves"].items():
        base = next(point for point in points if point["measured"] == {"median": 1, "low": 1, "high": 1})
        assert base["counted"] == 1, name
        for point in points:
            assert point["counted"] == point["flops"] / base["flops"] and point["seconds"]["median"] > 0
            assert f"| {point['label']} " in printed
    assert [point["hidden"] for point in found["curves"]["frames"]] == [24, 48]
    pixels = np.asarray(Image.open(picture))
    assert pixels.shape[1] > 4 * pixels.shape[0] / 2 and pixels.std() > 1


@pytest.mark.parametrize("decoder", ["cross_self", "cross", "joint"])
def test_counts_without_values_are_those_of_a_real_step(tools, decoder):
    cfg = tools.scaling_points.load_recipe(options_of(tools), ["MODEL.DECODER.TYPE", decoder])
    model, counted = build_model(cfg), tools.scaling_points.count(cfg, batch=3)
    assert counted.flops == flops_per_clip(model, PretrainTask(), model.clip_shape, "fp32")
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    assert (counted.visible, counted.hidden) == (8, 24)
    assert counted.memory > 8 * counted.parameters, "weights, gradients, and the step"
    assert tools.scaling_points.count(cfg).memory == 0


def test_what_takes_too_long_or_too_much_is_skipped(tools):
    counted = tools.scaling_points.Counted(flops=1e12, parameters=1, visible=1, hidden=1, memory=1000)
    why = tools.scaling_curves.too_much
    assert why(counted, speed=1e9, limit=999.0, free=1e9) == "1000 s expected, above --limit"
    assert why(counted, speed=1e9, limit=1001.0, free=1e9) == ""
    assert "needs" in why(counted, speed=1e9, limit=1001.0, free=1050) and tools.scaling_curves.free_bytes(CPU) > 0


def test_a_point_that_fails_for_lack_of_memory_ends_nothing(tools, monkeypatch, tmp_path):
    """The others are measured; table, report and picture say what is missing."""
    curves, made = tools.scaling_curves, tools.scaling_curves.make_run

    def make_run(cfg, batch, device):
        if cfg.DATA.NUM_FRAMES == 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return made(cfg, batch, device)

    monkeypatch.setattr(curves, "make_run", make_run)
    options = options_of(tools, "--curves", "frames", "--rounds", 1)
    curve = tools.scaling_points.curves(tools.scaling_points.load_recipe(options), options)[0]
    results = curves.measure(curve, options, CPU)
    assert [result.skipped for result in results] == ["", "out of memory"]
    assert [len(result.seconds) for result in results] == [1, 0]
    last = curves.rows(results, curve.base, batch=1)[-1]
    assert last[0] == "8" and last[3] == "out of memory" and last[5] == "-" and float(last[6]) > 1.5
    figures = curves.figures(results, curve.base)
    assert figures[-1]["measured"] is None and figures[-1]["skipped"] == "out of memory"
    curves.draw(tmp_path / "curves.png", [(curve, results)], "a title")
    panel = curves.panel(curve, results)
    assert panel.series["measured"][0] == [4] and panel.dashed["measured"][0] == [4, 8]

    def broken(cfg, batch, device):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(curves, "make_run", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        curves.measure(curve, options, CPU)


def test_ratios_are_taken_within_rounds(tools):
    curves, points = tools.scaling_curves, tools.scaling_points
    counted = [points.Counted(flops, 10, 1, 1, 0) for flops in (1e12, 3e12)]
    seconds = ([1.0, 10.0, 2.0], [2.0, 20.0, 4.0])
    results = [
        curves.Result(points.Point(str(n), n, []), *pair) for n, *pair in zip((1, 2), counted, seconds, strict=True)
    ]
    assert curves.ratios(results, 0) == [((1, 1, 1), 1), ((2, 2, 2), 3)]
    row = curves.rows(results, 0, batch=2)[1]
    assert row[1:3] == ["1 + 1", "3000"] and row[4] == "1500" and str(row[-1]) == "0.67 (0.67 - 0.67)"


def test_processes(tools, tmp_path, capsys, monkeypatch):
    """Real ones, which meet and sum their gradients, on one thread each, also where one is alone."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    texts, read, report = [], Path.read_text, tmp_path / "report.json"
    monkeypatch.setattr(Path, "read_text", lambda path, **how: texts.append(read(path, **how)) or texts[-1])
    options = options_of(tools, "--curves", "--processes", 2, "--rounds", 1, "--steps", 2, "--output", report)
    assert tools.benchmark_scaling.run(options) == 0
    workers = [json.loads(text) for text in texts if text.startswith("{")]
    assert [worker["threads"] for worker in workers] == [1, 1]
    found = json.loads(report.read_text())
    assert "curves" not in found
    alone, two = found["processes"]
    assert (alone["processes"], two["processes"]) == (1, 2) and alone["efficiency"]["median"] == 1
    for figure, worker in zip((alone, two), workers, strict=True):
        assert figure["seconds"]["median"] == pytest.approx(sum(worker["seconds"]) / 2)
        speed = figure["processes"] / figure["seconds"]["median"]
        assert figure["clips_per_second"]["median"] == pytest.approx(speed)
    expected = two["clips_per_second"]["median"] / 2 / alone["clips_per_second"]["median"]
    assert two["efficiency"]["median"] == pytest.approx(expected)
    assert "in each of several processes: 1; DDP" in capsys.readouterr().out


def test_numbers_of_processes_take_turns(tools, monkeypatch):
    calls = []
    monkeypatch.setattr(
        tools.scaling_parallel, "time_steps", lambda options, n: calls.append(n) or ("broken" if n == 4 else 1.0 * n)
    )
    options = options_of(tools, "--processes", 4, 2, "--rounds", 2)
    seconds = tools.scaling_parallel.measure_processes(options, CPU)
    assert calls == [1, 2, 4, 1, 2] and seconds == {1: [1, 1], 2: [2, 2], 4: "broken"}
    monkeypatch.setattr(tools.scaling_parallel, "cores", lambda: 2)
    rows = tools.scaling_parallel.rows(seconds, batch=3, on_cpu=True)
    assert [row[:2] for row in rows] == [[1, "1"], [2, "1"], [4, "0.5"]] and rows[2][2] == "broken"
    assert rows[1][3] == (3, 3, 3) and rows[1][4] == (0.5, 0.5, 0.5) and rows[2][-1] == "0.50"


def test_processes_that_cannot_start_are_told(tools, capfd):
    options = options_of(tools, overrides=[*TINY, "DEVICE", "cuda:7"])
    assert tools.scaling_parallel.time_steps(options, 1) == "failed with exit code 2, see above"
    assert "cuda:7" in capfd.readouterr().err


def test_paper_only(tools, tmp_path, capsys):
    report = tmp_path / "paper.json"
    small = ["DATA.CROP_SIZE", "64", "MODEL.PATCH_SIZE", "[2,16,16]", "MASK.RATIO", "0.75", "SOLVER.EPOCHS", "100"]
    options = options_of(tools, "--paper-only", "--gpus", 8, 512, "--output", report, overrides=small)
    assert tools.benchmark_scaling.run(options) == 0
    printed, found = capsys.readouterr().out, json.loads(report.read_text())["paper"]
    assert printed.lower().count("computed, not measured") == 4 and found["note"] == "Computed, not measured"
    fixed, shared = found["steps"].values()
    assert [step["clips"] for step in fixed] == [64, 64] and [step["clips"] for step in shared] == [256, 4]
    network, machine = found["networks"]["base"], found["assumptions"]
    assert fixed[0]["arithmetic"] == pytest.approx(64 * network["flops"] / (machine["peak"] * machine["utilisation"]))
    assert fixed[0]["hours"] == pytest.approx(100 * 240_000 / fixed[0]["clips_per_second"] / 3600)
    cores = found["cores_per_gpu"]["base"]
    assert cores["ours"] == pytest.approx(machine["peak"] * machine["utilisation"] / network["flops"] / 4.47)
    assert set(cores) == set(machine["clips_per_core"]) and "curves" not in json.loads(report.read_text())


@pytest.mark.parametrize(
    ("arguments", "overrides", "error", "message"),
    [
        (["--resolutions", "33"], TINY, ConfigError, "DATA.CROP_SIZE = 33"),
        (["--gpus", "24"], TINY, ValueError, "cannot be shared evenly by 24 GPUs"),
        (["--clips-per-core", "fast"], TINY, ValueError, "expected NAME=NUMBER"),
        ([], ["MODEL.NAME", "LatentDAE"], ValueError, "no masked autoencoder"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_measured(tools, monkeypatch, arguments, overrides, error, message):
    monkeypatch.setattr(tools.scaling_curves, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(error, match=message):
        tools.benchmark_scaling.run(options_of(tools, *arguments, overrides=overrides))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--frames", "8", "0"], "--frames must be at least 1"),
        (["--limit", "0"], "--limit must be above 0"),
        (["--overlap", "1.5"], "--overlap in"),
        (["--curves", "colour"], "invalid choice"),
    ],
)
def test_wrong_options(tools, capsys, arguments, message):
    with pytest.raises(SystemExit):
        options_of(tools, *arguments)
    assert message in capsys.readouterr().err


def test_where_the_report_goes(tools):
    assert options_of(tools).output != options_of(tools, "--paper-only").output


def test_ctrl_c_ends_the_benchmark(tools, monkeypatch):
    """It went on to the processes, and their exit code says so."""
    monkeypatch.setattr(tools.scaling_parallel, "launch", lambda command, processes: 130)
    with pytest.raises(KeyboardInterrupt):
        tools.scaling_parallel.measure_processes(options_of(tools, "--processes", 2), CPU)
