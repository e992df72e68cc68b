"""Filling hidden pixels: what is read, what is returned, and how often the network runs."""

import numpy as np
import pytest
import torch

from diffmae_video.build import build_model
from diffmae_video.config import from_dict
from diffmae_video.inpainting import inpaint, inpaint_video

CLIP = (3, 4, 24, 24)


def build(decoder="cross_self", name="DiffMAE", target="raw"):
    return build_model(
        from_dict(
            {
                "DATA": {"NUM_FRAMES": CLIP[1], "CROP_SIZE": CLIP[2]},
                "MODEL": {
                    "NAME": name,
                    "TARGET": target,
                    "PATCH_SIZE": [2, 8, 8],
                    "ENCODER": {"WIDTH": 24, "DEPTH": 3, "HEADS": 2},
                    "DECODER": {"TYPE": decoder, "WIDTH": 16, "DEPTH": 2, "HEADS": 2},
                },
                "MASK": {"RATIO": 0.5},
            }
        )
    ).eval()


def pixel_mask(batch=2):
    mask = torch.zeros(batch, *CLIP[1:], dtype=torch.bool)
    mask[:, :, 3:12, 5:14] = True
    return mask


def pixels(batch=2, seed=0):
    return torch.randint(0, 256, (batch, *CLIP), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


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
    mask[1, 0, 0, 0] = True  # another number of hidden patches than its neighbours
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
    model.decoder.register_forward_hook(count("decoder"))
    for block in model.decoder.blocks:
        block.cross.kv.register_forward_hook(count("kv"))
    inpaint(model, pixels(), pixel_mask(), steps=steps)
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


# -------------------------------------------------------------------------------------------------- any size and length


def video(frames, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("fit", ["resize", "native"])
@pytest.mark.parametrize("shape", [(1, 9, 13), (4, 24, 24), (11, 50, 31), (6, 33, 70)])
def test_any_size_and_length_leaves_visible_pixels_alone_and_hidden_ones_unread(shape, fit):
    model = build()
    frames, mask = video(*shape), np.zeros(shape, dtype=bool)
    mask[:, 1 : 1 + shape[1] // 5, 1 : 1 + shape[2] // 5] = True
    result = inpaint_video(model, frames, mask, steps=2, fit=fit)
    assert result.shape == frames.shape and result.dtype == np.uint8
    assert np.array_equal(result[~mask], frames[~mask])
    other = np.where(mask[..., None], 255 - frames, frames)
    assert np.array_equal(inpaint_video(model, other, mask, steps=2, fit=fit), result)


def test_a_video_of_the_models_size_is_one_clip():
    model = build(name="MAE")
    frames = pixels(1)[0].permute(1, 2, 3, 0).numpy()
    mask = pixel_mask(1)
    expected = inpaint(model, pixels(1), mask)[0].permute(1, 2, 3, 0).numpy()
    result = inpaint_video(model, frames, mask[0].numpy())
    assert np.abs(result.astype(int) - expected).max() <= 1


def test_windows_overlap_and_report_progress():
    model = build(name="MAE")
    seen = []
    frames, mask = video(10, 24, 24), np.zeros((10, 24, 24), dtype=bool)
    mask[:, :8] = True
    inpaint_video(model, frames, mask, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 4) for i in range(1, 5)]  # starts 0, 2, 4, 6 of 10 frames in clips of 4


def test_a_window_without_anything_visible_says_what_to_do():
    mask = np.zeros((4, 60, 60), dtype=bool)
    mask[:, :40] = True
    with pytest.raises(ValueError, match='fit="resize"'):
        inpaint_video(build(), video(4, 60, 60), mask, steps=1, fit="native")


def test_nothing_hidden_returns_the_video():
    frames = video(3, 20, 20)
    assert np.array_equal(inpaint_video(build(), frames, np.zeros((3, 20, 20), bool)), frames)


def test_video_inputs_are_checked():
    model = build()
    with pytest.raises(ValueError, match="uint8 frames"):
        inpaint_video(model, video(3, 20, 20) / 255.0, np.zeros((3, 20, 20), bool))
    with pytest.raises(ValueError, match="bool mask"):
        inpaint_video(model, video(3, 20, 20), np.zeros((3, 20), bool))
    with pytest.raises(ValueError, match="fit"):
        inpaint_video(model, video(3, 20, 20), np.zeros((3, 20, 20), bool), fit="crop")
