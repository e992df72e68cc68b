"""What an autoencoder is trained to predict, and from which noise: rules of MODEL.TARGET and of what goes with it."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

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
    if cfg.MODEL.CLIP.WEIGHTS and cfg.MODEL.NAME == "LatentDAE":
        yield "MODEL.CLIP.WEIGHTS is set, but CLIP targets are of the hidden patches: use MODEL.NAME DiffMAE or MAE"


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
    if decoder.PREDICT_RATIO < 1 and cfg.TASK == "inpaint_eval":
        yield "MODEL.DECODER.PREDICT_RATIO is for training: TASK inpaint_eval decodes every hidden patch; leave it out"
