"""The study of the objectives and of dual masking, each from files to a table on a page, with tiny networks."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffmae_video.config import load_config
from diffmae_video.models import DiffMAE

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"
BASE = """
DATA: {NUM_FRAMES: 4, SAMPLING: segment, CROP_SIZE: 32, DECODE_TIMEOUT: 0}
DATA_LOADER: {NUM_WORKERS: 0, PIN_MEMORY: False}
MODEL:
  TARGET: normalized
  PATCH_SIZE: [2, 8, 8]
  ENCODER: {WIDTH: 24, DEPTH: 2, HEADS: 2, POSITION: sincos}
  DECODER: {WIDTH: 16, DEPTH: 1, HEADS: 2}
MASK: {RATIO: 0.75}
SOLVER: {BATCH_SIZE: 2, MAX_STEPS: 2}
TRAIN: {LOG_PERIOD: 1, TENSORBOARD: False, PRECISION: fp32}
DEVICE: cpu
"""
# The command with a study of its own. Its main module is imported again by every worker.
DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tools!r})
import objectives_measure
from evidence_studies import SCRATCH, Arm, Recognition, Study
from objectives_study import main

objectives_measure.CLIPS = 6
HERE = Path(__file__).parent
ARMS = (
    Arm("mae", "MAE", ("base.yaml",), ("MODEL.NAME", "MAE"), per_seed=True),
    Arm("diffmae", "DiffMAE", ("base.yaml",), per_seed=True),
    SCRATCH,
)
LINEAR = Recognition("linear", "linear probe", ("base.yaml",), ("TASK", "linear"), steps={{0: 1}})
STUDY = Study("objectives_tiny", "Tiny", "manifest", ARMS, (LINEAR,), (0,), 3, 0.5, HERE, floor="")
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], {{"tiny": STUDY}}))
"""


@pytest.fixture(scope="module")
def modules():
    """The modules of the tools, by name; their folder stays off the path."""
    before = set(sys.modules)
    sys.path.insert(0, str(TOOLS))
    names = ("objectives_study", "objectives_studies", "objectives_measure", "objectives_report", "dual_masking")
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(TOOLS))
    for name in set(sys.modules) - before:
        if name.startswith(("objectives_", "evidence", "inpainting_stud", "dual_masking")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def folder(sample_videos, tmp_path_factory) -> Path:
    """The driver, its configuration, a manifest of the sample videos, and a page with marks."""
    folder = tmp_path_factory.mktemp("objectives")
    (folder / "base.yaml").write_text(BASE)
    (folder / "driver.py").write_text(DRIVER.format(tools=str(TOOLS)))
    lines = ["file,class_id,group,split"]
    for number in range(8):
        (folder / f"clip_{number}.mp4").symlink_to(sample_videos / f"clip_{number}.mp4")
        lines.append(f"clip_{number}.mp4,{number % 2},{number},{'train' if number < 6 else 'val'}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    (folder / "RESULTS.md").write_text("a\n<!-- objectives_tiny:begin -->\nold\n<!-- objectives_tiny:end -->\nb\n")
    return folder


def run(folder: Path) -> subprocess.CompletedProcess:
    words = ["tiny", "--data", folder, "--output", folder / "out", "--jobs", 1, "--seeds", 0, 1]
    words += ["--write-results", folder / "RESULTS.md"]
    return subprocess.run(
        [sys.executable, str(folder / "driver.py"), *map(str, words)], cwd=ROOT, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(folder) -> subprocess.CompletedProcess:
    pytest.importorskip("matplotlib")
    done = run(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_one_command_trains_measures_and_writes_the_page(done, folder):
    assert "10 runs, 0 of them finished before" in done.stdout  # 2 arms x 2 seeds, and 3 x 2 probes
    text = (folder / "RESULTS.md").read_text()
    assert text.startswith("a\n") and text.endswith("b\n") and "\nold\n" not in text
    for title in ("MAE", "DiffMAE", "from scratch", "every patch's mean colour"):
        assert f"| {title} " in text
    assert "over 2 seeds" in text and "against MAE" in text and "4 clips seen in pre-training" in text
    with Image.open(folder / "docs" / "results" / "objectives_tiny.png") as picture:
        assert picture.width > 600
    again = run(folder)
    assert again.returncode == 0 and "10 runs, 10 of them finished before" in again.stdout
    assert "loss at t = T" not in again.stdout.split("Mean ±")[0], "nothing was measured again"


def test_the_held_out_losses_are_those_of_the_saved_models(done, folder, modules, monkeypatch):
    from diffmae_video.build import load_model

    measure = modules["objectives_measure"]
    monkeypatch.setattr(measure, "CLIPS", 6)
    clips = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for arm in ("mae", "diffmae"):
        model = load_model(folder / "out" / "objectives_tiny" / "pretrain" / arm / "seed_0")
        level = 1000 if isinstance(model, DiffMAE) else None
        found = measure.held_out_loss(model, clips, level)
        batch, masks = model.normalize(clips[[0, 1] * 3]), []
        losses = []
        for number in range(6):
            given = {} if level is None else {"t": torch.tensor([999])}
            output = model(batch[number : number + 1], generator=torch.Generator().manual_seed(number), **given)
            losses.append(output.loss.item())
            masks.append(output.mask)
        assert found == pytest.approx(sum(losses) / 6, rel=1e-5)
        assert not torch.equal(masks[0], masks[2]), "the second time round has other masks"
        assert all(torch.equal(a, model.make_mask(1, torch.Generator().manual_seed(n))) for n, a in enumerate(masks))
        file = folder / "out" / "objectives_tiny" / "pretrain" / arm / "seed_0" / measure.LOSSES
        losses = json.loads(file.read_text())["losses"]
        assert set(losses) == ({"1000"} if level is None else {str(n) for n in modules["objectives_studies"].LEVELS})


def test_differences_are_told_in_units_of_the_spread(modules):
    study = modules["objectives_studies"].STUDIES["motion_set"]
    report = modules["objectives_report"]

    def losses(*values):
        return [{"floor": 1.0, "losses": {"1000": value}} for value in values]

    found = {"mae": losses(0.5, 0.52), "t_last": losses(0.51, 0.53), "diffmae": losses(0.61, 0.63)}
    lines = report.verdict(study, found).splitlines()
    assert len(lines) == 2
    assert "+0.0100 against MAE (+2.0%), 0.7 times" in lines[0]
    assert "+0.1100 against MAE (+21.6%), 7.8 times" in lines[1]


def test_the_studies_compare_one_thing_at_a_time(modules):
    for study in modules["objectives_studies"].STUDIES.values():
        configs = {}
        for arm in study.arms:
            if arm.configs:
                configs[arm.name] = load_config([study.configs / name for name in arm.configs], arm.overrides)
        for name, cfg in configs.items():
            assert cfg.SOLVER == configs["mae"].SOLVER and cfg.MASK == configs["mae"].MASK, name
            assert cfg.MODEL.ENCODER == configs["mae"].MODEL.ENCODER
            assert cfg.MODEL.DECODER == configs["mae"].MODEL.DECODER
            assert cfg.MODEL.TARGET == configs["mae"].MODEL.TARGET and cfg.DATA == configs["mae"].DATA
        assert configs["t_last"].DIFFUSION.TRAIN_RANGE == [1.0, 1.0]
        assert configs["diffmae"].DIFFUSION.TRAIN_RANGE == [0.0, 1.0]


def test_wrong_options_and_data_are_refused(modules, tmp_path, capsys):
    main = modules["objectives_study"].main
    assert main(["cifar10", "--data", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "error:" in capsys.readouterr().err
    for wrong in (["--seeds", "1", "1"], ["--arms", "mae", "nothing"], ["--jobs", "0"]):
        with pytest.raises(SystemExit):
            main(["cifar10", "--data", "x", *wrong])
    assert "cifar10 has mae, t_last, t_last_scaled, diffmae, scratch" in capsys.readouterr().err


def test_arms_that_did_not_run_are_left_out(modules, tmp_path):
    study, report = modules["objectives_studies"].STUDIES["motion_set"], modules["objectives_report"]
    with pytest.raises(report.ReportError, match="no pre-training"):
        report.report(study, tmp_path, None)
    for arm, values in {"mae": (0.5, 0.6), "t_last": (0.7, 0.8)}.items():
        for seed, value in enumerate(values):
            folder = tmp_path / "pretrain" / arm / f"seed_{seed}"
            folder.mkdir(parents=True)
            levels = ("1000",) if arm == "mae" else [str(level) for level in modules["objectives_studies"].LEVELS]
            (folder / "heldout.json").write_text(json.dumps({"floor": 1.0, "losses": dict.fromkeys(levels, value)}))
            (folder / "log.jsonl").write_text(json.dumps({"clips": 10, "loss": 0.5}) + "\n")
            record = {"task": "pretrain", "arm": arm, "labels": 0, "seed": seed, "clips": 10, "cpu_seconds": 60.0}
            (folder / "evidence.json").write_text(json.dumps(record | {"finished": True}))
    losses = report.read_losses(study, tmp_path)
    assert list(losses) == ["mae", "t_last"]
    table = report.table(study, tmp_path, losses)
    assert "| 0.5500 ± 0.0707 |" in table and "| 0.7500 ± 0.0707 |" in table and "input times" not in table
    assert "4 CPU minutes" in table and "DiffMAE, all t" not in table
    assert report.draw(study, tmp_path, losses).ndim == 3


# --------------------------------------------------------------------------------------------------------- dual masking


DUAL = """
MODEL:
  NAME: MAE
  TARGET: normalized_per_channel
  DECODER: {TYPE: joint, PREDICT_RATIO: 0.5}
MASK: {STRATEGY: tube}
"""


def test_dual_masking_is_trained_beside_the_whole_decoder(modules, folder, sample_videos, monkeypatch, capsys):
    tool = modules["dual_masking"]
    (folder / "dual.yaml").write_text(f"_BASE_: base.yaml\n{DUAL}")
    page = folder / "dual.md"
    page.write_text("a\n<!-- dual_masking:begin -->\n<!-- dual_masking:end -->\n")
    monkeypatch.setattr(modules["objectives_measure"], "CLIPS", 4)
    monkeypatch.setattr("diffmae_video.benchmarking.pin_to_one_core", lambda: None)
    arguments = ["--data", str(sample_videos), "--cfg", str(folder / "dual.yaml"), "--steps", "10"]
    assert tool.main([*arguments, "--write-results", str(page)]) == 0
    text = page.read_text()
    assert "| 50% " in text and "| all " in text and "10 steps each of 2 clips" in text and "times as fast" in text
    assert "Every patch's mean colour has" in text
    assert tool.main([*arguments, "MODEL.DECODER.PREDICT_RATIO", "1.0"]) == 2
    assert "MODEL.DECODER.PREDICT_RATIO must be below 1" in capsys.readouterr().err


def test_a_training_learns(modules, folder, sample_videos):
    from diffmae_video.build import build_dataset, build_loader

    (folder / "dual.yaml").write_text(f"_BASE_: base.yaml\n{DUAL}")
    cfg = load_config([folder / "dual.yaml"], ["DATA.PATH_TO_DATA_DIR", str(sample_videos), "SOLVER.BASE_LR", "0.3"])
    batches = [batch for batch, _ in zip(build_loader(cfg, build_dataset(cfg, "train")), range(2), strict=False)]
    training = modules["dual_masking"].Training(cfg, batches, 40)
    for number in range(40):
        training.step(number)
    assert sum(training.losses[-8:]) < 0.95 * sum(training.losses[:8])
