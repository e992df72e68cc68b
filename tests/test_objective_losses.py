"""What the losses of the family compute, each built as a miniature from its shipped recipe.

The network's predictions for a fixed clip and mask are compared with the clip here once more, pixel by pixel, from the
definition alone: which tokens count, which frames of a patch, normalised over what.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffmae_video.build import build_model
from diffmae_video.config import load_config
from diffmae_video.models import make_mask

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SMALL = """MODEL.ENCODER.WIDTH 32 MODEL.ENCODER.DEPTH 2 MODEL.ENCODER.HEADS 2 DATA.CROP_SIZE 64
MODEL.DECODER.WIDTH 16 MODEL.DECODER.DEPTH 2 MODEL.DECODER.HEADS 2""".split()
RECIPES = {
    "mae": "MAE/IN1K_ViT_B.yaml",
    "mae_st": "MAE_ST/K400_ViT_B.yaml",
    "videomae": "VideoMAE/K400_ViT_B.yaml",
    "videomae_v2": "VideoMAE/V2_K400_ViT_B.yaml",
    "diffmae_image": "IN1K/ViT_B.yaml",
    "diffmae_video": "K400/ViT_B.yaml",
    "t_last_image": "IN1K/DiffMAE_t_last_ViT_L.yaml",
    "t_last_video": "K400/DiffMAE_t_last_ViT_L.yaml",
}
SIDE, PATCH = 64, 16
ROWS = SIDE // PATCH  # 4 x 4 tokens of a frame
MAE_ST_FRAMES = (0, 2, 4, 6, 8, 10, 12, 15)  # that its public code predicts of 16
RUNNING = 4  # turns of V2's running cell


class Case:
    """A miniature, a clip of random pixels, a mask, and what the model says to them."""

    def __init__(self, name: str):
        self.cfg = load_config([CONFIGS / RECIPES[name]], SMALL)
        self.model = build_model(self.cfg).eval()
        generator = torch.Generator().manual_seed(1)
        shape = (2, 3, self.cfg.DATA.NUM_FRAMES, SIDE, SIDE)
        self.pixels = torch.rand(shape, generator=generator)  # in [0, 1]
        self.clip = self.model.normalize(self.pixels)
        self.mask = make_mask(self.cfg.MASK.STRATEGY, self.model.grid, self.cfg.MASK.RATIO, 2, generator)
        self.generator = generator

    def run(self, **given):
        return self.model(self.clip, self.mask, generator=self.generator, **given)


@pytest.fixture(params=RECIPES)
def case(request) -> Case:
    return Case(request.param)


def block(clip: torch.Tensor, token: int, frames: int) -> torch.Tensor:
    """Pixels (C, frames, 16, 16) of a token of a clip (C, T, 64, 64): t-major, then row, then column."""
    slot, place = divmod(token, ROWS * ROWS)
    row, column = divmod(place, ROWS)
    rows, columns = (slice(PATCH * i, PATCH * (i + 1)) for i in (row, column))
    return clip[:, slot * frames : (slot + 1) * frames, rows, columns]


def standardised(values: torch.Tensor) -> torch.Tensor:
    values = values.double()
    deviations = values - values.sum() / values.numel()
    return deviations / (deviations.square().sum() / (values.numel() - 1)).sqrt()


def wanted(case: Case, clip: int, token: int) -> torch.Tensor:
    """The target of one token as (frames, rows, columns, C), flattened."""
    frames = case.cfg.MODEL.PATCH_SIZE[0]
    pixels = block(case.clip[clip], token, frames)
    if case.cfg.MODEL.TARGET_FRAMES == "linspace":
        pixels = case.clip[clip][:, MAE_ST_FRAMES[token // ROWS**2]]
        pixels = block(pixels[:, None], token % ROWS**2, 1)
    if case.cfg.MODEL.TARGET == "normalized_per_channel":
        own = block(case.pixels[clip], token, frames)
        pixels = torch.stack([standardised(channel) for channel in own])
    if case.cfg.MODEL.TARGET == "normalized":
        pixels = standardised(pixels)
    return pixels.double().permute(1, 2, 3, 0).flatten()


def expected_loss(case: Case, predictions: torch.Tensor, tokens: list[list[int]]) -> float:
    """Mean over clips, their decoded tokens and the tokens' values of the squared difference."""
    errors = [
        (predictions[clip, k].double() - wanted(case, clip, token)).square().sum() / predictions.shape[-1]
        for clip, own in enumerate(tokens)
        for k, token in enumerate(own)
    ]
    return float(sum(errors) / len(errors))


def hidden_tokens(mask: torch.Tensor) -> list[list[int]]:
    return [[token for token, hidden in enumerate(row) if hidden] for row in mask.tolist()]


def test_the_loss_is_that_of_the_definition(case):
    output = case.run()
    tokens = hidden_tokens(case.mask) if case.cfg.MODEL.DECODER.PREDICT_RATIO == 1 else output.places.tolist()
    assert output.places.tolist() == tokens
    assert output.pred.shape == (2, len(tokens[0]), wanted(case, 0, tokens[0][0]).numel())
    assert output.loss.item() == pytest.approx(expected_loss(case, output.pred.detach(), tokens), rel=1e-4)


def test_how_many_tokens_are_hidden(case):
    """75 % of images and 90 % of clips; tubes hide the same places in every time slot."""
    hidden = case.mask.sum(1).tolist()
    share = hidden[0] / case.mask.shape[1]
    assert hidden[0] == hidden[1]
    if case.cfg.DATA.NUM_FRAMES == 1:
        assert share == 0.75
    else:
        assert abs(share - 0.9) < 0.03
        slots = case.mask.reshape(2, 8, ROWS * ROWS)
        assert bool((slots == slots[:, :1]).all()) == (case.cfg.MASK.STRATEGY == "tube")


def test_v2_decodes_half_of_the_hidden_tokens_by_a_running_cell():
    case = Case("videomae_v2")
    for _ in range(3):
        output = case.run()
        for hidden, places in zip(hidden_tokens(case.mask), output.places.tolist(), strict=True):
            assert len(places) == len(hidden) / 2
            assert any(places == turn(hidden, start) for start in range(RUNNING)), "two of every four slots, in turn"


def turn(hidden: list[int], start: int) -> list[int]:
    """The hidden tokens whose turn it is, two of four places of a cell, moving on by one from slot to slot."""
    chosen = []
    for token in hidden:
        slot, place = divmod(token, ROWS * ROWS)
        row, column = divmod(place, ROWS)
        if (2 * (row % 2) + column % 2 + slot + start) % RUNNING < RUNNING / 2:
            chosen.append(token)
    return chosen


@pytest.mark.parametrize("name", ["diffmae_image", "diffmae_video", "t_last_image", "t_last_video"])
def test_diffmae_noises_hidden_pixels_and_predicts_them_clean(name):
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps enters the decoder; the loss is of x_0, whatever t is."""
    case = Case(name)
    hidden = hidden_tokens(case.mask)
    t = torch.tensor([999, 999]) if name.startswith("t_last") else torch.tensor([40, 700])
    x0 = torch.stack([torch.stack([wanted(case, i, n) for n in own]) for i, own in enumerate(hidden)]).float()
    eps = torch.randn(x0.shape, generator=case.generator)
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64) ** case.cfg.DIFFUSION.RHO, 0)
    signal, noise = abar[t].sqrt().float(), (1 - abar[t]).sqrt().float()
    x_t = signal[:, None, None] * x0 + noise[:, None, None] * eps
    output = case.run(t=t, noise=eps)
    context = case.model.prepare(case.clip, case.mask)
    torch.testing.assert_close(output.pred, case.model.denoise(context, x_t, t), atol=1e-5, rtol=1e-5)
    assert output.loss.item() == pytest.approx((output.pred - x0).square().mean().item(), rel=1e-5)
    if name.startswith("t_last"):
        assert signal.max() < 1e-5 and noise.min() > 0.999999, "no signal is left"
        assert case.run().t.tolist() == [999, 999], "and training draws no other timestep"


def test_at_the_last_step_the_hidden_pixels_are_in_the_target_alone():
    """As in MAE: another picture under the mask changes the loss, not the prediction."""
    case = Case("t_last_video")
    eps = torch.randn(2, int(case.mask[0].sum()), 1536, generator=case.generator)
    first = case.run(noise=eps)
    hidden = case.mask.reshape(2, 1, 8, 1, ROWS, 1, ROWS, 1).expand(2, 3, 8, 2, ROWS, PATCH, ROWS, PATCH)
    hidden = hidden.reshape(case.clip.shape)
    case.clip = torch.where(hidden, 0.2 * case.clip, case.clip)
    second = case.run(noise=eps)
    torch.testing.assert_close(first.pred, second.pred, atol=1e-4, rtol=1e-4)
    assert second.loss < 0.5 * first.loss


def test_every_objective_is_learned(case):
    """A few steps on one clip and mask lower the loss, and every trained parameter takes part."""
    case.model.train()
    optimizer = torch.optim.AdamW(case.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = case.model(case.clip, case.mask, generator=torch.Generator().manual_seed(2)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    idle = [name for name, p in case.model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not idle
