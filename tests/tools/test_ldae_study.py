"""The study of l-DAE: what its arms are, and the whole of it with tiny networks, from files to a table on a page."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffmae_video.config import load_config
from diffmae_video.config.validation import value_of

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"
BASE = """
DATA: {NUM_FRAMES: 4, SAMPLING: segment, CROP_SIZE: 32, DECODE_TIMEOUT: 0}
DATA_LOADER: {NUM_WORKERS: 0, PIN_MEMORY: False}
MODEL:
  NAME: LatentDAE
  PATCH_SIZE: [2, 8, 8]
  ENCODER: {WIDTH: 24, DEPTH: 1, HEADS: 2, POSITION: sincos}
  DECODER: {DEPTH: 1}
  LDAE: {LATENT_DIM: 8}
SOLVER: {BATCH_SIZE: 2, WEIGHT_DECAY: 0.0}
TRAIN: {LOG_PERIOD: 1, TENSORBOARD: False, PRECISION: fp32}
DEVICE: cpu
"""
# The command with a study of its own. Its main module is imported again by every worker.
DRIVER = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tools!r})
from evidence_studies import Recognition
from ldae_study import main
from ldae_study_arms import STUDIES, pca_name

HERE = Path(__file__).parent
LINEAR = Recognition("linear", "linear probe", ("cifar10.yaml",), ("TASK", "linear", "SOLVER.MAX_STEPS", "1"))
cifar = STUDIES["cifar10"]
study = replace(cifar.study, name="tiny", source="manifest", tasks=(LINEAR,), configs=HERE, test_split="val")
TINY = replace(cifar, study=study)
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], {{"tiny": TINY}}))
"""


@pytest.fixture(scope="module")
def modules():
    """The modules of the tool, by name; their folder stays off the path."""
    before = set(sys.modules)
    sys.path.insert(0, str(TOOLS))
    names = ("ldae_study", "ldae_study_arms", "ldae_study_report", "evidence_studies", "evidence_report")
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(TOOLS))
    for name in set(sys.modules) - before:
        if name.startswith(("ldae_study", "evidence")):
            del sys.modules[name]


# --------------------------------------------------------------------------------------------------------------- arms


@pytest.fixture(scope="module")
def configs(modules):
    """study -> arm -> (configuration of its pre-training or None, of its probe)."""
    plan, found = modules["evidence_studies"].plan, {}
    for name, latent in modules["ldae_study_arms"].STUDIES.items():
        arms = found[name] = {arm.name: [None, None] for arm in latent.study.arms}
        for run in plan(latent.study, Path("/out"), [0]):
            if run.task in ("pretrain", "linear"):
                arms[run.arm][run.task == "linear"] = load_config(run.files, run.overrides)
    return found


@pytest.mark.parametrize("study", ["cifar10", "motion_set"])
def test_arms_share_clips_network_and_probe(configs, study):
    pretrainings, probes = zip(*configs[study].values(), strict=True)
    for cfgs in (pretrainings, probes):
        cfgs = [cfg for cfg in cfgs if cfg is not None]
        assert len(cfgs) >= 15
        for keys in ("DATA.CROP_SIZE", "MODEL.PATCH_SIZE", "MODEL.ENCODER", "MODEL.DECODER", "SOLVER", "SEED"):
            assert all(value_of(cfg, keys) == value_of(cfgs[0], keys) for cfg in cfgs), keys
    assert all(probe.MODEL.NAME == "LatentDAE" and probe.TASK == "linear" for probe in probes)
    for name, (pretraining, probe) in configs[study].items():
        if pretraining is not None:
            for key in ("INPUT", "TOKENIZER") if pretraining.MODEL.LDAE.INPUT == "latent" else ("INPUT",):
                assert pretraining.MODEL.LDAE[key] == probe.MODEL.LDAE[key], (name, key)


@pytest.mark.parametrize("study, largest", [("cifar10", 48), ("motion_set", 1536)])
def test_arms_are_what_their_names_say(modules, configs, study, largest):
    latent, arms = modules["ldae_study_arms"].STUDIES[study], configs[study]
    values = {name: pretraining for name, (pretraining, _) in arms.items() if pretraining is not None}
    for width in latent.widths:
        assert values[f"pca_{width}"].MODEL.LDAE.LATENT_DIM == width
    pt, ph, pw = values["pixel"].MODEL.PATCH_SIZE
    assert latent.widths[-1] == largest == pt * ph * pw * 3
    assert values["pixel"].MODEL.LDAE.TOKENIZER == "pixel"
    assert values["one_level"].DIFFUSION.TRAIN_RANGE == [0.5, 0.5]
    assert arms["scratch"][0] is None and not arms["scratch"][1].MODEL.WEIGHTS
    ddpm = values["ddpm"]
    assert (ddpm.MODEL.PREDICTION, ddpm.MODEL.LDAE.OUTPUT, ddpm.DIFFUSION.SCHEDULE) == ("eps", "latent", "linear")


@pytest.mark.parametrize("study", ["cifar10", "motion_set"])
def test_rows_are_those_of_the_deconstruction(modules, configs, study):
    """Arm by arm what configs/LDAE/deconstruction says, on another network."""
    latent = modules["ldae_study_arms"].STUDIES[study]
    files = sorted((ROOT / "configs/LDAE/deconstruction").glob("*.yaml"))[modules["ldae_study_report"].FIRST_ROW :]
    assert len(files) == len(latent.rows)
    for arm, file in zip(latent.rows, files, strict=True):
        own, row = configs[study][arm][0], load_config([file])
        for key in ("PREDICTION", "LDAE.TOKENIZER", "LDAE.INPUT", "LDAE.OUTPUT", "LDAE.TIME_WEIGHT"):
            assert value_of(own.MODEL, key) == value_of(row.MODEL, key), (arm, key)
        assert own.DIFFUSION.SCHEDULE == row.DIFFUSION.SCHEDULE, arm
        if own.MODEL.LDAE.OUTPUT == "image":
            assert own.MODEL.LDAE.RESIDUAL_WEIGHT == row.MODEL.LDAE.RESIDUAL_WEIGHT, arm


# ------------------------------------------------------------------------------------------------------------- report


def record(folder: Path, task: str, arm: str, seed: int = 0, **more) -> None:
    folder = folder / task / arm / f"seed_{seed}"
    folder.mkdir(parents=True)
    place = {"task": task, "arm": arm, "labels": 0, "seed": seed, "configs": [], "finished": True}
    (folder / "evidence.json").write_text(json.dumps({**place, "clips": 960, "cpu_seconds": 6.0, **more}))


def test_tables_and_plot(modules, tmp_path):
    pytest.importorskip("matplotlib")
    latent, report = modules["ldae_study_arms"].STUDIES["cifar10"], modules["ldae_study_report"]
    for arm, accuracy in (("pca_4", 0.3), ("pca_16", 0.4), ("pixel", 0.25), ("clean_latent", 0.35)):
        record(tmp_path / "out", "pretrain", arm)
        for seed in (0, 1):
            record(tmp_path / "out", "linear", arm, seed, top1=accuracy + 0.02 * seed, videos=600)
    page = tmp_path / "RESULTS.md"
    page.write_text("before\n<!-- ldae_cifar10:begin -->\nold\n<!-- ldae_cifar10:end -->\nafter\n")
    report.report(latent, tmp_path / "out", page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "41.0 ± 1.4" in lines["16 principal components"] and "26.0 ± 1.4" in lines["pixels"]
    assert "8 principal components" not in lines and "9: signal of scale 1" not in lines  # were not run
    assert "36.0 ± 1.4" in lines["8: clean latent predicted"] and "41.0" in lines["12: original image: l-DAE"]
    assert "over 2 seeds of the probe" in text and "on 960 clips" in text and "160 clips/s" in text
    assert "![CIFAR-10" in text and (tmp_path / "docs/results/ldae_cifar10.png").stat().st_size > 5000


def test_a_report_of_nothing(modules, tmp_path):
    (tmp_path / "out").mkdir()
    latent, report = modules["ldae_study_arms"].STUDIES["cifar10"], modules["ldae_study_report"]
    report.report(latent, tmp_path / "out", None)
    assert (tmp_path / "out" / "results.md").read_text() == "No run is finished yet.\n"
    (tmp_path / "RESULTS.md").write_text("no marks")
    with pytest.raises(modules["evidence_report"].ReportError, match="ldae_cifar10:begin"):
        report.report(latent, tmp_path / "out", tmp_path / "RESULTS.md")


def test_points_of_the_plot(modules):
    latent, report = modules["ldae_study_arms"].STUDIES["cifar10"], modules["ldae_study_report"]
    records = [
        {"task": "linear", "arm": arm, "labels": 0, "top1": top1} for arm, top1 in [("pca_8", 0.4), ("pixel", 0.3)]
    ]
    (panel,) = report._width_panels(latent, records)
    assert dict(panel.series) == {"noise in principal components": ([8], [40.0])}
    assert dict(panel.dashed) == {"noise in pixels": ([4, 48], [30.0, 30.0])}


# ------------------------------------------------------------------------------------------------------------ command


def run(driver: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(driver), *arguments], capture_output=True, text=True, timeout=120)


def test_one_command_trains_probes_and_goes_on(sample_videos, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["file,class_id,group,split"]
    for number in range(8):
        (folder / f"clip_{number}.mp4").symlink_to(sample_videos / f"clip_{number}.mp4")
        lines.append(f"clip_{number}.mp4,{number % 2},{number},{'train' if number < 6 else 'val'}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "cifar10.yaml").write_text(BASE)
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(tools=str(TOOLS)))
    out = tmp_path / "out"
    common = ["tiny", "--data", str(folder), "--output", str(out), *"--seeds 0 --jobs 1 --steps 1".split()]
    first = run(driver, *common, "--arms", "pca_8")
    logs = "\n".join(log.read_text()[-800:] for log in out.rglob("run.log"))
    assert first.returncode == 0, first.stderr + logs
    assert "2 runs, 0 of them finished before" in first.stdout and " s\n" in first.stdout
    # Another arm beside it: what is done is not done again, and the report has both.
    second = run(driver, *common, "--arms", "pca_8", "patch_pca")
    assert second.returncode == 0, second.stderr
    assert "4 runs, 2 of them finished before" in second.stdout
    table = (out / "tiny" / "results.md").read_text()
    rows = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in table.splitlines() if "|" in line}
    assert rows["8 principal components"] != "-" and "48 principal" not in table
    assert "%" in next(line for line in table.splitlines() if "8 principal" in line)  # explained, from the tokenizer


def test_wrong_options(modules, tmp_path, capsys):
    tool = modules["ldae_study"]
    with pytest.raises(SystemExit):
        tool.main(["cifar10", "--data", "x", "--arms", "pca_5"])
    assert "cifar10 has pca_4, pca_8" in capsys.readouterr().err
    assert tool.main(["motion_set", "--data", "x", "--list"]) == 0
    assert "pca_1536" in capsys.readouterr().out
    assert tool.main(["cifar10", "--data", "/nowhere", "--output", str(tmp_path)]) == 2
    assert "/nowhere" in capsys.readouterr().err
