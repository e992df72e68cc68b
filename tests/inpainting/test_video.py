"""Filling hidden pixels of videos of any size and length."""

import numpy as np
import pytest
import torch
from inpainting_fakes import build, pixel_mask, pixels, video

from diffmae_video.inpainting import inpaint, inpaint_video


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


def test_progress_counts_network_steps_and_every_window_is_encoded_once():
    model, seen, encoded = build(), [], []
    model.encoder.blocks[0].register_forward_hook(lambda _, inputs, __: encoded.append(len(inputs[0])))
    frames, mask = video(10, 24, 24), np.zeros((10, 24, 24), dtype=bool)
    mask[:, :8] = True
    inpaint_video(model, frames, mask, steps=3, overlap="none", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert sum(encoded) == 4  # starts 0, 2, 4, 6 of 10 frames in clips of 4


def test_steps_show_the_whole_video():
    model, steps = build(), []
    frames, mask = video(10, 24, 36), np.zeros((10, 24, 36), dtype=bool)
    mask[:, 8:16, 8:30] = True
    result = inpaint_video(model, frames, mask, steps=2, on_step=steps.append)
    assert [(step.number, step.total, step.t) for step in steps] == [(1, 2, 999), (2, 2, 499)]
    last = steps[-1].clean[0].permute(1, 2, 3, 0).numpy() * 255
    assert last.shape == (10, 24, 32, 3)  # whole patches
    assert steps[0].noisy.std() > 0.2 and result.shape == frames.shape


class Agreeable(torch.nn.Module):
    """Stands in for a decoder: every window says that its hidden patches are of one brightness, its own."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def forward(self, x):
        return torch.full((*x.shape[:2], 2 * 8 * 8 * 3), next(self.values))


def test_windows_are_averaged_with_the_stated_weights(monkeypatch):
    """Two windows that overlap by half: the average falls linearly from the one to the other, at every step."""
    model = build(name="MAE")
    monkeypatch.setattr("diffmae_video.inpainting.joint.WINDOWS_AT_A_TIME", 1)
    model.decoder.head.forward = Agreeable(iter([-0.5, 0.5])).forward
    frames, mask = video(6, 24, 24), np.zeros((6, 24, 24), dtype=bool)
    mask[:, 8:16, 8:16] = True
    result = inpaint_video(model, frames, mask, overlap="none")[:, 8:16, 8:16].astype(float) / 127.5 - 1
    assert np.ptp(result, axis=(1, 2, 3)).max() == 0
    # frames 2 and 3 are in both: weights 2 : 1 and 1 : 2
    np.testing.assert_allclose(result[:, 0, 0, 0], [-0.5, -0.5, -1 / 6, 1 / 6, 0.5, 0.5], atol=0.005)


def test_overlap_in_time_evens_out_what_neighbouring_patches_say():
    """Every window says -0.5 in its first patch of two frames and 0.5 in its second; there are three of them."""
    model = build(name="MAE")
    values = torch.tensor([-0.5, 0.5])[:, None]
    model.decoder.head.forward = lambda x: values.expand(len(x), 2, 2 * 8 * 8 * 3)
    frames, mask = video(4, 24, 24), np.zeros((4, 24, 24), dtype=bool)
    mask[:, 8:16, 8:16] = True
    filled = {
        overlap: inpaint_video(model, frames, mask, overlap=overlap)[:, 8:16, 8:16].astype(float) / 127.5 - 1
        for overlap in ("none", "time")
    }
    assert all(np.ptp(result, axis=(1, 2, 3)).max() == 0 for result in filled.values())
    np.testing.assert_allclose(filled["none"][:, 0, 0, 0], [-0.5, -0.5, 0.5, 0.5], atol=0.005)
    # Weights 1 2 2 1 of frames 0 to 3, -1 to 2 and 1 to 4: frame 1 is (2 * -0.5 + 2 * 0.5 + 1 * -0.5) / 5.
    np.testing.assert_allclose(filled["time"][:, 0, 0, 0], [-0.5, -0.1, 0.1, 0.5], atol=0.005)
    with pytest.raises(ValueError, match="overlap"):
        inpaint_video(model, frames, mask, overlap="space")


@pytest.mark.parametrize("overlap", ["all", "time", "none"])
@pytest.mark.parametrize("shape", [(4, 24, 24), (11, 30, 43)])
def test_overlap_reads_no_hidden_pixel_and_keeps_visible_ones(overlap, shape):
    model, frames = build(), video(*shape)
    mask = np.zeros(shape, dtype=bool)
    mask[:, :9] = mask[1:3, :, -9:] = True  # to the border, into the margins
    result = inpaint_video(model, frames, mask, steps=4, overlap=overlap)
    assert np.array_equal(result[~mask], frames[~mask])
    other = np.where(mask[..., None], 255 - frames, frames)
    assert np.array_equal(inpaint_video(model, other, mask, steps=4, overlap=overlap), result)


def test_overlap_in_space_smooths_the_seams_between_patches():
    """A decoder that paints every patch in a colour of its own: late in the chain its neighbours have a say."""
    model, frames = build(PATCH_SIZE=[1, 8, 8]), video(4, 24, 24)
    generator = torch.Generator().manual_seed(0)

    def forward(x):
        return torch.rand(*x.shape[:2], 1, generator=generator).expand(-1, -1, 8 * 8 * 3)

    model.decoder.head.forward = forward
    mask = np.zeros(frames.shape[:3], dtype=bool)
    mask[:, :16, :16] = True
    steps = {}
    for overlap in ("time", "all"):
        result = inpaint_video(model, frames, mask, steps=4, overlap=overlap)[:, :16, :16].astype(float)
        across, within = np.abs(result[:, 8] - result[:, 7]).mean(), np.abs(result[:, 4] - result[:, 3]).mean()
        steps[overlap] = (across, within)
    assert steps["time"][1] == 0 and steps["time"][0] > 10, "constant within patches, a step between them"
    assert steps["all"][1] > 0 and steps["all"][0] < 0.5 * steps["time"][0]


def test_windows_of_a_diffusion_agree_on_one_picture():
    """Overlapping windows, denoised together, are nearer to each other than windows that are filled alone."""
    model = build()
    frames, mask = video(8, 24, 24), np.zeros((8, 24, 24), dtype=bool)
    mask[:, 8:16, 8:16] = True
    states = []
    inpaint_video(model, frames, mask, steps=4, on_step=states.append)
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2).unsqueeze(0)
    for step in states:  # one state of the chain for all windows, whose visible pixels are those of the video
        assert step.clean.shape == (1, 3, 8, 24, 24)
        visible = ~torch.from_numpy(mask).expand_as(step.clean)
        torch.testing.assert_close(step.clean[visible], clip.float()[visible] / 255)


@pytest.mark.parametrize("name", ["DiffMAE", "MAE"])
def test_every_second_frame_of_a_long_video(name):
    model, frames = build(name=name), video(11, 30, 40)
    mask = np.zeros(frames.shape[:3], dtype=bool)
    mask[1::2] = True
    result = inpaint_video(model, frames, mask, steps=2)
    assert np.array_equal(result[~mask], frames[~mask]) and not np.array_equal(result[mask], frames[mask])
    other = np.where(mask[..., None], 255 - frames, frames)
    assert np.array_equal(inpaint_video(model, other, mask, steps=2), result)
    mask[:6] = True  # a gap that is longer than a clip
    with pytest.raises(ValueError, match="every n-th frame"):
        inpaint_video(model, frames, mask, steps=2)


def test_feathering_fades_into_the_visible_pixels():
    model, frames = build(), video(4, 24, 24)
    mask = np.zeros(frames.shape[:3], dtype=bool)
    mask[:, 8:16, 8:16] = True
    sharp, soft = (inpaint_video(model, frames, mask, steps=2, feather=feather) for feather in (0, 3))
    assert np.array_equal(sharp[~mask], frames[~mask])
    changed = (soft != frames).any(axis=(0, 3))
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 18, 5, 18), "three pixels around the mask"
    assert np.array_equal(soft[:, :5], frames[:, :5])
    with pytest.raises(ValueError, match="feather"):
        inpaint_video(model, frames, mask, feather=-1)


def test_a_hidden_line_thinner_than_a_scaled_pixel_takes_its_neighbours():
    model, frames = build(), np.full((4, 96, 96, 3), 200, np.uint8)
    mask = np.zeros(frames.shape[:3], dtype=bool)
    mask[:, 50] = True
    frames[mask] = 0
    assert inpaint_video(model, frames, mask, steps=1)[mask].min() > 190


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
