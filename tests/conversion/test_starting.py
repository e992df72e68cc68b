"""What converted weights are for: they open as a model, and training starts from them where the source stood."""

from __future__ import annotations

import re
from pathlib import Path

import foreign_networks as foreign
import pytest
import torch

from diffmae_video import load_model
from diffmae_video.build import build_model, build_trainer
from diffmae_video.build.recognition import start_weights
from diffmae_video.config import dump, load_config, resolve_encoder
from diffmae_video.config.validation import value_of
from diffmae_video.conversion import Options, convert
from diffmae_video.conversion.conventions import DECODER_HEADS, ENCODER_HEADS
from diffmae_video.engine import save_weights
from diffmae_video.models import MAE, VideoClassifier
from diffmae_video.models.encoder_model import EncoderModel

ROOT = Path(__file__).parents[2]
VIDEO = Options(heads=3, decoder_heads=2, frames=8, image_size=32)
HEADS = Options(heads=3, decoder_heads=2)
SHORT = (
    "DEVICE cpu DATA_LOADER.NUM_WORKERS 0 DATA.DECODE_TIMEOUT 0 DATA.SAMPLING_RATE 1 TRAIN.PRECISION fp32 "
    "TRAIN.TENSORBOARD False SOLVER.BATCH_SIZE 4 SOLVER.MAX_STEPS 2 SOLVER.WARMUP_EPOCHS 0 SOLVER.BASE_BATCH_SIZE 4 "
    "SOLVER.BASE_LR 1e-3 TRAIN.AUTO_RESUME False"
).split()
SOURCES = {
    "mae": (foreign.mae_state, HEADS, foreign.mae),
    "mae_st": (foreign.mae_st_state, HEADS, lambda state, clip, mask: foreign.mae_st(state, clip, mask, (0, 2, 4, 7))),
    "slowfast": (foreign.slowfast_state, HEADS, foreign.slowfast),
    "videomae": (foreign.videomae_state, VIDEO, foreign.videomae),
}
FAMILIES = {"slowfast": "mae_st"}  # what --from calls it, where that is another name


def pairs(settings):
    return [word for setting in settings.items() for word in setting]


def write(path, conversion, build):
    """A weights file, as tools/convert_weights.py writes it."""
    model = build(conversion)
    part = {"part": "encoder"} if conversion.is_encoder_alone else {}
    save_weights(path, model.state_dict(), dump(model.cfg), **part)
    return path


def start(settings, path, *overrides):
    """(a model of the settings with the weights at ``path``, the lines of the log)."""
    cfg = load_config([], [*pairs(settings), *overrides, "MODEL.WEIGHTS", str(path)])
    model = build_model(cfg)
    return model, start_weights(cfg, model)[1]


@pytest.mark.parametrize("name", SOURCES)
def test_training_goes_on_from_the_sources_loss(build, sample_videos, tmp_path, name):
    """The first loss on a rendered clip is the one that the source network has for it under the same mask."""
    make, options, reference = SOURCES[name]
    state = make()
    conversion = convert(FAMILIES.get(name, name), state, options)
    path = write(tmp_path / "w.safetensors", conversion, build)
    folders = ["DATA.PATH_TO_DATA_DIR", str(sample_videos), "OUTPUT_DIR", str(tmp_path / "run")]
    cfg = load_config([], [*pairs(conversion.settings), *SHORT, *folders, "MODEL.WEIGHTS", str(path)])
    trainer = build_trainer(cfg)
    seen = []
    hook = trainer.model.register_forward_hook(
        lambda _, args, output: seen.append((args[0], output.mask, output.loss.detach()))
    )
    trainer.run()
    hook.remove()
    clip, mask, loss = seen[0]
    with torch.no_grad():
        expected = reference(state, clip[:, :, 0] if name == "mae" else clip, mask).loss
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        after = trainer.model(clip, mask).loss
    assert len(seen) == 2 and torch.isfinite(after) and after < loss, "two steps on clips like this one"
    assert build(conversion)(clip, mask).loss == loss, "the weights were those of the file"


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_opens_as_the_model(build, tmp_path, name):
    make, options, _ = SOURCES[name]
    conversion = convert(FAMILIES.get(name, name), make(), options)
    model = load_model(write(tmp_path / "w.safetensors", conversion, build))
    assert isinstance(model, MAE)
    clip = torch.randn(1, *model.clip_shape)
    assert torch.equal(model.encode(clip), build(conversion).encode(clip))


@pytest.mark.parametrize("name", SOURCES)
def test_fine_tuning_starts_from_a_pretrained_network(build, tmp_path, name):
    make, options, _ = SOURCES[name]
    conversion = convert(FAMILIES.get(name, name), make(), options)
    path = write(tmp_path / "w.safetensors", conversion, build)
    settings = {key: value for key, value in conversion.settings.items() if key.startswith(("DATA.", "MODEL.ENC"))}
    settings["MODEL.PATCH_SIZE"] = conversion.settings["MODEL.PATCH_SIZE"]
    model, lines = start(settings, path, "TASK", "finetune", "MODEL.NUM_CLASSES", "4")
    clip = torch.randn(1, *model.clip_shape)
    assert torch.equal(model.encoder.blocks[2].mlp.fc2.weight, conversion.tensors["encoder.blocks.2.mlp.fc2.weight"])
    assert model.eval()(clip).shape == (1, 4)
    assert any(line.startswith("in the weights, not used") and "decoder" in line for line in lines)


def test_fine_tuning_from_images_to_video(build, tmp_path):
    """MAE's encoder on clips: its patches are inflated, and time begins at zero."""
    conversion = convert("mae", foreign.mae_state(decoder=False, learned=True), HEADS)
    path = write(tmp_path / "w.safetensors", conversion, build)
    settings = conversion.settings | {
        "TASK": "finetune",
        "MODEL.NUM_CLASSES": 4,
        "DATA.NUM_FRAMES": 8,
        "MODEL.PATCH_SIZE": [2, 8, 8],
    }
    model, lines = start(settings, path)
    assert any("patch of 1 -> 2 frames" in line for line in lines)
    assert model.encoder.position.time.shape == (4, 48) and not model.encoder.position.time.any()


@pytest.mark.parametrize("task", ["knn", "finetune", "linear", "pretrain"])
def test_every_task_starts_from_an_encoder_alone(build, tmp_path, task):
    conversion = convert("mae", foreign.mae_state(decoder=False), HEADS)
    path = write(tmp_path / "w.safetensors", conversion, build)
    assert isinstance(load_model(path), EncoderModel)
    more = {"MODEL.NAME": "MAE", "MODEL.NUM_CLASSES": 0} if task == "pretrain" else {"MODEL.NUM_CLASSES": 4}
    decoder = {"MODEL.DECODER.DEPTH": 2, "MODEL.DECODER.WIDTH": 32, "MODEL.DECODER.HEADS": 2}
    model, lines = start(conversion.settings | {"TASK": task} | more | decoder, path)
    weight = conversion.tensors["encoder.blocks.0.attn.qkv.weight"]
    assert torch.equal(model.encoder.blocks[0].attn.qkv.weight, weight)
    fresh = "decoder" if task == "pretrain" else "head"
    assert any(line.startswith("left at initial values") and fresh in line for line in lines), lines


@pytest.mark.parametrize("classes, is_kept", [(5, True), (9, False)])
def test_a_classifier_keeps_its_head_or_gets_a_new_one(build, tmp_path, classes, is_kept):
    conversion = convert("videomae", foreign.videomae_classifier(), Options(heads=3, frames=8, image_size=32))
    path = write(tmp_path / "w.safetensors", conversion, build)
    assert isinstance(load_model(path), VideoClassifier)
    model, _ = start(conversion.settings | {"MODEL.NUM_CLASSES": classes}, path)
    assert model.head.classifier.weight.shape == (classes, 48)
    kept = classes == 5 and torch.equal(model.head.classifier.weight, conversion.tensors["head.classifier.weight"])
    assert kept is is_kept


def test_starting_with_other_heads_or_pixels_is_refused(build, tmp_path):
    conversion = convert("videomae", foreign.videomae_state(), VIDEO)
    path = write(tmp_path / "w.safetensors", conversion, build)
    for key, value in (("MODEL.ENCODER.HEADS", 4), ("DATA.MEAN", [0.5] * 3), ("MODEL.ENCODER.POSITION", "sincos")):
        with pytest.raises(RuntimeError, match=f"was trained with {key}"):
            start(conversion.settings | {key: value}, path)


# ------------------------------------------------------------------------------------------------ the shipped recipes

SIZES = ("WIDTH", "DEPTH", "HEADS", "NUM_FRAMES", "CROP_SIZE", "PATCH_SIZE")
PAGE = (ROOT / "docs" / "conversion.md").read_text()
# What the page adds to a recipe of MAE-ST.
FROM_SLOWFAST = re.search(r"(MODEL.TARGET_FRAMES first .*?) DATA.PATH", PAGE, re.DOTALL)[1].replace("\\", " ").split()
RECIPES = sorted(
    (family, path)
    for family, folder in (("mae", "MAE"), ("mae_st", "MAE_ST"), ("slowfast", "MAE_ST"), ("videomae", "VideoMAE"))
    for path in (ROOT / "configs" / folder).glob("*ViT_?.yaml")
)


@pytest.mark.parametrize("family, path", RECIPES, ids=lambda value: getattr(value, "stem", value))
def test_recipes_are_those_of_the_converted_weights(family, path):
    """Pre-training and fine-tuning go on from them without a setting that the page does not name."""
    cfg = load_config([path])
    pretrains = cfg.TASK == "pretrain"
    if family == "slowfast" and pretrains:
        cfg = load_config([path], FROM_SLOWFAST)
    make, options, _ = SOURCES[family]
    settings = convert(FAMILIES.get(family, family), make(), options).settings
    for key, value in settings.items():
        of_pretraining = key.startswith(("MODEL.DECODER", "MODEL.TARGET", "MASK.", "MODEL.NAME", "TASK"))
        if key.endswith(SIZES) or key == "DATA.SAMPLING_RATE" or (of_pretraining and not pretrains):
            continue
        assert value_of(cfg, key) == value, key
    if pretrains:
        assert DECODER_HEADS[family][cfg.MODEL.DECODER.WIDTH] == cfg.MODEL.DECODER.HEADS
    assert ENCODER_HEADS[resolve_encoder(cfg)[0]] == resolve_encoder(cfg)[2]
