"""What cannot be converted is refused: by the names of tensors and options, with what to do."""

from __future__ import annotations

import foreign_networks as foreign
import pytest
import torch

from diffmae_video.conversion import FAMILIES, ConversionError, Options, convert

HEADS = Options(heads=3, decoder_heads=2)
VIDEO = Options(heads=3, decoder_heads=2, frames=8, image_size=32)
NETWORKS = {
    "mae": (foreign.mae_state, HEADS),
    "mae_st": (foreign.mae_st_state, HEADS),
    "slowfast": (foreign.slowfast_state, HEADS),
    "videomae": (foreign.videomae_state, VIDEO),
}


def network(name):
    make, options = NETWORKS[name]
    return make(), options


def family_of(name):
    """What --from calls it."""
    return "mae_st" if name == "slowfast" else name


def refuse(family, state, options, message):
    with pytest.raises(ConversionError, match=message):
        convert(family, state, options)


# ------------------------------------------------------------------------------------------------- every tensor counts


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_is_used_once_or_left_out_by_name(name):
    family, (state, options) = family_of(name), network(name)
    conversion = convert(family, state, options)
    assert sorted(conversion.used) == sorted(state) and not conversion.left_out
    alone = convert(family, state, Options(**{**vars(options), "encoder_only": True}))
    assert sorted([*alone.used, *alone.left_out]) == sorted(state)
    assert alone.is_encoder_alone and set(alone.left_out.values()) == {"--encoder-only"}
    assert {name: t for name, t in conversion.tensors.items() if name.startswith("encoder.")}.keys() == set(
        alone.tensors
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_tensor_too_many_is_named(name):
    state, options = network(name)
    state["projector.weight"] = torch.zeros(7, 5)
    refuse(family_of(name), state, options, r"projector.weight \(7, 5\): nothing here knows what to do with that")


@pytest.mark.parametrize("network_name", NETWORKS)
def test_no_tensor_may_be_missing(network_name):
    state, options = network(network_name)
    for name in state:
        without = {key: tensor for key, tensor in state.items() if key != name}
        with pytest.raises(ConversionError) as error:
            convert(family_of(network_name), without, options)
        # Without what a decoder begins with, its other tensors are left over; without what tells a program, so is all.
        expected = (name.rsplit(".", 1)[0], "is missing", "nothing here knows", "no patch embedding", "look like")
        assert any(text in str(error.value) for text in expected), f"{name}: {error.value}"


def test_a_bias_that_one_block_lacks_is_missing():
    state, options = network("videomae")
    refuse("videomae", drop(state, "encoder.blocks.1.attn.v_bias"), options, "encoder.blocks.1.attn.v_bias is missing")
    refuse("videomae", drop(state, "encoder.blocks.0.attn.v_bias"), options, "blocks.0.attn.q_bias is there, its count")
    none = drop(state, *(name for name in state if name.startswith("encoder.blocks.0") and name.endswith("_bias")))
    refuse("videomae", none, options, "encoder.blocks.1.attn.q_bias .*nothing here knows")


def drop(state, *names):
    return {name: tensor for name, tensor in state.items() if name not in names}


def test_a_tensor_of_another_shape_is_named():
    state, options = network("mae")
    state["blocks.1.mlp.fc2.weight"] = torch.zeros(48, 100)
    refuse("mae", state, options, r"blocks.1.mlp.fc2.weight is \(48, 100\), expected \(48, 192\)")


def test_values_that_are_not_finite_are_named():
    state, options = network("mae_st")
    state["blocks.2.norm1.bias"][3] = torch.nan
    refuse("mae_st", state, options, "blocks.2.norm1.bias holds values that are not finite")


def test_half_precision_becomes_float32():
    state, options = network("mae")
    conversion = convert("mae", {name: tensor.half() for name, tensor in state.items()}, options)
    assert {tensor.dtype for tensor in conversion.tensors.values()} == {torch.float32}
    assert conversion.settings["MODEL.ENCODER.POSITION"] == "separable", "rounded, the table is no longer ours"


# ------------------------------------------------------------------------------------------------------ whose they are


@pytest.mark.parametrize(
    "family, wrong, message",
    [
        ("mae", "mae_st", "decoder_embed.weight .*for --from mae, not mae_st"),
        ("mae", "videomae", "for --from mae, not videomae"),
        ("mae", "timm", "for --from mae, not timm"),
        ("mae_st", "mae", "pos_embed_spatial .*for --from mae_st, not mae"),
        ("mae_st", "videomae", "for --from mae_st, not videomae"),
        ("slowfast", "mae", "pos_embed_spatial .*for --from mae_st, not mae"),
        ("videomae", "mae_st", "encoder.patch_embed.proj.weight .*for --from videomae, not mae_st"),
        ("videomae", "hf_videomae", "for --from videomae, not hf_videomae"),
    ],
)
def test_another_programs_weights_are_recognised(family, wrong, message):
    refuse(wrong, network(family)[0], None, message)


def test_mae_st_without_positions_in_parts_is_recognised():
    for state in (foreign.mae_st_state(parts=False), foreign.mae_st_classifier(parts=False)):
        refuse("mae", state, None, "blocks.0.attn.q.weight .*for --from mae_st, not mae")
        refuse("videomae", state, None, "for --from mae_st, not videomae")


def test_an_image_network_without_decoder_may_be_of_two_programs():
    state = foreign.mae_state(decoder=False)
    assert convert("mae", state, HEADS).settings["DATA.MEAN"] == [0.485, 0.456, 0.406]
    assert convert("timm", state, Options(heads=3)).settings["DATA.MEAN"] == [0.5, 0.5, 0.5]
    refuse("videomae", state, None, "for --from mae or timm, not videomae")


def test_weights_of_this_project_need_no_conversion():
    state = convert("mae", *network("mae")).tensors
    for family in FAMILIES:
        refuse(family, state, None, "encoder.patch_embed.weight is a name of this project.*MODEL.WEIGHTS")


def test_weights_of_nobody_known():
    refuse(
        "mae", {"conv1.weight": torch.zeros(8, 3, 7, 7)}, None, r"conv1.weight \(8, 3, 7, 7\): there is no patch emb"
    )


@pytest.mark.parametrize(
    "name, what",
    [
        ("blocks.0.gamma_1", "layer scale"),
        ("blocks.0.attn.relative_position_bias_table", "relative positions"),
        ("register_tokens", "register tokens"),
        ("dist_token", "a distillation token"),
        ("blocks.0.attn.q_norm.weight", "normalised queries and keys"),
        ("blocks.0.mlp.w12.weight", "a gated MLP"),
    ],
)
def test_parts_that_ours_lacks_are_named(name, what):
    state = foreign.mae_state(decoder=False) | {name: torch.zeros(48)}
    refuse("mae", state, HEADS, rf"{name} \(48,\): this network has {what}, which is not supported")


# ------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "family, options, message",
    [
        ("mae", {"heads": 5}, "--heads 5 does not divide the width 48"),
        ("mae", {"heads": 3, "decoder_heads": 0}, "--decoder-heads 0 does not divide the width 32"),
        ("mae", {"decoder_heads": 2}, "no shape shows the attention heads.*width 48: pass --heads"),
        ("mae", {"heads": 3}, "no shape shows the attention heads.*width 32: pass --decoder-heads"),
        ("mae", {"heads": 3, "frames": 16}, "--frames 16: the shapes of these weights show 1"),
        ("mae", {"heads": 3, "image_size": 224}, "--image-size 224: the shapes of these weights show 32"),
        ("mae_st", {"heads": 3, "frames": 16}, "--frames 16: the shapes of these weights show 8"),
        ("mae", {"target_frames": "first"}, "--target-frames means nothing for mae"),
        ("videomae", {"target": "raw"}, "--target means nothing for videomae"),
        ("videomae", {"heads": 3, "frames": 7}, "patches of 2x8x8 do not divide 7 frames of 224x224"),
        ("videomae", {"heads": 3, "image_size": 30}, "patches of 2x8x8 do not divide 16 frames of 30x30"),
    ],
)
def test_wrong_options(family, options, message):
    refuse(family, network(family)[0], Options(**options), message)


def test_leaving_out_a_decoder_that_is_not_there():
    refuse("mae", foreign.mae_state(decoder=False), Options(heads=3, encoder_only=True), "these weights have none")
    refuse("videomae", foreign.videomae_classifier(), Options(**vars(VIDEO) | {"encoder_only": True}), "have none")


def test_frames_to_predict_where_all_are():
    state = foreign.mae_st_state(all_frames=True)
    refuse("mae_st", state, Options(heads=3, decoder_heads=2, target_frames="first"), "predicts all frames of a patch")


def test_heads_and_pixels_by_convention():
    maker = foreign.Maker()
    maker.state = foreign.videomae_state()
    wide = {name: tensor for name, tensor in maker.state.items() if name.startswith("encoder.patch_embed")}
    wide["encoder.patch_embed.proj.weight"] = torch.zeros(1280, 3, 2, 16, 16)
    wide["encoder.patch_embed.proj.bias"] = torch.zeros(1280)
    maker.state = wide
    maker.block("encoder.blocks.0", 1280, "q_bias,v_bias", ratio=0.05)
    maker.norm("encoder.norm", 1280)
    conversion = convert("videomae", maker.state)
    assert conversion.settings["MODEL.ENCODER.HEADS"] == 16, "of ViT-H, which is not 1280 / 64"
    assert conversion.settings["DATA.NUM_FRAMES"] == 16 and conversion.settings["DATA.CROP_SIZE"] == 224
    assert [line.split(" (--")[0] for line in conversion.assumed] == [
        "frames 16",
        "image size 224",
        "pixel mean [0.485, 0.456, 0.406]",
        "pixel std [0.229, 0.224, 0.225]",
        "16 attention heads at width 1280",
    ]


@pytest.mark.parametrize("hidden", [109, 207, 403])
def test_hidden_units_whose_ratio_is_not_exact(build, hidden):
    """Of a width of 88 a float between the two falls one short: int(88 * (109 / 88)) is 108."""
    assert int(88 * (hidden / 88)) < hidden
    make = foreign.Maker()
    make.add("cls_token", 1, 1, 88)
    make.add("pos_embed", 1, 17, 88)
    make.add("patch_embed.proj.weight", 88, 3, 8, 8)
    make.add("patch_embed.proj.bias", 88)
    make.block("blocks.0", 88, "qkv", ratio=(hidden + 0.5) / 88)
    make.norm("norm", 88)
    assert build(convert("timm", make.state, Options(heads=8))).encoder.blocks[0].mlp.fc1.out_features == hidden


# ----------------------------------------------------------------------------------------------- networks beside ours


def test_positions_of_a_frame_that_is_not_square():
    state, options = network("mae")
    state["pos_embed"] = torch.randn(1, 13, 48)
    refuse("mae", state, options, "pos_embed is for 13 patches of 8x8, which make no square frame")


@pytest.mark.parametrize("name", ["encoder.pos_embed", "pos_embed"])
def test_positions_of_another_number_of_tokens(name):
    """So with VideoMAE's pre-training code for learned ones: a row for a class token that it does not have."""
    state, options = network("videomae")
    width = 48 if name.startswith("encoder.") else 32
    for positions in (torch.randn(1, 65, width), foreign.numbered_table(32, width)):
        refuse("videomae", state | {name: positions}, options, f"{name} is .*expected .*pass the --frames and --image-")


def test_positions_for_every_token_do_not_show_the_clip():
    state = foreign.mae_st_state(parts=False)
    conversion = convert("mae_st", state, VIDEO)
    assert (conversion.settings["DATA.NUM_FRAMES"], conversion.settings["DATA.CROP_SIZE"]) == (8, 32)
    for frames, message in (
        (None, "pos_embed is for 8 patches of 8x8, which make no square frame"),  # 64 tokens in 8 slots of 2 frames
        (7, "64 tokens are not those of 7 frames in patches of 2: pass the --frames"),
        (10, "64 tokens are not those of 10 frames"),
        (0, "64 tokens are not those of 0 frames"),
    ):
        refuse("mae_st", state, Options(heads=3, decoder_heads=2, frames=frames), message)
    refuse("mae_st", state, Options(heads=3, decoder_heads=2, frames=8, image_size=64), "--image-size 64: .*show 32")


@pytest.mark.parametrize("make", [foreign.mae_st_state, foreign.slowfast_state])
def test_positions_of_a_decoder_for_another_clip(make):
    state = make(parts=False)
    state["decoder_pos_embed"] = torch.zeros(1, 49, 32)
    refuse("mae_st", state, VIDEO, "decoder_pos_embed is for 48 tokens, pos_embed for 64: parts of two networks")


def test_pyslowfasts_decoder_can_be_left_out(build):
    state = foreign.slowfast_state()
    whole, conversion = build(convert("mae_st", state, HEADS)), convert("mae_st", state, Options(3, encoder_only=True))
    beginnings = ("pred_head.", "decoder_", "mask_token")
    assert sorted(conversion.left_out) == sorted(name for name in state if name.startswith(beginnings))
    clip = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(build(conversion).encode(clip), whole.encode(clip))


@pytest.mark.parametrize("make, heads", [(foreign.slowfast_state, 8), (foreign.mae_st_state, 16)])
def test_heads_of_the_published_decoders(monkeypatch, make, heads):
    """PySlowFast's code has width / 64, mae_st's 16: of the same width of 512."""
    monkeypatch.setattr(foreign, "DECODER_WIDTH", 512)
    conversion = convert("mae_st", make(), Options(heads=3))
    assert conversion.settings["MODEL.DECODER.HEADS"] == heads
    assert f"{heads} attention heads at width 512 (--decoder-heads for another number)" in conversion.assumed


def test_pyslowfasts_other_targets():
    state = foreign.slowfast_state()
    make = foreign.Maker()
    make.linear("pred_head.projections.0", 27, 32)  # histograms of gradients, 9 bins of 3 colours
    refuse("mae_st", state | make.state, HEADS, "pred_head.projections.0 predicts 27 values .*expected 192.* or 384")
    mask_feat = {name: tensor for name, tensor in state.items() if not name.startswith("decoder_")}
    refuse("mae_st", mask_feat, HEADS, "without decoder_embed: this is PySlowFast's MaskFeat")
    refuse("mae_st", foreign.slowfast_state(all_frames=True), Options(3, 2, target_frames="first"), "leave it out")


def test_mae_st_classifier_without_class_token():
    state = {name: t for name, t in foreign.mae_st_classifier().items() if name not in ("cls_token", "pos_embed_class")}
    refuse("mae_st", state, HEADS, "head.weight without cls_token: mae_st's classifier leaves the first")


def test_an_encoder_without_an_end():
    state = {name: tensor for name, tensor in foreign.mae_state(decoder=False).items() if "norm." not in name[:5]}
    refuse("mae", state, HEADS, "norm.weight is missing, and there is neither a decoder nor a head")
