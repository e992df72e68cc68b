"""What an exported folder says of a model: config.json and the model card, for every kind of model."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from diffmae_video import load_model
from diffmae_video.build import build_model
from diffmae_video.build.model_folder import PretrainedParts, read_parts, write_parts
from diffmae_video.build.recognition import start_weights
from diffmae_video.config import dump, from_yaml, load_config
from diffmae_video.engine.checkpoint import save_checkpoint
from diffmae_video.engine.errors import RunError
from diffmae_video.engine.weights_file import load_weights
from diffmae_video.models.encoder_model import EncoderModel

TINY = [
    "DATA.NUM_FRAMES", "4", "DATA.CROP_SIZE", "16", "MODEL.PATCH_SIZE", "[2, 8, 8]", "MASK.RATIO", "0.5",
    "MODEL.ENCODER.WIDTH", "24", "MODEL.ENCODER.DEPTH", "1", "MODEL.ENCODER.HEADS", "2",
    "MODEL.DECODER.WIDTH", "24", "MODEL.DECODER.DEPTH", "1", "MODEL.DECODER.HEADS", "2",
    "DATA.PATH_TO_DATA_DIR", "/home/someone/videos/k400", "DATA.PAGE", "datasets/kinetics.md",
]  # fmt: skip
# Of the keys above, LatentDAE reads neither the mask's nor most of the decoder's: they are as by default.
LATENT = [
    "MODEL.NAME", "LatentDAE", "MASK.RATIO", "0.9", "MODEL.DECODER.WIDTH", "512", "MODEL.DECODER.HEADS", "16",
    "MODEL.LDAE.LATENT_DIM", "8",
]  # fmt: skip
IMAGE = ["DATA.NUM_FRAMES", "1", "MODEL.PATCH_SIZE", "[1, 8, 8]"]


def make_checkpoint(path, *overrides: str, **more) -> None:
    cfg = load_config([], [*TINY, *overrides])
    state = {"format": 1, "model": build_model(cfg).state_dict(), "optimizer": {}, "config": dump(cfg)}
    save_checkpoint(path, state | {"progress": {"step": 1500, "clips": 24000, "draws": 24000}} | more)


@pytest.fixture
def exported(tmp_path):
    """Exports a checkpoint of these overrides; returns (folder, config.json, header of the card, text of the card)."""

    def make(*overrides: str, encoder_only: bool = False, notes: dict[str, str] | None = None):
        make_checkpoint(tmp_path / "run.pt", *overrides)
        folder = tmp_path / "exported"
        folder.mkdir(exist_ok=True)
        parts = read_parts(tmp_path / "run.pt", encoder_only)
        write_parts(folder, parts._replace(notes=parts.notes | (notes or {})), "A model")
        _, header, text = (folder / "README.md").read_text().split("---\n", 2)
        return folder, json.loads((folder / "config.json").read_text()), yaml.safe_load(header), text

    return make


def test_config_json_of_a_diffmae(exported):
    folder, config, _, _ = exported("DIFFUSION.RHO", "0.8")
    assert config["class"] == config["method"] == "DiffMAE" and config["format"] == "diffmae_video/1"
    assert config["architecture"]["encoder"] == {
        "width": 24, "depth": 1, "heads": 2, "mlp_ratio": 4.0, "patch_size": [2, 8, 8], "token_grid": [2, 2, 2],
        "position": "separable", "class_token": False,
    }  # fmt: skip
    assert config["architecture"]["decoder"]["type"] == "cross_self"
    assert config["architecture"]["objective"]["diffusion"]["rho"] == 0.8
    assert config["input"]["pixel_mean"] == config["input"]["pixel_std"] == [0.5, 0.5, 0.5]
    assert (config["input"]["num_frames"], config["input"]["height"], config["input"]["width"]) == (4, 16, 16)
    assert config["training"] == {"task": "pretrain", "weights": "of the last step", "step": "1500", "clips": "24000"}
    model = load_model(folder)
    assert from_yaml(config["config_yaml"]) == model.cfg
    assert config["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_card_says_what_is_known(exported):
    _, _, header, text = exported()
    assert header["library_name"] == "diffmae_video" and header["license"] == "unknown"
    assert header["pipeline_tag"] == "feature-extraction" and "diffmae" in header["tags"]
    assert "# A model" in text and "2304.03283" in text and "1,500 steps, 24,000 clips" in text
    assert "`k400`, prepared as datasets/kinetics.md" in text
    assert "/home/someone" not in text.split("## Configuration")[0]
    assert "RATIO: 0.5" in text.split("## Configuration")[1]


def test_notes_of_the_writer_are_in_the_card_and_the_weights_file(exported):
    notes = {"license": "cc-by-nc-4.0", "trained_on": "Kinetics-400", "source": "a release"}
    folder, config, header, text = exported(notes=notes)
    assert header["license"] == "cc-by-nc-4.0"
    assert "| trained on | Kinetics-400 |" in text and "| converted from | a release |" in text
    assert notes.items() <= load_weights(folder / "model.safetensors").notes.items()
    assert notes.items() <= read_parts(folder).notes.items()
    assert notes.items() <= config["training"].items()


@pytest.mark.parametrize(
    ("overrides", "task", "words"),
    [
        (["MODEL.NAME", "MAE"], "feature-extraction", "masked autoencoder"),
        (LATENT, "feature-extraction", "2401.14404"),
        (["MODEL.TARGET", "normalized"], "feature-extraction", "It cannot inpaint"),
        (IMAGE, "image-feature-extraction", "images of 16 x 16"),
        (["TASK", "finetune", "MODEL.NUM_CLASSES", "3"], "video-classification", "0 to 2"),
        ([*IMAGE, "TASK", "linear", "MODEL.NUM_CLASSES", "3"], "image-classification", "linear probe"),
        (["DATA.SAMPLING", "segment"], "feature-extraction", "one from each part of a video"),
    ],
)
def test_every_kind_of_model_has_its_card(exported, overrides, task, words):
    _, config, header, text = exported(*overrides)
    assert header["pipeline_tag"] == task and words in text
    assert ("head" in config["architecture"]) == ("TASK" in overrides)


@pytest.mark.parametrize("overrides", [[], ["TASK", "finetune", "MODEL.NUM_CLASSES", "3"]])
def test_code_of_the_card_runs(exported, overrides):
    folder, _, _, text = exported(*overrides)
    code = text.split("```python\n")[1].split("```")[0]
    names = {"path": str(folder)}
    exec(code, names)
    assert names["tokens"].shape == (1, 8, 24)
    if overrides:
        assert names["scores"].shape == (1, 3)


def test_length_and_data_that_are_not_known_are_not_invented(tmp_path):
    model = build_model(load_config([], TINY[:-4])).eval()
    model.cfg = load_config([], TINY[:-4])
    write_parts(tmp_path, PretrainedParts(model, {}, None), "A model")
    text = (tmp_path / "README.md").read_text()
    for row in ("trained on", "trained for", "weights"):
        assert f"| {row} | not recorded |" in text


# -------------------------------------------------------------------------------------------------- the encoder alone


@pytest.mark.parametrize("overrides", [[], ["TASK", "finetune", "MODEL.NUM_CLASSES", "3"]])
def test_encoder_only(exported, overrides):
    folder, config, header, text = exported(*overrides, encoder_only=True)
    whole, part = load_model(folder.parent / "run.pt"), load_model(folder)
    assert isinstance(part, EncoderModel) and config["class"] == "EncoderModel"
    assert "decoder" not in config["architecture"] and "head" not in config["architecture"]
    assert "feature-extraction" == header["pipeline_tag"] and "encoder alone" in text
    assert config["parameters"] < sum(parameter.numel() for parameter in whole.parameters())
    clip = whole.normalize(torch.randint(256, (2, 3, 4, 16, 16), dtype=torch.uint8))
    assert torch.equal(part.encode(clip), whole.encode(clip))
    again = folder.parent / "again"
    again.mkdir()
    write_parts(again, read_parts(folder), "A model")  # stays what it is
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_classifier_starts_from_an_encoder_and_pre_training_does_not(exported):
    folder, *_ = exported(encoder_only=True)
    for task in ("finetune", "linear", "knn"):
        cfg = load_config([], [*TINY, "TASK", task, "MODEL.NUM_CLASSES", "3", "MODEL.WEIGHTS", str(folder)])
        model = build_model(cfg)
        start_weights(cfg, model)
        assert torch.equal(model.encoder.blocks[0].mlp.fc1.weight, load_model(folder).encoder.blocks[0].mlp.fc1.weight)
    cfg = load_config([], [*TINY, "MODEL.WEIGHTS", str(folder)])
    with pytest.raises(RunError, match="decoder"):
        start_weights(cfg, build_model(cfg))


def test_a_moving_average_is_what_is_exported(tmp_path):
    cfg = load_config([], TINY)
    averaged = build_model(cfg)
    torch.nn.init.normal_(averaged.encoder.norm.weight)
    make_checkpoint(tmp_path / "run.pt", ema=averaged.state_dict(), ema_updates=1500)
    parts = read_parts(tmp_path / "run.pt")
    assert parts.notes["weights"] == "moving average"
    assert torch.equal(parts.model.encoder.norm.weight, averaged.encoder.norm.weight)
