"""LatentDAE from a config to a run: its tokenizer is fitted to the clips, saved, taken along, not fitted twice."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffmae_video.build import DatasetError, build_dataset, build_run, build_trainer, load_model
from diffmae_video.build import latent as build_latent
from diffmae_video.config import load_config
from diffmae_video.data.writing import write_image
from diffmae_video.engine import RunError, TrainingInterrupted, load_checkpoint
from diffmae_video.features import FeatureOptions, encode_video
from diffmae_video.inpainting import inpaint
from diffmae_video.models.patches import patchify
from diffmae_video.models.tokenizers import LinearTokenizer, PCATokenizer, PixelTokenizer

SMALL = (
    "MODEL.NAME LatentDAE DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.CROP_SIZE 32 DATA.DECODE_TIMEOUT 0 "
    "DATA_LOADER.NUM_WORKERS 0 MODEL.PATCH_SIZE [2,8,8] MODEL.ENCODER.WIDTH 24 MODEL.ENCODER.DEPTH 2 "
    "MODEL.ENCODER.HEADS 2 MODEL.DECODER.DEPTH 1 SOLVER.BATCH_SIZE 4 SOLVER.MAX_STEPS 4 SOLVER.BASE_LR 0.1 DEVICE cpu "
    "TRAIN.TENSORBOARD False TRAIN.PRECISION fp32 MODEL.LDAE.LATENT_DIM 12"
).split()
LATENT = "MODEL.LDAE.INPUT latent MODEL.LDAE.OUTPUT latent"


@pytest.fixture
def config(sample_videos, tmp_path):
    """config(name, options): a small run of the sample videos in a folder of that name."""

    def make(name: str, options: str = ""):
        where = ["DATA.PATH_TO_DATA_DIR", str(sample_videos), "OUTPUT_DIR", str(tmp_path / name)]
        return load_config((), [*SMALL, *where, *options.split()])

    return make


@pytest.fixture
def fits(monkeypatch) -> list:
    """The tokenizers that are fitted."""
    seen, fit = [], build_latent.fit_tokenizer

    def record(tokenizer, *arguments, **options):
        seen.append(tokenizer)
        return fit(tokenizer, *arguments, **options)

    monkeypatch.setattr(build_latent, "fit_tokenizer", record)
    return seen


def trained(cfg) -> dict:
    """The newest checkpoint of a run that goes to its end."""
    build_trainer(cfg).run()
    return newest(cfg)


def newest(cfg) -> dict:
    return load_checkpoint(max((Path(cfg.OUTPUT_DIR) / "checkpoints").glob("*.pt")))


def interrupted(cfg, step: int) -> None:
    trainer = build_trainer(cfg)

    def stop(last):
        if trainer.progress.step == step:
            raise KeyboardInterrupt

    trainer._evaluate = stop
    with pytest.raises(TrainingInterrupted):
        trainer.run()


# ---------------------------------------------------------------------------------------------------------------- fit


@pytest.mark.parametrize(
    "options, kind, latent_dim",
    [
        ("", PCATokenizer, 12),
        ("MODEL.LDAE.TOKENIZER pixel MODEL.LDAE.LATENT_DIM 32", PixelTokenizer, 384),
        ("MODEL.LDAE.TOKENIZER patch_ae MODEL.LDAE.FIT_STEPS 20 MODEL.LDAE.RESIDUAL_WEIGHT 1", LinearTokenizer, 12),
        (f"MODEL.LDAE.TOKENIZER patch_vae MODEL.LDAE.FIT_STEPS 20 {LATENT}", LinearTokenizer, 12),
    ],
)
def test_every_tokenizer_is_fitted_before_the_first_step(config, tmp_path, options, kind, latent_dim):
    cfg = config("run", options)
    trainer = build_trainer(cfg)
    tokenizer = build_latent.tokenizer_of(trainer.model)
    assert type(tokenizer) is kind and tokenizer.latent_dim == latent_dim and tokenizer.is_fitted()
    clips = torch.cat(list(build_latent._training_clips(cfg, trainer.model, build_dataset(cfg), 6)))
    latents = tokenizer.encode(patchify(clips, (2, 8, 8)))
    assert latents.var((0, 1)).mean() == pytest.approx(1, rel=0.05)  # of the clips that it was fitted to
    assert (tmp_path / "run" / "tokenizer.png").is_file()
    text = "\n".join(trainer.extra_description)
    assert f"{latent_dim} of 384 values per patch" in text and "of the variance of" in text
    assert ("first components explain: 4: " in text) == (kind is PCATokenizer)
    trainer.run()


def test_only_so_many_clips_are_read(config, caplog):
    with caplog.at_level(logging.INFO):
        text = "\n".join(build_trainer(config("few", "MODEL.LDAE.FIT_CLIPS 3")).extra_description)
    assert "fitted to 128 patches of 4 clips" in text  # whole batches
    assert "to 3 training clips" in caplog.text
    text = "\n".join(build_trainer(config("all")).extra_description)
    assert "of 8 clips" in text  # an epoch has 6
    assert "only 256 patches for principal components of 384 values" in caplog.text


def test_a_mix_of_images_and_videos_is_fitted_together(config, sample_videos, tmp_path):
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        write_image(tmp_path / "images" / f"{number}.png", pixels)
    paths = f'["{sample_videos}","{tmp_path / "images"}"]'
    mix = f"DATA.MIX.PATHS {paths} DATA.MIX.NUM_FRAMES [4,1] DATA.MIX.FORMATS [list,folder]".split()
    trainer = build_trainer(load_config((), [*SMALL, "OUTPUT_DIR", str(tmp_path / "mix"), *mix]))
    text = "\n".join(trainer.extra_description)
    assert "of 12 clips" in text and "fitted to 320 patches" in text  # 32 of a video's clip, 16 of an image
    trainer.run()


def test_clips_that_cannot_be_fitted_to(config, monkeypatch):
    cfg = config("flat", "MODEL.LDAE.LATENT_SCALE component")
    monkeypatch.setattr(build_latent, "_training_clips", lambda *_: iter([torch.full((4, 3, 4, 32, 32), 0.5)] * 3))
    with pytest.raises(RunError, match="TOKENIZER 'pca': 12 of the 12 latent components do not vary"):
        build_trainer(cfg)


# ------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("options", ["", LATENT])
def test_a_run_that_goes_on_is_the_same_run_and_fits_nothing(config, fits, options):
    whole = trained(config("whole", options))
    assert len(fits) == 1
    cfg = config("parts", options)
    interrupted(cfg, 2)
    assert len(fits) == 2
    parts = trained(cfg)
    assert len(fits) == 2
    assert parts["progress"] == whole["progress"] and parts["progress"]["step"] == 4
    for name, value in whole["model"].items():
        assert torch.equal(parts["model"][name], value), name


def test_the_tokenizer_comes_with_the_weights(config, fits, sample_videos):
    first = trained(config("first"))
    again = config("second", f"MODEL.WEIGHTS {Path(config('first').OUTPUT_DIR)} SEED 5")
    trainer = build_trainer(again)
    assert len(fits) == 1
    assert torch.equal(trainer.model.tokenizer.basis, first["model"]["image_tokenizer.basis"])
    assert not any("image_tokenizer" in line for line in trainer.extra_description if "left at" in line)


def test_training_leaves_the_tokenizer_alone(config):
    trainer = build_trainer(config("run", "TRAIN.EMA_DECAY 0.5 SOLVER.WEIGHT_DECAY 0.5"))
    before = {name: value.clone() for name, value in trainer.model.tokenizer.state_dict().items()}
    assert not list(trainer.model.tokenizer.parameters())
    trainer.run()
    state = newest(config("run"))
    for part in ("model", "ema"):
        assert all(torch.equal(state[part][f"image_tokenizer.{name}"], value) for name, value in before.items())


# ------------------------------------------------------------------------------------------------- what it is used for


@pytest.mark.parametrize("options", ["", LATENT])
def test_load_encode_and_extract(config, sample_videos, options):
    cfg = config("run", options)
    trained(cfg)
    model = load_model(cfg.OUTPUT_DIR)
    assert type(model).__name__ == "LatentDAE" and not model.training
    clip = model.normalize(torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8))
    tokens = model.encode(clip)
    assert tokens.shape == (2, 32, 24) and torch.equal(model.encode(clip), tokens)
    features = encode_video(model, sample_videos / "clip_0.mp4", FeatureOptions(sampling_rate=2, layer=-2))
    assert features.features.shape[1] == 24 and np.isfinite(features.features).all()


@pytest.mark.parametrize("options", ["", LATENT])
@pytest.mark.parametrize("task", ["linear", "attentive", "finetune"])
def test_classifiers_start_from_it(config, fits, task, options):
    pretrained = trained(config("run", options))
    layers = "SOLVER.LAYER_DECAY 0.75" if task == "finetune" else ""
    weights = f"MODEL.WEIGHTS {config('run').OUTPUT_DIR} TASK {task} MODEL.NUM_CLASSES 2 {layers} {options}"
    trainer = build_trainer(config(task, weights))
    own = trainer.model.encoder.state_dict()
    for name, value in own.items():
        assert torch.equal(value, pretrained["model"][f"encoder.{name}"]), name
    trainer.run()
    assert len(fits) == 1
    weight = pretrained["model"]["encoder.time_embed.fc1.weight"]
    assert torch.equal(trainer.model.encoder.time_embed.fc1.weight, weight) == (task != "finetune")
    model = load_model(config(task).OUTPUT_DIR)
    assert model(torch.zeros(1, 3, 4, 32, 32)).shape == (1, 2)


def test_nearest_neighbours(config, tmp_path):
    trained(config("run", LATENT))
    build_run(config("knn", f"TASK knn MODEL.WEIGHTS {tmp_path / 'run'} {LATENT} KNN.K 2")).run()
    assert (tmp_path / "knn" / "knn").is_dir()
    with pytest.raises(RunError, match="give the weights of such a run"):
        build_run(config("knn2", f"TASK knn {LATENT} KNN.K 2"))


def test_a_classifier_from_scratch_fits_its_tokenizer(config, fits):
    trainer = build_trainer(config("scratch", f"TASK finetune MODEL.NUM_CLASSES 2 {LATENT}"))
    assert len(fits) == 1 and trainer.model.encoder.patch_embed.tokenizer.is_fitted()
    trainer.run()
    build_trainer(config("plain", "TASK finetune MODEL.NUM_CLASSES 2"))
    assert len(fits) == 1  # an encoder that reads pixels has none


@pytest.mark.parametrize(
    "options, message",
    [
        ("MODEL.NAME DiffMAE MODEL.LDAE.LATENT_DIM 32 MASK.RATIO 0.5", "set MODEL.NAME as in the weights' run"),
        (LATENT, "set MODEL.LDAE.INPUT and MODEL.LDAE.TOKENIZER as in the weights' run"),
        ("DATA.NUM_FRAMES 8 MODEL.PATCH_SIZE [4,8,8]", ""),
    ],
)
def test_weights_of_another_kind(config, options, message):
    trained(config("run"))
    cfg = config("linear", f"TASK linear MODEL.NUM_CLASSES 2 MODEL.WEIGHTS {config('run').OUTPUT_DIR} {options}")
    if not message:
        build_trainer(cfg)  # a longer patch: the embedding of pixels is resized
        return
    with pytest.raises(RunError, match=message):
        build_trainer(cfg)


def test_an_embedding_of_latents_is_not_resized(config):
    trained(config("run", LATENT))
    weights = f"MODEL.WEIGHTS {config('run').OUTPUT_DIR} {LATENT}"
    cfg = config("linear", f"TASK linear MODEL.NUM_CLASSES 2 DATA.NUM_FRAMES 8 MODEL.PATCH_SIZE [4,8,8] {weights}")
    with pytest.raises(RunError, match="belongs to latents of patches of 2x8x8, the model's are of 4x8x8"):
        build_trainer(cfg)


def test_it_does_not_inpaint(config):
    cfg = config("run")
    model = build_trainer(cfg).model
    with pytest.raises(ValueError, match="LatentDAE paints no"):
        inpaint(model, torch.zeros(1, 3, 4, 32, 32), torch.zeros(1, 4, 32, 32, dtype=torch.bool))


# ------------------------------------------------------------------------------------------------------------ classes


CONDITIONED = "MODEL.LDAE.CLASS_CONDITIONING True MODEL.NUM_CLASSES 2"


def test_training_with_labels(config):
    cfg = config("run", CONDITIONED)
    trainer = build_trainer(cfg)
    before = trainer.model.label_embed.weight.detach().clone()
    trainer.run()
    after = load_model(cfg.OUTPUT_DIR).label_embed.weight
    assert (before[:2] != after[:2]).all() and not after[2].any()
    linear = build_trainer(config("linear", f"TASK linear MODEL.NUM_CLASSES 2 MODEL.WEIGHTS {cfg.OUTPUT_DIR}"))
    assert any("label_embed" in line for line in linear.extra_description if "not used" in line)


def test_labels_that_do_not_fit(config, tmp_path, sample_videos):
    (tmp_path / "lists").mkdir()
    lines = [f"{sample_videos}/clip_{number}.mp4" for number in range(4)]
    (tmp_path / "lists" / "train.csv").write_text("".join(f"{line} 3\n" for line in lines))
    with pytest.raises(DatasetError, match="NUM_CLASSES is 2, but .* a video of class 3.*at least 4"):
        build_trainer(config("run", f"{CONDITIONED} DATA.PATH_TO_DATA_DIR {tmp_path / 'lists'}"))
    (tmp_path / "lists" / "train.csv").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(DatasetError, match="no video in .* has a label"):
        build_trainer(config("run", f"{CONDITIONED} DATA.PATH_TO_DATA_DIR {tmp_path / 'lists'}"))


# ----------------------------------------------------------------------------------------------------------- pictures


def test_pictures_of_a_run(config, tmp_path):
    trained(config("run", "TRAIN.VISUALIZE_PERIOD 2"))
    sheets = sorted((tmp_path / "run" / "reconstructions").glob("*.png"))
    assert [sheet.name for sheet in sheets] == ["step_00000002.png", "step_00000004.png"]
    with Image.open(sheets[0]) as sheet:
        assert sheet.height > 7 * 90 and sheet.width > 2 * 3 * 90  # clean and three levels; two clips of three frames


# ---------------------------------------------------------------------------------------------------------------- vae


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_convolutional_vae(config, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, layers_per_block=1,
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "vae")
    tokenizer = f"MODEL.LDAE.TOKENIZER conv_vae MODEL.LDAE.LATENT_DIM 32 MODEL.LDAE.VAE_PATH {tmp_path / 'vae'}"
    cfg = config("run", f"{tokenizer} {LATENT} MODEL.PREDICTION eps MODEL.LDAE.TIME_WEIGHT False {CONDITIONED}")
    trainer = build_trainer(cfg)
    assert trainer.model.tokenizer.latent_dim == 2 * 4 * 4 * 4
    trainer.run()
    state = newest(cfg)["model"]
    saved = {name.partition(".vae.")[2]: value for name, value in state.items() if ".vae." in name}
    assert all(torch.equal(saved[name], value) for name, value in vae.state_dict().items())
    load_model(cfg.OUTPUT_DIR).encode(torch.zeros(1, 3, 4, 32, 32))
    with pytest.raises(RunError, match="VAE_PATH: .*nowhere is no folder with an AutoencoderKL"):
        build_trainer(config("other", tokenizer.replace(str(tmp_path / "vae"), "/nowhere") + f" {LATENT}"))
