"""Weights of one model onto another: what is loaded, resized and left out, and what is refused."""

import pytest
import torch

from diffmae_video.diffusion import NoiseSchedule
from diffmae_video.models import DECODERS, MAE, DiffMAE, SpaceTimeViT
from diffmae_video.models.classifier import VideoClassifier
from diffmae_video.models.fitting import PRETEXT, WeightsError, fit_weights
from diffmae_video.models.patches import patchify
from diffmae_video.models.resizing import resize_table

CLIP, PATCH, GRID = (3, 4, 32, 48), (2, 8, 8), (2, 4, 6)
IMAGE, IMAGE_PATCH, IMAGE_GRID = (3, 1, 32, 48), (1, 8, 8), (1, 4, 6)


def encoder(clip=CLIP, patch=PATCH, seed=0, **sizes):
    torch.manual_seed(seed)
    return SpaceTimeViT(clip, patch, **{"width": 24, "depth": 3, "heads": 2, **sizes})


def pretrained(clip=CLIP, patch=PATCH, seed=0, kind=DiffMAE, decoder_position="separable", **sizes):
    vit = encoder(clip, patch, seed, **sizes)
    values = vit.patch_embed.in_features
    decoder = DECODERS["cross_self"](vit.grid, vit.width, 16, 2, 2, 2.0, values, decoder_position)
    return MAE(vit, decoder) if kind is MAE else DiffMAE(vit, decoder, NoiseSchedule("linear", 1000))


def classifier(clip=CLIP, patch=PATCH, seed=1, classes=5, kind="finetune", pool="mean", **sizes):
    return VideoClassifier(encoder(clip, patch, seed, **sizes), classes, kind, pool, probe_heads=2)


def fit(target, source, **options):
    return fit_weights(target, source.state_dict(), source.grid, source.patch_size, **options)


def pixels(*shape, seed=2):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def copy(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_unchanged(model, before):
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ------------------------------------------------------------------------------------------------- pre-trained models


@pytest.mark.parametrize("position", ["separable", "learned", "sincos"])
@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_a_probe_has_the_encoder_of_its_pre_training(kind, position):
    source, target = pretrained(position=position), classifier(kind=kind, position=position)
    head = copy(target.head)
    report = fit(target, source)
    clip = pixels(2, *CLIP)
    torch.testing.assert_close(target.encode(clip), source.eval().encode(clip), rtol=0, atol=0)
    assert report.resized == [] and report.notes == []
    assert set(report.loaded) == {name for name in target.state_dict() if name.startswith("encoder.")}
    assert all(name.startswith((*PRETEXT, "pixel_")) for name in report.skipped)
    assert set(report.initialised) == {name for name in target.state_dict() if name.startswith("head.")}
    assert_unchanged(target.head, head)


def test_fine_tuning_on_the_mean_leaves_the_encoders_norm_out_and_says_so():
    source, target = pretrained(class_token=True), classifier(class_token=True)
    report = fit(target, source)
    assert {"encoder.norm.weight", "encoder.norm.bias"} <= set(report.skipped)
    assert "encoder.class_token" in report.loaded
    assert report.lines() == [
        "loaded: encoder.class_token, encoder.patch_embed (2 tensors), encoder.position (2 tensors), "
        "encoder.blocks (36 tensors)",
        "in the weights, not used: pixel_mean, pixel_std, encoder.norm (2 tensors), decoder (54 tensors), "
        "noisy_embed (2 tensors), time_embed (4 tensors)",
        "left at initial values: head (4 tensors)",
    ]
    with_norm = classifier(class_token=True, pool="class_token")
    assert "encoder.norm.weight" in fit(with_norm, source).loaded


def test_mae_weights_fit_a_classifier():
    assert "mask_token" in fit(classifier(), pretrained(kind=MAE)).skipped


def test_the_source_is_not_shared():
    source, target = pretrained(), classifier()
    fit(target, source)
    with torch.no_grad():
        target.encoder.patch_embed.weight.zero_()
    assert source.encoder.patch_embed.weight.any()


def test_weights_of_another_type_are_converted():
    source, target = pretrained(), classifier()
    half = {name: value.bfloat16() for name, value in source.state_dict().items()}
    fit_weights(target, half, GRID, PATCH)
    assert target.encoder.patch_embed.weight.dtype == torch.float32
    assert torch.equal(target.encoder.patch_embed.weight, half["encoder.patch_embed.weight"].float())


# ------------------------------------------------------------------------------------------------------- other grids


def test_more_frames_and_a_higher_resolution_resize_the_learned_positions():
    source, target = pretrained(), classifier((3, 8, 48, 64))
    report = fit(target, source)
    assert report.resized == [
        ("encoder.position.space", (24, 24), (48, 24), "positions 4x6 -> 6x8, bicubic"),
        ("encoder.position.time", (2, 24), (4, 24), "positions 2 -> 4, linear"),
    ]
    assert "resized: encoder.position.time (2, 24) -> (4, 24), positions 2 -> 4, linear" in report.lines()
    assert torch.isfinite(target.eval()(pixels(2, 3, 8, 48, 64))).all()
    first, last = target.encoder.position.time[[0, -1]]
    torch.testing.assert_close(first, source.encoder.position.time[0])
    torch.testing.assert_close(last, source.encoder.position.time[-1])


def test_positions_of_every_token_are_resized_too():
    source, target = pretrained(position="learned"), classifier((3, 8, 48, 64), position="learned")
    report = fit(target, source, source_temperature=10000.0)
    how = "positions 2x4x6 -> 4x6x8, bicubic in space, linear in time"
    assert report.resized == [("encoder.position.table", (48, 24), (192, 24), how)] and report.notes == []
    expected = resize_table(source.encoder.position.table, GRID, (4, 6, 8))
    assert torch.equal(target.encoder.position.table, expected)
    turned = classifier((3, 4, 48, 32), position="learned")  # 4 x 6 and 6 x 4 tokens
    assert [name for name, *_ in fit(turned, source).resized] == ["encoder.position.table"]


def test_a_decoder_of_other_positions_or_class_tokens_is_refused():
    """Every difference is named by its key."""

    def joint(**options):
        vit = encoder(class_token=True)
        return MAE(vit, DECODERS["joint"](vit.grid, vit.width, 16, 2, 2, 2.0, 384, **options))

    plain = joint(position="separable")
    for options, key in (
        ({"position": "learned"}, "POSITION"),
        ({"position": "separable", "class_position": True}, "CLASS_POSITION"),
        ({"position": "separable", "class_token": True}, "CLASS_TOKEN"),
    ):
        for source, target in ((plain, joint(**options)), (joint(**options), plain)):
            with pytest.raises(WeightsError, match=f"set MODEL.DECODER.{key} as in the weights' run"):
                fit(target, source, fresh=())


def test_the_grid_decides_and_not_the_number_of_tokens():
    source, target = pretrained(), classifier((3, 4, 48, 32))  # 4 x 6 and 6 x 4 tokens
    report = fit(target, source)
    assert [name for name, *_ in report.resized] == ["encoder.position.space"]
    assert not torch.equal(target.encoder.position.space, source.encoder.position.space)


def test_fixed_positions_follow_the_new_grid_and_the_report_says_so():
    source, target = pretrained(position="sincos"), classifier((3, 8, 48, 64), position="sincos")
    report = fit(target, source, source_temperature=10000.0)
    assert report.resized == []
    assert report.notes == ["encoder.position: fixed, those of the new grid: 2x4x6 -> 4x6x8 tokens, not interpolated"]


def test_fixed_positions_of_another_temperature_are_refused():
    source, target = pretrained(position="sincos", temperature=16.0), classifier(position="sincos")
    with pytest.raises(WeightsError, match="MODEL.POSITION_TEMPERATURE 16"):
        fit(target, source, source_temperature=16.0)
    fit(classifier(position="sincos", temperature=16.0), source, source_temperature=16.0)


def test_pre_training_goes_on_at_another_resolution():
    source, target = pretrained(), pretrained((3, 8, 48, 64), seed=1)
    report = fit(target, source, fresh=())
    assert [name for name, *_ in report.resized] == [
        f"{part}.position.{axis}" for part in ("encoder", "decoder") for axis in ("space", "time")
    ]
    assert report.skipped == ["pixel_mean", "pixel_std"] and report.initialised == []
    assert torch.equal(target.decoder.head.weight, source.decoder.head.weight)
    assert torch.isfinite(target(pixels(2, 3, 8, 48, 64)).loss)


def test_an_equal_model_gets_equal_weights():
    source, target = pretrained(), pretrained(seed=1)
    fit(target, source, fresh=())
    assert_unchanged(target, source.state_dict())


# ------------------------------------------------------------------------------------------------- images and videos


@pytest.mark.parametrize("inflation", ["average", "center"])
def test_from_images_to_video_and_back(inflation):
    image, video, back = pretrained(IMAGE, IMAGE_PATCH), pretrained(seed=1), pretrained(IMAGE, IMAGE_PATCH, seed=2)
    report = fit(video, image, inflation=inflation, fresh=PRETEXT)
    assert [(name, how) for name, _, _, how in report.resized] == [
        ("encoder.patch_embed.weight", f"patch of 1 -> 2 frames, {inflation}"),
        ("encoder.position.time", "positions 1 -> 2, linear"),
    ]
    picture = pixels(1, *IMAGE)
    tokens = video.encoder.embed(patchify(picture.expand(-1, -1, 4, -1, -1), PATCH))
    expected = image.encoder.embed(patchify(picture, IMAGE_PATCH))
    torch.testing.assert_close(tokens, expected.repeat(1, 2, 1), rtol=1e-4, atol=1e-5)  # both slots of the still clip
    report = fit(back, video, inflation=inflation, fresh=PRETEXT)
    assert report.resized[0][3] == "patch of 2 -> 1 frames, sum"
    for name, value in image.encoder.state_dict().items():
        torch.testing.assert_close(back.encoder.state_dict()[name], value, msg=name)


def test_a_decoder_of_single_frame_patches_fits_a_video_of_single_frame_patches():
    image, video = pretrained(IMAGE, IMAGE_PATCH), pretrained(patch=IMAGE_PATCH, seed=1)
    report = fit(video, image, fresh=())
    assert [name for name, *_ in report.resized] == ["encoder.position.time", "decoder.position.time"]
    assert torch.isfinite(video(pixels(2, *CLIP)).loss)


def test_patches_of_another_size_answer_the_resized_picture():
    source, target = pretrained(IMAGE, IMAGE_PATCH), classifier((3, 1, 64, 96), (1, 16, 16))
    report = fit(target, source)
    assert report.resized == [
        (
            "encoder.patch_embed.weight",
            (24, 192),
            (24, 768),
            "patch of 8x8 -> 16x16 pixels, pseudo-inverse of bicubic",
        )
    ]
    uniform = pixels(1, 3, 1, 1, 1)
    small, large = (m.encoder(uniform.expand(-1, -1, *m.clip_shape[1:])) for m in (source, target))
    norm = source.encoder.norm  # the classifier has taken it out of its encoder
    torch.testing.assert_close(norm(large), small, rtol=1e-4, atol=1e-4)


def test_a_decoder_of_another_patch_is_refused_even_with_equal_shapes():
    source, target = pretrained(), pretrained((3, 4, 32, 48), (1, 8, 16), seed=1)
    before = copy(target)
    with pytest.raises(WeightsError, match=r"decoder.head.weight belongs to patches of 2x8x8.* 1x8x16.*PATCH_SIZE"):
        fit(target, source, fresh=())
    assert_unchanged(target, before)


# -------------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("kind", ["finetune", "linear", "attentive"])
def test_a_classifier_goes_on_with_its_head(kind):
    source, target = classifier(kind=kind, seed=0), classifier(kind=kind, seed=1)
    assert fit(target, source, fresh=()).initialised == []
    clip = pixels(2, *CLIP)
    assert torch.equal(target.eval()(clip), source.eval()(clip))


def test_a_head_for_other_classes_is_new_by_name_and_refused_otherwise():
    source, target = classifier(classes=5), classifier(classes=7)
    before = copy(target)
    with pytest.raises(WeightsError, match=r"head.classifier.weight is \(5, 24\) in the weights and \(7, 24\) in the"):
        fit(target, source, fresh=())
    assert_unchanged(target, before)
    report = fit(target, source)
    assert "head.classifier.weight" in report.skipped and "head.classifier.weight" in report.initialised
    assert torch.equal(target.head.classifier.weight, before["head.classifier.weight"])


def test_a_probe_on_fine_tuned_weights_without_the_encoders_norm_must_name_it():
    source, target = classifier(), classifier(kind="linear")
    with pytest.raises(WeightsError, match=r"in the model but not .*: encoder.norm.weight \(24,\), encoder.norm.bias"):
        fit(target, source)
    assert "encoder.norm.weight" in fit(target, source, fresh=("head.", "encoder.norm.")).initialised


# ------------------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"width": 32}, r"the weights are of width 24, MODEL.ENCODER.WIDTH is 32 .*\(24, 384\).*\(32, 384\)"),
        ({"depth": 2}, "the weights are of depth 3, MODEL.ENCODER.DEPTH is 2"),
        ({"mlp_ratio": 2.0}, r"encoder.blocks.0.mlp.fc1.weight is \(96, 24\) in the weights and \(48, 24\) in the m"),
        ({"clip": (1, 4, 32, 48)}, r"encoder.patch_embed.weight is \(24, 384\) in the weights and \(24, 128\)"),
        ({"position": "learned"}, r"in the weights but not in the model: encoder.position.space .*ENCODER.POSITION"),
        ({"position": "sincos"}, r"in the weights but not in the model: encoder.position.space .*ENCODER.POSITION"),
        ({"class_token": True}, r"in the model but not in the weights .*class_token \(1, 1, 24\).*ENCODER.CLASS_TOKEN"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_encoder_is_refused_and_nothing_is_changed(changes, message):
    target = classifier(**changes)
    before = copy(target)
    with pytest.raises(WeightsError, match=message):
        fit(target, pretrained())
    assert_unchanged(target, before)


def test_a_tensor_that_nobody_named_is_refused():
    source, target = pretrained().state_dict(), classifier()
    before = copy(target)
    source["encoder.extra"] = torch.zeros(3)
    with pytest.raises(WeightsError, match=r"in the weights but not in the model: encoder.extra \(3,\).*`skip`"):
        fit_weights(target, source, GRID, PATCH)
    del source["encoder.extra"], source["encoder.blocks.2.mlp.fc2.bias"]
    with pytest.raises(WeightsError, match=r"in the model but not .*encoder.blocks.2.mlp.fc2.bias \(24,\).*`fresh`"):
        fit_weights(target, source, GRID, PATCH)
    assert_unchanged(target, before)
    report = fit_weights(target, source, GRID, PATCH, fresh=("head.", "encoder.blocks.2.mlp.fc2.bias"))
    assert "encoder.blocks.2.mlp.fc2.bias" in report.initialised


def test_an_explicit_skip_replaces_the_default_and_names_are_not_beginnings():
    with pytest.raises(WeightsError, match="decoder.position.space"):
        fit(classifier(), pretrained(), skip=("decode", "noisy_embed.", "time_embed."))
    fit(classifier(), pretrained(), skip=PRETEXT)


def test_what_is_skipped_although_the_model_has_it_must_be_named_twice():
    with pytest.raises(WeightsError, match="in the model but not in the weights that are to be used: decoder"):
        fit(pretrained(seed=1), pretrained(), skip=("decoder.",), fresh=())


@pytest.mark.parametrize(
    "grid,patch,message",
    [((2, 5, 6), PATCH, "space .* is not for 2x5x6"), ((3, 4, 6), PATCH, "time"), (GRID, (2, 7, 8), "for patches of")],
)
def test_a_grid_or_patch_that_is_not_the_weights_own_is_refused(grid, patch, message):
    with pytest.raises(WeightsError, match=message):
        fit_weights(classifier(), pretrained().state_dict(), grid, patch)


def test_a_grid_that_is_not_that_of_the_positions_of_every_token_is_refused():
    with pytest.raises(WeightsError, match=r"position.table \(48, 24\) is not for 2x4x7 tokens"):
        fit_weights(classifier(position="learned"), pretrained(position="learned").state_dict(), (2, 4, 7), PATCH)


def test_weights_of_something_else_are_refused():
    with pytest.raises(WeightsError, match="encoder.patch_embed.weight is not in the weights"):
        fit_weights(classifier(), {"fc.weight": torch.zeros(3, 3)}, GRID, PATCH)


def test_an_unknown_inflation_is_refused():
    with pytest.raises(ValueError, match="unknown inflation 'mean'"):
        fit(classifier(), pretrained(), inflation="mean")


def test_the_models_own_pixel_statistics_stay_and_a_difference_is_reported():
    source, target = pretrained(), classifier()
    with torch.no_grad():
        source.pixel_mean.fill_(0.45)
    report = fit(target, source)
    assert target.pixel_mean.flatten().tolist() == [0.5] * 3
    assert report.notes == [
        "pixel_mean: the model's own, [0.5, 0.5, 0.5]; the weights were trained with [0.45, 0.45, 0.45]"
    ]
