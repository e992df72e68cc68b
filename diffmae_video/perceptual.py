"""LPIPS, the perceptual distance of Zhang et al. 2018 (arXiv:1801.03924), from the two files of its published weights.

It compares the features that a network for image classification has of two pictures, weighed by what people called
similar. Two networks are known: AlexNet (what papers report unless they say otherwise) and VGG16. No weights come with
this package: ``load_lpips`` reads them from the disk and says where people get them.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from diffmae_video.zip_files import compressed_entry

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # mean and deviation of ImageNet, for [-1, 1]
EPSILON = 1e-10
PIXELS_AT_ONCE = 2**19  # of lpips_inside: VGG16's first maps take 0.13 GB each then
HEAD_KEY = "lin{}.model.1.weight"

WHERE = """LPIPS needs two files, both .pth or .safetensors:
  the network of torchvision, alexnet-owt-7be5be79.pth or vgg16-397923af.pth, from
    https://download.pytorch.org/models/alexnet-owt-7be5be79.pth
    https://download.pytorch.org/models/vgg16-397923af.pth
  the weights of its layers (v0.1), alex.pth or vgg.pth of the same network, from
    https://github.com/richzhang/PerceptualSimilarity/tree/master/lpips/weights/v0.1
    (the PyPI packages lpips and torchmetrics contain them, too)
Download them and give both paths; without them, leave LPIPS out."""


class LPIPS(nn.Module):
    """A network up to its fifth layer of interest, and one weight for every channel of the five.

    Modules and indices are those of torchvision's ``features``, so that its state dict fits. The network was trained on
    pictures of 224 x 224, the heads on 64 x 64: of smaller frames the last maps are a few pixels.

    Attributes:
        network: "alexnet" or "vgg16".
        smallest_size: rows and columns that a picture needs for the last map to have a pixel.

    Raises:
        ValueError: an unknown network.
    """

    def __init__(self, network: str):
        super().__init__()
        if network not in NETWORKS:
            raise ValueError(f"unknown network {network!r}: choose one of {', '.join(NETWORKS)}")
        layers, self.taps, self.smallest_size = NETWORKS[network]()
        self.network, self.features = network, nn.Sequential(*layers)
        widths = [layers[tap - 1].out_channels for tap in self.taps]
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in widths)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """LPIPS of pairs of pictures, float32 (N,); 0 = equal features, larger = less alike.

        Args:
            pred, target: (N, 3, H, W) RGB, both uint8 or both float in [-1, 1]; H and W at least ``smallest_size``.

        Raises:
            ValueError: shapes or types that do not fit, or pictures that are too small.
        """
        return torch.stack([layer.mean(dim=(1, 2)) for layer in self._layer_maps(pred, target)]).sum(dim=0)

    def distance_map(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The same by place, float32 (N, H, W): the five maps, enlarged bilinearly and added up.

        The published ``spatial=True``. Its mean differs a little from ``forward``, which takes the means of the small
        maps, and a pixel's value depends on what is around it (163 pixels wide in AlexNet's last map).

        Args, Raises: see ``forward``.
        """
        size = pred.shape[-2:]
        maps = [layer.unsqueeze(1) for layer in self._layer_maps(pred, target)]
        return sum(F.interpolate(layer, size, mode="bilinear", align_corners=False) for layer in maps).squeeze(1)

    def _layer_maps(self, pred: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
        """Weighted squared difference of the unit features, (N, h, w) for each of the five layers."""
        self._check(pred, target)
        x, y = ((_to_unit(picture) - self.shift) / self.scale for picture in (pred, target))
        maps = []
        for index, layer in enumerate(self.features):
            x, y = layer(x), layer(y)
            if index in self.taps:
                head = self.heads[len(maps)]
                maps.append(head((_unit_channels(x) - _unit_channels(y)) ** 2).squeeze(1))
        return maps

    def _check(self, pred: torch.Tensor, target: torch.Tensor) -> None:
        if pred.shape != target.shape or pred.ndim != 4 or pred.shape[1] != 3:
            raise ValueError(f"expected two of shape (N, 3, H, W), got {tuple(pred.shape)} and {tuple(target.shape)}")
        if pred.dtype != target.dtype or not (pred.dtype == torch.uint8 or pred.is_floating_point()):
            raise ValueError(f"expected both uint8, or both float in [-1, 1]; got {pred.dtype} and {target.dtype}")
        if min(pred.shape[2:]) < self.smallest_size:
            raise ValueError(
                f"{self.network} needs at least {self.smallest_size}x{self.smallest_size} pixels, got "
                f"{pred.shape[2]}x{pred.shape[3]}: enlarge the pictures first, both in the same way"
            )


def _alexnet() -> tuple[list[nn.Module], tuple[int, ...], int]:
    """Layers, the ReLUs whose outputs are compared, and the smallest picture."""
    layers = [
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]
    return layers, (1, 4, 7, 9, 11), 31


def _vgg16() -> tuple[list[nn.Module], tuple[int, ...], int]:
    """As ``_alexnet``: five stages of 3x3 convolutions, compared after the last of each."""
    layers, taps, channels = [], [], 3
    for stage, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        if stage:
            layers.append(nn.MaxPool2d(2))
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        taps.append(len(layers) - 1)
    return layers, tuple(taps), 16


NETWORKS = {"alexnet": _alexnet, "vgg16": _vgg16}


def load_lpips(backbone_path: str | os.PathLike[str], heads_path: str | os.PathLike[str]) -> LPIPS:
    """LPIPS from the disk, on the CPU, in eval mode, without gradients of its weights.

    The first convolution tells which network it is. Of the backbone only ``classifier.*`` is left out, every other
    entry of the two files must fit, and nothing may be missing. No pickled code is run.

    Args:
        backbone_path: torchvision's state dict of AlexNet or VGG16 (``features.0.weight``, ...).
        heads_path: the weights of LPIPS v0.1 of the same network (``lin0.model.1.weight``, ..., each (1, C, 1, 1)).

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: not such a file, or the two are not of one network.
    """
    backbone, heads = _read(backbone_path, "network"), _read(heads_path, "layer weights")
    backbone = {name: value for name, value in backbone.items() if not name.startswith("classifier.")}
    model = LPIPS(_network_of(backbone, backbone_path))
    features = {own: f"features.{own}" for own in model.features.state_dict()}
    _load(model.features, backbone, features, backbone_path)
    layer_weights = {f"{number}.weight": HEAD_KEY.format(number) for number in range(len(model.heads))}
    _load(model.heads, heads, layer_weights, heads_path)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def lpips_inside(model: LPIPS, pred_frames: np.ndarray, target_frames: np.ndarray, mask: np.ndarray) -> float:
    """``LPIPS.distance_map`` of the frames, mean over the hidden pixels; runs where ``model`` is.

    Args:
        pred_frames, target_frames: uint8 (T, H, W, 3).
        mask: bool (T, H, W), True = hidden.

    Raises:
        ValueError: shapes or types that do not fit, frames that are too small, or a mask that hides nothing.
    """
    if pred_frames.shape != target_frames.shape or {pred_frames.dtype, target_frames.dtype} != {np.dtype(np.uint8)}:
        raise ValueError(
            f"expected two of uint8 (T, H, W, 3), got {pred_frames.dtype} {pred_frames.shape} and "
            f"{target_frames.dtype} {target_frames.shape}"
        )
    if mask.shape != pred_frames.shape[:-1] or mask.dtype != np.bool_:
        raise ValueError(
            f"expected a bool mask of the frames' shape {pred_frames.shape[:-1]}, got {mask.dtype} {mask.shape}"
        )
    if not mask.any():
        raise ValueError("the mask hides nothing: there is no pixel to compare")
    total, numbers = 0.0, np.flatnonzero(mask.any(axis=(1, 2)))
    count = max(1, PIXELS_AT_ONCE // mask[0].size)
    for first in range(0, len(numbers), count):
        own = numbers[first : first + count]
        pred, target = (
            torch.from_numpy(frames[own]).permute(0, 3, 1, 2).to(model.shift.device)
            for frames in (pred_frames, target_frames)
        )
        total += float(model.distance_map(pred, target).cpu().numpy()[mask[own]].sum(dtype=np.float64))
    return total / int(mask.sum())


def _to_unit(pictures: torch.Tensor) -> torch.Tensor:
    """float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1 if pictures.dtype == torch.uint8 else pictures.float()


def _unit_channels(features: torch.Tensor) -> torch.Tensor:
    """Features (N, C, h, w) divided by their length over C."""
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + EPSILON)


def _read(path: str | os.PathLike[str], what: str) -> dict[str, torch.Tensor]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}, the {what} of LPIPS, is not there\n{WHERE}")
    if compressed_entry(path):
        raise ValueError(f"{path}, the {what} of LPIPS, is compressed, which torch.save never does\n{WHERE}")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path}, the {what} of LPIPS, cannot be read: {reason}\n{WHERE}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path}, the {what} of LPIPS, is not a state dict: it holds more than named tensors\n{WHERE}")
    return state


def _network_of(backbone: dict[str, torch.Tensor], path: str | os.PathLike[str]) -> str:
    first = backbone.get("features.0.weight")
    shape = None if first is None else tuple(first.shape)
    networks = {(64, 3, 11, 11): "alexnet", (64, 3, 3, 3): "vgg16"}
    if shape not in networks:
        found = "no such entry" if shape is None else f"{shape}"
        raise ValueError(
            f"{path} is neither torchvision's AlexNet nor its VGG16: features.0.weight would be (64, 3, 11, 11) or "
            f"(64, 3, 3, 3), found {found}\n{WHERE}"
        )
    return networks[shape]


def _load(
    module: nn.Module, state: dict[str, torch.Tensor], names: dict[str, str], path: str | os.PathLike[str]
) -> None:
    """Loads strictly, ``names`` being the file's name of every entry of ``module``; names all that does not fit."""
    expected = {names[own]: tuple(value.shape) for own, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is not expected" for name in found if name not in expected]
    wrong += [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    if wrong:
        raise ValueError(f"{path} does not fit: {'; '.join(wrong)}. Are both files of one network?\n{WHERE}")
    module.load_state_dict({own: state[name] for own, name in names.items()})
