"""LPIPS: read from files as they are published (with random values), computed as its paper says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from diffmae_video import perceptual as module
from diffmae_video.perceptual import LPIPS, load_lpips, lpips_inside

# (index in torchvision's features, channels in, channels out, kernel, stride, padding, max pooling before it)
ALEXNET = [
    (0, 3, 64, 11, 4, 2, None),
    (3, 64, 192, 5, 1, 2, (3, 2)),
    (6, 192, 384, 3, 1, 1, (3, 2)),
    (8, 384, 256, 3, 1, 1, None),
    (10, 256, 256, 3, 1, 1, None),
]
VGG16 = [
    (index, width_in, width, 3, 1, 1, (2, 2) if pool else None)
    for index, width_in, width, pool in [
        (0, 3, 64, False),
        (2, 64, 64, False),
        (5, 64, 128, True),
        (7, 128, 128, False),
        (10, 128, 256, True),
        (12, 256, 256, False),
        (14, 256, 256, False),
        (17, 256, 512, True),
        (19, 512, 512, False),
        (21, 512, 512, False),
        (24, 512, 512, True),
        (26, 512, 512, False),
        (28, 512, 512, False),
    ]
]
# network -> convolutions, those whose ReLU is compared, smallest picture
LAYOUT = {"alexnet": (ALEXNET, (0, 3, 6, 8, 10), 31), "vgg16": (VGG16, (2, 7, 14, 21, 28), 16)}


def random_states(network: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The backbone and the heads under the names that their files have, classifier included."""
    generator = torch.Generator().manual_seed(0)
    layers, taps, _ = LAYOUT[network]
    backbone, heads = {"classifier.6.weight": torch.ones(4, 4), "classifier.6.bias": torch.ones(4)}, {}
    for index, width_in, width, kernel, *_ in layers:
        deviation = (2 / (width_in * kernel**2)) ** 0.5  # keeps the size of the features from layer to layer
        backbone[f"features.{index}.weight"] = (
            torch.randn(width, width_in, kernel, kernel, generator=generator) * deviation
        )
        backbone[f"features.{index}.bias"] = torch.randn(width, generator=generator) * 0.1
        if index in taps:
            heads[f"lin{len(heads)}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return backbone, heads


def reference_maps(network, states, pred: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
    """The five weighted maps (N, h, w) of pictures in [-1, 1], written out after Zhang et al. 2018."""
    (layers, taps, _), (backbone, heads) = LAYOUT[network], states
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    features = []
    for picture in (pred, target):
        x, own = (picture - shift) / scale, []
        for index, _, _, _, stride, padding, pool in layers:
            x = x if pool is None else F.max_pool2d(x, *pool)
            weight, bias = backbone[f"features.{index}.weight"], backbone[f"features.{index}.bias"]
            x = F.relu(F.conv2d(x, weight, bias, stride=stride, padding=padding))
            if index in taps:
                own.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        features.append(own)
    differences = [(a - b).square() for a, b in zip(*features, strict=True)]
    return [(heads[f"lin{k}.model.1.weight"] * d).sum(1) for k, d in enumerate(differences)]


def write(folder: Path, states, suffix: str = ".pth") -> tuple[Path, Path]:
    paths = folder / f"backbone{suffix}", folder / f"heads{suffix}"
    for path, state in zip(paths, states, strict=True):
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    return paths


@pytest.fixture(scope="module")
def states() -> dict:
    return {network: random_states(network) for network in LAYOUT}


@pytest.fixture(scope="module")
def model(states, tmp_path_factory) -> LPIPS:
    return load_lpips(*write(tmp_path_factory.mktemp("lpips"), states["alexnet"]))


def pictures(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# ----------------------------------------------------------------------------------------------------- the computation


@pytest.mark.parametrize(("network", "suffix"), [("alexnet", ".pth"), ("vgg16", ".safetensors")])
def test_distances_agree_with_the_paper_written_out(network, suffix, states, tmp_path):
    model = load_lpips(*write(tmp_path, states[network], suffix))
    assert model.network == network and not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    pred, target = pictures(2, 3, 40, 52), pictures(2, 3, 40, 52, seed=2)
    floats = [picture.float() / 127.5 - 1 for picture in (pred, target)]
    maps = reference_maps(network, states[network], *floats)
    expected = torch.stack([layer.mean((1, 2)) for layer in maps]).sum(0)
    assert expected.min() > 0.1
    torch.testing.assert_close(model(pred, target), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model(*floats), expected, rtol=1e-4, atol=1e-6)
    enlarged = [F.interpolate(layer[:, None], (40, 52), mode="bilinear", align_corners=False) for layer in maps]
    torch.testing.assert_close(model.distance_map(pred, target), sum(enlarged)[:, 0], rtol=1e-4, atol=1e-6)


def test_equal_pictures_have_no_distance_and_a_local_difference_is_local(model):
    target = pictures(1, 3, 256, 256)
    assert model(target, target).item() == 0
    pred = target.clone()
    pred[..., :24, :24] = 255 - pred[..., :24, :24]
    found = model.distance_map(pred, target)[0]
    assert found[:24, :24].mean() > 0.1 and found[-32:, -32:].abs().max() == 0


@pytest.mark.parametrize("network", LAYOUT)
def test_smallest_size_is_the_smallest_that_works(network):
    size = LAYOUT[network][2]
    model = LPIPS(network)
    assert model.smallest_size == size
    x = pictures(1, 3, size, size)
    assert model(x, x.flip(3)).shape == (1,) and torch.isfinite(model(x, x.flip(3))).all()
    with pytest.raises(ValueError, match=f"{network} needs at least {size}x{size} pixels, got {size}x{size - 1}"):
        model(x[..., 1:], x[..., 1:])
    with pytest.raises(RuntimeError):  # what the message spares the user: torch's own about an empty output
        model.features(torch.zeros(1, 3, size - 1, size))


def test_pictures_that_do_not_fit_are_refused(model):
    x = pictures(2, 3, 32, 32)
    with pytest.raises(ValueError, match="N, 3, H, W"):
        model(x, x[:1])
    with pytest.raises(ValueError, match="N, 3, H, W"):
        model(x[:, :1], x[:, :1])
    with pytest.raises(ValueError, match="both uint8"):
        model(x, x.float())
    with pytest.raises(ValueError, match="both uint8"):
        model.distance_map(x.long(), x.long())
    with pytest.raises(ValueError, match="alexnet, vgg16"):
        LPIPS("squeezenet")


# ------------------------------------------------------------------------------------------------- inside of a mask


def test_distance_inside_a_mask_is_the_mean_of_the_map(model, monkeypatch):
    pred, target = (pictures(5, 40, 48, 3, seed=seed).numpy() for seed in (3, 4))
    mask = np.random.default_rng(0).random((5, 40, 48)) < 0.4
    mask[2] = False
    channels_first = [torch.from_numpy(frames).permute(0, 3, 1, 2) for frames in (pred, target)]
    expected = model.distance_map(*channels_first).numpy()[mask].mean(dtype=np.float64)
    assert lpips_inside(model, pred, target, mask) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 40 * 48)  # a frame at a time
    assert lpips_inside(model, pred, target, mask) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 1)
    assert lpips_inside(model, pred, target, mask) == pytest.approx(expected, rel=1e-5)
    pred[2] = 0  # nothing is hidden there
    assert lpips_inside(model, pred, target, mask) == pytest.approx(expected, rel=1e-5)


def test_frames_and_masks_that_do_not_fit_are_refused(model):
    frames = pictures(2, 32, 32, 3).numpy()
    with pytest.raises(ValueError, match="uint8.*float"):
        lpips_inside(model, frames / 255, frames, np.ones((2, 32, 32), bool))
    with pytest.raises(ValueError, match="uint8.*1, 32, 32, 3"):
        lpips_inside(model, frames[:1], frames, np.ones((1, 32, 32), bool))
    with pytest.raises(ValueError, match="hides nothing"):
        lpips_inside(model, frames, frames, np.zeros((2, 32, 32), bool))
    with pytest.raises(ValueError, match="bool mask"):
        lpips_inside(model, frames, frames, np.ones((2, 32, 32), np.uint8))
    with pytest.raises(ValueError, match="bool mask"):
        lpips_inside(model, frames, frames, np.ones((1, 32, 32), bool))


# ---------------------------------------------------------------------------------------------------------- the files


def refused(paths: tuple[Path, Path], *words: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error) as caught:
        load_lpips(*paths)
    message = str(caught.value)
    for word in (*words, "alexnet-owt-7be5be79.pth", "vgg16-397923af.pth", "alex.pth", "github.com", "leave LPIPS out"):
        assert word in message, message


@pytest.mark.parametrize("missing", [0, 1])
def test_a_file_that_is_not_there(missing, states, tmp_path):
    paths = write(tmp_path, states["alexnet"])
    paths[missing].unlink()
    refused(paths, paths[missing].name, "is not there", error=FileNotFoundError)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_no_file_of_weights(content, suffix, states, tmp_path):
    paths = write(tmp_path, states["alexnet"], suffix)
    paths[1].write_bytes(content)
    refused(paths, paths[1].name, "layer weights", "cannot be read")


def test_a_file_that_was_cut_off(states, tmp_path):
    paths = write(tmp_path, states["alexnet"])
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole[: len(whole) // 2])
    refused(paths, paths[0].name, "cannot be read")


class Trap:
    """Would write a file if it was unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_code_of_a_file_is_run(states, tmp_path):
    paths = write(tmp_path, states["alexnet"])
    torch.save({"features.0.weight": Trap(tmp_path / "was_run")}, paths[0])
    refused(paths, "cannot be read")
    assert not (tmp_path / "was_run").exists()


def test_a_checkpoint_instead_of_a_state_dict(states, tmp_path):
    backbone, heads = states["alexnet"]
    refused(write(tmp_path, ({"model": backbone, "epoch": 3}, heads)), "not a state dict")
    refused(write(tmp_path, (list(backbone.values()), heads)), "not a state dict")


def test_another_network(states, tmp_path):
    backbone, heads = states["alexnet"]
    resnet = {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    refused(write(tmp_path, (resnet, heads)), "neither", "no such entry")
    squeezenet = {"features.0.weight": torch.zeros(64, 3, 7, 7)}
    refused(write(tmp_path, (squeezenet, heads)), "neither", "(64, 3, 7, 7)")
    refused(write(tmp_path, (heads, backbone)), "neither")  # the two were exchanged


def test_files_of_different_networks(states, tmp_path):
    paths = write(tmp_path, (states["alexnet"][0], states["vgg16"][1]))
    refused(paths, "heads.pth", "lin1.model.1.weight is (1, 128, 1, 1), expected (1, 192, 1, 1)", "one network")


@pytest.mark.parametrize("which", [0, 1])
def test_every_entry_must_fit(which, states, tmp_path):
    changed = [dict(state) for state in states["alexnet"]]
    name = ("features.3.bias", "lin3.model.1.weight")[which]
    value = changed[which].pop(name)
    refused(write(tmp_path, changed), f"{name} is missing")
    changed[which][name], changed[which]["features.12.weight"] = value, torch.zeros(2)
    refused(write(tmp_path, changed), "features.12.weight is not expected")
