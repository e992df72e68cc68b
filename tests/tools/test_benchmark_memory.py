"""The memory benchmark on a tiny model: counted and measured, with and without checkpointing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
SMALL = (
    "DEVICE cpu DATA.NUM_FRAMES 4 MODEL.PATCH_SIZE [2,8,8] MODEL.ENCODER.WIDTH 48 MODEL.ENCODER.DEPTH 4 "
    "MODEL.ENCODER.HEADS 2 MODEL.DECODER.WIDTH 48 MODEL.DECODER.DEPTH 4 MODEL.DECODER.HEADS 2 MASK.RATIO 0.5"
).split()


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    return SimpleNamespace(**{name: __import__(name) for name in ("scaling_options", "benchmark_memory")})


def options_of(tools, *arguments):
    parser = argparse.ArgumentParser()
    tools.scaling_options.add_memory(parser)
    cfg = ["--cfg", str(ROOT / "configs/K400/ViT_B.yaml")]
    options = parser.parse_args([*SMALL, "--crop", "48", *map(str, arguments), *cfg])
    tools.scaling_options.check_memory(parser, options)
    return options


def test_memory(tools, tmp_path, capsys):
    output = tmp_path / "new" / "report.json"
    assert tools.benchmark_memory.run(options_of(tools, "--batch", 8, 4, "--output", output)) == 0
    printed, report = capsys.readouterr().out, json.loads(output.read_text())
    assert {"machine", "versions", "command", "config", "figures", "gradients"} <= set(report)
    figures = {(figure["checkpointing"], figure["batch"]): figure for figure in report["figures"]}
    assert list(figures) == [(kind, batch) for kind in ("none", "selective", "full") for batch in (4, 8)]
    for figure in figures.values():
        assert figure["counted"] == pytest.approx(figure["measured"], rel=0.02)
        assert figure["per_clip"] == figure["measured"] / figure["batch"]
        assert f"| {figure['checkpointing']} " in printed
    plain, some, full = (figures[kind, 8]["measured"] for kind in ("none", "selective", "full"))
    assert plain > some > full > report["gradients"]
    assert figures["full", 8]["of_none"] == full / plain and figures["none", 8]["of_none"] == 1
    expected = (plain - figures["none", 4]["measured"]) / 4
    assert figures["none", 8]["per_further_clip"] == expected and figures["none", 4]["per_further_clip"] is None
    assert "4 x 48 x 48, 50% hidden, bf16 on cpu" in printed


def test_what_does_not_fit_is_counted_alone(tools, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tools.benchmark_memory, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(tools.benchmark_memory, "taken_peak", lambda *_: pytest.fail("taken"))
    output = tmp_path / "report.json"
    arguments = ("--batch", 2, "--checkpointing", "full", "--output", output)
    assert tools.benchmark_memory.run(options_of(tools, *arguments)) == 0
    (figure,) = json.loads(output.read_text())["figures"]
    assert figure["counted"] > 1000 and figure["measured"] is None and figure["per_clip"] is None
    assert "not enough is free" in capsys.readouterr().out


def test_wrong_options(tools, capsys):
    for arguments, message in ((("--batch", 0), "--batch must be at least 1"), (("--checkpointing", "x"), "invalid")):
        with pytest.raises(SystemExit):
            options_of(tools, *arguments)
        assert message in capsys.readouterr().err


def test_own_overrides_come_after_the_crop(tools):
    assert options_of(tools).overrides[:2] == ["DATA.CROP_SIZE", "48"]
