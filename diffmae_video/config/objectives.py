"""What an autoencoder is trained to predict, and from which noise: rules of MODEL.TARGET and of what goes with it."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from diffmae_video.config.defaults import get_cfg
from diffmae_video.config.tasks import AUTOENCODER_TASKS


def check_objective(cfg: CfgNode) -> Iterator[str]:
    """A sentence for every rule that is broken."""
    low, high = cfg.DIFFUSION.TRAIN_RANGE
    if low > high:
        yield f"DIFFUSION.TRAIN_RANGE is [{low}, {high}]: the lower end comes first"
    if cfg.TASK not in AUTOENCODER_TASKS:
        return
    yield from _check_target_frames(cfg)
    yield from _check_decoded(cfg)
    if cfg.MODEL.NAME == "MAE" and [low, high] != [0, 1]:
        yield "DIFFUSION.TRAIN_RANGE is set, but MODEL.NAME is 'MAE', which sees no noise: leave it out"
    yield from _check_clip(cfg)


def _check_target_frames(cfg: CfgNode) -> Iterator[str]:
    frames = cfg.MODEL.TARGET_FRAMES
    if frames == "all":
        return
    if cfg.MODEL.NAME != "MAE":
        yield (
            f"MODEL.TARGET_FRAMES is {frames!r}, but {cfg.MODEL.NAME} noises and predicts all frames of a patch: set "
            'it to "all", or MODEL.NAME to "MAE"'
        )
    if cfg.TRAIN.VISUALIZE_PERIOD > 0 and cfg.MODEL.TARGET == "raw":  # of other targets another rule says so
        yield (
            f"MODEL.TARGET_FRAMES {frames!r} predicts one frame of every patch, so there are no whole reconstructions "
            "to write: set TRAIN.VISUALIZE_PERIOD to 0"
        )


def _check_decoded(cfg: CfgNode) -> Iterator[str]:
    decoder = cfg.MODEL.DECODER
    if decoder.CLASS_TOKEN and decoder.TYPE != "joint":
        yield (
            f"MODEL.DECODER.CLASS_TOKEN is True, but only a joint decoder has such a token, not {decoder.TYPE!r}: "
            'leave it out, or set MODEL.DECODER.TYPE to "joint"'
        )
    if decoder.CLASS_POSITION and not (
        decoder.TYPE == "joint" and cfg.MODEL.ENCODER.CLASS_TOKEN and not decoder.CLASS_TOKEN
    ):
        yield (
            "MODEL.DECODER.CLASS_POSITION is True, the position of the encoder's class token in a joint decoder: that "
            'needs MODEL.DECODER.TYPE "joint", MODEL.ENCODER.CLASS_TOKEN True and MODEL.DECODER.CLASS_TOKEN False; set '
            "these, or leave it out"
        )
    if decoder.PREDICT_RATIO < 1 and cfg.TASK == "inpaint_eval":
        yield "MODEL.DECODER.PREDICT_RATIO is for training: TASK inpaint_eval decodes every hidden patch; leave it out"


def _check_clip(cfg: CfgNode) -> Iterator[str]:
    clip, defaults = cfg.MODEL.CLIP, get_cfg().MODEL.CLIP
    predicts_features = clip.WEIGHTS or clip.WIDTH
    if predicts_features and cfg.MODEL.NAME == "LatentDAE":
        yield "MODEL.CLIP.WEIGHTS is set, but CLIP targets are of the hidden patches: use MODEL.NAME DiffMAE or MAE"
    for key in ("LAYER", "LOSS", "LOSS_WEIGHT", "PIXEL_WEIGHT"):
        if not predicts_features and clip[key] != defaults[key]:
            yield (
                f"MODEL.CLIP.{key} is {clip[key]!r}, but without MODEL.CLIP.WEIGHTS there are no CLIP targets: give "
                "the folder of a CLIP model, or leave it out"
            )
    # Of targets that cannot be shown at all other rules say so.
    shown = cfg.MODEL.TARGET == "raw" and cfg.MODEL.TARGET_FRAMES == "all" and cfg.TRAIN.VISUALIZE_PERIOD > 0
    if predicts_features and clip.PIXEL_WEIGHT == 0 and shown:
        yield (
            "MODEL.CLIP.PIXEL_WEIGHT is 0, which leaves the prediction of pixels untrained, so there are no "
            "reconstructions to write: set TRAIN.VISUALIZE_PERIOD to 0"
        )
