"""The machinery of the evidence: a study of a few runs of one or two steps, as a person types it; lists; report."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffmae_video.config import load_config
from diffmae_video.data import read_manifest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"

BASE = """
DATA: {NUM_FRAMES: 4, SAMPLING: segment, CROP_SIZE: 32, DECODE_TIMEOUT: 0}
DATA_LOADER: {NUM_WORKERS: 0, PIN_MEMORY: False}
MODEL:
  PATCH_SIZE: [2, 8, 8]
  ENCODER: {WIDTH: 24, DEPTH: 2, HEADS: 2, POSITION: sincos}
  DECODER: {WIDTH: 24, DEPTH: 1, HEADS: 2}
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
from evidence import main
from evidence_studies import Arm, Recognition, Study

HERE = Path(__file__).parent
PRETRAINED = Arm("diffmae", "DiffMAE", ("base.yaml",), per_seed=True)
LONG = Arm("scratch_long", "from scratch, longer", extra_steps=1, tasks=("finetune",))
FINETUNE = Recognition("finetune", "fine-tuning", ("base.yaml",), ("TASK", "finetune"), steps={{1: 1, 0: 2}})
LINEAR = Recognition("linear", "linear probe", ("base.yaml",), ("TASK", "linear", "SOLVER.MAX_STEPS", "1"))
AGAIN = Recognition("again", "on the training clips", ("base.yaml",), ("TEST.SPLIT", "train"), after="linear")
BAD_TEST = Recognition("bad", "no such split", ("base.yaml",), ("TASK", "linear", "TEST.SPLIT", "nowhere"))
BAD_ARM = Arm("bad", "no such data", ("base.yaml",), ("DATA.FORMAT", "shards"))

def study(name, arms, tasks, labels):
    return Study(name, "Small", "manifest", arms, tasks, labels, 3, 0.5, HERE, floor="moving")

scratch = Arm("scratch", "from scratch")
STUDIES = {{
    "small": study("small", (PRETRAINED, scratch, LONG), (FINETUNE, LINEAR, AGAIN), (1, 0)),
    "failing": study("failing", (BAD_ARM, scratch), (LINEAR, BAD_TEST), (1,)),
}}
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], STUDIES))
"""
RUNS = 2 + 2 * 2 * (3 + 2 + 2)  # pre-training; (label counts x seeds) x arms of every task


@pytest.fixture(scope="module")
def evidence():
    """The modules of the command, by name; their folder stays off the path."""
    sys.path.insert(0, str(TOOLS))
    names = ("evidence", "evidence_lists", "evidence_floor", "evidence_records", "evidence_report", "evidence_studies")
    try:
        yield {name.removeprefix("evidence_"): __import__(name) for name in names}
    finally:
        sys.path.remove(str(TOOLS))
        for name in [name for name in sys.modules if name.split("_")[0] == "evidence"]:
            sys.modules.pop(name)


@pytest.fixture(scope="module")
def data(sample_videos, tmp_path_factory) -> Path:
    """The sample videos, two classes, with a manifest: six to train on, two to be judged by."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number in range(8):
        (folder / f"clip {number}.mp4").symlink_to(sample_videos / f"clip_{number}.mp4")
        split = "train" if number < 6 else "val"
        rows.append(
            (f"clip {number}.mp4", "right" if number % 2 == 0 else "down", number % 2, f"g{number // 2}", split)
        )
    write_manifest(folder, rows)
    return folder


def write_manifest(folder: Path, rows) -> None:
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "class_id", "group", "split"])
        writer.writerows(rows)


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    (folder / "base.yaml").write_text(BASE)
    (folder / "driver.py").write_text(DRIVER.format(tools=str(TOOLS)))
    return folder / "driver.py"


def command(driver: Path, *arguments) -> list[str]:
    return [sys.executable, str(driver), *map(str, arguments)]


def run(driver: Path, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(command(driver, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture
def here(evidence, driver, capsys):
    """The command in this process, for what starts no worker: (exit code, standard output, standard error)."""
    specification = importlib.util.spec_from_file_location("evidence_driver", driver)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def call(*arguments) -> tuple[int, str, str]:
        try:
            code = evidence["evidence"].main([str(argument) for argument in arguments], module.STUDIES)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    yield call
    sys.path.remove(str(TOOLS))  # one of the two: the driver's


def records(folder: Path) -> dict[str, dict]:
    return {
        str(file.parent.relative_to(folder)): json.loads(file.read_text()) for file in folder.rglob("evidence.json")
    }


# ------------------------------------------------------------------------------------------------------ from end to end


@pytest.fixture(scope="module")
def complete(driver, data, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The whole small study with one worker: its folder, and what was printed."""
    output = tmp_path_factory.mktemp("evidence")
    done = run(driver, "small", "--data", data, "--output", output, "--jobs", 1, "--seeds", 0, 1)
    assert done.returncode == 0, done.stdout + done.stderr
    return output / "small", done


def test_every_run_is_done_and_recorded(complete):
    folder, done = complete
    found = records(folder)
    assert len(found) == RUNS and f"{RUNS} runs, 0 of them finished before" in done.stdout
    assert all(record["finished"] for record in found.values())
    tuned = found["finetune/diffmae/labels_1/seed_1"]
    assert 0 <= tuned["top1"] <= 1 and tuned["videos"] == 2 and tuned["clips"] == 2 and tuned["cpu_seconds"] > 0
    assert found["finetune/scratch_long/labels_1/seed_1"]["clips"] == 4  # one step more, of two clips
    assert found["pretrain/diffmae/seed_1"]["clips"] == 4 and "top1" not in found["pretrain/diffmae/seed_1"]


def test_runs_start_from_their_own_pretraining(complete):
    folder, _ = complete
    log = (folder / "finetune/diffmae/labels_all/seed_1/run.log").read_text()
    assert "starts from" in log and "pretrain/diffmae/seed_1/checkpoints/step_00000002.pt" in log
    assert "6 videos of 2 classes, 3 to 3 per class" in log
    scratch = (folder / "linear/scratch/labels_1/seed_0/run.log").read_text()
    assert "starts from: random initialisation" in scratch and "2 videos of 2 classes" in scratch


def test_only_the_checkpoints_of_pretraining_stay(complete):
    folder, _ = complete
    assert {file.relative_to(folder).parts[0] for file in folder.rglob("*.pt")} == {"pretrain"}


def test_the_report_has_every_result(complete, evidence):
    folder, done = complete
    results = json.loads((folder / "results.json").read_text())
    assert results["study"] == "small" and len(results["runs"]) == RUNS + 4  # with the floor's
    assert all(run["command"].startswith("python tools/run_net.py --cfg ") for run in results["runs"] if "clips" in run)
    tables = (folder / "results.md").read_text()
    assert tables in done.stdout and "on 2 or 6 test clips" in tables and "over 2 seeds" in tables
    assert "missing" not in tables
    for title in ("DiffMAE", "from scratch", "from scratch, longer", "linear classifier on pixels"):
        assert f"| {title} |" in tables
    with Image.open(folder / "small.png") as picture:
        assert picture.width > 600 and len(picture.getcolors(1 << 24)) > 20


def test_finished_runs_are_not_done_again_and_changed_ones_are_not_mixed(complete, here, driver, data):
    folder, _ = complete
    before = {file: file.read_bytes() for file in folder.rglob("evidence.json")}
    arguments = ("small", "--data", data, "--output", folder.parent, "--seeds", 0, 1, "--only", "finetune")
    code, printed, _ = here(*arguments)
    assert code == 0 and "14 runs, 14 of them finished before" in printed
    config = driver.parent / "base.yaml"
    config.write_text(BASE.replace("RATIO: 0.75", "RATIO: 0.5"))
    try:
        code, _, errors = here(*arguments)
    finally:
        config.write_text(BASE)
    assert code == 2 and "14 runs were made with other settings" in errors
    assert "RATIO: 0.5" in errors and "--redo" in errors
    assert before == {file: file.read_bytes() for file in folder.rglob("evidence.json")}


def test_report_only_fills_the_page(complete, here, tmp_path):
    folder, _ = complete
    page = tmp_path / "RESULTS.md"
    page.write_text("# Results\n\n<!-- small:begin -->\nold\n<!-- small:end -->\n\nmore\n")
    arguments = ("small", "--output", folder.parent, "--report-only", "--write-results", page)
    assert here(*arguments)[0] == 0
    once = page.read_text()
    assert "old" not in once and once.endswith("<!-- small:end -->\n\nmore\n") and "| DiffMAE |" in once
    assert "![Small](docs/results/small.png)" in once and (tmp_path / "docs/results/small.png").stat().st_size > 1000
    assert here(*arguments)[0] == 0 and page.read_text() == once
    page.write_text("# Results\n")
    code, _, errors = here(*arguments)
    assert code == 2 and "<!-- small:begin -->" in errors


def test_a_killed_command_goes_on(driver, data, tmp_path):
    arguments = ("small", "--data", data, "--output", tmp_path, "--jobs", 1, "--seeds", 0, "--only", "finetune")
    started = subprocess.Popen(command(driver, *arguments), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in started.stdout:
        if line.startswith("[2/"):
            break
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    started.stdout.close()
    folder = tmp_path / "small"
    before = {name: record for name, record in records(folder).items() if record["finished"]}
    assert len(before) >= 2
    done = run(driver, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    after = records(folder)
    assert len(after) == 1 + 6 and all(record["finished"] for record in after.values())
    assert before.items() <= after.items()


def test_a_failed_run_is_named_and_the_others_go_on(driver, data, tmp_path):
    done = run(driver, "failing", "--data", data, "--output", tmp_path, "--jobs", 2, "--seeds", 0)
    assert done.returncode == 1, done.stdout + done.stderr
    finished = {name for name, record in records(tmp_path / "failing").items() if record["finished"]}
    assert finished == {"linear/scratch/labels_1/seed_0"}
    failed = [line for line in done.stderr.splitlines() if line.startswith("FAILED: ")]
    assert len(failed) == 4
    log = tmp_path / "failing/bad/scratch/labels_1/seed_0/run.log"
    assert any(str(log) in line and "exit code 2" in line for line in failed)
    assert "error: " in log.read_text() and "nowhere" in log.read_text()
    assert sum("has failed, from which it starts" in line for line in failed) == 2
    assert "results are missing" in (tmp_path / "failing/results.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small"], "--data"),
        (["none", "--data", "x"], "invalid choice"),
        (["small", "--data", "x", "--only", "finetone"], "finetone"),
        (["small", "--data", "x", "--arms", "mae"], "mae"),
        (["small", "--data", "x", "--seeds", "0", "0"], "--seeds"),
        (["small", "--data", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_a_wrong_command_is_refused(here, tmp_path, arguments, message):
    code, _, errors = here(*arguments, "--output", tmp_path)
    assert code == 2 and message in errors


# ---------------------------------------------------------------------------------------------------------------- lists


def test_lists_of_a_manifest(evidence, data, tmp_path):
    evidence["lists"].prepare("manifest", data, tmp_path, (1,), "val")
    unlabelled = read_manifest(tmp_path / "unlabelled")
    assert [entry.label for entry in unlabelled] == [-1] * 6
    assert [entry.path for entry in unlabelled] == [str(data / f"clip {number}.mp4") for number in range(6)]
    for split, numbers in (("train", (1, 3, 5)), ("val", (7,))):
        expected = [(str(data / f"clip {number}.mp4"), 0) for number in numbers]  # class 1 became class 0
        assert [tuple(entry) for entry in read_manifest(tmp_path / "labelled", split)] == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({7: ("clip 7.mp4", "down", 1, "g0", "val")}, "the group g0 is in train and in val"),
        ({7: ("clip 0.mp4", "down", 1, "g3", "val")}, "the file .*clip 0.mp4 is in train and in val"),
        ({7: ("clip 9.mp4", "down", 1, "g3", "val")}, "1 of 8 files are not there"),
        ({6: ("clip 6.mp4", "", 0, "", "train"), 7: ("clip 7.mp4", "", 1, "", "train")}, "no files of the split val"),
        ({7: ("clip 7.mp4", "down", "one", "g3", "val")}, "manifest.csv:9: class_id is 'one'"),
    ],
)
def test_lists_that_would_not_be_fair_are_refused(evidence, data, tmp_path, change, message):
    rows = list(csv.reader((data / "manifest.csv").open()))[1:]
    for number in range(8):
        (tmp_path / f"clip {number}.mp4").symlink_to(data / f"clip {number}.mp4")
    write_manifest(tmp_path, [change.get(number, row) for number, row in enumerate(rows)])
    with pytest.raises(evidence["lists"].ListError, match=message):
        evidence["lists"].prepare("manifest", tmp_path, tmp_path / "lists", None, "val")
    assert not (tmp_path / "lists").exists()


def test_lists_of_folders_of_images(evidence, painted, tmp_path):
    for split, count in (("train", 3), ("test", 1)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(painted(number)).save(tmp_path / split / name / f"{number}.jpg")
    evidence["lists"].prepare("class_folders", tmp_path, tmp_path / "lists", None, "test")
    assert len(read_manifest(tmp_path / "lists/unlabelled")) == 6
    assert [entry.label for entry in read_manifest(tmp_path / "lists/labelled", "test")] == [0, 1]


def test_lists_of_the_real_data(evidence, research_data, tmp_path):
    for name, folder, sizes in (
        ("miracl", "miracl-vc1-lips", (2000, 1000, 200)),
        ("ut_interaction", "ut-interaction", (71, 71, 25)),
        ("cifar10", "cifar10-small", (3000, 3000, 600)),
    ):
        study, lists = evidence["studies"].STUDIES[name], tmp_path / name
        evidence["lists"].prepare(study.source, research_data / folder, lists, study.classes, study.test_split)
        labelled = [read_manifest(lists / "labelled", split) for split in ("train", study.test_split)]
        assert tuple(map(len, (read_manifest(lists / "unlabelled"), *labelled))) == sizes
        counts = [sum(entry.label == label for entry in labelled[0]) for label in {e.label for e in labelled[0]}]
        assert max(study.labels) <= min(counts) and abs(sum(counts) / len(counts) - study.most_labels) < 1
        assert study.chance == pytest.approx(1 / len(counts))


# -------------------------------------------------------------------------------------------------------------- studies


@pytest.mark.parametrize("name", ["miracl", "ut_interaction", "motion_set", "cifar10", "partial_decoding"])
def test_every_run_of_the_studies_has_a_valid_configuration(evidence, name, tmp_path):
    study = evidence["evidence"].ALL_STUDIES[name]
    runs = evidence["studies"].plan(study, tmp_path, [0, 1])
    folders = [run.folder for run in runs]
    assert len(set(folders)) == len(folders)
    assert len(study.arms) <= len(evidence["report"].COLOURS)
    assert all(run.after in folders[:number] for number, run in enumerate(runs) if run.after is not None)
    sample = {(run.task, run.arm): run for run in runs}
    for run in sample.values():
        cfg = load_config(run.files, run.overrides)
        assert cfg.OUTPUT_DIR == str(run.folder) and cfg.SEED == run.seed and cfg.DATA.LABELS_PER_CLASS == run.labels
        assert cfg.MODEL.WEIGHTS == str(run.after or "")
        assert (cfg.TASK == "pretrain") == (run.task == "pretrain") and run.command.count("/lists/") == 1


def test_the_arms_differ_in_what_they_should_only(evidence, tmp_path):
    """The recipe of a task is one and the same for all arms but for where its weights come from, and for long ones."""
    study = evidence["studies"].STUDIES["miracl"]
    own = {"OUTPUT_DIR", "MODEL.WEIGHTS"}
    recipes = {}
    for run in evidence["studies"].plan(study, tmp_path, [0]):
        if run.task != "pretrain" and run.arm != "scratch_long":
            pairs = dict(zip(run.overrides[::2], run.overrides[1::2], strict=True))
            shared = (run.files, tuple((key, value) for key, value in pairs.items() if key not in own))
            recipes.setdefault((run.task, run.labels), set()).add(shared)
    assert recipes and all(len(variants) == 1 for variants in recipes.values())


def test_partial_decoding_changes_nothing_but_what_is_decoded(evidence, tmp_path):
    """Its arms differ from the motion set's pre-training in two keys, one in the seed; all are judged alike."""
    studies, reset = evidence["evidence"].ALL_STUDIES, ("OUTPUT_DIR", "x", "DATA.PATH_TO_DATA_DIR", "", "SEED", "0")
    plain, partial = studies["motion_set"], studies["partial_decoding"]
    assert (partial.tasks, partial.source, partial.test_split) == (plain.tasks, plain.source, plain.test_split)
    reference = load_config([str(plain.configs / "diffmae.yaml")], reset)
    own, found = ("MODEL.DECODER.TYPE", "cross_self", "MODEL.DECODER.PREDICT_RATIO", "1.0"), {}
    for run in evidence["studies"].plan(partial, tmp_path, [0, 2]):
        if run.task == "pretrain":
            decoder = load_config(run.files, run.overrides).MODEL.DECODER
            found[run.arm] = (decoder.TYPE, decoder.PREDICT_RATIO, run.seed)
            assert load_config(run.files, [*run.overrides, *reset, *own]) == reference, run.arm
        elif run.arm == "cross_self_1_again" and not run.task.endswith("unseen"):
            assert run.after == tmp_path / "pretrain/cross_self_1_again/seed_1"
    assert found == {
        "cross_self_1": ("cross_self", 1.0, 0),
        "cross_self_1_again": ("cross_self", 1.0, 1),
        "cross_self_0.5": ("cross_self", 0.5, 0),
        "cross_self_0.25": ("cross_self", 0.25, 0),
        "cross_1": ("cross", 1.0, 0),
        "cross_0.25": ("cross", 0.25, 0),
    }


# ----------------------------------------------------------------------------------------------------- floor and report


def test_the_floor_learns_what_pixels_tell(evidence, data, tmp_path):
    floor = evidence["floor"]
    evidence["lists"].prepare("manifest", data, tmp_path, None, "val")
    results = floor.floor(tmp_path, "moving", "val", [2, 0], [0, 1])
    assert [(line["labels"], line["seed"]) for line in results] == [(2, 0), (2, 1), (0, 0), (0, 1)]
    assert all(line["top1"] == 1 and line["videos"] == 2 for line in results), "right and down look different"
    assert results == floor.floor(tmp_path, "moving", "val", [2, 0], [0, 1])


def test_logistic_regression_is_at_its_minimum(evidence):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    labels = (features[:, 0] > 0).long() + (features[:, 1] > 1).long()
    weights, biases = evidence["floor"].logistic_regression(features, labels, 3, penalty=2.0)
    errors = torch.softmax(features @ weights + biases, 1) - torch.nn.functional.one_hot(labels, 3)
    assert torch.allclose(features.T @ errors + 2.0 * weights, torch.zeros_like(weights), atol=1e-4)
    assert torch.allclose(errors.sum(0), torch.zeros(3, dtype=torch.float64), atol=1e-4)


def test_mean_and_spread(evidence):
    report = evidence["report"]
    assert report.spread([]) == "-" and report.spread([50.0]) == "50.0"
    assert report.spread([50.0, 54.0, 52.0]) == "52.0 ± 2.0"
    lines = [{"task": "t", "arm": "a", "labels": 5, "seed": seed, "top1": 0.5} for seed in range(2)]
    assert report.accuracies([*lines, {"task": "t", "arm": "b", "labels": 5, "top1": 1.0}], "t", "a", 5) == [50.0, 50.0]


def test_a_cut_off_line_is_no_result(evidence, tmp_path):
    studies, of_records = evidence["studies"], evidence["records"]
    run = studies.Run(tmp_path, (), (), "a", "linear", 5, 0)
    (tmp_path / "log.jsonl").write_text('{"step": 1, "clips": 32}\n{"step": 2, "cl')
    (tmp_path / "evaluations.jsonl").write_text('{"step": 2, "evaluator": "test", "top1": 0.25, "videos": 8}\n{"st')
    record = of_records.new_record(run, [])
    assert of_records.finish(run, record) == "" and record["finished"]
    assert (record["top1"], record["videos"], record["clips"]) == (0.25, 8, 32)
    (tmp_path / "evaluations.jsonl").write_text("")
    assert "no accuracy" in of_records.finish(run, of_records.new_record(run, []))
    assert "no checkpoint" in of_records.finish(replace(run, task="pretrain"), of_records.new_record(run, []))
