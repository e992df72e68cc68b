import json

import numpy as np
import pytest
import torch
from engine_fakes import log_lines, make_trainer
from PIL import Image
from torch import nn

from diffmae_video.build import build_model
from diffmae_video.config import load_config
from diffmae_video.engine import evaluators
from diffmae_video.engine.evaluation import evaluation
from diffmae_video.engine.evaluators import ReconstructionEvaluator
from diffmae_video.engine.monitor import Monitor
from diffmae_video.inpainting import inpaint
from diffmae_video.visualize import trajectory_strip

CLIP = (3, 2, 4, 4)  # that of the fake data


def make_model(**overrides) -> nn.Module:
    keys = {
        "DATA.NUM_FRAMES": 2,
        "DATA.CROP_SIZE": 4,
        "MODEL.PATCH_SIZE": [1, 2, 2],
        "MODEL.ENCODER.WIDTH": 12,
        "MODEL.ENCODER.DEPTH": 2,
        "MODEL.ENCODER.HEADS": 2,
        "MODEL.ENCODER.DROP_PATH": 0.5,
        "MODEL.DECODER.WIDTH": 12,
        "MODEL.DECODER.DEPTH": 1,
        "MODEL.DECODER.HEADS": 2,
        "MASK.RATIO": 0.5,
        "DIFFUSION.STEPS": 1000,
        **overrides,
    }
    return build_model(load_config([], [str(item) for pair in keys.items() for item in pair]))


@pytest.fixture
def data():
    clips = torch.randint(256, (2, *CLIP), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, *CLIP[1:], dtype=torch.bool)
    mask[:, :, :2, :2] = True
    return clips, mask


def test_a_sheet_and_the_psnr_inside_the_mask(tmp_path, data):
    clips, mask = data
    model = make_model().eval()
    evaluator = ReconstructionEvaluator(clips, mask, tmp_path / "reconstructions", period=2, steps=3)
    monitor = Monitor(tmp_path, 8, 8, terminal=False)
    values = evaluator.evaluate(model, 6, monitor)
    error = (inpaint(model, clips, mask, steps=3).double() - clips.double())[mask.unsqueeze(1).expand_as(clips)]
    assert values == {"psnr_hidden": pytest.approx(10 * np.log10(255**2 / error.square().mean().item()))}
    with Image.open(tmp_path / "reconstructions" / "step_00000006.png") as sheet:
        assert sheet.height >= 6 * 4 and sheet.width >= 2 * 4  # 2 clips x 3 rows, 2 frames


@pytest.mark.parametrize("name", ["DiffMAE", "MAE"])
def test_the_denoising_of_the_first_clip_where_there_is_one(tmp_path, data, name, monkeypatch):
    shown, strips = {}, []
    monkeypatch.setattr(evaluators, "trajectory_strip", lambda seen: strips.append(seen) or trajectory_strip(seen))
    monitor = Monitor(tmp_path, 8, 8, terminal=False)
    monkeypatch.setattr(monitor, "record_image", lambda tag, image, step: shown.update({tag: (image, step)}))
    clips, mask = data
    mask[0, :, 2:] = True  # the first clip hides more than the second: they are inpainted one after the other
    model = make_model(**{"MODEL.NAME": name}).eval()
    ReconstructionEvaluator(clips, mask, tmp_path / "reconstructions", period=2, steps=20).evaluate(model, 6, monitor)
    file = tmp_path / "trajectories" / "step_00000006.png"
    if name == "MAE":
        assert list(shown) == ["reconstruction"] and not file.parent.exists()
        return
    assert list(shown) == ["reconstruction", "trajectory"] and shown["trajectory"][1] == 6
    assert np.array_equal(np.asarray(Image.open(file)), shown["trajectory"][0])
    ((trajectory,),) = (strips,)
    assert len(trajectory.steps) == 8 and trajectory.steps[0].t == 999
    filled = inpaint(model, clips, mask, steps=20)[0].permute(1, 2, 3, 0).numpy()
    assert np.array_equal(trajectory.steps[-1].clean, filled)


@pytest.mark.parametrize("name", ["DiffMAE", "MAE"])
def test_training_a_real_model_is_the_same_with_and_without_reconstructions(tmp_path, data, name):
    for folder, periods in (("with", [2]), ("without", [])):
        reconstructions = [
            ReconstructionEvaluator(*data, tmp_path / folder / "sheets", period, steps=2) for period in periods
        ]
        trainer = make_trainer(
            tmp_path / folder, steps=5, model=make_model(**{"MODEL.NAME": name}), evaluators=reconstructions
        )
        trainer.run()
    assert log_lines(tmp_path / "with") == log_lines(tmp_path / "without")
    assert ("loss_t_q1" in "".join(log_lines(tmp_path / "with")[-1])) == (name == "DiffMAE")
    sheets = sorted(path.name for path in (tmp_path / "with" / "sheets").iterdir())
    assert sheets == ["step_00000002.png", "step_00000004.png", "step_00000005.png"]
    lines = (tmp_path / "with" / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 5]


def test_evaluation_puts_modes_gradients_and_randomness_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].eval()  # a part that a task keeps in eval mode
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(ValueError), evaluation(model, torch.device("cpu")):
        assert not model.training and not torch.is_grad_enabled()
        torch.rand(7)
        raise ValueError
    assert model.training and model[0].training and not model[1].training and torch.is_grad_enabled()
    assert torch.equal(torch.rand(3), expected)
