import numpy as np
import pytest
import torch
from PIL import Image

from diffmae_video.build import build_model
from diffmae_video.config import load_config
from diffmae_video.engine.denoising import DenoisingEvaluator, levels
from diffmae_video.engine.monitor import Monitor
from diffmae_video.models.patches import patchify

KEYS = (
    "MODEL.NAME LatentDAE DATA.NUM_FRAMES 2 DATA.CROP_SIZE 8 MODEL.PATCH_SIZE [1,4,4] MODEL.ENCODER.WIDTH 24 "
    "MODEL.ENCODER.DEPTH 1 MODEL.ENCODER.HEADS 2 MODEL.DECODER.DEPTH 1 MODEL.LDAE.LATENT_DIM 8 "
    "DIFFUSION.SCHEDULE linear_sigma"
).split()


def make_model(*overrides: str) -> torch.nn.Module:
    model = build_model(load_config([], [*KEYS, *overrides])).eval()
    model.tokenizer.finish(torch.ones(8), "global")
    return model


@pytest.fixture
def clips():
    return torch.randint(256, (3, 3, 2, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_sheet_and_the_psnr_of_every_level(tmp_path, clips):
    model = make_model()
    evaluator = DenoisingEvaluator(clips, tmp_path / "reconstructions", period=2, seed=3)
    values = evaluator.evaluate(model, 6, Monitor(tmp_path, 8, 8, terminal=False))
    assert list(values) == ["psnr_t200", "psnr_t500", "psnr_t899"]
    clean = model.normalize(clips)
    generators = [torch.Generator().manual_seed(3 + i) for i in range(3)]
    _, denoised = model.reconstruct(clean, torch.full((3,), 500), generators)
    error = (model.denormalize(denoised).clamp(0, 1) - clips / 255).square().mean()
    assert values["psnr_t500"] == pytest.approx(-10 * np.log10(error.item()), abs=1e-3)
    with Image.open(tmp_path / "reconstructions" / "step_00000006.png") as sheet:
        pixels = np.asarray(sheet)
    rows, columns = 7, 6  # clean, three levels of two rows; three clips of two frames
    height, width = (pixels.shape[0] - 6) / rows, 96 + 6
    assert height == pytest.approx(96 + 6, abs=1) and pixels.shape[1] > columns * width
    again = evaluator.evaluate(model, 8, Monitor(tmp_path, 8, 8, terminal=False))
    assert again == values  # the same noise


def test_a_perfect_prediction_has_no_error(tmp_path, clips, monkeypatch):
    model = make_model()
    monkeypatch.setattr(model, "denoise", lambda z_t, t: patchify(model.normalize(clips), model.patch_size))
    values = DenoisingEvaluator(clips, tmp_path, period=2).evaluate(model, 1, Monitor(tmp_path, 8, 8, terminal=False))
    assert min(values.values()) > 100


def test_levels_lie_in_the_range_of_training():
    assert levels(make_model("DIFFUSION.TRAIN_RANGE", "[0.5, 0.5]")) == [500]
    assert levels(make_model("DIFFUSION.TRAIN_RANGE", "[0.5, 1.0]")) == [599, 749, 949]
