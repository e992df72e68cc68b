"""Filling hidden pixels of clips: what is read, what is returned, and how often the network runs."""

import pytest
import torch
from inpainting_fakes import CLIP, build, pixel_mask, pixels

from diffmae_video.baselines import interpolate_in_time
from diffmae_video.inpainting import inpaint


@pytest.mark.parametrize("kind", ["DiffMAE", "MAE"])
@pytest.mark.parametrize("decoder", ["cross_self", "cross", "joint"])
def test_visible_pixels_come_back_and_hidden_ones_are_never_read(decoder, kind):
    model = build(decoder, kind)
    clip, mask = pixels(), pixel_mask()
    result = inpaint(model, clip, mask, steps=4)
    hidden = mask.unsqueeze(1).expand_as(clip)
    assert result.dtype == torch.uint8 and torch.equal(result[~hidden], clip[~hidden])
    other = torch.where(hidden, pixels(seed=9), clip)
    assert torch.equal(inpaint(model, other, mask, steps=4), result)


def test_float_clips_keep_range_and_type():
    model = build()
    clip = pixels().float() / 127.5 - 1
    result = inpaint(model, clip, pixel_mask(), steps=3)
    assert result.dtype == torch.float32 and result.abs().max() <= 1
    as_uint8 = inpaint(model, pixels(), pixel_mask(), steps=3)
    torch.testing.assert_close(result, as_uint8.float() / 127.5 - 1, atol=0.0041, rtol=0)


def test_seeds_differ_and_do_not_depend_on_the_batch():
    model = build()
    clip, mask = pixels(3), pixel_mask(3)
    mask[1, 0, 20, 20] = True  # another number of hidden patches than its neighbours
    together = inpaint(model, clip, mask, steps=3, sampler="ddpm", seed=7)
    for i in range(3):
        alone = inpaint(model, clip[i : i + 1], mask[i : i + 1], steps=3, sampler="ddpm", seed=7 + i)
        assert (alone[0].int() - together[i].int()).abs().max() <= 1
    assert not torch.equal(inpaint(model, clip, mask, steps=3, seed=100), together)


def test_a_clip_with_nothing_hidden_is_unchanged():
    mask = pixel_mask()
    mask[1] = False
    clip = pixels()
    assert torch.equal(inpaint(build(), clip, mask, steps=2)[1], clip[1])


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_the_encoder_and_the_keys_and_values_run_once(steps):
    model = build("cross_self")
    calls = {"encoder": 0, "kv": 0, "decoder": 0}

    def count(name):
        return lambda *_: calls.__setitem__(name, calls[name] + 1)

    model.encoder.blocks[0].register_forward_hook(count("encoder"))
    model.decoder.head.register_forward_hook(count("decoder"))
    for block in model.decoder.blocks:
        block.cross.kv.register_forward_hook(count("kv"))
    inpaint(model, pixels(), pixel_mask(), steps=steps, overlap="none")
    assert calls == {"encoder": 1, "kv": len(model.decoder.blocks), "decoder": steps}


def test_wrong_inputs_are_refused():
    model = build()
    with pytest.raises(ValueError, match="nothing to fill"):
        inpaint(model, pixels(), torch.ones(2, *CLIP[1:], dtype=torch.bool))
    with pytest.raises(ValueError, match="bool mask"):
        inpaint(model, pixels(), pixel_mask(1))
    with pytest.raises(ValueError, match="inpaint_video"):
        inpaint(model, pixels()[..., :16], pixel_mask()[..., :16])
    with pytest.raises(ValueError, match="normalised targets"):
        inpaint(build(target="normalized"), pixels(), pixel_mask())


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
def test_visible_pixels_of_hidden_patches_steer_the_result(sampler):
    """And only those: with every pixel of a hidden patch hidden there is nothing to steer with."""
    model = build()
    clip, mask = pixels(1), pixel_mask(1)
    inside = torch.zeros_like(mask)
    inside[:, :, :8, :8] = True
    inside &= ~mask  # visible pixels of one of the hidden patches
    other = torch.where(inside.unsqueeze(1), 255 - clip, clip)
    options = {"steps": 4, "sampler": sampler}
    assert torch.equal(
        inpaint(model, clip, mask, impute=False, **options)[mask.unsqueeze(1).expand_as(clip)],
        inpaint(model, other, mask, impute=False, **options)[mask.unsqueeze(1).expand_as(clip)],
    )
    hidden = mask.unsqueeze(1).expand_as(clip)
    assert not torch.equal(
        inpaint(model, clip, mask, **options)[hidden], inpaint(model, other, mask, **options)[hidden]
    )
    whole = torch.zeros_like(mask)
    whole[:, :, 8:16, 8:16] = True
    assert torch.equal(inpaint(model, clip, whole, **options), inpaint(model, clip, whole, impute=False, **options))


def test_steps_are_reported_with_the_visible_pixels_in_place():
    model, clip, mask, steps = build(), pixels(3), pixel_mask(3), []
    mask[1, 0, 20, 20] = True  # a group of its own
    result = inpaint(model, clip, mask, steps=3, on_step=steps.append)
    assert [(step.rows, step.number, step.total, step.t) for step in steps] == [
        ([0, 1, 2], 1, 3, 999), ([0, 1, 2], 2, 3, 666), ([0, 1, 2], 3, 3, 332),
    ]  # fmt: skip
    for step in steps:
        rows = list(step.rows)
        visible = ~mask[rows].unsqueeze(1).expand_as(step.clean)
        for picture in (step.noisy, step.clean):
            assert picture.shape == clip[rows].shape and 0 <= picture.min() and picture.max() <= 1
            torch.testing.assert_close(picture[visible], clip[rows].float()[visible] / 255)
        if step.number == 3:
            torch.testing.assert_close(step.clean, result[rows].float() / 255, atol=0.003, rtol=0)


@pytest.mark.parametrize("name", ["DiffMAE", "MAE"])
def test_every_second_frame_missing_is_filled_in_two_passes(name):
    model, clip = build(name=name), pixels(2)
    mask = torch.zeros(2, *CLIP[1:], dtype=torch.bool)
    mask[:, 1::2] = True  # no patch of two frames is whole
    calls = []
    model.decoder.head.register_forward_hook(lambda *_: calls.append(1))
    result = inpaint(model, clip, mask, steps=3, overlap="none")
    assert len(calls) == (6 if name == "DiffMAE" else 2)
    hidden = mask.unsqueeze(1).expand_as(clip)
    assert torch.equal(result[~hidden], clip[~hidden])
    other = torch.where(hidden, pixels(2, seed=5), clip)
    assert torch.equal(inpaint(model, other, mask, steps=3, overlap="none"), result), "hidden pixels were read"
    filled = interpolate_in_time(clip.float(), mask)
    assert (result.float() - filled)[hidden].abs().mean() > 5, "the interpolation is replaced everywhere"


def test_bfloat16_computes_nearly_the_same():
    model, clip, mask = build(), pixels(), pixel_mask()
    with torch.autocast("cpu", torch.bfloat16):
        result = inpaint(model, clip, mask, steps=3)
    assert result.dtype == torch.uint8 and (result.int() - inpaint(model, clip, mask, steps=3).int()).abs().max() < 12


def test_sampling_options_reach_the_chain():
    model, clip, mask = build(), pixels(), pixel_mask()
    torch.nn.init.normal_(model.decoder.head.weight, std=5)  # beyond the range of pixels, for the threshold
    base = inpaint(model, clip, mask, steps=6)
    for options in (
        {"eta": 0.5},
        {"spacing": "karras"},
        {"threshold": 0.7},
        {"sampler": "dpmpp_2m"},
        {"overlap": "none"},
    ):
        assert not torch.equal(inpaint(model, clip, mask, steps=6, **options), base), options
