"""tools/export.py: the folder that it writes, and what is left of it when it is killed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffmae_video import load_model
from diffmae_video.build import build_model
from diffmae_video.config import dump, load_config
from diffmae_video.engine.checkpoint import save_checkpoint
from diffmae_video.export import ExportError
from diffmae_video.models.encoder_model import EncoderModel

TOOL = Path(__file__).parents[2] / "tools" / "export.py"
TINY = [
    "DATA.NUM_FRAMES", "4", "DATA.CROP_SIZE", "16", "MODEL.PATCH_SIZE", "[2, 8, 8]", "MASK.RATIO", "0.5",
    "MODEL.ENCODER.WIDTH", "24", "MODEL.ENCODER.DEPTH", "1", "MODEL.ENCODER.HEADS", "2",
    "MODEL.DECODER.WIDTH", "24", "MODEL.DECODER.DEPTH", "1", "MODEL.DECODER.HEADS", "2",
]  # fmt: skip
UNFINISHED = ".unfinished"
THREE = ["README.md", "config.json", "model.safetensors"]


def make_checkpoint(path: Path, *overrides: str, seed: int = 0) -> Path:
    cfg = load_config([], [*TINY, *overrides])
    model = build_model(cfg)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state = {"format": 1, "model": model.state_dict(), "optimizer": {}, "config": dump(cfg)}
    save_checkpoint(path, state | {"progress": {"step": 5, "clips": 40}})
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("weights") / "run.pt", "DATA.PATH_TO_DATA_DIR", "/data/k400")


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOL.parent))  # as for any script
    spec = importlib.util.spec_from_file_location("export_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(TOOL.parent))


@pytest.fixture
def run(tool, weights, capsys):
    """Runs the tool; returns (exit code, stdout, stderr)."""

    def call(*arguments: object, weights: Path = weights) -> tuple[int, str, str]:
        code = tool.main(["--weights", str(weights), *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_folder_holds_the_model(run, weights, tmp_path):
    code, printed, _ = run("--output", tmp_path / "out", "--name", "Tiny", "--license", "mit", "--trained-on", "clips")
    assert code == 0 and names(tmp_path / "out") == THREE
    assert "DiffMAE, weights of the last step, step 5, clips 40" in printed
    assert "paths of this machine: /data/k400" in printed and "license: unknown" not in printed
    whole, exported = load_model(weights).state_dict(), load_model(tmp_path / "out").state_dict()
    assert set(whole) == set(exported) and all(torch.equal(value, exported[name]) for name, value in whole.items())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# Tiny\n" in card and "license: mit" in card and "| trained on | clips |" in card


def test_a_moving_average_is_said(run, tmp_path):
    state = torch.load(make_checkpoint(tmp_path / "run.pt"), weights_only=True)
    averaged = {name: value + 1 for name, value in state["model"].items()}
    save_checkpoint(tmp_path / "run.pt", state | {"ema": averaged, "ema_updates": 5})
    code, printed, _ = run("--output", tmp_path / "out", weights=tmp_path / "run.pt")
    assert code == 0 and "weights moving average" in printed
    assert torch.equal(load_model(tmp_path / "out").encoder.norm.weight, averaged["encoder.norm.weight"])


def test_everything_at_once(run, tmp_path):
    pytest.importorskip("onnxruntime")
    arguments = ("--encoder-only", "--onnx", "--torch-export", "--num-frames", "2")
    code, printed, _ = run("--output", tmp_path / "out", *arguments)
    assert code == 0 and names(tmp_path / "out") == [
        "README.md",
        "config.json",
        "encoder.onnx",
        "encoder.pt2",
        THREE[2],
    ]
    for file in ("encoder.onnx", "encoder.pt2"):
        for batch in (1, 3):
            assert f"{file}, batch {batch}: largest difference from the model: tokens " in printed
    assert isinstance(load_model(tmp_path / "out"), EncoderModel)
    pixels = torch.zeros(2, 3, 2, 16, 16, dtype=torch.uint8)
    tokens, pooled = torch.export.load(tmp_path / "out" / "encoder.pt2").module()(pixels)
    assert tokens.shape == (2, 4, 24) and pooled.shape == (2, 24)


def test_what_is_exported_can_be_exported_again(run, tmp_path):
    assert run("--output", tmp_path / "a", "--license", "mit")[0] == 0
    code, _, _ = run("--output", tmp_path / "b", "--name", "a", weights=tmp_path / "a")
    assert code == 0
    for name in THREE:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert run("--output", tmp_path / "a", "--license", "mit", "--overwrite", weights=tmp_path / "a")[0] == 0
    assert (tmp_path / "a" / THREE[2]).read_bytes() == (tmp_path / "b" / THREE[2]).read_bytes()


def test_a_folder_that_is_not_empty(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    code, _, error = run("--output", tmp_path)
    assert code == 2 and "notes.txt" in error and "--overwrite" in error and names(tmp_path) == ["notes.txt"]
    (tmp_path / "encoder.onnx").write_text("of older weights")
    assert run("--output", tmp_path, "--overwrite")[0] == 0
    assert names(tmp_path) == ["README.md", "config.json", "model.safetensors", "notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


# ------------------------------------------------------------------------------------------------------- interrupted


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ExportError("it differs"), OSError("No space left")])
def test_a_call_that_fails_leaves_what_was_there(run, tool, tmp_path, monkeypatch, error):
    assert run("--output", tmp_path / "out")[0] == 0
    before = {name: (tmp_path / "out" / name).read_bytes() for name in THREE}

    def fail(*arguments):
        raise error

    monkeypatch.setattr(tool, "differences", fail)
    other = make_checkpoint(tmp_path / "other.pt", seed=1)
    code, _, message = run("--output", tmp_path / "out", "--overwrite", "--torch-export", weights=other)
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 2) and message.count("\n") == 1
    assert {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")} == before
    assert run("--output", tmp_path / "new", "--torch-export", weights=other)[0] != 0
    assert names(tmp_path / "new") == []
    monkeypatch.undo()
    assert run("--output", tmp_path / "new", weights=other)[0] == 0


@pytest.mark.parametrize("earlier", [False, True])
def test_killed_at_any_moment_no_files_of_two_models_lie_together(tool, tmp_path, monkeypatch, earlier):
    """Every number of steps of putting files in place; then nothing more happens, clean-up included."""
    real_replace, real_unlink, steps, is_killed = os.replace, Path.unlink, 0, True
    while is_killed:
        output = tmp_path / str(steps)
        output.mkdir()
        for name in (*THREE, "encoder.onnx") if earlier else ():
            (output / name).write_text("old")
        left, is_killed = steps, False

        def stopped() -> bool:
            nonlocal left, is_killed
            left, is_killed = left - 1, left <= 0
            return is_killed

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", lambda old, new, stopped=stopped: stopped() or real_replace(old, new))
            patch.setattr(Path, "unlink", lambda path, stopped=stopped, **_: stopped() or real_unlink(path, True))
            patch.setattr(tool.shutil, "rmtree", lambda *_, **__: None)
            with tool.complete_or_nothing(output) as folder:
                for name in (*THREE, "encoder.pt2"):
                    (folder / name).write_text("new")
        texts = {path.name: path.read_text() for path in output.iterdir() if path.is_file()}
        assert len(set(texts.values())) <= 1 and (not texts or "model.safetensors" in texts)
        assert texts or not earlier
        steps += 1
    assert texts == dict.fromkeys([*THREE, "encoder.pt2"], "new") and steps > len(texts)


def test_the_rest_of_a_killed_call_is_no_obstacle(run, tmp_path):
    (tmp_path / "out" / UNFINISHED).mkdir(parents=True)
    (tmp_path / "out" / UNFINISHED / "model.safetensors").write_bytes(b"half")
    assert run("--output", tmp_path / "out")[0] == 0
    assert names(tmp_path / "out") == THREE


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--weights", "nowhere.pt"], "nowhere.pt"),
        (["--license", "all rights reserved"], "apache-2.0"),
        (["--num-frames", "2"], "--onnx and --torch-export"),
        (["--num-frames", "3", "--torch-export"], "a multiple of 2 up to 4"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, error = run("--output", "out", *arguments)
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert not list(tmp_path.rglob("*.*"))


def test_a_file_in_the_place_of_the_folder(run, tmp_path):
    (tmp_path / "out").write_text("mine")
    code, _, error = run("--output", tmp_path / "out")
    assert code == 2 and "no folder" in error and (tmp_path / "out").read_text() == "mine"


def test_a_missing_package_is_known_before_anything_is_done(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, printed, error = run("--output", tmp_path / "out", "--onnx")
    assert code == 2 and "[onnx]" in error and not printed and not (tmp_path / "out").exists()


def test_command_line(weights, tmp_path):
    command = [sys.executable, str(TOOL), "--weights", str(weights), "--output", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "") and names(tmp_path / "out") == THREE
