"""From a config to the frozen CLIP model whose features a pre-training run predicts."""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode

from diffmae_video.clip_features import ClipTeacher, load_clip_teacher, read_vision_config
from diffmae_video.config import ConfigError
from diffmae_video.engine import RunError

# Inpainting, features, fine-tuning and probes read the trained model alone.
ONLY_PRETRAINING = "Pre-training needs it, to begin with and to go on; using what was trained does not"


def with_clip_width(cfg: CfgNode) -> CfgNode:
    """The config with ``MODEL.CLIP.WIDTH``: read from ``MODEL.CLIP.WEIGHTS`` where it is 0, else compared with it.

    Raises:
        ConfigError: the two contradict each other.
        RunError: no CLIP model there.
    """
    clip = cfg.MODEL.CLIP
    if not clip.WEIGHTS:
        if clip.WIDTH:
            raise ConfigError(
                f"MODEL.CLIP.WIDTH is {clip.WIDTH}, so this model predicts CLIP features, but MODEL.CLIP.WEIGHTS names "
                f"no CLIP model. {ONLY_PRETRAINING}: give its folder, or set MODEL.CLIP.WIDTH to 0 to do without"
            )
        return cfg
    try:
        width = read_vision_config(clip.WEIGHTS).hidden_size
    except (ValueError, OSError, ImportError) as error:
        raise _no_teacher(error) from error
    if clip.WIDTH not in (0, width):
        raise ConfigError(
            f"MODEL.CLIP.WIDTH is {clip.WIDTH}, but the features of {clip.WEIGHTS} are {width} wide: set it to that, "
            "or to 0 to have it read"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.CLIP.WIDTH = width
    cfg.freeze()
    return cfg


def build_teacher(cfg: CfgNode, device: torch.device) -> tuple[ClipTeacher | None, list[str]]:
    """The CLIP model of a run, on its device, and lines about it for the log; (None, []) of a run without.

    Raises:
        RunError: no CLIP model in the folder, one that is damaged, or no such layer.
    """
    clip, size = cfg.MODEL.CLIP, cfg.DATA.CROP_SIZE
    if not clip.WEIGHTS:
        return None, []
    try:
        teacher = load_clip_teacher(clip.WEIGHTS, tuple(cfg.MODEL.PATCH_SIZE), clip.LAYER).to(device)
    except (ValueError, OSError, ImportError) as error:
        raise _no_teacher(error) from error
    config, frame = teacher.vision.config, teacher.frame_size(size, size)
    own = (config.image_size, config.image_size)
    positions = "" if frame == own else f", trained at {own[0]}x{own[1]}: its positions are interpolated"
    return teacher, [
        f"CLIP targets: {clip.WEIGHTS}, block {config.num_hidden_layers}, {config.hidden_size} wide, "
        f"{sum(p.numel() for p in teacher.vision.parameters()) / 1e6:.2f} M frozen parameters that are not saved; one "
        f"frame of every time slot, at {frame[0]}x{frame[1]}{positions}"
    ]


def _no_teacher(error: Exception) -> RunError:
    return RunError(f"MODEL.CLIP.WEIGHTS: {error}. {ONLY_PRETRAINING}")
