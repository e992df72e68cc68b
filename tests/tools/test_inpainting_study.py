"""The study of inpainting, from lists to the tables on a page, with a tiny network on rendered files."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
RECIPE = """
DATA: {NUM_FRAMES: 4, CROP_SIZE: 32, SAMPLING_RATE: 2, DECODE_TIMEOUT: 0}
DATA_LOADER: {NUM_WORKERS: 0}
MODEL:
  PATCH_SIZE: [2, 8, 8]
  ENCODER: {WIDTH: 24, DEPTH: 2, HEADS: 2}
  DECODER: {WIDTH: 16, DEPTH: 1, HEADS: 2}
MASK: {RATIO: 0.5}
SOLVER: {BATCH_SIZE: 4}
TRAIN: {PRECISION: fp32, TENSORBOARD: False}
"""
ROW = {"mask": "tube", "method": "DiffMAE", "sampler": "ddim", "clips": 2, "samples": 1}


@pytest.fixture(scope="module")
def modules():
    names = ("inpainting_study", "inpainting_studies", "inpainting_study_report", "evidence_report")
    before = set(sys.modules)
    sys.path.insert(0, str(TOOLS))  # as for any script
    yield [importlib.import_module(name) for name in names]
    sys.path.remove(str(TOOLS))
    for name in set(sys.modules) - before:
        if name.startswith(("inpainting_stud", "evidence_")):
            del sys.modules[name]


@pytest.fixture
def data(sample_videos, tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["file,class_id,group,split"]
    for number in range(8):
        (folder / f"clip_{number}.mp4").symlink_to(sample_videos / f"clip_{number}.mp4")
        lines.append(f"clip_{number}.mp4,{number % 2},{number},{'train' if number < 6 else 'val'}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_one_command_trains_measures_and_writes_the_page(modules, data, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    pytest.importorskip("cv2", reason="one of the fills is OpenCV's")
    study_tool, studies, _, _ = modules
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    study = studies.Study(
        name="tiny", title="Tiny", recipe=str(tmp_path / "recipe.yaml"), source="manifest",
        splits=(("val", "new clips"),), masks=("tube", "right-half"), steps=2, curve=(1, 20, 40),
    )  # fmt: skip
    monkeypatch.setitem(study_tool.STUDIES, "tiny", study)
    page = tmp_path / "RESULTS.md"
    page.write_text("before\n<!-- inpainting_tiny:begin -->\nold\n<!-- inpainting_tiny:end -->\nafter\n")
    arguments = ["tiny", "--data", str(data), "--output", str(tmp_path / "out"), "--write-results", str(page)]
    assert study_tool.main(arguments) == 0, [f.read_text()[-800:] for f in (tmp_path / "out").rglob("run.log")]
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    assert "**New clips**" in text and "DiffMAE, ddim, 20 steps" in text and "| MAE " in text
    assert "right-half (2 clips)" in text and "dpmpp_2m, 40" in text and "OpenCV" in text
    for name in ("inpainting_tiny_val.png", "inpainting_tiny_steps.png"):
        assert f"docs/results/{name}" in text and (tmp_path / "docs" / "results" / name).stat().st_size > 2000
    printed = capsys.readouterr().out
    assert printed.count("$ python tools/run_net.py") == 4
    # Again: nothing is left to do but the report.
    assert study_tool.main(arguments) == 0
    assert "$ python" not in capsys.readouterr().out


def test_a_run_that_fails_is_named(modules, data, tmp_path, monkeypatch, capsys):
    study_tool, studies, _, _ = modules
    (tmp_path / "recipe.yaml").write_text("MODEL: {TARGET: nothing}\n")
    study = studies.Study("bad", "Bad", str(tmp_path / "recipe.yaml"), "manifest", (("val", "v"),), ("tube",), 1)
    monkeypatch.setitem(study_tool.STUDIES, "bad", study)
    assert study_tool.main(["bad", "--data", str(data), "--output", str(tmp_path / "out"), "--jobs", "1"]) == 1
    error = capsys.readouterr().err
    assert "FAILED: diffmae: exit code 2" in error and "run.log" in error
    assert "MODEL.TARGET is 'nothing'" in (tmp_path / "out" / "bad" / "diffmae" / "run.log").read_text()
    assert study_tool.main(["bad", "--data", str(tmp_path / "nowhere")]) == 2


def test_steps_are_compared_with_a_thousand(modules):
    report = modules[2]
    values = {"psnr": 18.0, "ssim": 0.6, "detail": 1.0, "detail_and_seams": 1.1}
    rows = [
        {**ROW, **values, "steps": 20, "psnr": 17.82, "seconds_per_clip": 0.1},
        {**ROW, **values, "steps": 1000, "seconds_per_clip": 4.5},
    ]
    text = report.steps(rows)
    assert "ddim: 20 steps give 99.0% of the PSNR of 1000 and 100.0% of its SSIM, 45.0 times as fast." in text
    assert "of 1000" not in report.steps(rows[:1])


def test_the_ablation_has_a_line_per_model(modules, tmp_path):
    studies, report = modules[1:3]
    study = studies.STUDIES["motion_set"]
    for number, arm in enumerate(study.ablation):
        folder = tmp_path / f"eval_{arm.name}" / "inpaint_eval"
        folder.mkdir(parents=True)
        row = {**ROW, "steps": 20, "psnr": 10.0 + number, "ssim": 0.5, "detail_and_seams": None}
        (folder / "metrics.json").write_text(json.dumps([row]))
    lines = report.ablation(study, tmp_path).splitlines()
    assert len(lines) == 2 + len(study.ablation) and "10.00 / 0.500 / -" in lines[2] and "rho 0.6" in lines[2]


def test_every_command_of_the_studies_is_accepted(modules, tmp_path):
    """Their recipes and overrides make configurations; nothing is trained."""
    from diffmae_video.config import load_config

    for study in modules[1].STUDIES.values():
        for command in [*study.trainings(tmp_path, tmp_path), *study.evaluations(tmp_path, tmp_path)]:
            assert command.words[:2] == ("tools/run_net.py", "--cfg")
            cfg = load_config([TOOLS.parent / command.words[2]], command.words[3:])
            assert cfg.OUTPUT_DIR == str(tmp_path / command.name)
            assert cfg.TASK == ("inpaint_eval" if command.name.startswith(("compare", "steps", "eval")) else "pretrain")
