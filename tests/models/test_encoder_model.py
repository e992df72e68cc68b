"""The encoder alone gives the tokens of the whole model."""

from __future__ import annotations

import pytest
import torch

from diffmae_video.build import build_model
from diffmae_video.config import load_config
from diffmae_video.models.encoder_model import EncoderModel

TINY = [
    "DATA.NUM_FRAMES", "4", "DATA.CROP_SIZE", "16", "MODEL.PATCH_SIZE", "[2, 8, 8]",
    "DATA.MEAN", "[0.4, 0.45, 0.5]", "DATA.STD", "[0.2, 0.25, 0.3]", "MODEL.TARGET", "normalized", "MASK.RATIO", "0.5",
    "MODEL.ENCODER.WIDTH", "24", "MODEL.ENCODER.DEPTH", "2", "MODEL.ENCODER.HEADS", "2",
    "MODEL.DECODER.WIDTH", "24", "MODEL.DECODER.DEPTH", "1", "MODEL.DECODER.HEADS", "2",
]  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [
        ["MODEL.NAME", "DiffMAE"],
        ["MODEL.NAME", "MAE", "MODEL.ENCODER.CLASS_TOKEN", "True"],
        ["TASK", "finetune", "MODEL.NUM_CLASSES", "3"],
        ["TASK", "attentive", "MODEL.NUM_CLASSES", "3"],
    ],
    ids=["DiffMAE", "MAE", "finetune", "attentive"],
)
def test_tokens_are_those_of_the_whole_model(overrides):
    model = build_model(load_config([], [*TINY, *overrides])).eval()
    encoder = EncoderModel.of(model)
    assert (encoder.clip_shape, encoder.patch_size, encoder.grid) == ((3, 4, 16, 16), (2, 8, 8), (2, 2, 2))
    assert not encoder.training
    pixels = torch.randint(256, (2, 3, 4, 16, 16), dtype=torch.uint8)
    clip = encoder.normalize(pixels)
    assert torch.equal(clip, model.normalize(pixels))
    assert torch.equal(encoder.encode(clip), model.encode(clip)) and torch.equal(encoder(clip), model.encode(clip))


def test_its_state_dict_is_a_part_of_the_whole_one():
    model = build_model(load_config([], TINY))
    whole, part = model.state_dict(), EncoderModel.of(model).state_dict()
    assert set(part) == {name for name in whole if name.startswith(("encoder.", "pixel_"))}
    assert all(torch.equal(value, whole[name]) for name, value in part.items())
