"""Models to and from the Hugging Face hub, without a network: local folders, and a hub that only writes down."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffmae_video import load_model
from diffmae_video.build import build_model
from diffmae_video.config import dump, load_config
from diffmae_video.engine import save_weights
from diffmae_video.engine.checkpoint import save_checkpoint
from diffmae_video.engine.errors import CheckpointError

hub_mixin = pytest.importorskip("huggingface_hub.hub_mixin")
hub = importlib.import_module("diffmae_video.hub")

TINY = [
    "DATA.NUM_FRAMES", "4", "DATA.CROP_SIZE", "16", "MODEL.PATCH_SIZE", "[2, 8, 8]", "MASK.RATIO", "0.5",
    "MODEL.ENCODER.WIDTH", "24", "MODEL.ENCODER.DEPTH", "1", "MODEL.ENCODER.HEADS", "2",
    "MODEL.DECODER.WIDTH", "24", "MODEL.DECODER.DEPTH", "1", "MODEL.DECODER.HEADS", "2",
]  # fmt: skip
FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A run with a checkpoint whose averaged weights are others than the last ones."""
    cfg = load_config([], TINY)
    torch.manual_seed(0)
    last, averaged = build_model(cfg), build_model(cfg)
    for model in (last, averaged):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    state = {"format": 1, "model": last.state_dict(), "optimizer": {}, "config": dump(cfg)}
    state |= {"progress": {"step": 7, "clips": 56}, "ema": averaged.state_dict(), "ema_updates": 7}
    save_checkpoint(folder / "step_00000007.pt", state)
    return folder.parent


def tokens_of(model) -> torch.Tensor:
    pixels = torch.randint(256, (2, 3, 4, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.encode(model.normalize(pixels))


def test_a_local_folder_comes_back_bit_equal(run_folder, tmp_path):
    pretrained = hub.PretrainedModel.from_pretrained(run_folder)
    pretrained.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == FILES
    again = hub.PretrainedModel.from_pretrained(str(tmp_path / "saved"))
    whole = load_model(run_folder).state_dict()  # the averaged weights
    assert set(again.model.state_dict()) == set(whole)
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, whole[name]), name
    assert torch.equal(tokens_of(again), tokens_of(pretrained)) and not again.model.training
    assert again.model.cfg == pretrained.model.cfg
    again.save_pretrained(tmp_path / "twice")
    for name in FILES:
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes()


def test_an_edited_card_is_kept(run_folder, tmp_path):
    hub.PretrainedModel.from_pretrained(run_folder).save_pretrained(tmp_path / "saved")
    card = tmp_path / "saved" / "README.md"
    card.write_text(card.read_text() + "\nMeasured by me.\n")
    hub.PretrainedModel.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "twice")
    assert (tmp_path / "twice" / "README.md").read_text().endswith("Measured by me.\n")


def test_another_readme_is_no_card(run_folder, tmp_path):
    cfg = load_config([], TINY)
    save_weights(tmp_path / "model.safetensors", build_model(cfg).state_dict(), dump(cfg))
    (tmp_path / "README.md").write_text("# My thesis\n")
    hub.PretrainedModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    assert "thesis" not in (tmp_path / "saved" / "README.md").read_text()


def test_push_uploads_the_three_files(run_folder, monkeypatch):
    calls, uploaded = [], {}

    class FakeApi:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, private, exist_ok):
            calls.append(("create", repo_id, private, exist_ok))
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id, repo_type, folder_path, **options):
            uploaded.update({path.name: path.read_bytes() for path in Path(folder_path).rglob("*")})
            calls.append(("upload", repo_id, repo_type, options["commit_message"]))
            return "a commit"

    monkeypatch.setattr(hub_mixin, "HfApi", FakeApi)
    pretrained = hub.PretrainedModel.from_pretrained(run_folder)
    done = pretrained.push_to_hub("someone/tiny-model", private=True, token="a token", commit_message="first")
    assert done == "a commit" and sorted(uploaded) == FILES
    assert calls == [
        ("token", "a token"),
        ("create", "someone/tiny-model", True, True),
        ("upload", "someone/tiny-model", "model", "first"),
    ]
    assert b"# tiny-model\n" in uploaded["README.md"]
    assert json.loads(uploaded["config.json"])["training"]["step"] == "7"


def test_a_name_is_downloaded_and_no_more_than_is_needed(run_folder, tmp_path, monkeypatch):
    pretrained = hub.PretrainedModel.from_pretrained(run_folder)
    pretrained.save_pretrained(tmp_path / "snapshot")
    asked = {}

    def download(repo_id, **options):
        asked.update(options, repo_id=repo_id)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(hub, "snapshot_download", download)
    found = hub.PretrainedModel.from_pretrained("someone/tiny-model", revision="v1", token="a token")
    assert torch.equal(tokens_of(found), tokens_of(pretrained))
    assert asked["repo_id"] == "someone/tiny-model" and asked["revision"] == "v1" and asked["token"] == "a token"
    assert sorted(asked["allow_patterns"]) == FILES


def test_what_is_downloaded_but_no_model_of_ours(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(hub, "snapshot_download", lambda *arguments, **options: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        hub.PretrainedModel.from_pretrained("someone/another-model")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="another program"):
        hub.PretrainedModel.from_pretrained("someone/another-model")


def test_the_hub_accepts_the_card(run_folder, tmp_path):
    from huggingface_hub import ModelCard

    hub.PretrainedModel.from_pretrained(run_folder).save_pretrained(tmp_path / "saved")
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert card.data.library_name == "diffmae_video" and card.data.license == "unknown"
    assert card.data.pipeline_tag == "feature-extraction" and "diffmae" in card.data.tags


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "diffmae_video.hub")
    with pytest.raises(ImportError, match=r"\[hub\]"):
        importlib.import_module("diffmae_video.hub")
