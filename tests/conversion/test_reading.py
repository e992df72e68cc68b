"""Files of other programs: where the state dict is found in them, and which of them are not read."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffmae_video.conversion import ConversionError, read_weights

STATE = OrderedDict({"blocks.0.norm1.weight": torch.arange(4.0), "norm.bias": torch.ones(3)})


def written(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def same(tensors):
    return tensors.keys() == STATE.keys() and all(torch.equal(tensors[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    "content, beside",
    [
        (STATE, []),
        ({"model": STATE, "epoch": 3, "optimizer": {"state": {}}}, ["epoch", "optimizer"]),
        ({"module": STATE}, []),
        ({"model_state": STATE, "cfg": "a: 1"}, ["cfg"]),
        ({"state_dict": STATE, "hidden": torch.ones(2)}, ["hidden"]),
        ({"model": {"state_dict": STATE, "version": 2}}, ["version"]),
    ],
)
def test_where_the_state_dict_is(tmp_path, content, beside):
    tensors, others = read_weights(written(tmp_path / "w.pth", content))
    assert same(tensors) and others == beside


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone.", "model.", "_orig_mod.module."])
def test_prefixes_of_wrappers(tmp_path, prefix):
    state = {prefix + name: tensor for name, tensor in STATE.items()}
    assert same(read_weights(written(tmp_path / "w.pt", state)).tensors)


def test_a_head_beside_a_backbone(tmp_path):
    path = written(tmp_path / "w.pt", {"backbone.norm.bias": torch.ones(3), "head.bias": torch.ones(2)})
    assert set(read_weights(path).tensors) == {"norm.bias", "head.bias"}


def test_safetensors_and_old_files_of_torch(tmp_path):
    save_file(dict(STATE), tmp_path / "w.safetensors")
    assert same(read_weights(tmp_path / "w.safetensors").tensors)
    torch.save({"model": STATE}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_weights(tmp_path / "old.pth").tensors)


def test_options_of_a_training_program_are_no_obstacle(tmp_path):
    """MAE, MAE-ST and VideoMAE store their argparse.Namespace beside the weights."""
    content = {"model": STATE, "args": argparse.Namespace(lr=1e-3, name="run", betas=(0.9, 0.95))}
    tensors, beside = read_weights(written(tmp_path / "w.pth", content))
    assert same(tensors) and beside == ["args"]


class Trap:
    """Unpickling an object of it writes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_file_is_never_run(tmp_path):
    path = written(tmp_path / "w.pth", {"model": STATE, "trap": Trap(tmp_path / "sprung")})
    with pytest.raises(ConversionError, match=r"w.pth holds more than tensors and plain values.*it has a \S+\. Such a"):
        read_weights(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["text.pth", "cut.pth", "empty.pth", "text.safetensors", "cut.safetensors"])
def test_files_that_are_no_weights(tmp_path, name):
    whole = written(tmp_path / "whole.pth", STATE)
    if name.endswith(".safetensors"):
        save_file(dict(STATE), whole)
    content = {"text": b"no weights at all\n" * 9, "cut": whole.read_bytes()[:60], "empty": b""}[name.split(".")[0]]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConversionError, match=name):
        read_weights(tmp_path / name)


@pytest.mark.parametrize(
    "content, message",
    [
        ([1, 2], "found list, expected a state dict"),
        ({"epoch": 3, "ema": {}}, "found epoch, ema, expected a state dict, alone or under model, module"),
        ({"model": {"a": torch.ones(1), "b": "text"}}, "b among the tensors of the state dict"),
        ({"norm.bias": torch.ones(1), "module.norm.bias": torch.ones(1)}, "norm.bias is there twice"),
    ],
)
def test_content_that_is_no_state_dict(tmp_path, content, message):
    with pytest.raises(ConversionError, match=message):
        read_weights(written(tmp_path / "w.pt", content))


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read_weights(tmp_path / "w.pt")
