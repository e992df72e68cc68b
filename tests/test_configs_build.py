"""Every shipped config loads, passes validation, builds its model, and says in its header what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffmae_video.build import build_model
from diffmae_video.config import get_cfg, load_config, mask_mix
from diffmae_video.models import VideoClassifier

ROOT = Path(__file__).resolve().parents[1]
ALL = sorted((ROOT / "configs").rglob("*.yaml"))
RECIPES = [path for path in ALL if not path.name.startswith("_")]
MILLION = 1e6


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def header(path: Path) -> str:
    """The comment lines at the top of a file, without their marks, on one line."""
    lines = path.read_text().splitlines()
    end = next(i for i, line in enumerate(lines + [""]) if not line.startswith("#"))
    return " ".join(line.lstrip("# ").strip() for line in lines[:end])


def meta_model(cfg) -> torch.nn.Module:
    """The model with shapes but no memory: ViT-H takes no longer than ViT-S."""
    with torch.device("meta"):
        return build_model(cfg)


def test_there_are_configs():
    names = {name_of(path) for path in RECIPES}
    assert {f"configs/{name}" for name in ("K400/ViT_L.yaml", "SSv2/ViT_B.yaml", "IN1K/ViT_H.yaml")} <= names


@pytest.fixture(scope="session")
def vae(tmp_path_factory) -> Path:
    """A folder with a tiny VAE of the shape that latent diffusion uses: 8 times smaller, 4 channels."""
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("vae")
    diffusers.AutoencoderKL(
        block_out_channels=(4,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4, layers_per_block=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter:UserWarning")
@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_config_builds_its_model(path, request):
    cfg = load_config([path])
    if cfg.MODEL.LDAE.TOKENIZER == "conv_vae":  # what its VAE_PATH names is not part of the repository
        cfg = load_config([path], ["MODEL.LDAE.VAE_PATH", str(request.getfixturevalue("vae"))])
    model = meta_model(cfg)
    channels, frames, height, width = model.clip_shape
    assert (frames, height, width) == (cfg.DATA.NUM_FRAMES, cfg.DATA.CROP_SIZE, cfg.DATA.CROP_SIZE)
    assert channels == 3 and tuple(model.patch_size) == tuple(cfg.MODEL.PATCH_SIZE)
    assert all(parameter.is_meta for parameter in model.parameters())
    if cfg.TASK == "pretrain":
        assert type(model).__name__ == cfg.MODEL.NAME
    else:
        assert isinstance(model, VideoClassifier)
        assert model.num_classes == cfg.MODEL.NUM_CLASSES > 0
        assert model.frozen == (cfg.TASK in ("linear", "attentive", "knn"))


def test_recognition_starts_from_another_recipe_that_fits():
    """What MODEL.WEIGHTS names is the folder of a shipped recipe: the same clips, network and pixels."""
    sources = {cfg.OUTPUT_DIR: cfg for cfg in map(load_config, RECIPES)}
    for path in RECIPES:
        cfg = load_config([path])
        if cfg.TASK == "pretrain" or "configs/evidence/" in name_of(path) or "configs/demo/" in name_of(path):
            continue
        source = sources[cfg.MODEL.WEIGHTS]
        assert (source.TASK == "finetune") if cfg.TASK == "test" else (source.TASK == "pretrain"), path
        assert source.MODEL.PATCH_SIZE == cfg.MODEL.PATCH_SIZE, path
        for key in ("NUM_FRAMES", "CROP_SIZE", "MEAN", "STD"):
            assert source.DATA[key] == cfg.DATA[key], (path, key)
        if cfg.TASK == "test":
            assert source.MODEL.NUM_CLASSES == cfg.MODEL.NUM_CLASSES, path
        else:
            shapes = [
                {name: tensor.shape for name, tensor in meta_model(each).encoder.state_dict().items()}
                for each in (source, cfg)
            ]
            shared = set(shapes[0]) & set(shapes[1])
            assert {name for name in set(shapes[0]) ^ set(shapes[1])} <= {"norm.weight", "norm.bias"}, path
            assert all(shapes[0][name] == shapes[1][name] for name in shared), path


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_header_says_how_to_run_it_and_whether_it_was(path):
    text = header(path)
    assert f"python tools/run_net.py --cfg {name_of(path)}" in text, "the command that runs this very file"
    assert "Hardware:" in text and "Expect:" in text
    assert "Run here:" in text, "whether this file was ever run, and what came out"


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_page_of_the_data_exists(path):
    page = load_config([path]).DATA.PAGE
    assert (ROOT / page).is_file(), f"{page} prepares this dataset, but is not there"


def test_default_page_exists():
    assert (ROOT / get_cfg().DATA.PAGE).is_file()


def test_every_recipe_has_a_folder_of_its_own():
    folders = [load_config([path]).OUTPUT_DIR for path in RECIPES]
    assert len(set(folders)) == len(folders), "two recipes would write, and resume, in one folder"


def test_kinetics_recipe_is_the_published_setting():
    """16 x 4 frames, 224, patch 2 x 16 x 16, tube 90 %, ViT-L, cross-self decoder 8 x 512: what the README promises."""
    cfg = load_config([ROOT / "configs/K400/ViT_L.yaml"])
    data, model, solver = cfg.DATA, cfg.MODEL, cfg.SOLVER
    assert (data.NUM_FRAMES, data.SAMPLING_RATE, data.CROP_SIZE, data.REPEATED_SAMPLING) == (16, 4, 224, 4)
    assert (model.NAME, model.PREDICTION, model.TARGET, model.PATCH_SIZE) == ("DiffMAE", "x0", "raw", [2, 16, 16])
    assert (cfg.MASK.STRATEGY, cfg.MASK.RATIO) == ("tube", 0.9)
    assert (model.ENCODER.SIZE, model.DECODER.TYPE, model.DECODER.DEPTH, model.DECODER.WIDTH) == (
        "large", "cross_self", 8, 512,
    )  # fmt: skip
    assert cfg.DIFFUSION.SCHEDULE == "linear" and cfg.DIFFUSION.STEPS == 1000 and cfg.DIFFUSION.RHO < 1
    assert (solver.BETAS, solver.WEIGHT_DECAY, cfg.TRAIN.PRECISION) == ([0.9, 0.95], 0.05, "bf16")
    assert 0 < solver.WARMUP_EPOCHS < solver.EPOCHS
    mirrored = load_config([ROOT / "configs/SSv2/ViT_B.yaml"])
    assert not mirrored.DATA.HORIZONTAL_FLIP and mirrored.DATA.SAMPLING_RATE == 2


def test_kinetics_recipe_shrinks_with_a_few_overrides():
    """The same file on a laptop: a tiny width, few steps, a small batch."""
    overrides = "MODEL.ENCODER.WIDTH 64 MODEL.ENCODER.DEPTH 8 SOLVER.BATCH_SIZE 8 SOLVER.MAX_STEPS 3".split()
    cfg = load_config([ROOT / "configs/K400/ViT_L.yaml"], overrides)
    assert sum(parameter.numel() for parameter in meta_model(cfg).encoder.parameters()) < 2 * MILLION


@pytest.mark.parametrize("name", ["motion_set", "K400_ViT_L"])
def test_inpainting_recipes_train_under_every_mask_and_average_the_weights(name):
    cfg = load_config([ROOT / f"configs/inpaint/{name}.yaml"])
    assert {row.strategy for row in mask_mix(cfg)} == {"random", "tube", "block", "center", "frame"}
    assert cfg.MODEL.TARGET == "raw" and cfg.TRAIN.EMA_DECAY > 0.99
    base = load_config([ROOT / {"motion_set": "configs/demo/pretrain.yaml"}.get(name, "configs/K400/ViT_L.yaml")])
    assert cfg.MODEL.INPUT_SCALING == "wiener"
    model = base.MODEL.clone()
    model.defrost()
    model.INPUT_SCALING = "wiener"
    assert cfg.MODEL == model and cfg.SOLVER == base.SOLVER and cfg.DATA == base.DATA
