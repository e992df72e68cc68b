"""VideoMAE of Hugging Face's transformers, live: the converted network gives the same logits and the same loss."""

from __future__ import annotations

import json

import pytest
import torch

from diffmae_video.conversion import ConversionError, Options, convert, read_hf_config, read_weights

transformers = pytest.importorskip("transformers")

SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 8,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 96,
    "num_labels": 7,
}
KINDS = ("VideoMAEForPreTraining", "VideoMAEForVideoClassification", "VideoMAEModel")


def network(kind, same_epsilon=True, **config):
    """A small network with random weights, biases and norms that matter; ``same_epsilon``: ours in every norm."""
    config = {"use_mean_pooling": kind == "VideoMAEForVideoClassification", **SIZES, **config}
    model = getattr(transformers, kind)(transformers.VideoMAEConfig(**config)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            is_matrix = parameter.dim() > 1 and name != "mask_token"
            scale = parameter[0].numel() ** -0.5 if is_matrix else 0.2
            parameter.copy_(values * scale + ("norm" in name and name.endswith("weight")))
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm) and same_epsilon:
            module.eps = 1e-6
    return model


def saved(model, folder):
    model.save_pretrained(folder)
    return folder


def converted(folder, options=None):
    return convert("hf_videomae", read_weights(folder).tensors, options, read_hf_config(folder))


def clip():
    return torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(2))


def theirs(clip):
    return clip.transpose(1, 2)  # (B, T, C, H, W)


def close(ours, expected, tolerance=1e-5):
    torch.testing.assert_close(ours, expected, atol=tolerance, rtol=tolerance)


@torch.no_grad()
def differences(model, reference, clip, mask=None):
    """Largest differences of what the two give, by name."""
    if mask is None:
        return {"logits": (model(clip) - reference(theirs(clip)).logits).abs().max().item()}
    ours, expected = model(clip, mask), reference(theirs(clip), bool_masked_pos=mask)
    found = {"pred": ours.pred - expected.logits, "loss": ours.loss - expected.loss}
    return {name: difference.abs().max().item() for name, difference in found.items()}


def test_pretraining(build, hide, tmp_path):
    reference, mask = network("VideoMAEForPreTraining"), hide(64, 48)
    model = build(converted(saved(reference, tmp_path)))
    assert max(differences(model, reference, clip(), mask).values()) < 1e-5
    assert model.cfg.MODEL.DECODER.HEADS == 4 and model.cfg.DATA.CROP_SIZE == 32


def test_classification(build, tmp_path):
    reference = network("VideoMAEForVideoClassification")
    model = build(converted(saved(reference, tmp_path)))
    assert model.num_classes == 7
    assert differences(model, reference, clip())["logits"] < 1e-5


def test_encoder_alone(build, tmp_path):
    reference = network("VideoMAEModel")
    conversion = converted(saved(reference, tmp_path))
    assert conversion.is_encoder_alone
    with torch.no_grad():
        close(build(conversion).encode(clip()), reference(theirs(clip())).last_hidden_state)


def test_epsilon_of_their_norms_makes_a_small_difference(build, hide, tmp_path):
    """1e-12 in the blocks and 1e-5 in the last norms there, 1e-6 here: the size of it is in docs/conversion.md."""
    for kind, mask in (("VideoMAEForPreTraining", hide(64, 48)), ("VideoMAEForVideoClassification", None)):
        reference = network(kind, same_epsilon=False)
        conversion = converted(saved(reference, tmp_path / kind))
        assert any("epsilon" in line for line in conversion.folded)
        found = max(differences(build(conversion), reference, clip(), mask).values())
        assert 0 < found < 1e-4, kind


@pytest.mark.parametrize("names", ["q_bias and v_bias", "query.bias and value.bias"])
def test_both_names_of_the_biases(build, names):
    """Files have the first, the network of transformers 5 the second."""
    reference = network("VideoMAEForVideoClassification")
    state = reference.state_dict()
    if names.startswith("q_bias"):
        for new, old in (("query.bias", "q_bias"), ("value.bias", "v_bias")):
            state = {name.replace(new, old): tensor for name, tensor in state.items()}
    assert any(names.split(" ")[0] in name for name in state)
    options = Options(heads=3, frames=8, image_size=32)
    assert differences(build(convert("hf_videomae", state, options)), reference, clip())["logits"] < 1e-5


def test_without_biases(build, tmp_path):
    reference = network("VideoMAEForVideoClassification", qkv_bias=False)
    conversion = converted(saved(reference, tmp_path))
    assert any("training moves it" in line for line in conversion.folded)
    assert differences(build(conversion), reference, clip())["logits"] < 1e-5


def test_a_model_in_several_files(tmp_path):
    reference = network("VideoMAEForPreTraining")
    reference.save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    parts, whole = (
        read_weights(folder).tensors for folder in (tmp_path / "parts", saved(reference, tmp_path / "whole"))
    )
    assert parts.keys() == whole.keys() and all(torch.equal(parts[name], whole[name]) for name in whole)


def test_pixel_statistics_of_the_folder(tmp_path):
    saved(network("VideoMAEForPreTraining"), tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    settings = converted(tmp_path).settings
    assert settings["DATA.MEAN"] == [0.5] * 3 and settings["DATA.STD"] == [0.25] * 3


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "kind, config, message",
    [
        (
            "VideoMAEForPreTraining",
            {"use_mean_pooling": True},
            "videomae.layernorm.weight is missing: this encoder hands",
        ),
        ("VideoMAEForVideoClassification", {"use_mean_pooling": False}, "reads the first patch's token"),
        ("VideoMAEModel", {"use_mean_pooling": True}, "an encoder ends in a norm"),
        ("VideoMAEForPreTraining", {"norm_pix_loss": False}, "norm_pix_loss is false"),
        ("VideoMAEForPreTraining", {"hidden_act": "relu"}, "hidden_act 'relu' is not supported"),
    ],
)
def test_what_cannot_be_held_is_refused(tmp_path, kind, config, message):
    with pytest.raises(ConversionError, match=message):
        converted(saved(network(kind, **config), tmp_path))


def test_encoder_of_a_network_whose_decoder_cannot_be_held(build, tmp_path):
    reference = network("VideoMAEForPreTraining", norm_pix_loss=False)
    conversion = converted(saved(reference, tmp_path), Options(encoder_only=True))
    assert conversion.is_encoder_alone and set(conversion.left_out.values()) == {"--encoder-only"}
    with torch.no_grad():
        close(build(conversion).encode(clip()), reference.videomae(theirs(clip())).last_hidden_state)


def test_an_option_against_the_configuration_is_refused(tmp_path):
    saved(network("VideoMAEForPreTraining"), tmp_path)
    with pytest.raises(ConversionError, match="--heads 6: config.json says 3"):
        converted(tmp_path, Options(heads=6))
    assert converted(tmp_path, Options(heads=3)).settings["MODEL.ENCODER.HEADS"] == 3


@pytest.mark.parametrize("key, value", [("num_hidden_layers", 4), ("patch_size", 16), ("tubelet_size", 4)])
def test_a_configuration_of_another_model_is_refused(tmp_path, key, value):
    path = saved(network("VideoMAEForPreTraining"), tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ConversionError, match=f"{key} is {value}|do not divide"):
        converted(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ConversionError, match="has none of model.safetensors"):
        read_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match="no config.json"):
        read_hf_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ConversionError, match="is of a vit, expected a videomae"):
        read_hf_config(tmp_path)
