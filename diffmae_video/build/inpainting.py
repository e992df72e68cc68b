"""From a config to a measurement of inpainting."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode

from diffmae_video.baselines import mean_fill, nearest_patch_fill, opencv_fill, temporal_fill
from diffmae_video.build.data import build_dataset
from diffmae_video.build.models import load_model
from diffmae_video.config import dump, trained_ratio
from diffmae_video.data import ClipDataset, EvaluationClips
from diffmae_video.engine import InpaintingRun, RunError, select_device
from diffmae_video.engine.inpainting_evaluation import Fill, MaskOf
from diffmae_video.inpainting.sampling import Sampling, check_model
from diffmae_video.mask_input import read_mask
from diffmae_video.models import MaskedAutoencoder, VideoClassifier
from diffmae_video.perceptual import LPIPS, load_lpips

FILLS = {
    "mean": ("mean colour", mean_fill),
    "nearest_patch": ("nearest visible patch", nearest_patch_fill),
    "temporal": ("in time, between visible pixels", temporal_fill),
    "opencv": ("OpenCV inpaint (Telea)", opencv_fill),
}


def build_inpaint_eval(cfg: CfgNode) -> InpaintingRun:
    """Inpainting by MODEL.WEIGHTS (or OUTPUT_DIR's own), the models of INPAINT.COMPARE and the fills, on TEST.SPLIT.

    Raises:
        DatasetError: no data.
        RunError: weights that are missing, damaged, no autoencoder of pixels or of another clip shape; a mask that
            cannot be made; files of LPIPS that do not fit.
    """
    inpaint = cfg.INPAINT
    dataset = build_dataset(cfg, cfg.TEST.SPLIT, test_views=True)
    count = min(inpaint.MAX_CLIPS or len(dataset), len(dataset))
    indices = [i * len(dataset) // count for i in range(count)]
    clips = EvaluationClips(dataset, cfg.TEST.BATCH_SIZE, cfg.DATA_LOADER.NUM_WORKERS, indices)
    device = select_device(cfg.DEVICE)
    models = _models([cfg.MODEL.WEIGHTS or cfg.OUTPUT_DIR, *filter(None, inpaint.COMPARE)], cfg, device)
    features = _load(inpaint.FEATURE_WEIGHTS, cfg, device) if inpaint.FEATURE_WEIGHTS else None
    lpips = _lpips(cfg, device)
    missing = [
        f"{what} is not measured: {keys} not set (docs/inpainting.md)"
        for what, keys, is_there in (
            ("LPIPS", "INPAINT.LPIPS_BACKBONE and INPAINT.LPIPS_HEADS are", lpips is not None),
            ("the Fréchet distance", "INPAINT.FEATURE_WEIGHTS is", features is not None),
        )
        if not is_there
    ]
    return InpaintingRun(
        models=models,
        fills=_fills(cfg),
        clips=clips,
        masks=_masks(cfg, dataset),
        samplings=[
            Sampling(
                steps,
                sampler,
                eta=inpaint.ETA,
                spacing=inpaint.SPACING,
                threshold=inpaint.THRESHOLD or None,
                impute=inpaint.IMPUTE,
                overlap=inpaint.OVERLAP,
            )
            for sampler in inpaint.SAMPLERS
            for steps in inpaint.STEPS
        ],
        overlap=inpaint.OVERLAP,
        samples=inpaint.SAMPLES,
        seed=cfg.SEED,
        patch_size=tuple(cfg.MODEL.PATCH_SIZE),
        output_dir=Path(cfg.OUTPUT_DIR),
        config_text=dump(cfg),
        device=device,
        precision=cfg.TRAIN.PRECISION,
        lpips=lpips,
        feature_model=features,
        description=missing,
    )


def _load(path: str, cfg: CfgNode, device: torch.device) -> MaskedAutoencoder | VideoClassifier:
    """A model of the clips of the config."""
    shape = (len(cfg.DATA.MEAN), cfg.DATA.NUM_FRAMES, cfg.DATA.CROP_SIZE, cfg.DATA.CROP_SIZE)
    try:
        model = load_model(path, device)
    except FileNotFoundError as error:
        raise RunError(
            f"{error}. TASK 'inpaint_eval' measures MODEL.WEIGHTS, or where that is empty the newest checkpoint of "
            "OUTPUT_DIR, and those of INPAINT.COMPARE"
        ) from error
    if model.clip_shape != shape:
        raise RunError(
            f"{path} takes clips (C, T, H, W) = {model.clip_shape}, the configuration says {shape}: use the recipe "
            "that it was trained with, or weights of the same clips"
        )
    return model


def _models(paths: Sequence[str], cfg: CfgNode, device: torch.device) -> dict[str, MaskedAutoencoder]:
    """Name -> model; models of one kind are told apart by their paths."""
    loaded = []
    for path in dict.fromkeys(paths):
        model = _load(path, cfg, device)
        kind = type(model).__name__
        if not isinstance(model, MaskedAutoencoder):
            raise RunError(f"{path} is a {kind}, which paints nothing: use a pre-trained DiffMAE or MAE")
        try:
            check_model(model)
        except ValueError as error:
            raise RunError(f"{path}: {error}") from error
        loaded.append((kind, path, model))
    kinds = [kind for kind, _, _ in loaded]
    return {kind if kinds.count(kind) == 1 else f"{kind} {path}": model for kind, path, model in loaded}


def _fills(cfg: CfgNode) -> dict[str, Fill]:
    patch = tuple(map(float, cfg.MODEL.PATCH_SIZE))
    fills = {FILLS[name][0]: FILLS[name][1] for name in cfg.INPAINT.FILLS}
    if "nearest_patch" in cfg.INPAINT.FILLS:
        fills[FILLS["nearest_patch"][0]] = partial(_nearest_patch, patch=patch)
    return fills


def _nearest_patch(frames: np.ndarray, mask: np.ndarray, patch: tuple[float, float, float]) -> np.ndarray:
    """Whole patches where one is visible, else those of single frames, else the mean colour."""
    for size in (patch, (1.0, *patch[1:])):
        try:
            return nearest_patch_fill(frames, mask, size)
        except ValueError:
            continue
    return mean_fill(frames, mask)


def _masks(cfg: CfgNode, dataset: ClipDataset) -> dict[str, MaskOf]:
    """Name -> what gives the mask of clip number i; every random one is drawn from ``SEED + i``."""
    shape = (cfg.DATA.NUM_FRAMES, cfg.DATA.CROP_SIZE, cfg.DATA.CROP_SIZE)

    def make(given: str, number: int) -> np.ndarray:
        ratio = cfg.INPAINT.RATIO or trained_ratio(cfg, given) or 0.5
        return read_mask(given, shape, tuple(map(float, cfg.MODEL.PATCH_SIZE)), ratio, cfg.SEED + number)

    masks = {given: partial(make, given) for given in cfg.INPAINT.MASKS}
    for given, mask_of in masks.items():
        try:
            mask_of(0)
        except (ValueError, OSError) as error:
            raise RunError(f"INPAINT.MASKS {given!r}: {error}") from error
    return masks


def _lpips(cfg: CfgNode, device: torch.device) -> LPIPS | None:
    if not cfg.INPAINT.LPIPS_BACKBONE:
        return None
    try:
        return load_lpips(cfg.INPAINT.LPIPS_BACKBONE, cfg.INPAINT.LPIPS_HEADS).to(device).eval()
    except (ValueError, OSError) as error:
        raise RunError(f"LPIPS: {error}") from error
