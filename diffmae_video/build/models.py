"""From a config to models, and from a checkpoint back to one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from diffmae_video.build.latent import build_latent_dae, conditioning
from diffmae_video.config import AUTOENCODER_TASKS, ConfigError, from_yaml, mask_mix, resolve_encoder
from diffmae_video.diffusion import NoiseSchedule
from diffmae_video.engine import CheckpointError, ema_state, find_checkpoint
from diffmae_video.engine.weights_file import ENCODER_PART
from diffmae_video.models import (
    DECODERS,
    MAE,
    DiffMAE,
    LatentDAE,
    MaskedAutoencoder,
    MaskMix,
    SpaceTimeViT,
    VideoClassifier,
)
from diffmae_video.models.decoders import Decoder
from diffmae_video.models.encoder_model import EncoderModel
from diffmae_video.models.targets import target_values


def build_schedule(cfg: CfgNode) -> NoiseSchedule:
    return NoiseSchedule(cfg.DIFFUSION.SCHEDULE, steps=cfg.DIFFUSION.STEPS, rho=cfg.DIFFUSION.RHO)


def build_encoder(cfg: CfgNode) -> SpaceTimeViT:
    width, depth, heads = resolve_encoder(cfg)
    size = cfg.DATA.CROP_SIZE
    return SpaceTimeViT(
        clip_shape=(len(cfg.DATA.MEAN), cfg.DATA.NUM_FRAMES, size, size),
        patch_size=tuple(cfg.MODEL.PATCH_SIZE),
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=cfg.MODEL.ENCODER.MLP_RATIO,
        position=cfg.MODEL.ENCODER.POSITION,
        temperature=cfg.MODEL.POSITION_TEMPERATURE,
        class_token=cfg.MODEL.ENCODER.CLASS_TOKEN,
        drop_path=cfg.MODEL.ENCODER.DROP_PATH,
        **conditioning(cfg),
    )


def build_decoder(cfg: CfgNode, encoder: SpaceTimeViT) -> Decoder:
    decoder = cfg.MODEL.DECODER
    of_joint = {"class_token": decoder.CLASS_TOKEN, "class_position": decoder.CLASS_POSITION}
    return DECODERS[decoder.TYPE](
        grid=encoder.grid,
        encoder_width=encoder.width,
        width=decoder.WIDTH,
        depth=decoder.DEPTH,
        heads=decoder.HEADS,
        mlp_ratio=decoder.MLP_RATIO,
        patch_values=target_values(encoder.patch_size, encoder.clip_shape[0], cfg.MODEL.TARGET_FRAMES),
        position=decoder.POSITION,
        temperature=cfg.MODEL.POSITION_TEMPERATURE,
        **(of_joint if decoder.TYPE == "joint" else {}),
    )


def build_model(cfg: CfgNode) -> MaskedAutoencoder | LatentDAE | VideoClassifier:
    """The model of a config, with initial weights that depend on ``cfg.SEED`` alone.

    Raises:
        ConfigError: a classifier whose ``MODEL.NUM_CLASSES`` is still to be counted.
    """
    with torch.random.fork_rng():
        torch.manual_seed(cfg.SEED)
        encoder = build_encoder(cfg)
        return build_autoencoder(cfg, encoder) if cfg.TASK in AUTOENCODER_TASKS else build_classifier(cfg, encoder)


def build_classifier(cfg: CfgNode, encoder: SpaceTimeViT) -> VideoClassifier:
    """What ``TASK`` trains; "knn" reads the features of a linear probe's encoder, "test" is a fine-tuned model's."""
    if not cfg.MODEL.NUM_CLASSES:
        raise ConfigError("MODEL.NUM_CLASSES is 0, to be counted from the lists: without them, set it")
    head = cfg.MODEL.HEAD
    return VideoClassifier(
        encoder,
        cfg.MODEL.NUM_CLASSES,
        kind={"knn": "linear", "test": "finetune"}.get(cfg.TASK, cfg.TASK),
        pool=head.POOL,
        dropout=head.DROPOUT,
        init_std=head.INIT_STD,
        probe_heads=head.PROBE_HEADS or resolve_encoder(cfg)[2],
        probe_depth=head.PROBE_DEPTH,
        pixel_mean=tuple(cfg.DATA.MEAN),
        pixel_std=tuple(cfg.DATA.STD),
    )


def build_autoencoder(cfg: CfgNode, encoder: SpaceTimeViT) -> MaskedAutoencoder | LatentDAE:
    """What "pretrain" trains and "inpaint_eval" measures.

    Raises:
        ConfigError: a model with CLIP targets whose ``MODEL.CLIP.WIDTH`` is still to be read from their folder.
    """
    if cfg.MODEL.CLIP.WEIGHTS and not cfg.MODEL.CLIP.WIDTH:
        raise ConfigError("MODEL.CLIP.WIDTH is 0, to be read from the folder MODEL.CLIP.WEIGHTS: without it, set it")
    if cfg.MODEL.NAME == "LatentDAE":
        return build_latent_dae(cfg, encoder, build_schedule(cfg))
    masking = {
        "target": cfg.MODEL.TARGET,
        "target_frames": cfg.MODEL.TARGET_FRAMES,
        "predict_ratio": cfg.MODEL.DECODER.PREDICT_RATIO,
        "predict_pattern": cfg.MODEL.DECODER.PREDICT_PATTERN,
        "feature_width": cfg.MODEL.CLIP.WIDTH,
        "feature_loss": cfg.MODEL.CLIP.LOSS,
        "feature_weight": cfg.MODEL.CLIP.LOSS_WEIGHT,
        "pixel_weight": cfg.MODEL.CLIP.PIXEL_WEIGHT,
        "mask_strategy": cfg.MASK.STRATEGY,
        "mask_ratio": cfg.MASK.RATIO,
        "pixel_mean": tuple(cfg.DATA.MEAN),
        "pixel_std": tuple(cfg.DATA.STD),
    }
    decoder = build_decoder(cfg, encoder)
    if cfg.MODEL.NAME == "MAE":
        return MAE(encoder, decoder, **masking)
    return DiffMAE(
        encoder,
        decoder,
        build_schedule(cfg),
        prediction=cfg.MODEL.PREDICTION,
        input_scaling=cfg.MODEL.INPUT_SCALING,
        train_range=tuple(cfg.DIFFUSION.TRAIN_RANGE),
        **masking,
    )


def build_mask_mix(cfg: CfgNode) -> MaskMix | None:
    """What draws the masks of a run with ``MASK.MIX``; None where every mask is of the model's own strategy."""
    rows = mask_mix(cfg)
    if not rows:
        return None
    return MaskMix(
        strategies=tuple(row.strategy for row in rows),
        weights=tuple(row.weight for row in rows),
        ratios=tuple((row.low, row.high) for row in rows),
    )


def load_model(
    path: str | Path, device: torch.device | str = "cpu"
) -> MaskedAutoencoder | LatentDAE | VideoClassifier | EncoderModel:
    """The model of a checkpoint, with its weights, in eval mode; its configuration is the attribute ``cfg``.

    Where the run kept a moving average of the weights (``TRAIN.EMA_DECAY``), the model has that.

    Args:
        path: a checkpoint file, a run's folder (``OUTPUT_DIR``) or the ``latest`` in it: the newest whole checkpoint;
            or a weights file (``.safetensors``), or the folder of one (docs/export.md).
        device: where the model goes.

    Raises:
        FileNotFoundError: nothing there.
        engine.CheckpointError: a damaged file, not one of ours, or weights that are not those of its configuration.
    """
    return model_of(*find_checkpoint(path)).to(device)


def model_of(state: dict[str, Any], found: Path) -> MaskedAutoencoder | LatentDAE | VideoClassifier | EncoderModel:
    """What ``load_model`` returns, of what ``find_checkpoint`` returned; on the CPU."""
    cfg = from_yaml(state["config"])
    model = build_model(cfg)
    if state.get("notes", {}).get("part") == ENCODER_PART:
        model = EncoderModel.of(model)
    try:
        model.load_state_dict(ema_state(state))
    except RuntimeError as error:  # a list of every name, over many lines
        raise CheckpointError(f"{found} does not hold the weights of its configuration: {error}") from error
    model.cfg = cfg
    return model.eval()
