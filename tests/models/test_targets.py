"""What is reconstructed: frames of a patch, normalisation, a share of the hidden tokens, another network's features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffmae_video.diffusion import NoiseSchedule
from diffmae_video.models import DECODERS, MAE, DiffMAE, SpaceTimeViT, make_mask
from diffmae_video.models.dual_mask import decoded_places
from diffmae_video.models.masked_autoencoder import feature_loss
from diffmae_video.models.patches import patchify
from diffmae_video.models.positions import PositionEmbedding
from diffmae_video.models.targets import frame_in_patch, normalize_channels, take_frames, target_values

CLIP, PATCH = (3, 8, 16, 16), (2, 4, 4)  # 4 x 4 x 4 tokens


def build(
    kind=MAE,
    decoder="joint",
    class_token=False,
    own_token=False,
    class_position=False,
    frames="all",
    position="sincos",
    **options,
):
    torch.manual_seed(0)
    encoder = SpaceTimeViT(CLIP, PATCH, width=24, depth=3, heads=2, class_token=class_token, position=position)
    decoder = DECODERS[decoder](
        grid=encoder.grid,
        encoder_width=24,
        width=16,
        depth=2,
        heads=2,
        mlp_ratio=2.0,
        patch_values=target_values(PATCH, 3, frames),
        position=position,
        **({"class_token": own_token, "class_position": class_position} if decoder == "joint" else {}),
    )
    options = {"mask_ratio": 0.5, "mask_strategy": "random", "target_frames": frames, **options}
    return MAE(encoder, decoder, **options) if kind is MAE else DiffMAE(encoder, decoder, NoiseSchedule(), **options)


def clips(batch=2, seed=1):
    return torch.rand(batch, *CLIP, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ------------------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize(
    "frames, expected",
    [("first", [0, 2, 4, 6, 8, 10, 12, 14]), ("linspace", [0, 2, 4, 6, 8, 10, 12, 15])],
)
def test_frames_of_16_that_slowfast_and_mae_st_predict(frames, expected):
    offsets = frame_in_patch(8, 2, frames)
    assert (torch.arange(8) * 2 + offsets).tolist() == expected


@pytest.mark.parametrize("slots, pt", [(1, 2), (2, 2), (4, 4), (7, 3), (16, 2)])
def test_linspace_is_numpys_rounded_down_and_stays_in_its_patch(slots, pt):
    offsets = frame_in_patch(slots, pt, "linspace")
    assert 0 <= offsets.min() and offsets.max() < pt
    expected = np.linspace(0, slots * pt - 1, slots).astype(int) if slots > 1 else [0]
    assert (torch.arange(slots) * pt + offsets).tolist() == list(expected)


def test_the_target_of_one_frame_is_that_frame_of_the_clip():
    clip, model = clips(), build(frames="linspace", target="raw")
    places = torch.arange(64).expand(2, -1)
    target = model.target_patches(clip, places)
    frames = clip[:, :, [0, 2, 4, 7]]  # linspace(0, 7, 4)
    assert torch.equal(target, patchify(frames, (1, 4, 4)))
    assert model(clip).pred.shape == (2, 32, 48)


def test_take_frames_picks_by_time_slot():
    patches = torch.arange(2 * 3 * 4.0).reshape(1, 2, 12)  # two tokens of pt = 3 frames of 4 values
    taken = take_frames(patches, torch.tensor([[1, 0]]), torch.tensor([0, 2]), 3)
    assert torch.equal(taken, torch.stack([patches[0, 0, 8:], patches[0, 1, :4]])[None])


def test_a_decoder_for_another_number_of_values_is_refused():
    with pytest.raises(ValueError, match="predicts 96 values per token, the target has 48"):
        build(target_frames="first")
    with pytest.raises(ValueError, match="DiffMAE noises all frames"):
        build(kind=DiffMAE, decoder="cross", frames="first")


# -------------------------------------------------------------------------------------------------------- normalising


def test_normalised_per_channel_is_videomaes_formula_on_unit_pixels():
    model = build(target="normalized_per_channel", pixel_mean=(0.485, 0.456, 0.406), pixel_std=(0.229, 0.224, 0.225))
    pixels = torch.rand(2, *CLIP, generator=torch.Generator().manual_seed(3))
    target = model.target_patches(model.normalize(pixels), torch.arange(64).expand(2, -1))
    # VideoMAE: 'b n (p0 p1 p2) c', mean and unbiased variance over dim -2, (x - mean) / (std + 1e-6)
    patches = patchify(pixels, PATCH).reshape(2, 64, 32, 3)
    expected = (patches - patches.mean(-2, keepdim=True)) / (patches.std(-2, keepdim=True) + 1e-6)
    torch.testing.assert_close(target, expected.flatten(-2), atol=1e-4, rtol=1e-4)


def test_channels_are_normalised_apart():
    patches = torch.rand(1, 1, 60, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5, 9]).repeat(20)
    values = normalize_channels(patches, 3).unflatten(-1, (-1, 3))
    torch.testing.assert_close(values.std(-2), torch.ones(1, 1, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.mean(-2), torch.zeros(1, 1, 3), atol=1e-5, rtol=0)


# -------------------------------------------------------------------------------------------------- decoding a share


def test_running_cells_decode_every_hidden_place_of_a_tube_in_half_of_the_slots():
    grid = (8, 6, 4)
    mask = make_mask("tube", grid, 0.75, 3, torch.Generator().manual_seed(0))
    hidden = mask.nonzero()[:, 1].reshape(3, -1)
    places = decoded_places(hidden, grid, 0.5, "running_cell", torch.Generator().manual_seed(1))
    assert places.shape == (3, hidden.shape[1] // 2)
    for own, all_hidden in zip(places, hidden, strict=True):
        assert torch.equal(own, own.sort().values) and set(own.tolist()) <= set(all_hidden.tolist())
        assert (torch.bincount(own % 24, minlength=24)[all_hidden.unique() % 24] == 4).all()  # of 8 slots
    neighbours = places[0][places[0] // 24 == 0] % 24, places[0][places[0] // 24 == 1] % 24
    assert set(neighbours[0].tolist()) != set(neighbours[1].tolist())  # the cell moves on with time


def test_a_random_share_differs_from_clip_to_clip_and_follows_its_generator():
    hidden = torch.arange(40).expand(2, -1)
    first = decoded_places(hidden, (4, 4, 4), 0.25, "random", [torch.Generator().manual_seed(s) for s in (0, 1)])
    alone = decoded_places(hidden[1:], (4, 4, 4), 0.25, "random", [torch.Generator().manual_seed(1)])
    assert first.shape == (2, 10) and not torch.equal(first[0], first[1])
    assert torch.equal(first[1:], alone)
    with pytest.raises(ValueError, match="unknown pattern 'checkerboard'"):
        decoded_places(hidden, (4, 4, 4), 0.5, "checkerboard")
    with pytest.raises(ValueError, match=r"ratio 0 is outside \(0, 1\]"):
        decoded_places(hidden, (4, 4, 4), 0)


@pytest.mark.parametrize("kind", [MAE, DiffMAE])
def test_a_cross_decoder_predicts_the_same_whether_or_not_others_are_decoded(kind):
    """So that a share of the tokens is an unbiased estimate of the whole loss; which is what dual masking rests on."""
    clip, mask = clips(), make_mask("random", (4, 4, 4), 0.5, 2, torch.Generator().manual_seed(2))
    noise = torch.randn(2, *CLIP, generator=torch.Generator().manual_seed(3))
    extra = {} if kind is MAE else {"noise": noise, "t": torch.tensor([300, 700])}
    whole = build(kind, "cross").eval()(clip, mask=mask, **extra)
    part = build(kind, "cross", predict_ratio=0.5).eval()(
        clip, mask=mask, generator=torch.Generator().manual_seed(5), **extra
    )
    assert whole.places.shape == (2, 32) and part.places.shape == (2, 16) and part.pred.shape == (2, 16, 96)
    assert torch.equal(part.mask, whole.mask)
    for row in range(2):
        among = (whole.places[row][:, None] == part.places[row]).nonzero()[:, 0]
        torch.testing.assert_close(part.pred[row], whole.pred[row, among], atol=1e-5, rtol=1e-5)


def test_a_share_leaves_the_draws_of_mask_and_timestep_as_they_are():
    outputs = [
        build(DiffMAE, "cross", predict_ratio=r)(clips(), generator=torch.Generator().manual_seed(4))
        for r in (1.0, 0.5)
    ]
    assert torch.equal(outputs[0].mask, outputs[1].mask) and torch.equal(outputs[0].t, outputs[1].t)


# ------------------------------------------------------------------------------------- positions, tokens, noise levels


def test_one_dimensional_positions_are_the_transformers_table():
    table = PositionEmbedding((2, 3, 2), 8, "sincos_1d")()[0]
    for place in range(12):
        angles = [place / 10000 ** (2 * (j // 2) / 8) for j in range(8)]
        expected = torch.tensor([np.sin(a) if j % 2 == 0 else np.cos(a) for j, a in enumerate(angles)]).float()
        torch.testing.assert_close(table[place], expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="even width, got 7"):
        PositionEmbedding((2, 3, 2), 7, "sincos_1d")


@pytest.mark.parametrize("position", ["sincos_1d", "learned"])
def test_a_short_clip_takes_the_first_rows_of_the_table(position):
    model = build(position=position).eval()
    short = clips()[:, :, :4]
    tokens = model.encode(short)
    expected = model.encoder.features(patchify(short, PATCH), torch.arange(32).expand(2, -1))[0]
    assert tokens.shape == (2, 32, 24) and torch.equal(tokens, expected)


def test_the_decoders_own_class_token_takes_the_place_of_the_encoders():
    model, mask = build(class_token=True, own_token=True).eval(), torch.arange(64).expand(1, -1) % 2 == 0
    prefix, visible = model.prepare(clips(1), mask).layers[0].split([1, 32])
    assert torch.equal(prefix, model.decoder.class_token[0])
    assert "decoder.class_token" in model.no_weight_decay()
    plain = build(class_token=True).eval()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name in plain.state_dict()})
    other = plain.prepare(clips(1), mask).layers[0]
    assert other.shape == (33, 16) and not torch.allclose(other[0], prefix[0])
    torch.testing.assert_close(other[1:], visible)  # the projection of the patches is the same


@pytest.mark.parametrize("position", ["separable", "learned", "sincos"])
def test_a_position_of_the_encoders_class_token(position):
    """The class token alone is moved, by as much as the position; the decoder's other tokens stay where they were."""
    model = build(class_token=True, class_position=True, position=position).eval()
    plain = build(class_token=True, position=position).eval()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "class_position" not in name})
    mask = torch.arange(64).expand(2, -1) % 2 == 0
    ours, without = (each.prepare(clips(), mask).layers for each in (model, plain))
    assert ours.shape == (2, 33, 16) and torch.equal(ours[:, 1:], without[:, 1:])
    torch.testing.assert_close(ours[:, :1] - without[:, :1], model.decoder.class_position.expand(2, -1, -1))
    model(clips(), mask).loss.backward()
    assert model.decoder.class_position.grad.abs().sum() > 0
    assert "decoder.class_position" in model.no_weight_decay()


def test_a_position_without_the_encoders_class_token_is_refused():
    with pytest.raises(ValueError, match="this encoder has none"):
        build(class_position=True)(clips())
    with pytest.raises(ValueError, match="class_token takes its place"):
        build(class_token=True, own_token=True, class_position=True)


def test_learned_positions_of_every_token_are_trained_and_not_decayed():
    model = build(position="learned")
    model(clips(), generator=torch.Generator().manual_seed(0)).loss.backward()
    for part in (model.encoder, model.decoder):
        assert part.position.table.shape[0] == 64 and (part.position.table.grad.abs().sum(dim=1) > 0).any()
    assert {"encoder.position.table", "decoder.position.table"} <= model.no_weight_decay()


def test_a_range_of_one_timestep_gives_that_one():
    model = build(DiffMAE, "cross", train_range=(1.0, 1.0))
    assert model(clips(4), generator=torch.Generator().manual_seed(0)).t.tolist() == [999] * 4
    low = build(DiffMAE, "cross", train_range=(0.2, 0.3))(clips(64), generator=torch.Generator().manual_seed(0)).t
    assert 200 <= low.min() and low.max() <= 300 and low.unique().numel() > 20


# ----------------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("kind, decoder", [(MAE, "joint"), (DiffMAE, "cross_self")])
def test_a_second_head_predicts_features_of_the_hidden_patches(kind, decoder):
    model = build(kind, decoder, feature_width=5, feature_weight=0.5, pixel_weight=2.0)
    features = torch.randn(2, 64, 5, generator=torch.Generator().manual_seed(0))
    output = model(clips(), generator=torch.Generator().manual_seed(1), features=features)
    expected = 2 * output.parts["pixels"] + 0.5 * output.parts["features"]
    torch.testing.assert_close(output.per_clip_loss, expected)
    output.loss.backward()
    assert model.feature_head.weight.grad.abs().sum() > 0 and model.encoder.patch_embed.weight.grad.abs().sum() > 0
    changed = features.masked_fill(~output.mask[..., None], 7.0)  # features of visible patches do not count
    again = model(clips(), generator=torch.Generator().manual_seed(1), features=changed)
    assert torch.equal(again.parts["features"], output.parts["features"])
    with pytest.raises(ValueError, match=r"expected them as \(B, N, F\) = \(2, 64, 5\), got None"):
        model(clips())


def test_feature_losses():
    a, b = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    torch.testing.assert_close(feature_loss(a, 3 * a, "cosine"), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(feature_loss(a, -a, "cosine"), torch.full((2,), 2.0))
    torch.testing.assert_close(feature_loss(a, 2 * a + 1, "mse"), torch.zeros(2), atol=1e-4, rtol=0)
    assert (feature_loss(a, b, "mse") > 0.1).all()
    with pytest.raises(ValueError, match="unknown feature loss 'l1'"):
        build(feature_loss="l1")
