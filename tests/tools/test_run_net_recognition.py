"""run_net.py from pre-training to tested classifiers, on real encoded files: what it leaves, and what it refuses."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffmae_video.build import load_model
from diffmae_video.config import from_yaml
from diffmae_video.data import write_image
from diffmae_video.engine import load_checkpoint
from diffmae_video.models import VideoClassifier

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "run_net.py"
TIMINGS = ("clips_per_second", "step_seconds", "data_wait_share", "wall_seconds", "tflops", "mfu")

TINY = """
DATA: {NUM_FRAMES: 4, SAMPLING_RATE: 2, CROP_SIZE: 32, MAX_UNREADABLE_FRACTION: 0.5, DECODE_TIMEOUT: 0}
DATA_LOADER: {NUM_WORKERS: 0, PIN_MEMORY: False}
MODEL:
  PATCH_SIZE: [2, 8, 8]
  ENCODER: {WIDTH: 24, DEPTH: 2, HEADS: 2, DROP_PATH: 0.2}
  DECODER: {WIDTH: 24, DEPTH: 1, HEADS: 2}
MASK: {RATIO: 0.75}
SOLVER: {BATCH_SIZE: 4, MAX_STEPS: 2, BASE_LR: 0.05}
TRAIN: {LOG_PERIOD: 1, CHECKPOINT_PERIOD: 2, TENSORBOARD: False}
DEVICE: cpu
"""
# All that makes a fine-tuning draw random numbers or carry a state
RECIPE = """
TASK: finetune
DATA: {REPEATED_SAMPLING: 2}
AUGMENT:
  {RAND_AUGMENT: rand-m7-n4-mstd0.5-inc1, ERASING: 0.5, MIXUP: 0.8, CUTMIX: 1.0, MIX_PROBABILITY: 0.8,
   LABEL_SMOOTHING: 0.1}
MODEL: {ENCODER: {DROP_PATH: 0.3}, HEAD: {DROPOUT: 0.2, INIT_STD: 0.02}}
SOLVER: {BATCH_SIZE: 8, ACCUMULATION_STEPS: 2, MAX_STEPS: 8, LAYER_DECAY: 0.75, CLIP_GRAD_NORM: 1.0}
TRAIN: {EMA_DECAY: 0.9, EVAL_PERIOD: 3, CHECKPOINT_PERIOD: 3}
"""
KILLER = """
import os, runpy, signal, sys, torch
step, calls = torch.optim.AdamW.step, []
def dying(*arguments, **options):
    calls.append(1)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*arguments, **options)
torch.optim.AdamW.step = dying
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def tool():
    specification = importlib.util.spec_from_file_location("run_net", TOOL)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    package = logging.getLogger("diffmae_video")
    before = package.handlers[:], package.level, package.propagate
    yield module
    package.handlers[:], package.level, package.propagate = before


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def run(tool, configs, sample_videos):
    """run("linear", output, KEY=value, ...) -> the exit code; keys with "__" for the dots."""

    def call(task: str, output: Path, *files: str, **more) -> int:
        pairs = {"TASK": task, "DATA.PATH_TO_DATA_DIR": sample_videos, "OUTPUT_DIR": output}
        pairs |= {key.replace("__", "."): value for key, value in more.items()}
        overrides = [str(item) for pair in pairs.items() for item in pair]
        return tool.run([str(configs / name) for name in ("tiny.yaml", *files)], overrides, print_config=False)

    return call


@pytest.fixture(scope="module")
def pretrained(run, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "pretrained"
    assert run("pretrain", output) == 0
    return output


@pytest.fixture(scope="module")
def finetuned(run, pretrained, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "finetuned"
    assert run("finetune", output, "recipe.yaml", MODEL__WEIGHTS=pretrained) == 0
    return output


def json_lines(output: Path, name: str = "log.jsonl") -> list[dict]:
    lines = [json.loads(line) for line in (output / name).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def error_line(capsys) -> str:
    """What was printed to standard error, after checking that it is one line that begins with ``error:``."""
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1, printed
    return printed


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_model(output).state_dict()


# -------------------------------------------------------------------------------------------------------- whole chains


def test_a_fine_tuning_is_measured_as_it_goes(finetuned):
    log = json_lines(finetuned)
    assert [line["step"] for line in log] == list(range(1, 9)) and log[-1]["clips"] == 64
    assert "train_top1" not in log[-1], "clips are mixed"
    evaluations = json_lines(finetuned, "evaluations.jsonl")
    assert [(line["step"], line["evaluator"]) for line in evaluations] == [(3, "test"), (6, "test"), (8, "test")]
    assert all(line["videos"] == 2 and line["unreadable"] == 0 for line in evaluations)
    assert all(0 <= line["top1"] <= 1 and line["loss"] > 0 for line in evaluations)
    cfg = from_yaml((finetuned / "config.yaml").read_text())
    assert cfg.MODEL.NUM_CLASSES == 2, "as counted"


def test_the_model_of_a_classifiers_checkpoint_has_its_averaged_weights(finetuned):
    model = load_model(finetuned)
    assert isinstance(model, VideoClassifier) and not model.training
    assert model.num_classes == 2 and model.cfg.TASK == "finetune" and model.cfg.TRAIN.EMA_DECAY == 0.9
    state = load_checkpoint(finetuned / "checkpoints" / "step_00000008.pt")
    assert state["ema_updates"] == 8
    assert all(torch.equal(value, state["ema"][name]) for name, value in model.state_dict().items())
    assert not torch.equal(state["ema"]["head.classifier.weight"], state["model"]["head.classifier.weight"])


def test_the_start_says_what_is_about_to_run(run, pretrained, tmp_path, capsys):
    options = {"MODEL__WEIGHTS": pretrained, "DATA__LABELS_PER_CLASS": 2}
    assert run("finetune", tmp_path, "recipe.yaml", **options, SOLVER__MAX_STEPS=1) == 0
    out = capsys.readouterr().out
    for line in (
        "effective batch: 8 clips per step = 4 per micro-batch x 2 accumulated x 1 processes, from 4 videos",
        "learning rate: peak 0.001563 = 0.05 x batch 8 / 256",
        "peak learning rate by layer (0 = embedding, 3 = head; all follow the same schedule):",
        "0: 0.000659, 1: 0.000879, 2: 0.00117, 3: 0.00156",
        "averaged weights: decay 0.9",
        f"starts from: {pretrained}/checkpoints/step_00000002.pt (pretrain, 2 steps)",
        "loaded: encoder.patch_embed (2 tensors)",
        "left at initial values: head (4 tensors)",
        "labels: 4 videos of 2 classes, 2 to 2 per class",
    ):
        assert line in out, line
    assert out.index("labels: 4 videos") < out.index("step 1 |"), "before the first step"


@pytest.mark.parametrize(
    "task, options",
    [
        ("linear", {"SOLVER__OPTIMIZER": "lars", "SOLVER__WEIGHT_DECAY": 0, "SOLVER__BASE_LR": 5}),
        ("attentive", {"MODEL__HEAD__PROBE_HEADS": 4, "SOLVER__OPTIMIZER": "sgd"}),
    ],
)
def test_a_probe_trains_its_head_alone(run, pretrained, tmp_path, task, options):
    assert run(task, tmp_path, MODEL__WEIGHTS=pretrained, **options) == 0
    ours, theirs = weights(tmp_path), weights(pretrained)
    for name, value in ours.items():
        if name.startswith("encoder."):
            assert torch.equal(value, theirs[name]), name
    assert ours["head.classifier.bias"].any(), "it has moved from 0"
    log = json_lines(tmp_path)
    assert len(log) == 2 and 0 <= log[-1]["train_top1"] <= 1
    (line,) = json_lines(tmp_path, "evaluations.jsonl")
    assert (line["step"], line["evaluator"], line["videos"]) == (2, "test", 2)


def test_nearest_neighbours_are_reported(run, pretrained, tmp_path, capsys, sample_videos):
    assert run("knn", tmp_path, MODEL__WEIGHTS=pretrained) == 0
    out = capsys.readouterr().out
    assert "KNN.K is 20, but there are 6 training videos: all of them vote" in out
    assert "6 training videos vote; 6 videos, all readable" in out and "top-1" in out
    (line,) = json_lines(tmp_path, "evaluations.jsonl")
    assert (line["evaluator"], line["videos"]) == ("knn", 2) and "loss" not in line
    rows = table(tmp_path / "knn" / "predictions.csv")
    assert [row["path"] for row in rows] == [f"{sample_videos}/clip_{number}.mp4" for number in (6, 7)]
    assert from_yaml((tmp_path / "knn" / "config.yaml").read_text()).MODEL.NUM_CLASSES == 2
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "knn" / "views.csv").exists()


def test_neighbours_of_a_video_are_itself_first(run, pretrained, tmp_path):
    """With one neighbour, the training videos are recognised without exception."""
    assert run("knn", tmp_path, MODEL__WEIGHTS=pretrained, KNN__K=1, TEST__SPLIT="train") == 0
    assert json_lines(tmp_path, "evaluations.jsonl")[0]["top1"] == 1


def test_the_multi_view_test_writes_its_report(run, finetuned, tmp_path, sample_videos, capsys):
    views = {"TEST__NUM_ENSEMBLE_VIEWS": 2, "TEST__NUM_SPATIAL_CROPS": 3, "TEST__BATCH_SIZE": 1}
    assert run("test", tmp_path, MODEL__WEIGHTS=finetuned, TEST__SPLIT="train", **views) == 0
    assert "6 videos, 2 clips x 3 crops each" in capsys.readouterr().out
    names = {"config.yaml", "confusion.png", "metrics.json", "per_class.csv", "predictions.csv", "views.csv"}
    assert {path.name for path in (tmp_path / "test").iterdir()} == names
    rows = table(tmp_path / "test" / "predictions.csv")
    assert [row["path"] for row in rows] == [f"{sample_videos}/clip_{number}.mp4" for number in range(6)]
    assert [row["label"] for row in rows] == ["0", "1"] * 3
    assert len(table(tmp_path / "test" / "views.csv")) == 6
    metrics = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert (metrics["views"], metrics["crops"], metrics["videos"]) == (6, 3, 6)
    assert metrics["top1"] == sum(int(row["correct"]) for row in rows) / 6
    (line,) = json_lines(tmp_path, "evaluations.jsonl")
    assert (line["step"], line["evaluator"], line["top1"]) == (0, "test", metrics["top1"])


def test_a_run_is_tested_in_its_own_folder_as_it_was_evaluated(run, tmp_path, pretrained):
    assert run("linear", tmp_path, MODEL__WEIGHTS=pretrained) == 0
    config, log = (tmp_path / "config.yaml").read_text(), (tmp_path / "log.jsonl").read_text()
    assert run("test", tmp_path) == 0
    assert (tmp_path / "config.yaml").read_text() == config and (tmp_path / "log.jsonl").read_text() == log
    while_training, tested = json_lines(tmp_path, "evaluations.jsonl")
    assert tested == {**while_training, "step": 0}


def test_images_in_class_folders(run, tmp_path, painted, capsys):
    for number in range(8):
        split, name = "val" if number > 5 else "train", ("lamp", "tree")[number % 2]
        write_image(tmp_path / "images" / split / name / f"{number}.{('png', 'jpg')[number // 4]}", painted(number))
    options = {"DATA__PATH_TO_DATA_DIR": tmp_path / "images", "DATA__NUM_FRAMES": 1, "MODEL__PATCH_SIZE": "[1,8,8]"}
    assert run("finetune", tmp_path / "run", **options, AUGMENT__MIXUP=0.8) == 0
    assert "(class_folders)" in capsys.readouterr().out
    assert run("test", tmp_path / "run", **options) == 0
    rows = table(tmp_path / "run" / "test" / "predictions.csv")
    assert [(row["label"], row["class"]) for row in rows] == [("0", "lamp"), ("1", "tree")]
    assert load_model(tmp_path / "run").clip_shape == (3, 1, 32, 32)


# ------------------------------------------------------------------------------------------------------- interruptions


def test_a_killed_fine_tuning_goes_on_to_the_same_end(run, configs, pretrained, finetuned, tmp_path, sample_videos):
    """Killed inside step 5, by a signal that it cannot see coming; its newest checkpoint is of step 3."""
    options = {"DATA.PATH_TO_DATA_DIR": sample_videos, "OUTPUT_DIR": tmp_path, "MODEL.WEIGHTS": pretrained}
    arguments = [str(item) for pair in options.items() for item in pair]
    code = f"import sys; sys.argv = sys.argv[1:]\n{KILLER}"
    files = [str(configs / "tiny.yaml"), str(configs / "recipe.yaml")]
    command = [sys.executable, "-c", code, str(TOOL), "--cfg", *files, *arguments]
    killed = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.pt")] == ["step_00000003.pt"]
    assert json_lines(tmp_path)[-1]["step"] == 4
    assert run("finetune", tmp_path, "recipe.yaml", MODEL__WEIGHTS=pretrained) == 0
    assert json_lines(tmp_path) == json_lines(finetuned)
    assert json_lines(tmp_path, "evaluations.jsonl") == json_lines(finetuned, "evaluations.jsonl")
    ours, theirs = (load_checkpoint(folder / "checkpoints" / "step_00000008.pt") for folder in (tmp_path, finetuned))
    assert ours["progress"] == theirs["progress"] and ours["ema_updates"] == theirs["ema_updates"] == 8
    for part in ("model", "ema"):
        assert all(torch.equal(value, ours[part][name]) for name, value in theirs[part].items())
    for index, state in theirs["optimizer"]["state"].items():
        assert all(torch.equal(value, ours["optimizer"]["state"][index][key]) for key, value in state.items())
    assert ours["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]


# ------------------------------------------------------------------------------------------------------- damaged files


@pytest.fixture
def damaged_lists(sample_videos, damaged_videos, tmp_path):
    """A folder of lists, in each of which one of the videos cannot be read."""
    for split, numbers in (("train", range(4)), ("val", (6, 7))):
        lines = [f"{sample_videos}/clip_{number}.mp4 {number % 2}\n" for number in numbers]
        lines.insert(1, f"{damaged_videos['zeros.mp4' if split == 'train' else 'text.mp4']} 1\n")
        (tmp_path / f"{split}.csv").write_text("".join(lines))
    return tmp_path


def test_a_damaged_training_video_is_counted_and_replaced(run, damaged_lists, damaged_videos):
    output = damaged_lists / "run"
    assert run("linear", output, DATA__PATH_TO_DATA_DIR=damaged_lists, SOLVER__MAX_STEPS=3) == 0
    log = json_lines(output)
    assert len(log) == 3 and log[-1]["unreadable"] >= 2, "12 draws of 5 videos"
    (line,) = (output / "unreadable.txt").read_text().splitlines()
    assert line.split("\t")[0] == str(damaged_videos["zeros.mp4"])
    (evaluation,) = json_lines(output, "evaluations.jsonl")
    assert (evaluation["videos"], evaluation["unreadable"]) == (2, 1)


@pytest.mark.parametrize("fate, videos", [("leave_out", 2), ("wrong", 3)])
@pytest.mark.parametrize("task", ["test", "knn"])
def test_a_damaged_test_video_is_reported_and_never_replaced(
    run, finetuned, damaged_lists, damaged_videos, capsys, task, fate, videos
):
    options = {"DATA__PATH_TO_DATA_DIR": damaged_lists, "TEST__UNREADABLE": fate, "MODEL__WEIGHTS": finetuned}
    assert run(task, damaged_lists / "run", **options) == 0
    out = capsys.readouterr().out
    said = {"leave_out": "left out", "wrong": "counted as wrong"}[fate]
    assert f"1 more could not be read and are {said}: {damaged_videos['text.mp4']}" in out
    if task == "knn":
        assert "4 training videos vote; 4 videos; 1 more are unreadable and left out" in out
    rows = table(damaged_lists / "run" / task / "predictions.csv")
    assert [Path(row["path"]).name for row in rows] == ["clip_6.mp4", "clip_7.mp4", "text.mp4"]
    assert rows[2]["predicted"] == "" and rows[2]["label"] == "1" and rows[2]["unreadable"]
    metrics = json.loads((damaged_lists / "run" / task / "metrics.json").read_text())
    assert (metrics["videos"], metrics["unreadable"], metrics["unreadable_videos_are"]) == (videos, 1, fate)
    assert metrics["top1"] == sum(row["correct"] == "1" for row in rows) / videos


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("task", ["finetune", "linear", "knn"])
@pytest.mark.parametrize(
    "options, parts",
    [
        ({"MODEL__ENCODER__HEADS": 3}, ["step_00000002.pt", "MODEL.ENCODER.HEADS 2, this run has 3", "set it to"]),
        ({"DATA__MEAN": "[0.4,0.5,0.5]"}, ["DATA.MEAN [0.5, 0.5, 0.5], this run has [0.4, 0.5, 0.5]"]),
        ({"DATA__STD": "[0.2,0.2,0.2]"}, ["DATA.STD [0.5, 0.5, 0.5], this run has [0.2, 0.2, 0.2]"]),
        ({"MODEL__ENCODER__WIDTH": 48, "MODEL__ENCODER__HEADS": 3}, ["of width 24", "MODEL.ENCODER.WIDTH is 48"]),
        ({"MODEL__WEIGHTS": "/nowhere/run"}, ["no checkpoint at /nowhere/run"]),
        ({"MODEL__NUM_CLASSES": 1}, ["MODEL.NUM_CLASSES is 1", "video of class 1", "at least 2"]),
    ],
)
def test_what_does_not_fit_is_one_line(run, pretrained, tmp_path, capsys, task, options, parts):
    assert run(task, tmp_path / "run", **{"MODEL__WEIGHTS": pretrained, **options}) == 2
    line = error_line(capsys)
    assert all(part in line for part in parts), line
    assert not list(tmp_path.glob("run/*/*.pt")) and not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.parametrize("task", ["finetune", "knn", "test"])
def test_damaged_weights_are_one_line(run, finetuned, tmp_path, capsys, task):
    whole = (finetuned / "checkpoints" / "step_00000008.pt").read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(whole[: len(whole) // 2])
    assert run(task, tmp_path / "run", MODEL__WEIGHTS=path) == 2
    assert f"{path} is not a whole checkpoint file" in error_line(capsys)
    path.write_bytes(whole[:20000] + bytes(200) + whole[20200:])
    assert run(task, tmp_path / "run", MODEL__WEIGHTS=path) == 2
    assert f"{path} is damaged: wrong checksum" in error_line(capsys)


def test_a_test_needs_a_classifier_of_the_same_clips(run, pretrained, finetuned, tmp_path, capsys):
    assert run("test", tmp_path, MODEL__WEIGHTS=pretrained) == 2
    line = error_line(capsys)
    assert str(pretrained) in line and "is a DiffMAE, which has no classes: train a classifier on it" in line
    assert run("test", tmp_path / "empty") == 2
    assert f"no checkpoint at {tmp_path / 'empty'}" in error_line(capsys)
    assert run("test", tmp_path, MODEL__WEIGHTS=finetuned, DATA__CROP_SIZE=48) == 2
    line = error_line(capsys)
    assert "DATA.NUM_FRAMES 4 and DATA.CROP_SIZE 32, the configuration says 4 and 48" in line
    assert not list(tmp_path.iterdir())


def test_the_folder_of_another_kind_of_run_is_one_line(run, pretrained, capsys):
    before = (pretrained / "config.yaml").read_text()
    assert run("finetune", pretrained, MODEL__WEIGHTS=pretrained) == 2
    line = error_line(capsys)
    assert "step_00000002.pt does not fit this run's model" in line and "Choose another OUTPUT_DIR" in line
    assert "head.classifier.weight" in line and "noisy_embed" not in line, "not the names of all tensors"
    assert (pretrained / "config.yaml").read_text() == before


def test_labels_that_a_tested_model_does_not_have_are_one_line(run, finetuned, sample_videos, tmp_path, capsys):
    (tmp_path / "val.csv").write_text(f"{sample_videos}/clip_0.mp4 0\n{sample_videos}/clip_1.mp4 2\n")
    assert run("test", tmp_path / "run", MODEL__WEIGHTS=finetuned, DATA__PATH_TO_DATA_DIR=tmp_path) == 2
    assert "clip_1.mp4 has label 2, but the model has the classes 0 to 1" in error_line(capsys)
    (tmp_path / "val.csv").write_text(f"{sample_videos}/clip_0.mp4\n{sample_videos}/clip_1.mp4\n")
    assert run("test", tmp_path / "run", MODEL__WEIGHTS=finetuned, DATA__PATH_TO_DATA_DIR=tmp_path) == 2
    assert "2 of the 2 videos of 'val'" in error_line(capsys)
