"""One safetensors file with its configuration: what comes back, what is refused, where it stands for a checkpoint."""

from __future__ import annotations

import errno
import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffmae_video import load_model
from diffmae_video.build import build_model
from diffmae_video.build.recognition import start_weights
from diffmae_video.config import dump, load_config
from diffmae_video.engine import CheckpointManager
from diffmae_video.engine.checkpoint import find_checkpoint
from diffmae_video.engine.errors import CheckpointError, DamagedCheckpoint
from diffmae_video.engine.weights_file import load_weights, save_weights

TINY = [
    "DATA.NUM_FRAMES", "4", "DATA.CROP_SIZE", "32", "MODEL.PATCH_SIZE", "[2, 8, 8]",
    "MODEL.ENCODER.WIDTH", "24", "MODEL.ENCODER.DEPTH", "2", "MODEL.ENCODER.HEADS", "2",
    "MODEL.DECODER.WIDTH", "24", "MODEL.DECODER.DEPTH", "1", "MODEL.DECODER.HEADS", "2",
]  # fmt: skip


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"b.weight": torch.randn(30, 20), "a.bias": torch.arange(5), "scale": torch.tensor(2.5)}


@pytest.fixture
def written(tmp_path):
    save_weights(tmp_path / "w.safetensors", tensors(), "SEED: 3\n", source="a run", step="20", clips="160")
    return tmp_path / "w.safetensors"


def test_what_is_written_is_what_is_read(written, tmp_path):
    found = load_weights(written)
    assert found.config == "SEED: 3\n" and found.notes == {"source": "a run", "step": "20", "clips": "160"}
    assert set(found.tensors) == set(tensors())
    for name, tensor in tensors().items():
        assert torch.equal(found.tensors[name], tensor) and found.tensors[name].dtype == tensor.dtype
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_any_reader_of_safetensors_reads_it(written):
    assert torch.equal(load_file(written)["b.weight"], tensors()["b.weight"])
    with safe_open(written, "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "diffmae_video/1" and metadata["config"] == "SEED: 3\n"


def test_the_same_content_gives_the_same_bytes(written, tmp_path):
    again = dict(reversed(tensors().items()))
    save_weights(tmp_path / "again.safetensors", again, "SEED: 3\n", clips="160", step="20", source="a run")
    assert (tmp_path / "again.safetensors").read_bytes() == written.read_bytes()


def test_tied_strided_and_odd_tensors(tmp_path):
    weight = torch.nn.Parameter(torch.randn(6, 4))
    saved = {
        "encoder": weight,
        "tied": weight,
        "transposed": weight.t(),
        "row": weight[2],
        "every_second": weight[:, ::2],
        "expanded": torch.ones(1).expand(3),
        "empty": torch.zeros(0, 3),
        "flag": torch.tensor(True),
        "half": torch.randn(3).bfloat16(),
    }
    save_weights(tmp_path / "w.safetensors", saved, "")
    found = load_weights(tmp_path / "w.safetensors").tensors
    for name, tensor in saved.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:4],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: bytes(len(data)),
        lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
        lambda data: data.replace(b"SEED: 3", b"SEED: 4"),
        lambda data: data.replace(b'"a run"', b'"b run"'),
        lambda data: data.replace(b"a.bias", b"a.bios"),
        lambda data: b"not a model\n" * 50,
    ],
    ids=[
        "empty", "4 bytes", "half", "last byte missing", "longer", "zeros", "one bit", "config", "note", "name", "text",
    ],
)  # fmt: skip
def test_damage_is_seen(written, damage):
    written.write_bytes(damage(written.read_bytes()))
    with pytest.raises(DamagedCheckpoint, match=r"w\.safetensors is"):
        load_weights(written)
    with pytest.raises(DamagedCheckpoint):
        find_checkpoint(written)


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    (tmp_path / "w.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    with pytest.raises(DamagedCheckpoint, match="git lfs pull"):
        load_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_files_of_other_programs_are_refused_and_not_called_damaged(tmp_path, metadata):
    save_file({"a": torch.zeros(3)}, tmp_path / "w.safetensors", metadata)
    with pytest.raises(CheckpointError, match="another program") as error:
        load_weights(tmp_path / "w.safetensors")
    assert not isinstance(error.value, DamagedCheckpoint)


def test_a_newer_format_and_missing_entries(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(3)}, path, {"format": "diffmae_video/2"})
    with pytest.raises(CheckpointError, match="diffmae_video/2, this version reads diffmae_video/1") as error:
        load_weights(path)
    assert not isinstance(error.value, DamagedCheckpoint)
    save_file({"a": torch.zeros(3)}, path, {"format": "diffmae_video/1", "config": ""})
    with pytest.raises(DamagedCheckpoint, match="no sha256"):
        load_weights(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_weights(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("name", "values", "config", "notes", "words"),
    [
        ("w.pt", {"a": torch.zeros(1)}, "", {}, "ends in .safetensors"),
        ("w.safetensors", {}, "", {}, "got none"),
        ("w.safetensors", {"a": torch.zeros(1), "b": 3}, "", {}, "got b"),
        ("w.safetensors", {"a": torch.zeros(1)}, {"SEED": 0}, {}, "config_text"),
        ("w.safetensors", {"a": torch.zeros(1)}, "", {"epochs": 5}, "epochs"),
        ("w.safetensors", {"a": torch.zeros(1)}, "", {"step": "many"}, "step"),
        ("w.safetensors", {"a": torch.zeros(1)}, "", {"sha256": "0"}, "sha256"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, values, config, notes, words):
    with pytest.raises(ValueError, match=words):
        save_weights(tmp_path / name, values, config, **notes)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_earlier_file(written, monkeypatch):
    before, real, room = written.read_bytes(), os.write, [1500]

    def write(descriptor, data):
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(descriptor, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        save_weights(written, {"a": torch.zeros(1000)}, "")
    monkeypatch.undo()
    assert written.read_bytes() == before and os.listdir(written.parent) == ["w.safetensors"]


# ------------------------------------------------------------------------------------------- in place of a checkpoint


def test_find_checkpoint_takes_a_weights_file(written):
    state, path = find_checkpoint(written)
    assert path == written.resolve() and state["format"] == 1 and state["config"] == "SEED: 3\n"
    assert torch.equal(state["model"]["b.weight"], tensors()["b.weight"])
    assert state["progress"] == {"step": 20, "clips": 160}
    save_weights(written, tensors(), "")
    assert find_checkpoint(written)[0]["progress"] == {"step": 0, "clips": 0}


def test_find_checkpoint_takes_the_folder_of_one_but_checkpoints_first(tmp_path):
    save_weights(tmp_path / "model.safetensors", tensors(), "SEED: 3\n")
    (tmp_path / "config.json").write_text(json.dumps({"config": "SEED: 3\n"}))
    state, path = find_checkpoint(tmp_path)
    assert path == tmp_path / "model.safetensors" and state["config"] == "SEED: 3\n"
    CheckpointManager(tmp_path).save(
        {"format": 1, "model": {}, "optimizer": {}, "progress": {"step": 5}, "config": ""}, 5
    )
    assert find_checkpoint(tmp_path)[1].name == "step_00000005.pt"


def test_a_run_never_resumes_from_a_weights_file(tmp_path):
    save_weights(tmp_path / "model.safetensors", tensors(), "")
    assert CheckpointManager(tmp_path).load_latest() is None


@pytest.fixture
def model_file(tmp_path):
    cfg = load_config([], [*TINY, "SEED", "5"])
    model = build_model(cfg).eval()
    save_weights(tmp_path / "model.safetensors", model.state_dict(), dump(cfg))
    return model, tmp_path / "model.safetensors"


def test_load_model_takes_it(model_file):
    model, path = model_file
    for place in (path, path.parent):
        loaded = load_model(place)
        assert loaded.cfg.SEED == 5 and not loaded.training
        clip = loaded.normalize(torch.randint(256, (2, 3, 4, 32, 32), dtype=torch.uint8))
        assert torch.equal(loaded.encode(clip), model.encode(clip))


def test_a_run_starts_from_it(model_file):
    model, path = model_file
    cfg = load_config([], [*TINY, "TASK", "linear", "MODEL.NUM_CLASSES", "3", "MODEL.WEIGHTS", str(path)])
    probe = build_model(cfg)
    origin, _ = start_weights(cfg, probe)
    assert str(path) in origin
    assert torch.equal(probe.encoder.blocks[1].mlp.fc1.weight, model.encoder.blocks[1].mlp.fc1.weight)


def test_weights_of_another_model_than_the_config_says(tmp_path):
    cfg = load_config([], TINY)
    save_weights(tmp_path / "model.safetensors", {"encoder.norm.weight": torch.zeros(3)}, dump(cfg))
    with pytest.raises(CheckpointError, match="does not hold the weights of its configuration"):
        load_model(tmp_path)
