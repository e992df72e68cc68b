"""From a config to a LatentDAE, and to the tokenizer in which its noise is added, fitted to the training clips."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from diffmae_video.build.data import DatasetError, build_loader
from diffmae_video.config import resolve_encoder
from diffmae_video.config.latent import is_latent_dae
from diffmae_video.data import ClipDataset, MixDataset
from diffmae_video.data.writing import write_image
from diffmae_video.diffusion import NoiseSchedule
from diffmae_video.engine import RunError
from diffmae_video.models import LatentDAE, MaskedAutoencoder, SpaceTimeViT, VideoClassifier
from diffmae_video.models.latent_dae import DenoisingDecoder
from diffmae_video.models.patches import patchify, token_grid, unpatchify
from diffmae_video.models.tokenizer_fitting import FitError, fit_tokenizer
from diffmae_video.models.tokenizer_vae import ConvVAETokenizer, load_vae
from diffmae_video.models.tokenizers import LatentEmbedding, LinearTokenizer, PCATokenizer, PixelTokenizer, Tokenizer
from diffmae_video.visualize import evenly_spaced
from diffmae_video.visualize.tokenizer import tokenizer_picture

logger = logging.getLogger(__name__)

PICTURE = "tokenizer.png"
PICTURED_CLIPS, PICTURED_FRAMES = 4, 3


def build_tokenizer(cfg: CfgNode) -> Tokenizer:
    """The tokenizer of a config, which has not seen any data yet.

    Raises:
        RunError: ``MODEL.LDAE.VAE_PATH`` holds no VAE, or one that does not fit the patches.
    """
    ldae, patch, channels = cfg.MODEL.LDAE, tuple(cfg.MODEL.PATCH_SIZE), len(cfg.DATA.MEAN)
    values = math.prod(patch) * channels
    if ldae.TOKENIZER == "pixel":
        return PixelTokenizer(values)
    if ldae.TOKENIZER == "pca":
        return PCATokenizer(values, ldae.LATENT_DIM)
    if ldae.TOKENIZER in ("patch_ae", "patch_vae"):
        return LinearTokenizer(values, ldae.LATENT_DIM)
    size = cfg.DATA.CROP_SIZE
    try:
        vae = load_vae(ldae.VAE_PATH)
        return ConvVAETokenizer(vae, token_grid((channels, cfg.DATA.NUM_FRAMES, size, size), patch), patch)
    except (ImportError, OSError, ValueError) as error:
        raise RunError(f"MODEL.LDAE.VAE_PATH: {error}") from error


def conditioning(cfg: CfgNode) -> dict:
    """Arguments that only a LatentDAE's encoder has: its condition, and with INPUT "latent" its tokenizer."""
    if not is_latent_dae(cfg):
        return {}
    ldae = cfg.MODEL.LDAE
    return {
        "time_conditioning": True,
        "timestep": ldae.PROBE_TIMESTEP,
        "tokenizer": build_tokenizer(cfg) if ldae.INPUT == "latent" else None,
    }


def build_latent_dae(cfg: CfgNode, encoder: SpaceTimeViT, schedule: NoiseSchedule) -> LatentDAE:
    """A LatentDAE on ``encoder``; raises as :func:`build_tokenizer`."""
    ldae = cfg.MODEL.LDAE
    held = isinstance(encoder.patch_embed, LatentEmbedding)
    tokenizer = encoder.patch_embed.tokenizer if held else build_tokenizer(cfg)
    width, _, heads = resolve_encoder(cfg)
    values = tokenizer.latent_dim if ldae.OUTPUT == "latent" else tokenizer.patch_values
    return LatentDAE(
        encoder,
        DenoisingDecoder(width, cfg.MODEL.DECODER.DEPTH, heads, cfg.MODEL.ENCODER.MLP_RATIO, values),
        tokenizer,
        schedule,
        input=ldae.INPUT,
        output=ldae.OUTPUT,
        prediction=cfg.MODEL.PREDICTION,
        residual_weight=ldae.RESIDUAL_WEIGHT,
        time_weight=ldae.TIME_WEIGHT,
        train_range=tuple(cfg.DIFFUSION.TRAIN_RANGE),
        num_classes=cfg.MODEL.NUM_CLASSES if ldae.CLASS_CONDITIONING else 0,
        class_dropout=ldae.CLASS_DROPOUT,
        pixel_mean=tuple(cfg.DATA.MEAN),
        pixel_std=tuple(cfg.DATA.STD),
    )


def check_labels(cfg: CfgNode, dataset: ClipDataset | MixDataset) -> None:
    """Raises DatasetError where pre-training is to be told classes that the data does not have, or not all of them."""
    if not cfg.MODEL.LDAE.CLASS_CONDITIONING:
        return
    highest, classes = int(dataset.labels.max()), cfg.MODEL.NUM_CLASSES
    if highest < 0:
        raise DatasetError(
            f"MODEL.LDAE.CLASS_CONDITIONING is True, but no video in {cfg.DATA.PATH_TO_DATA_DIR} has a label: "
            f"{cfg.DATA.PAGE} says how labels are given"
        )
    if highest >= classes:
        raise DatasetError(
            f"MODEL.NUM_CLASSES is {classes}, but {cfg.DATA.PATH_TO_DATA_DIR} has a video of class {highest} (they "
            f"count from 0): set it to at least {highest + 1}"
        )


# ---------------------------------------------------------------------------------------------------------------- fit


def tokenizer_of(model: MaskedAutoencoder | LatentDAE | VideoClassifier) -> Tokenizer | None:
    """The tokenizer that a model, or a classifier's encoder, has; None for those without."""
    if isinstance(model, LatentDAE):
        return model.tokenizer
    embed = model.encoder.patch_embed
    return embed.tokenizer if isinstance(embed, LatentEmbedding) else None


def require_fitted(model: MaskedAutoencoder | LatentDAE | VideoClassifier) -> None:
    """Raises RunError for a model that is to be measured, and whose tokenizer no weights have brought."""
    tokenizer = tokenizer_of(model)
    if tokenizer is not None and not tokenizer.is_fitted():
        raise RunError(
            'with MODEL.LDAE.INPUT "latent" the encoder reads latents of a tokenizer, which pre-training fits: '
            "give the weights of such a run (MODEL.WEIGHTS)"
        )


def fit_to_clips(
    cfg: CfgNode, model: MaskedAutoencoder | LatentDAE | VideoClassifier, dataset: ClipDataset | MixDataset
) -> list[str]:
    """Fits the tokenizer of a model, on its device, to the first training clips; returns lines for the log.

    Nothing is done where there is no tokenizer, or one that came with the weights. ``OUTPUT_DIR/tokenizer.png`` shows
    what it keeps of some clips.

    Raises:
        RunError: clips to which it cannot be fitted.
    """
    tokenizer, ldae = tokenizer_of(model), cfg.MODEL.LDAE
    if tokenizer is None or tokenizer.is_fitted():
        return []
    clips = min(ldae.FIT_CLIPS, len(dataset))
    logger.info("fitting the tokenizer (%s) to %d training clips ...", ldae.TOKENIZER, clips)
    try:
        fit = fit_tokenizer(
            tokenizer,
            (patchify(batch, model.patch_size) for batch in _training_clips(cfg, model, dataset, clips)),
            latent_scale=ldae.LATENT_SCALE,
            steps=ldae.FIT_STEPS,
            kl_weight=ldae.KL_WEIGHT if ldae.TOKENIZER == "patch_vae" else 0.0,
            seed=cfg.SEED,
        )
    except FitError as error:
        raise RunError(f"MODEL.LDAE.TOKENIZER {ldae.TOKENIZER!r}: {error}") from error
    for warning in fit.warnings:
        logger.warning("%s", warning)
    # One clip of every video: those of one stand together.
    example = next(_training_clips(cfg, model, dataset, 1))[:: cfg.DATA.REPEATED_SAMPLING][:PICTURED_CLIPS]
    lines = [
        f"tokenizer: {ldae.TOKENIZER}, {tokenizer.latent_dim} of {tokenizer.patch_values} values per patch, fitted to "
        f"{fit.patches} patches of {fit.clips} clips"
    ]
    return [*lines, *_explained(tokenizer), _show(cfg, model, tokenizer, example)]


def _training_clips(
    cfg: CfgNode,
    model: MaskedAutoencoder | LatentDAE | VideoClassifier,
    dataset: ClipDataset | MixDataset,
    count: int,
) -> Iterator[torch.Tensor]:
    """``count`` clips, rounded up to whole batches, as the first steps of training see them.

    Yields normalised (B, C, T, H, W) on the model's device.
    """
    device, seen = model.pixel_mean.device, 0
    for batch in build_loader(cfg, dataset):
        yield model.normalize(batch.clips.to(device))
        seen += len(batch.clips)
        if seen >= count:
            return


def _explained(tokenizer: Tokenizer) -> list[str]:
    if not isinstance(tokenizer, PCATokenizer):
        return []
    share = tokenizer.explained_variance()
    few = [n for n in (4, 8, 16, 32, 64, 128) if n < tokenizer.patch_values]
    points = ", ".join(f"{n}: {share[n - 1]:.1%}" for n in sorted({*few, tokenizer.latent_dim}))
    return [f"variance of patches that the first components explain: {points}"]


def _show(
    cfg: CfgNode, model: MaskedAutoencoder | LatentDAE | VideoClassifier, tokenizer: Tokenizer, clips: torch.Tensor
) -> str:
    """Writes the picture of some clips; returns how much of them the tokenizer keeps, in words."""
    patches = patchify(clips, model.patch_size)
    restored = tokenizer.decode(tokenizer.encode(patches))
    lost = (restored - patches).square().mean() / patches.var(unbiased=False).clamp(min=1e-12)
    grid = (clips.shape[2] // model.patch_size[0], *model.grid[1:])
    shown = [_frames(model.denormalize(each)) for each in (clips, unpatchify(restored, grid, tuple(model.patch_size)))]
    explained = tokenizer.explained_variance().cpu().numpy() if isinstance(tokenizer, PCATokenizer) else None
    title = f"{cfg.MODEL.LDAE.TOKENIZER}, {tokenizer.latent_dim} values"
    try:
        picture = tokenizer_picture(*shown, title, explained)
    except ImportError:  # the curve alone needs matplotlib; the log has its points
        picture = tokenizer_picture(*shown, title)
    file = Path(cfg.OUTPUT_DIR) / PICTURE
    file.parent.mkdir(parents=True, exist_ok=True)
    write_image(file, picture)
    return f"the tokenizer keeps {1 - lost.item():.1%} of the variance of {len(clips)} clips, shown in {file}"


def _frames(clips: torch.Tensor) -> torch.Tensor:
    """Clips (B, 3, T, H, W) in [0, 1] -> some frames of each, uint8 (K, H, W, 3)."""
    shown = clips[:, :, evenly_spaced(clips.shape[2], PICTURED_FRAMES)].clamp(0, 1)
    return (255 * shown).round().to(torch.uint8).permute(0, 2, 3, 4, 1).flatten(0, 1).cpu().numpy()
