import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from diffmae_video import build
from diffmae_video.build.training import build_evaluators
from diffmae_video.config import from_yaml
from diffmae_video.data.writing import write_video
from diffmae_video.engine import Monitor, NonFiniteLoss, TrainingInterrupted, load_checkpoint

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "run_net.py"

TINY = """
DATA: {NUM_FRAMES: 4, SAMPLING_RATE: 2, CROP_SIZE: 32, REPEATED_SAMPLING: 2}
DATA_LOADER: {NUM_WORKERS: 0, PIN_MEMORY: False}
MODEL:
  PATCH_SIZE: [2, 8, 8]
  ENCODER: {WIDTH: 24, DEPTH: 2, HEADS: 2, DROP_PATH: 0.2}
  DECODER: {WIDTH: 24, DEPTH: 1, HEADS: 2}
MASK: {RATIO: 0.75}
SOLVER: {BATCH_SIZE: 8, ACCUMULATION_STEPS: 2, MAX_STEPS: 14, BASE_LR: 0.05}
TRAIN: {LOG_PERIOD: 1, CHECKPOINT_PERIOD: 3, VISUALIZE_PERIOD: 10, VISUALIZE_STEPS: 2}
DEVICE: cpu
"""


@pytest.fixture(scope="module")
def tool():
    specification = importlib.util.spec_from_file_location("run_net", TOOL)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of six short videos (an epoch ends inside a step) and one file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(6):
        ramp = np.arange(48, dtype=np.uint8)
        frames = [np.broadcast_to((ramp * 3 + 9 * t + 30 * number)[:, None], (40, 48, 3)) for t in range(12)]
        frames = np.stack([np.roll(np.asarray(f).copy(), t, axis=0) for t, f in enumerate(frames)])
        frames[:, 8:20, 8:20] = (number * 40, 255 - number * 40, 90)
        write_video(folder / f"video_{number}.mp4", frames, fps=12)
    (folder / "video_0_broken.mp4").write_bytes(b"this is no video" * 40)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(TINY)
    return path


def error_line(capsys) -> str:
    """What was printed to standard error, after checking that it is one line that begins with ``error:``."""
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1, printed
    return printed


# ------------------------------------------------------------------------------------------------------ command line


@pytest.mark.parametrize(
    ("arguments", "files", "overrides"),
    [
        ("--cfg a.yaml", ["a.yaml"], []),
        ("--cfg a.yaml b.yml SEED 3 OUTPUT_DIR x.yaml", ["a.yaml", "b.yml"], ["SEED", "3", "OUTPUT_DIR", "x.yaml"]),
        ("SEED 3 --cfg a.yaml", ["a.yaml"], ["SEED", "3"]),
        ("--cfg a.yaml --cfg b.yaml SEED -3", ["a.yaml", "b.yaml"], ["SEED", "-3"]),
        ("--cfg=a.yaml SEED 3", ["a.yaml"], ["SEED", "3"]),
        ("--cfg a.yaml SEED 3 --print-config", ["a.yaml"], ["SEED", "3"]),
    ],
)
def test_files_and_overrides_are_told_apart(tool, arguments, files, overrides):
    parsed = tool.parse_arguments(arguments.split())
    assert (parsed.files, parsed.overrides) == (files, overrides)
    assert parsed.print_config == ("--print-config" in arguments)


@pytest.mark.parametrize("arguments", ["", "--cfg SEED 3", "--cfg a.yaml --frobnicate"])
def test_a_wrong_command_line_is_refused(tool, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        tool.parse_arguments(arguments.split())
    assert stop.value.code == 2 and "usage:" in capsys.readouterr().err


def test_print_config_prints_what_can_be_read_back(tool, config, capsys):
    assert tool.run([str(config)], ["SEED", "5"], print_config=True) == 0
    cfg = from_yaml(capsys.readouterr().out)
    assert cfg.SEED == 5 and cfg.DATA.CROP_SIZE == 32


# ------------------------------------------------------------------------------------------------------------ errors


def test_an_unknown_key_is_one_line(tool, config, capsys):
    assert tool.run([str(config)], ["SOLVER.BACH_SIZE", "3"], print_config=False) == 2
    assert "BATCH_SIZE" in error_line(capsys)


def test_a_missing_config_file_is_one_line(tool, tmp_path, capsys):
    assert tool.run([str(tmp_path / "none.yaml")], [], print_config=False) == 2
    assert "none.yaml" in error_line(capsys)


def test_missing_data_is_one_line_that_says_what_to_do(tool, tmp_path, capsys):
    overrides = ["DATA.PATH_TO_DATA_DIR", str(tmp_path / "nowhere"), "OUTPUT_DIR", str(tmp_path / "run")]
    assert tool.run([str(ROOT / "configs" / "K400" / "ViT_L.yaml")], overrides, print_config=False) == 2
    line = error_line(capsys)
    assert str(tmp_path / "nowhere") in line and "datasets/" in line and "configs/demo" in line


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (NonFiniteLoss("step 3: the loss is nan"), 2, "error: step 3: the loss is nan\n"),
        (TrainingInterrupted("interrupted after step 3", 130), 130, "interrupted after step 3\n"),
    ],
)
def test_what_stops_a_run_is_printed_without_a_traceback(tool, config, capsys, monkeypatch, error, code, text):
    class Run:
        def run(self):
            raise error

    monkeypatch.setattr(build, "build_run", lambda cfg, peers: Run())
    assert tool.run([str(config)], [], print_config=False) == code
    assert capsys.readouterr().err == text


def test_a_fault_of_the_program_keeps_its_traceback(tool, config, monkeypatch):
    monkeypatch.setattr(build, "build_run", lambda cfg, peers: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tool.run([str(config)], [], print_config=False)


# ------------------------------------------------------------------------------------------------- the whole of a run


def overrides(videos, output, **more) -> list[str]:
    pairs = {"DATA.PATH_TO_DATA_DIR": videos, "DATA.MAX_UNREADABLE_FRACTION": 0.5, "OUTPUT_DIR": output, **more}
    return [str(item) for pair in pairs.items() for item in pair]


def log_of(output: Path) -> list[dict]:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    timings = ("clips_per_second", "step_seconds", "data_wait_share", "wall_seconds", "tflops", "mfu")
    return [{key: value for key, value in line.items() if key not in timings} for line in lines]


@pytest.fixture(scope="module")
def finished(tool, videos, config, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "straight"
    assert tool.run([str(config)], overrides(videos, output), print_config=False) == 0
    return output


def test_a_run_leaves_all_that_it_should(finished, videos):
    log = log_of(finished)
    assert [line["step"] for line in log] == list(range(1, 15)) and log[-1]["clips"] == 14 * 8
    losses = [line["loss"] for line in log]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert (finished / "checkpoints" / "latest").read_text().strip() == "step_00000014.pt"
    state = load_checkpoint(finished / "checkpoints" / "step_00000014.pt")
    assert state["config"] == (finished / "config.yaml").read_text()
    assert from_yaml(state["config"]).SOLVER.MAX_STEPS == 14
    assert [path.name for path in sorted((finished / "reconstructions").iterdir())] == [
        "step_00000010.png",
        "step_00000014.png",
    ]
    assert any((finished / "tensorboard").iterdir())
    (line,) = (finished / "unreadable.txt").read_text().splitlines()
    assert line.split("\t")[0] == str(videos / "video_0_broken.mp4") and log[-1]["unreadable"] > 0


def start(config, videos, output, workers) -> subprocess.Popen:
    command = [sys.executable, str(TOOL), "--cfg", str(config)]
    command += overrides(videos, output, **{"DATA_LOADER.NUM_WORKERS": workers})
    # From the repository's root, as a person types it, and without it on the path.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def signal_after(process: subprocess.Popen, output: Path, steps: int, number: int) -> tuple[str, str]:
    """Sends a signal once that many steps are logged; returns what the process printed."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        log = output / "log.jsonl"
        if log.exists() and log.read_bytes().count(b"\n") >= steps:
            break
        time.sleep(0.005)
    process.send_signal(number)
    return process.communicate(timeout=60)


def test_interrupted_then_killed_then_finished_is_the_same_run(tool, videos, config, finished, tmp_path):
    output = tmp_path / "run"
    process = start(config, videos, output, workers=2)
    out, err = signal_after(process, output, 2, signal.SIGINT)
    assert process.returncode == 130, err
    assert err.startswith("interrupted after step") and "run the same command again" in err and err.count("\n") == 1
    assert "effective batch: 8 clips per step" in out and "step 2 | clips 16/112" in out

    done = len(log_of(output))
    process = start(config, videos, output, workers=0)
    signal_after(process, output, done + 2, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL

    assert tool.run([str(config)], overrides(videos, output), print_config=False) == 0
    assert log_of(output) == log_of(finished)
    assert sorted((output / "unreadable.txt").read_text().splitlines()) == sorted(
        (finished / "unreadable.txt").read_text().splitlines()
    )


# ---------------------------------------------------------------------------------------------- training for inpainting

MIXED = """
MASK:
  MIX:
    STRATEGIES: [random, tube, block, center, frame]
    RATIOS_LOW: [0.6, 0.5, 0.3, 0.25, 0.5]
    RATIOS_HIGH: [0.9, 0.8, 0.6, 0.5, 0.5]
SOLVER: {MAX_STEPS: 3, ACCUMULATION_STEPS: 4}
TRAIN: {PRECISION: fp32, EMA_DECAY: 0.9, CHECKPOINT_PERIOD: 1, VISUALIZE_PERIOD: 3}
"""


@pytest.fixture(scope="module")
def mixed(tool, config, sample_videos, tmp_path_factory):
    """(configuration files, run folder) of a run over several masks, with averaged weights."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "mixed.yaml").write_text(MIXED)
    files = [str(config), str(folder / "mixed.yaml")]
    assert tool.run(files, overrides(sample_videos, folder / "run"), print_config=False) == 0
    return files, folder / "run"


def test_a_mix_of_masks_logs_the_loss_under_each(mixed):
    log = log_of(mixed[1])
    assert [line["step"] for line in log] == [1, 2, 3]
    names = {"random", "tube", "block", "center", "frame"}
    logged = [{key.removeprefix("loss_mask_") for key in line if key.startswith("loss_mask_")} for line in log]
    assert all(some and some <= names for some in logged) and len(set.union(*logged)) > 2
    assert any(len(some) > 1 for some in logged), "every micro-batch of a step draws its own"
    for line in log:
        losses = [value for key, value in line.items() if key.startswith("loss_mask_")]
        assert min(losses) <= line["loss"] <= max(losses)


def test_a_mix_goes_on_exactly_after_a_kill(mixed, sample_videos, tmp_path):
    files, straight = mixed
    command = [sys.executable, str(TOOL), "--cfg", *files, *overrides(sample_videos, tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal_after(process, tmp_path / "run", 1, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "masks, drawn for every micro-batch: random 0.6 to 0.9 (20%), tube 0.5 to 0.8 (20%)" in finished.stdout
    assert log_of(tmp_path / "run") == log_of(straight)


def test_what_is_sampled_from_is_the_average_of_the_weights(mixed):
    """``load_model`` gives it, and the reconstructions during training were made with it."""
    _, run = mixed
    state = load_checkpoint(run / "checkpoints" / "step_00000003.pt")
    model = build.load_model(run)
    loaded = model.state_dict()
    assert loaded.keys() == state["ema"].keys()
    assert all(torch.equal(loaded[name], value) for name, value in state["ema"].items())
    assert not torch.equal(loaded["encoder.patch_embed.weight"], state["model"]["encoder.patch_embed.weight"])

    (line,) = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    (evaluator,) = build_evaluators(model.cfg, model)
    evaluator.folder = run / "again" / "reconstructions"
    again = evaluator.evaluate(model, 3, Monitor(run / "again", 24, 6, terminal=False))
    assert line["step"] == 3 and line["psnr_hidden"] == pytest.approx(again["psnr_hidden"], rel=1e-6)
    model.load_state_dict(state["model"])
    trained = evaluator.evaluate(model, 3, Monitor(run / "again", 24, 6, terminal=False))
    assert line["psnr_hidden"] != pytest.approx(trained["psnr_hidden"], rel=1e-6)
