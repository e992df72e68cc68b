"""Features that a frozen CLIP image encoder (Radford et al. 2021, arXiv:2103.00020) has of every patch of a clip.

CLIP sees single pictures. One frame of every time slot is resized so that CLIP cuts it into just the patches that the
clip's model has: every feature then stands for one patch, and none is mixed of several. No weights come with this
package: ``load_clip_teacher`` reads them from a folder as the package ``transformers`` saves it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, CLIPVisionModel

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of the published CLIP models
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
# What a whole CLIP model has besides its image encoder; the projection is of the class token alone.
OTHER_PARTS = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
PREFIX = "vision_model."  # of the image encoder's tensors, in most files

WHAT = (
    "expected the folder of a CLIP model as transformers saves it: config.json, model.safetensors and "
    "preprocessor_config.json (docs/clip.md)"
)


class ClipTeacher:
    """A frozen CLIP image encoder, as a function of clips; no module, so that no model, checkpoint or average holds it.

    Args:
        vision: ``transformers.CLIPVisionModel`` up to the block whose output is wanted; frozen here, in eval mode.
        patch_size: (pt, ph, pw) of the patches that the clips have for their model.
        mean, std: per channel, on the [0, 1] pixel scale; those that ``vision`` was trained with.
    """

    def __init__(
        self,
        vision: CLIPVisionModel,
        patch_size: tuple[int, int, int],
        mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD,
    ):
        self.vision, self.patch_size = vision.eval().requires_grad_(False), patch_size
        self.own_patch = vision.config.patch_size
        self.mean, self.std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (mean, std))

    def to(self, device: torch.device | str) -> ClipTeacher:
        """Moves it, in place."""
        self.vision.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def frame_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns to which frames of (height, width) are resized: CLIP's patch for each of the model's."""
        return tuple(
            size // patch * self.own_patch for size, patch in zip((height, width), self.patch_size[1:], strict=True)
        )

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of all patches of clips, under the autocast of the caller.

        Of the pt frames of a time slot CLIP sees the middle one, the earlier of two. Where the frames are not of the
        size that it was trained at, its position embedding is interpolated (bicubic).

        Args:
            pixels: (B, 3, T, H, W), uint8 or float in [0, 1]; T a multiple of pt, or 1.

        Returns:
            (B, N, F) without the class token, in the order of the model's tokens: time slot, row, column.

        Raises:
            ValueError: clips of which no whole patches can be cut.
        """
        frames = middle_frames(pixels, self.patch_size[0])  # (B, 3, t, H, W)
        _, channels, slots, height, width = frames.shape
        if channels != 3 or height % self.patch_size[1] or width % self.patch_size[2]:
            raise ValueError(
                f"expected clips (B, 3, T, H, W) of whole patches {self.patch_size}, got {tuple(pixels.shape)}"
            )
        frames = frames.transpose(1, 2).flatten(0, 1)  # (B * t, 3, H, W)
        frames = frames.float() / 255 if frames.dtype == torch.uint8 else frames
        size = self.frame_size(height, width)
        if size != (height, width):
            frames = F.interpolate(frames, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        frames = (frames - self.mean) / self.std
        tokens = self.vision(pixel_values=frames, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        return tokens.unflatten(0, (-1, slots)).flatten(1, 2)


def middle_frames(clip: torch.Tensor, pt: int) -> torch.Tensor:
    """The frame in the middle of every pt frames, the earlier of two: (B, C, T, H, W) -> (B, C, T / pt, H, W).

    A clip of one frame is a clip of one time slot, as for the model.

    Raises:
        ValueError: frames that are no multiple of pt.
    """
    if clip.shape[2] == 1:
        return clip
    if clip.shape[2] % pt:
        raise ValueError(f"expected clips with 1 frame or a multiple of {pt}, got {tuple(clip.shape)}")
    return clip[:, :, (pt - 1) // 2 :: pt]


# ------------------------------------------------------------------------------------------------------ from a folder


def load_clip_teacher(folder: str | Path, patch_size: tuple[int, int, int], layer: int = -1) -> ClipTeacher:
    """CLIP from the disk, on the CPU, in float32; reads nothing but JSON and safetensors, and runs no pickled code.

    Args:
        folder: of a whole CLIP model, or of its image encoder with or without projection.
        patch_size: as of :class:`ClipTeacher`.
        layer: block whose output is the feature, from the end: -1 is the last. Later ones are not loaded.

    Raises:
        FileNotFoundError: no such folder, or no weights in it.
        ValueError: no CLIP, a file that is damaged, weights that are not those of its configuration, or no such layer.
        ImportError: ``transformers`` is missing.
    """
    folder = Path(folder)
    config = read_vision_config(folder)
    depth = config.num_hidden_layers
    if not -depth <= layer <= -1:
        raise ValueError(f"the CLIP model in {folder} has {depth} blocks, -{depth} to -1: there is no block {layer}")
    config.num_hidden_layers = depth + layer + 1
    state = _read_tensors(folder)
    later = tuple(f"encoder.layers.{block}." for block in range(config.num_hidden_layers, depth))
    state = {name: value for name, value in state.items() if not name.startswith(later)}
    with torch.random.fork_rng(devices=[]):  # the initial weights, which are replaced, are drawn
        vision = _transformers().CLIPVisionModel(config)
    _load(vision, state, folder)
    return ClipTeacher(vision, patch_size, *read_normalization(folder))


def read_vision_config(folder: str | Path) -> CLIPVisionConfig:
    """The configuration of the image encoder in a folder; ``hidden_size`` is the width F of its features.

    Raises:
        FileNotFoundError, ValueError, ImportError: as :func:`load_clip_teacher`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: {WHAT}; nothing is downloaded")
    if not (folder / "config.json").is_file():
        if list(folder.glob("open_clip*")):
            raise ValueError(f"{folder} is a model of open_clip, whose format is not read: {WHAT}")
        raise FileNotFoundError(f"{folder} has no config.json: {WHAT}")
    kind = _read_json(folder / "config.json").get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise ValueError(f"{folder} is a model of type {kind!r}, not CLIP: {WHAT}")
    return _transformers().CLIPVisionConfig.from_pretrained(folder, local_files_only=True)


def read_normalization(folder: str | Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel, [0, 1] scale, from the folder; of the published models where it has none."""
    for name in PREPROCESSING:
        path = Path(folder) / name
        if path.is_file():
            values = _read_json(path)
            values = values.get("image_processor", values)
            if "image_mean" in values and "image_std" in values:
                return tuple(values["image_mean"]), tuple(values["image_std"])
    return MEAN, STD


def _transformers() -> Any:
    try:
        import transformers

        transformers.CLIPVisionModel  # noqa: B018 (imports it, and what it needs, only now)
    except ImportError as error:
        raise ImportError(
            "CLIP features need the package transformers, which cannot be imported "
            f'({error}): pip install -c constraints.txt -e ".[clip]"'
        ) from error
    return transformers


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object: {WHAT}")
    return values


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the image encoder, on the CPU, named without their prefix."""
    if (folder / WEIGHTS).is_file():
        names = [WEIGHTS]
    elif (folder / INDEX).is_file():
        names = sorted(set(_read_json(folder / INDEX).get("weight_map", {}).values()))
        elsewhere = [name for name in names if Path(name).name != name]
        if elsewhere:
            raise ValueError(f"{folder / INDEX} names {elsewhere[0]}, which is no file of this folder")
    elif list(folder.glob("*.bin")):
        raise FileNotFoundError(
            f"{folder} has its weights in a .bin file only, a pickle, which can run code and is not read: save them as "
            "safetensors once, where you trust the file (docs/clip.md)"
        )
    else:
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}: {WHAT}")
    state = {}
    for path in (folder / name for name in names):
        try:
            with safe_open(path, "pt") as file:
                wanted = [name for name in file.keys() if not name.startswith(OTHER_PARTS)]  # noqa: SIM118 (no dict)
                state |= {name.removeprefix(PREFIX): file.get_tensor(name) for name in wanted}
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is not there, but {INDEX} names it: fetch it too") from None
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a whole safetensors file ({error}): fetch it again; in a Git LFS clone, git lfs pull"
            ) from error
    # A table of 0, 1, 2, ... that older files have.
    return {name: value for name, value in state.items() if name != "embeddings.position_ids"}


def _load(vision: CLIPVisionModel, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Strictly; the tensors become float32 of whatever precision they are."""
    own = {name.removeprefix(PREFIX): name for name in vision.state_dict()}
    shapes = {name.removeprefix(PREFIX): tuple(value.shape) for name, value in vision.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    wrong = [f"{name} is missing" for name in shapes if name not in found]
    wrong += [f"{name} is not expected" for name in found if name not in shapes]
    wrong += [
        f"{name} is {found[name]}, not {shape}" for name, shape in shapes.items() if found.get(name, shape) != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(
            f"the weights in {folder} are not those of its config.json: {'; '.join(wrong[:4])}{more}. Fetch both anew"
        )
    vision.float().load_state_dict({own[name]: value for name, value in state.items()})
