"""tools/convert_weights.py as a person calls it, on small networks of other programs."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffmae_video import load_model
from diffmae_video.config import from_yaml, load_config
from diffmae_video.engine import load_weights
from diffmae_video.models import MAE, VideoClassifier
from diffmae_video.models.encoder_model import EncoderModel

ROOT = Path(__file__).parents[2]
HEADS = "--heads 3 --decoder-heads 2"
VIDEO = f"{HEADS} --frames 8 --image-size 32"


def module_of(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def foreign():
    return module_of(ROOT / "tests" / "conversion" / "foreign_networks.py")


@pytest.fixture
def tool(capsys, tmp_path, monkeypatch):
    """``tool(family, state or path, options="")``: runs it; (exit code, stdout, stderr, path of the output)."""
    monkeypatch.syspath_prepend(ROOT / "tools")  # as for any script
    main = module_of(ROOT / "tools" / "convert_weights.py").main

    def run(family, source, options="", output="converted.safetensors"):
        if isinstance(source, dict):
            torch.save({"model": source, "epoch": 1}, tmp_path / "source.pth")
            source = tmp_path / "source.pth"
        path = tmp_path / output
        arguments = ["--from", family, "--input", str(source), "--output", str(path), *options.split()]
        code = main(arguments)
        return code, *capsys.readouterr(), path

    return run


def test_a_pretrained_network(tool, foreign):
    state = foreign.mae_st_state()
    code, out, error, path = tool("mae_st", state, f"{HEADS} --license CC-BY-NC-4.0")
    assert (code, error) == (0, "")
    model = load_model(path)
    assert isinstance(model, MAE) and model.cfg.MODEL.TARGET_FRAMES == "linspace" and model.clip_shape == (3, 8, 32, 32)
    assert torch.equal(model.state_dict()["decoder.head.weight"], state["decoder_pred.weight"])
    torch.testing.assert_close(model.pixel_mean.flatten(), torch.tensor([0.45] * 3))
    tensors, config, notes = load_weights(path)
    assert from_yaml(config).TASK == "pretrain" and notes["license"] == "CC-BY-NC-4.0"
    assert notes["source"] == "source.pth (mae_st)" and "part" not in notes
    for text in (
        f"{len(state)} tensors -> MAE, 0.1 M parameters, clips of 8 x 32 x 32",
        f"used: {len(state)} tensors",
        "beside the network's tensors, not used: epoch",
        "changed: queries, keys and values, stored apart: one matrix",
        "assumed, as no shape shows it: target frames linspace (--target-frames for another one)",
        "checked: the loss of a random clip is finite",
        'DATA.MEAN "[0.45, 0.45, 0.45]"',
    ):
        assert text in out, text


def test_what_it_prints_is_a_configuration(tool, foreign):
    """The last line can be typed behind a run's --cfg."""
    _, out, _, path = tool("videomae", foreign.videomae_state(), VIDEO)
    cfg = load_config([], shlex.split(out.splitlines()[-1]))
    assert cfg == from_yaml(load_weights(path).config)


def test_a_classifier(tool, foreign):
    code, out, _, path = tool("videomae", foreign.videomae_classifier(), VIDEO)
    model = load_model(path)
    assert code == 0 and isinstance(model, VideoClassifier) and model.num_classes == 5
    assert "checked: the output of a random clip is finite" in out


def test_an_encoder_alone(tool, foreign):
    code, out, _, path = tool("mae", foreign.mae_state(decoder=False), "--heads 3")
    model = load_model(path)
    assert code == 0 and isinstance(model, EncoderModel) and load_weights(path).notes["part"] == "encoder"
    assert model.encode(torch.randn(1, 3, 1, 32, 32)).shape == (1, 16, 48)
    assert "tensors -> EncoderModel" in out


def test_the_decoder_left_out_is_named(tool, foreign):
    state = foreign.mae_state()
    code, out, _, path = tool("mae", state, f"{HEADS} --encoder-only --no-check")
    assert code == 0 and isinstance(load_model(path), EncoderModel)
    line = next(line for line in out.splitlines() if line.startswith("left out, --encoder-only: "))
    assert line.count(",") == sum("decoder" in name or name == "mask_token" for name in state)
    assert "checked" not in out


def test_options_reach_the_configuration(tool, foreign):
    options = f"{HEADS} --target raw --pixel-mean 0.5 0.5 0.5 --pixel-std 0.25 0.25 0.25 --source elsewhere"
    _, _, _, path = tool("mae", foreign.mae_state(), options)
    model = load_model(path)
    assert model.target == "raw" and model.cfg.DATA.STD == [0.25] * 3 and model.cfg.DATA.MEAN == [0.5] * 3
    assert load_weights(path).notes["source"] == "elsewhere"


def test_safetensors_and_a_folder_of_transformers(tool, foreign, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_file(foreign.mae_state(), tmp_path / "mae.safetensors")
    assert tool("mae", tmp_path / "mae.safetensors", HEADS)[0] == 0
    config = transformers.VideoMAEConfig(
        image_size=32,
        patch_size=8,
        num_frames=8,
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=3,
        num_labels=4,
    )
    transformers.VideoMAEForVideoClassification(config).save_pretrained(tmp_path / "folder")
    code, out, _, path = tool("hf_videomae", tmp_path / "folder", output="folder.safetensors")
    assert code == 0 and load_model(path).num_classes == 4
    assert [line for line in out.splitlines() if line.startswith("assumed")] == [
        "assumed, as no shape shows it: pixel mean [0.485, 0.456, 0.406] (--pixel-mean for another one)",
        "assumed, as no shape shows it: pixel std [0.229, 0.224, 0.225] (--pixel-std for another one)",
    ]


# -------------------------------------------------------------------------------------------------------------- errors


def fails(result, message):
    code, out, error, path = result
    assert code == 2 and out == "" and error.startswith("error: ") and error.count("\n") == 1
    assert message in error, error
    return path


def test_weights_of_another_program(tool, foreign):
    path = fails(tool("mae", foreign.videomae_state()), "these look like weights for --from videomae, not mae")
    assert not path.exists()


def test_missing_and_extra_tensors(tool, foreign):
    state = foreign.mae_state()
    del state["blocks.2.attn.proj.bias"]
    fails(tool("mae", state, HEADS), "blocks.2.attn.proj.bias is missing")
    fails(tool("mae", foreign.mae_state() | {"extra": torch.ones(2)}, HEADS), "extra (2,): nothing here knows")


def test_wrong_heads(tool, foreign):
    fails(tool("mae", foreign.mae_state(), "--heads 7"), "--heads 7 does not divide the width 48")


def test_files_that_cannot_be_read(tool, tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    fails(tool("mae", tmp_path / "text.pth"), "text.pth")
    fails(tool("mae", tmp_path / "nothing.pth"), "nothing.pth: there is no such file or folder")
    fails(tool("mae", tmp_path), "is a folder: of mae weights, name the file")


def test_outputs_that_cannot_be_written(tool, foreign, tmp_path):
    state = foreign.mae_state()
    fails(tool("mae", state, HEADS, "converted.pt"), "expected a name that ends in .safetensors")
    fails(tool("mae", state, HEADS, "nowhere/converted.safetensors"), "there is no folder")
    (tmp_path / "there.safetensors").write_text("precious")
    path = fails(tool("mae", state, HEADS, "there.safetensors"), "is there already: remove it, or choose another name")
    assert path.read_text() == "precious"


def test_a_network_whose_output_is_not_finite(tool, foreign):
    state = foreign.mae_state()
    state["decoder_pred.weight"] *= 1e38
    path = fails(tool("mae", state, HEADS), "a forward pass of a random clip is not finite")
    assert not path.exists()


def test_a_full_disk_leaves_nothing(tool, foreign, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffmae_video.engine.weights_file.write_atomically", full)
    path = fails(tool("mae", foreign.mae_state(), HEADS), "No space left on device")
    assert not path.exists()
