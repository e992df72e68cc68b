"""The encoder, the decoders and the models made of them."""

import pytest
import torch

from diffmae_video.config.sizes import ENCODER_SIZES
from diffmae_video.diffusion import NoiseSchedule
from diffmae_video.models import DECODERS, MAE, DiffMAE, MaskChoice, SpaceTimeViT, make_mask
from diffmae_video.models.patches import gather_patches, gather_tokens, patchify, token_grid, unpatchify
from diffmae_video.models.positions import POSITIONS, PositionEmbedding
from diffmae_video.models.targets import normalize_patches

CLIP, PATCH = (3, 4, 16, 24), (2, 8, 8)
MILLIONS = {"tiny": 5.7, "small": 22, "base": 86, "large": 304, "huge": 632}


def build(decoder="cross_self", kind=DiffMAE, clip=CLIP, patch=PATCH, class_token=False, prediction="x0", **masking):
    torch.manual_seed(0)
    encoder = SpaceTimeViT(clip, patch, width=24, depth=3, heads=2, class_token=class_token)
    decoder = DECODERS[decoder](
        grid=encoder.grid,
        encoder_width=24,
        width=16,
        depth=2,
        heads=2,
        mlp_ratio=2.0,
        patch_values=encoder.patch_embed.in_features,
        position="sincos",
    )
    masking = {"mask_ratio": 0.5, **masking}
    if kind is MAE:
        return MAE(encoder, decoder, **masking)
    return DiffMAE(encoder, decoder, NoiseSchedule("linear", 1000), prediction=prediction, **masking)


def clips(batch=2, shape=CLIP, seed=1):
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ------------------------------------------------------------------------------------------------------------ patches


def test_patchify_orders_tokens_t_major_and_values_frame_row_column_channel():
    clip = torch.arange(3 * 4 * 16 * 24).reshape(1, 3, 4, 16, 24)
    patches = patchify(clip, PATCH)
    assert patches.shape == (1, 2 * 2 * 3, 2 * 8 * 8 * 3)
    token = patches[0, 1 * 6 + 1 * 3 + 2].reshape(2, 8, 8, 3)  # slot 1, row 1, column 2
    assert torch.equal(token, clip[0, :, 2:4, 8:16, 16:24].permute(1, 2, 3, 0))
    assert torch.equal(unpatchify(patches, (2, 2, 3), PATCH), clip)


def test_gathered_patches_are_those_of_patchify():
    clip = torch.randn(3, 3, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[0, 11, 5], [7, 7, 1], [10, 3, 2]])
    found = gather_patches(clip, places, PATCH)
    assert found.is_contiguous()
    assert torch.equal(found, gather_tokens(patchify(clip, PATCH), places))


def test_normalized_patches_are_those_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    flat = torch.full((1, 1, 48), 0.5, dtype=torch.float64)
    for patches in (torch.rand(2, 5, 48, generator=generator).double() * 3 + 1, flat):
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        expected = (patches - mean) / (variance + 1e-6).sqrt()
        torch.testing.assert_close(normalize_patches(patches), expected, atol=1e-12, rtol=1e-12)


def test_normalized_patches_have_mean_0_and_variance_1():
    patches = normalize_patches(torch.rand(2, 5, 48) * 3 + 1)
    torch.testing.assert_close(patches.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(patches.var(-1), torch.ones(2, 5), atol=1e-3, rtol=0)


def test_a_patch_that_does_not_divide_the_clip_is_refused():
    with pytest.raises(ValueError, match="patch of 8 does not divide the clip's height = 20"):
        token_grid((3, 4, 20, 24), PATCH)


# ------------------------------------------------------------------------------------------------------------ encoder


@pytest.mark.parametrize("size", ENCODER_SIZES)
def test_named_sizes_have_the_papers_parameter_counts(size):
    with torch.device("meta"):
        encoder = SpaceTimeViT((3, 16, 224, 224), (2, 16, 16), *ENCODER_SIZES[size])
    count = sum(p.numel() for p in encoder.parameters()) / 1e6
    assert count == pytest.approx(MILLIONS[size], rel=0.01)


def test_sincos_positions_are_maes_for_an_image():
    reference = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae")
    row_first = reference.build_2d_sinusoidal_position_embedding(6, 6, 32)
    theirs = row_first.roll(16, dims=1)  # MAE's weights have the columns' half first, as a comment there explains
    ours = PositionEmbedding((1, 6, 6), 32, "sincos")()[0]
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", POSITIONS)
def test_every_place_has_a_position_of_its_own(kind):
    positions = PositionEmbedding((3, 4, 5), 32, kind)()[0]
    assert positions.shape == (60, 32)
    distances = torch.cdist(positions, positions) + torch.eye(60)
    assert distances.min() > 1e-3


def test_hidden_patches_cannot_reach_the_encoder():
    model = build().eval()
    mask = make_mask("random", model.grid, 0.5, 2, torch.Generator().manual_seed(0))
    clip = clips()
    other = unpatchify(
        torch.where(mask[..., None], torch.full((), float("nan")), patchify(clip, PATCH)), model.grid, PATCH
    )
    for a, b in zip(model.prepare(clip, mask).layers, model.prepare(other, mask).layers, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_masked_encoding_with_all_tokens_equals_the_plain_vit():
    encoder = build().encoder.eval()
    patches = patchify(clips(), PATCH)
    index = torch.arange(patches.shape[1]).expand(2, -1)
    torch.testing.assert_close(encoder.features(patches, index)[0], encoder(clips()))


def test_encode_leaves_the_class_token_out():
    model = build(class_token=True)
    assert model.encoder(clips()).shape == (2, 13, 24)
    assert model.encode(clips()).shape == (2, 12, 24)


def test_an_image_is_a_clip_with_one_frame():
    model = build(clip=(3, 1, 16, 24), patch=(1, 8, 8))
    output = model(clips(shape=(3, 1, 16, 24)))
    assert output.mask.shape == (2, 6) and torch.isfinite(output.loss)


# ----------------------------------------------------------------------------------------------------------- decoders


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("kind", [DiffMAE, MAE])
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_parameter_learns(decoder, kind, class_token):
    model = build(decoder, kind, class_token=class_token)
    output = model(clips())
    output.loss.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []
    assert output.pred.shape == (2, 6, 384) and output.mask.sum(1).tolist() == [6, 6]


def test_cross_decodes_every_hidden_token_on_its_own_and_cross_self_does_not():
    mask = torch.zeros(1, 12, dtype=torch.bool)
    mask[0, [2, 5, 7, 9]] = True
    for decoder, independent in (("cross", True), ("cross_self", False), ("joint", False)):
        model = build(decoder).eval()
        context = model.prepare(clips(1), mask)
        x_t = torch.randn(1, 4, 384)
        changed = x_t.clone()
        changed[:, 3] += 1
        t = torch.tensor([500])
        before, after = model.denoise(context, x_t, t), model.denoise(context, changed, t)
        assert torch.allclose(before[:, :3], after[:, :3], atol=1e-6) is independent, decoder


def test_u_shape_block_1_reads_the_last_encoder_block():
    model = build().eval()
    mask = make_mask("random", model.grid, 0.5, 1, torch.Generator().manual_seed(0))
    outputs = {}
    for i, block in enumerate(model.encoder.blocks):
        block.register_forward_hook(lambda _, __, out, i=i: outputs.__setitem__(i, out))
    read = []
    for norm in model.decoder.context_norms:
        norm.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    model.prepare(clips(1), mask)
    assert torch.equal(read[0], model.encoder.norm(outputs[2]))
    assert torch.equal(read[1], outputs[1])


def test_the_timestep_matters():
    model = build().eval()
    mask = make_mask("random", model.grid, 0.5, 1)
    context, x_t = model.prepare(clips(1), mask), torch.randn(1, 6, 384)
    a, b = (model.denoise(context, x_t, torch.tensor([t])) for t in (10, 900))
    assert (a - b).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------------------------- losses


def test_scaled_input_is_the_linear_estimate_of_the_clean_patches():
    plain, scaled = build().eval(), build(input_scaling="signal").eval()
    mask, t = make_mask("random", plain.grid, 0.5, 1), torch.tensor([700])
    context, x_t = plain.prepare(clips(1), mask), torch.randn(1, 6, 384)
    signal = plain.schedule.abar[700].sqrt().float()
    torch.testing.assert_close(scaled.denoise(context, x_t, t), plain.denoise(context, signal * x_t, t))
    pure_noise = [scaled.denoise(context, torch.randn(1, 6, 384), torch.tensor([999])) for _ in range(2)]
    torch.testing.assert_close(*pure_noise, atol=1e-2, rtol=0)


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_the_loss_is_the_mean_squared_error_to_what_is_predicted(prediction):
    model = build(prediction=prediction)
    clip, t = clips(), torch.tensor([100, 800])
    mask = make_mask("random", model.grid, 0.5, 2, torch.Generator().manual_seed(0))
    noise = torch.randn(clip.shape)
    output = model(clip, mask=mask, t=t, noise=noise)
    x0 = patchify(clip, PATCH)[mask].reshape(2, 6, -1)
    eps = patchify(noise, PATCH)[mask].reshape(2, 6, -1)
    abar = model.schedule.abar[t].reshape(2, 1, 1).float()
    target = {"x0": x0, "eps": eps, "v": abar.sqrt() * eps - (1 - abar).sqrt() * x0}[prediction]
    expected = ((output.pred - target) ** 2).mean()
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.per_clip_loss.mean(), output.loss)
    again = model(clip, mask=mask, t=t, noise=eps)
    torch.testing.assert_close(again.loss, output.loss), "noise as a clip and as hidden patches mean the same"


def test_normalized_target_lives_in_the_space_of_the_noisy_input():
    model = build(target="normalized")
    mask = make_mask("random", model.grid, 0.5, 2)
    clip = clips()
    brighter = clip * 0.5 + 0.3
    context = model.prepare(clip, mask)
    torch.testing.assert_close(
        model.target_patches(clip, context.hidden), model.target_patches(brighter, context.hidden), atol=1e-3, rtol=0
    )


def test_a_generator_fixes_mask_timestep_and_noise():
    model = build()
    runs = [model(clips(), generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(runs[0].mask, runs[1].mask) and torch.equal(runs[0].t, runs[1].t)
    assert torch.equal(runs[0].loss, runs[1].loss)
    other = model(clips(), generator=torch.Generator().manual_seed(4))
    assert not torch.equal(other.loss, runs[0].loss)


def test_a_clip_alone_is_the_clip_in_a_batch():
    model = build().eval()

    def seeded(*seeds):
        return [torch.Generator().manual_seed(s) for s in seeds]

    both = model(clips(2), generator=seeded(1, 2))
    alone = model(clips(2)[1:], generator=seeded(2))
    assert torch.equal(both.mask[1:], alone.mask)
    torch.testing.assert_close(both.per_clip_loss[1:], alone.per_clip_loss)


@pytest.mark.parametrize("kind", [DiffMAE, MAE])
def test_a_choice_masks_in_place_of_the_models_own_strategy(kind):
    model = build(kind=kind, mask_strategy="tube", mask_ratio=0.5)

    def seeded():
        return [torch.Generator().manual_seed(s) for s in (1, 2)]

    own = model.make_mask(2, seeded())
    assert torch.equal(own, make_mask("tube", model.grid, 0.5, 2, seeded()))
    assert torch.equal(model(clips(), generator=seeded()).mask, own)
    chosen = model.make_mask(2, seeded(), choice=MaskChoice("random", 0.75))
    assert torch.equal(chosen, make_mask("random", model.grid, 0.75, 2, seeded()))
    assert model.make_mask(2, seeded(), 2, MaskChoice("random", 0.75)).shape == (2, 6), "half the frames"
    assert torch.equal(model(clips(), chosen, generator=seeded()).mask, chosen)


def test_mae_is_one_step_of_diffmae_without_signal():
    """With its noise embedding silenced and its time embedding as a constant, DiffMAE is MAE with that mask token."""
    diffmae, mae = build().eval(), build(kind=MAE).eval()
    torch.nn.init.zeros_(diffmae.noisy_embed.weight)
    t = torch.tensor([999, 999])
    shared = {k: v for k, v in diffmae.state_dict().items() if k in mae.state_dict()}
    mae.load_state_dict({**shared, "mask_token": diffmae.time_embed(t)[:1].detach() + diffmae.noisy_embed.bias})
    mask = make_mask("random", mae.grid, 0.5, 2)
    torch.testing.assert_close(mae(clips(), mask).pred, diffmae(clips(), mask, t=t).pred)


@pytest.mark.parametrize("kind", [DiffMAE, MAE])
def test_a_handful_of_clips_can_be_overfitted(kind):
    model = build(kind=kind)
    clip = torch.nn.functional.interpolate(clips(2, (3, 2, 4, 4)), size=CLIP[1:])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    mask = make_mask("random", model.grid, 0.5, 2, torch.Generator().manual_seed(0))
    losses = []
    for _ in range(150):
        loss = model(clip, mask, generator=torch.Generator().manual_seed(0)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])


def test_pixels_are_normalised_once_and_back():
    model = build(pixel_mean=(0.4, 0.5, 0.6), pixel_std=(0.2, 0.3, 0.4))
    pixels = torch.randint(0, 256, (2, *CLIP), dtype=torch.uint8)
    normalized = model.normalize(pixels)
    assert normalized[0, 2, 0, 0, 0].item() == pytest.approx((pixels[0, 2, 0, 0, 0].item() / 255 - 0.6) / 0.4, abs=1e-5)
    assert torch.equal((model.denormalize(normalized) * 255).round().to(torch.uint8), pixels)


def test_wrong_inputs_are_refused():
    model = build()
    with pytest.raises(ValueError, match="normalize"):
        model(torch.zeros(1, *CLIP, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(3, 4, 16, 24\)"):
        model(torch.zeros(1, 3, 4, 16, 16))
    with pytest.raises(ValueError, match="noise"):
        model(clips(), noise=torch.zeros(2, 3, 384))
    with pytest.raises(ValueError, match="heads"):
        SpaceTimeViT(CLIP, PATCH, width=24, depth=1, heads=5)
    with pytest.raises(ValueError, match="prediction"):
        build(prediction="score")


def test_weight_decay_is_not_for_positions_and_tokens():
    model = build(class_token=True, kind=MAE)
    assert model.no_weight_decay() == {
        "encoder.position.space",
        "encoder.position.time",
        "encoder.class_token",
        "mask_token",
    }


# ------------------------------------------------------------------------------------------------------- shorter clips


@pytest.mark.parametrize("kind", [DiffMAE, MAE])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("class_token", [False, True])
def test_clips_with_fewer_frames_take_the_first_time_slots(kind, decoder, class_token):
    """What a short clip gives is what a model that was built for it, with the first time positions, gives."""
    model = build(decoder, kind, class_token=class_token).eval()
    short = build(decoder, kind, clip=(3, 2, 16, 24), class_token=class_token).eval()
    state = model.state_dict()
    state["encoder.position.time"] = state["encoder.position.time"][:1]
    short.load_state_dict(state)
    short.decoder.position.time = model.decoder.position.time[:1]  # a fixed table, zero in a model of one slot
    clip = clips(shape=(3, 2, 16, 24))
    expected, output = (each(clip, generator=torch.Generator().manual_seed(0)) for each in (short, model))
    assert output.mask.shape == (2, 6) and output.mask.sum(1).tolist() == [3, 3]
    assert torch.equal(output.mask, expected.mask)
    torch.testing.assert_close(output.pred, expected.pred)
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(model.encode(clip), short.encode(clip))


def test_an_image_is_repeated_to_a_patch():
    model = build()
    image = model.normalize(torch.randint(0, 256, (2, 3, 1, 16, 24), dtype=torch.uint8))
    assert image.shape == (2, 3, 2, 16, 24) and torch.equal(image[:, :, 0], image[:, :, 1])
    model(image).loss.backward()
    time = model.encoder.position.time.grad
    assert time[0].abs().sum() > 0 and time[1].abs().sum() == 0


def test_only_whole_patches_within_the_positions_are_taken():
    model = build()
    for frames in (1, 3, 6):
        with pytest.raises(ValueError, match=r"\(3, 4, 16, 24\), or fewer frames, a multiple of 2"):
            model(torch.zeros(1, 3, frames, 16, 24))
        with pytest.raises(ValueError, match="or fewer frames, a multiple of 2"):
            model.encode(torch.zeros(1, 3, frames, 16, 24))
