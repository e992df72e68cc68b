"""docs/ldae.md: every row of the deconstruction names a config that has what the row says, and that trains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from diffmae_video.build import build_model
from diffmae_video.build.latent import tokenizer_of
from diffmae_video.config import load_config
from diffmae_video.config.validation import value_of
from diffmae_video.models import LatentDAE
from diffmae_video.models.patches import patchify
from diffmae_video.models.tokenizer_fitting import fit_tokenizer

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "ldae.md"
FOLDER = ROOT / "configs" / "LDAE" / "deconstruction"
ROW = re.compile(r"^\| \[(\w+)\]\(\.\./(\S+)\) \| (.+?) \| (.+?) \| ([\d.]+) \| ([\d.]+|-) \|$", re.MULTILINE)
ROWS = {name: (ROOT / file, keys, accuracy) for name, file, _, keys, accuracy, _ in ROW.findall(PAGE.read_text())}
SMALL = [
    "DATA.CROP_SIZE", "32", "MODEL.PATCH_SIZE", "[1, 16, 16]", "MODEL.ENCODER.WIDTH", "32", "MODEL.ENCODER.DEPTH", "1",
    "MODEL.ENCODER.HEADS", "2", "MODEL.DECODER.DEPTH", "1",
]  # fmt: skip


def test_the_table_has_every_row():
    assert set(ROWS) == {path.stem for path in FOLDER.glob("*.yaml")} and len(ROWS) == 13
    assert [name[:2] for name in ROWS] == [f"{number:02}" for number in range(13)]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_the_keys_that_the_table_says(name):
    file, keys, accuracy = ROWS[name]
    cfg = load_config([file])
    pairs = [pair.split() for pair in re.findall(r"`([^`]+)`", keys)]
    assert pairs and all(str(value_of(cfg, key)) == value for key, value in pairs)
    assert f"the paper: {accuracy} top-1" in file.read_text()


@pytest.mark.parametrize("name", list(ROWS)[1:])
def test_a_row_differs_from_the_one_before_in_what_the_table_says(name):
    names = list(ROWS)
    before, own = (load_config([ROWS[each][0]]) for each in (names[names.index(name) - 1], name))
    told = {pair.split()[0] for pair in re.findall(r"`([^`]+)`", ROWS[name][1])}
    # What belongs to the tokenizer, or to the labels, goes with it.
    told |= {"OUTPUT_DIR"} | (
        {"MODEL.LDAE.VAE_PATH", "MODEL.LDAE.LATENT_SCALE"} if "MODEL.LDAE.TOKENIZER" in told else set()
    )
    told |= {"MODEL.NUM_CLASSES"} if "MODEL.LDAE.CLASS_CONDITIONING" in told else set()
    changed = {key for key in leaves(own) if value_of(own, key) != value_of(before, key)}
    assert changed <= told and len(changed) > 1


def leaves(node, prefix: str = "") -> list[str]:
    found = []
    for key, value in node.items():
        found += leaves(value, f"{prefix}{key}.") if hasattr(value, "items") else [prefix + key]
    return found


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> Path:
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        block_out_channels=(4,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4, layers_per_block=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains(name, request):
    cfg = load_config([ROWS[name][0]], SMALL)
    if cfg.MODEL.LDAE.TOKENIZER == "conv_vae":
        vae_path = ["MODEL.LDAE.VAE_PATH", str(request.getfixturevalue("vae"))]
        cfg = load_config([ROWS[name][0]], [*SMALL, *vae_path])
    model = build_model(cfg)
    assert isinstance(model, LatentDAE)
    clips = torch.rand(24, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    fit_tokenizer(
        tokenizer_of(model), [patchify(clips, model.patch_size)], latent_scale=cfg.MODEL.LDAE.LATENT_SCALE, steps=5
    )
    labels = {"labels": torch.arange(24)} if model.num_classes else {}
    output = model(clips, generator=torch.Generator().manual_seed(1), **labels)
    output.loss.backward()
    assert output.loss.isfinite() and output.pred.shape[:2] == (24, 4)
    assert output.pred.shape[2] == (768 if cfg.MODEL.LDAE.OUTPUT == "image" else model.tokenizer.latent_dim)
    assert model.encode(clips).shape == (24, 4, 32)
