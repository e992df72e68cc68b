"""Vision Transformers of timm, live in a process of their own: the converted network gives the same logits."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from diffmae_video.conversion import ConversionError, Options, convert
from diffmae_video.models import VideoClassifier
from diffmae_video.models.encoder_model import EncoderModel

PROGRAM = Path(__file__).parent / "timm_networks.py"
HEADS = Options(heads=3)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    if find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install --no-deps -c constraints.txt timm")
    path = tmp_path_factory.mktemp("timm") / "networks.pt"
    result = subprocess.run([sys.executable, str(PROGRAM), str(path)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return torch.load(path, weights_only=True)["networks"]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "variant, pool",
    [
        ("class token", "class_token"),
        ("mean", "mean"),
        ("mean without class token", "mean"),
        ("class token without position", "class_token"),
        ("no bias of attention", "class_token"),
    ],
)
def test_classifiers(build, networks, variant, pool):
    network = networks[variant]
    model = build(convert("timm", network["state_dict"], HEADS))
    assert isinstance(model, VideoClassifier) and model.pool == pool and model.clip_shape == (3, 1, 32, 32)
    assert (model.encoder.class_token is None) is ("without class token" in variant)
    with torch.no_grad():
        close(model(network["image"].unsqueeze(2)), network["output"])
    assert network["output"].std() > 0.1


def test_encoder_alone(build, networks):
    network = networks["encoder"]
    model = build(convert("timm", network["state_dict"], HEADS))
    assert isinstance(model, EncoderModel)
    with torch.no_grad():
        close(model.encode(network["image"].unsqueeze(2)), network["tokens"][:, 1:])


def test_encoder_of_a_classifier_whose_head_was_cut_off(build, networks):
    """Its last norm is that of the mean: what is left are tokens that no norm has seen."""
    network = networks["encoder pooled"]
    conversion = convert("timm", network["state_dict"], HEADS)
    assert list(conversion.left_out) == ["fc_norm.weight", "fc_norm.bias"]
    with torch.no_grad():
        close(build(conversion).encode(network["image"].unsqueeze(2)), network["tokens"][:, 1:])


@pytest.mark.parametrize(
    "variant, message",
    [
        ("layer scale", r"blocks.0.ls1.gamma \(48,\).* and 2 more: this network has layer scale"),
        ("register tokens", "reg_token .*this network has register tokens"),
        ("normalised queries", "this network has normalised queries and keys"),
        ("norm before", "norm_pre.weight .*this network has a norm before the blocks"),
        ("mean of normalised", "this classifier takes the mean of the normalised tokens"),
        ("attention pooling", "this network has attention pooling"),
    ],
)
def test_variants_that_compute_something_else_are_refused(networks, variant, message):
    with pytest.raises(ConversionError, match=message):
        convert("timm", networks[variant]["state_dict"], HEADS)
