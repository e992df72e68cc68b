"""Converted networks compute what the original ones do: encoder, reconstruction, loss, class scores."""

from __future__ import annotations

import foreign_networks as foreign
import pytest
import torch

from diffmae_video.conversion import Options, convert
from diffmae_video.models import MAE, VideoClassifier
from diffmae_video.models.classifier import pool_tokens
from diffmae_video.models.masks import mask_indices
from diffmae_video.models.patches import gather_tokens, patchify

TOLERANCE = 1e-5
HEADS = Options(heads=foreign.HEADS, decoder_heads=foreign.DECODER_HEADS)
SMALL = {"heads": foreign.HEADS, "decoder_heads": foreign.DECODER_HEADS, "frames": 8, "image_size": foreign.SIZE}


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=1e-5)


def random_clip(frames=foreign.FRAMES, batch=2):
    return torch.randn(batch, 3, frames, foreign.SIZE, foreign.SIZE, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def visible_latents(model, clip, mask):
    """(B, V, D), or (B, 1 + V, D) with the class token first."""
    visible, _ = mask_indices(mask)
    return model.encoder.features(gather_tokens(patchify(clip, model.patch_size), visible), visible)[0]


def check(model, clip, mask, reference):
    """Our encoder, decoder and loss against a reference whose latents may or may not have a class token."""
    assert isinstance(model, MAE)
    latents = visible_latents(model, clip, mask)
    close(latents[:, latents.shape[1] - reference.latent.shape[1] :], reference.latent)
    with torch.no_grad():
        output = model(clip, mask)
    close(output.pred, reference.pred)
    close(output.loss, reference.loss)
    assert reference.latent.abs().mean() > 0.1 and reference.pred.abs().mean() > 0.1, "a comparison of nothing"


# ------------------------------------------------------------------------------------- against independent functions


@pytest.mark.parametrize("target", ["normalized", "raw"])
def test_mae(build, hide, target):
    state = foreign.mae_state()
    model = build(convert("mae", state, Options(heads=3, decoder_heads=2, target=target)))
    clip, mask = random_clip(1), hide(16, 12)
    check(model, clip, mask, foreign.mae(state, clip[:, :, 0], mask, target))
    assert model.cfg.MODEL.ENCODER.POSITION == model.cfg.MODEL.DECODER.POSITION == "sincos"


def test_mae_with_learned_positions(build, hide):
    state = foreign.mae_state(learned=True)
    model = build(convert("mae", state, HEADS))
    clip, mask = random_clip(1), hide(16, 12)
    check(model, clip, mask, foreign.mae(state, clip[:, :, 0], mask))
    assert model.cfg.MODEL.ENCODER.POSITION == "separable" and model.cfg.MODEL.DECODER.POSITION == "sincos"


def test_mae_whose_decoder_has_a_position_for_the_class_token(build, hide):
    state = foreign.mae_state()
    place = torch.randn(1, 17, foreign.DECODER_WIDTH, generator=torch.Generator().manual_seed(4))
    clip, mask = random_clip(1), hide(16, 12)
    for positions in (place, torch.cat([place[:, :1], state["decoder_pos_embed"][:, 1:]], dim=1)):
        model = build(convert("mae", state | {"decoder_pos_embed": positions}, HEADS))
        check(model, clip, mask, foreign.mae(state | {"decoder_pos_embed": positions}, clip[:, :, 0], mask))
        assert model.cfg.MODEL.DECODER.CLASS_POSITION is True
        assert torch.equal(model.decoder.class_position[0, 0], place[0, 0])


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("frames, targets", [(None, (0, 2, 4, 7)), ("first", (0, 2, 4, 6))])
def test_mae_st(build, hide, class_token, frames, targets):
    state = foreign.mae_st_state(class_token)
    model = build(convert("mae_st", state, Options(heads=3, decoder_heads=2, target_frames=frames)))
    clip, mask = random_clip(), hide(64, 48)
    check(model, clip, mask, foreign.mae_st(state, clip, mask, targets))
    assert model.cfg.MODEL.ENCODER.CLASS_TOKEN is model.cfg.MODEL.DECODER.CLASS_TOKEN is class_token


def test_mae_st_that_predicts_all_frames(build, hide):
    state = foreign.mae_st_state(all_frames=True)
    model = build(convert("mae_st", state, HEADS))
    clip, mask = random_clip(), hide(64, 48)
    check(model, clip, mask, foreign.mae_st(state, clip, mask, tuple(range(8))))


@pytest.mark.parametrize("class_token", [True, False])
def test_mae_st_with_a_position_for_every_token(build, hide, class_token):
    state = foreign.mae_st_state(class_token, parts=False)
    model = build(convert("mae_st", state, Options(**SMALL)))
    clip, mask = random_clip(), hide(64, 48)
    check(model, clip, mask, foreign.mae_st(state, clip, mask, (0, 2, 4, 7)))
    assert model.cfg.MODEL.ENCODER.POSITION == model.cfg.MODEL.DECODER.POSITION == "learned"


@pytest.mark.parametrize(
    "variant",
    [{}, {"class_token": False}, {"all_frames": True}, {"parts": True}, {"one_matrix": True}],
    ids=lambda variant: next(iter(variant), "published"),
)
def test_mae_st_of_pyslowfast(build, hide, variant):
    state = foreign.slowfast_state(**variant)
    conversion = convert("mae_st", state, HEADS)
    assert sorted(conversion.used) == sorted(state) and not conversion.left_out
    model = build(conversion)
    clip, mask = random_clip(), hide(64, 48)
    check(model, clip, mask, foreign.slowfast(state, clip, mask))
    decoder = model.cfg.MODEL.DECODER
    assert model.cfg.MODEL.TARGET_FRAMES == ("all" if "all_frames" in variant else "first")
    assert decoder.POSITION == ("separable" if "parts" in variant else "learned")
    assert decoder.CLASS_TOKEN is False and decoder.CLASS_POSITION is variant.get("class_token", True)


def test_pyslowfasts_position_of_the_class_token_matters(hide):
    """The comparison above would not notice a lost one if it made no difference."""
    state, clip, mask = foreign.slowfast_state(), random_clip(), hide(64, 48)
    without = {**state, "decoder_pos_embed": state["decoder_pos_embed"].clone()}
    without["decoder_pos_embed"][:, 0] = 0
    assert (foreign.slowfast(without, clip, mask).pred - foreign.slowfast(state, clip, mask).pred).abs().max() > 1e-3


def test_videomae(build, hide):
    state = foreign.videomae_state()
    model = build(convert("videomae", state, Options(**SMALL)))
    clip, mask = random_clip(), hide(64, 48)
    check(model, clip, mask, foreign.videomae(state, clip, mask))


def test_videomae_with_its_fixed_positions_in_the_file(build, hide):
    state = foreign.videomae_state()
    tables = {"encoder.pos_embed": foreign.numbered_table(64, 48), "pos_embed": foreign.numbered_table(64, 32)}
    plain, with_tables = (build(convert("videomae", each, Options(**SMALL))) for each in (state, state | tables))
    clip, mask = random_clip(), hide(64, 48)
    assert torch.equal(plain(clip, mask).pred, with_tables(clip, mask).pred)


def test_videomae_with_learned_positions(build, hide):
    state, make = foreign.videomae_state(), foreign.Maker(1)
    make.add("encoder.pos_embed", 1, 64, foreign.WIDTH)
    encoder_alone, clip, mask = dict(make.state), random_clip(), hide(64, 48)
    make.add("pos_embed", 1, 64, foreign.DECODER_WIDTH)
    for positions, decoder in ((encoder_alone, "sincos_1d"), (make.state, "learned")):
        model = build(convert("videomae", state | positions, Options(**SMALL)))
        check(model, clip, mask, foreign.videomae(state | positions, clip, mask))
        assert (model.cfg.MODEL.ENCODER.POSITION, model.cfg.MODEL.DECODER.POSITION) == ("learned", decoder)


def test_biases_of_attention_matter(build, hide):
    """The comparisons above would not notice a lost bias if it made no difference."""
    state = foreign.videomae_state()
    clip, mask = random_clip(), hide(64, 48)
    for name in ("encoder.blocks.0.attn.q_bias", "decoder.blocks.1.attn.v_bias"):
        without = state | {name: torch.zeros_like(state[name])}
        difference = foreign.videomae(without, clip, mask).pred - foreign.videomae(state, clip, mask).pred
        assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["mae_st", "videomae"])
def test_video_classifiers(build, name):
    state = {"mae_st": foreign.mae_st_classifier, "videomae": foreign.videomae_classifier}[name]()
    options = Options(**SMALL) if name == "videomae" else Options(heads=3)
    model = build(convert(name, state, options))
    clip = random_clip()
    assert isinstance(model, VideoClassifier) and (model.kind, model.pool, model.num_classes) == ("finetune", "mean", 5)
    close(model(clip), getattr(foreign, f"{name}_logits")(state, clip))


def test_names_of_pyslowfast_for_the_head(build):
    state = foreign.mae_st_classifier()
    renamed = {name.replace("head.", "head.projection."): tensor for name, tensor in state.items()}
    clip = random_clip()
    close(build(convert("mae_st", renamed, HEADS))(clip), foreign.mae_st_logits(state, clip))


def test_video_classifiers_with_a_position_for_every_token(build):
    clip, make = random_clip(), foreign.Maker(3)
    state = foreign.mae_st_classifier(parts=False)
    close(build(convert("mae_st", state, Options(**SMALL)))(clip), foreign.mae_st_logits(state, clip))
    make.add("pos_embed", 1, 64, foreign.WIDTH)
    state = foreign.videomae_classifier() | make.state
    close(build(convert("videomae", state, Options(**SMALL)))(clip), foreign.videomae_logits(state, clip))


@pytest.mark.parametrize("pool", ["class_token", "mean"])
def test_mae_classifiers(build, pool):
    state = foreign.mae_state(decoder=False, learned=True)
    make = foreign.Maker(1)
    make.linear("head", 5, 48)
    if pool == "mean":
        state = {
            name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: t for name, t in state.items()
        }
    state |= make.state
    model = build(convert("mae", state, HEADS))
    image = random_clip(1)
    assert model.pool == pool
    close(model(image), foreign.image_logits(state, image[:, :, 0]))


# --------------------------------------------------------------------------------------------- against the fixtures


@pytest.fixture(scope="module")
def fixtures(research_data):
    folder = research_data / "parity"
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in ("mae", "mae_st", "videomae")}


def fixture_options(fixture):
    options = Options(heads=fixture["num_heads"], decoder_heads=fixture["decoder_num_heads"])
    if "num_frames" in fixture and not fixture["cls_token"]:  # VideoMAE, whose shapes do not show the clip
        options = Options(**SMALL | {"frames": fixture["num_frames"], "image_size": fixture["img_size"]})
    return options


@pytest.mark.parametrize("name", ["mae", "mae_st", "videomae"])
def test_the_repositories_own_networks(build, fixtures, name):
    """Fixtures made with the original code; VideoMAE's have no loss, so an independent formula gives it."""
    fixture = fixtures[name]
    state, mask = fixture["state_dict"], fixture["hidden"]
    clip = fixture["clip"] if "clip" in fixture else fixture["image"].unsqueeze(2)
    pred = fixture["pred"] if name == "videomae" else foreign.rows(fixture["pred"], mask)
    if name == "videomae":
        loss = foreign.videomae(state, clip, mask).loss
    else:
        loss = torch.tensor(fixture["loss"])
    model = build(convert(name, state, fixture_options(fixture)))
    check(model, clip, mask, foreign.Reference(fixture["visible_latent"], pred, loss))


@pytest.mark.parametrize("name", ["mae", "mae_st", "videomae"])
def test_the_independent_functions_are_right(fixtures, name):
    fixture = fixtures[name]
    state, mask = fixture["state_dict"], fixture["hidden"]
    if name == "mae":
        found = foreign.mae(state, fixture["image"], mask)
    elif name == "mae_st":
        found = foreign.mae_st(state, fixture["clip"], mask, (0, 2, 4, 7))
    else:
        found = foreign.videomae(state, fixture["clip"], mask)
    close(found.latent, fixture["visible_latent"])
    close(found.pred, fixture["pred"] if name == "videomae" else foreign.rows(fixture["pred"], mask))
    if "loss" in fixture:
        close(found.loss, torch.tensor(fixture["loss"]))


def test_mae_st_fine_tuning_network(build, fixtures):
    """``vit_pooled`` of the fixture is what the head of the fine-tuning network reads."""
    fixture = fixtures["mae_st"]
    state = {name: t for name, t in fixture["state_dict"].items() if not name.startswith(("decoder_", "mask_"))}
    make = foreign.Maker(1)
    make.linear("head", 5, 48)
    model = build(convert("mae_st", state | make.state, fixture_options(fixture)))
    with torch.no_grad():
        pooled = model.head.norm(pool_tokens(model.tokens(fixture["clip"]), "mean", has_class_token=True))
        logits = model(fixture["clip"])
    close(pooled, fixture["vit_pooled"])
    close(logits, foreign.linear(fixture["vit_pooled"], make.state, "head"))
