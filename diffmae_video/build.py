"""The only place where a config becomes objects."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader

from diffmae_video.config import dump, from_yaml, is_mix, resolve_encoder
from diffmae_video.data import (
    ORIENTED_FORMATS,
    ClipDataset,
    ColorJitter,
    CropAndFlip,
    DrawSampler,
    MixDataset,
    MixSampler,
    PretrainTransform,
    UnreadableVideo,
    detect_format,
    make_loader,
    read_manifest,
    shard_order,
)
from diffmae_video.diffusion import NoiseSchedule
from diffmae_video.engine import (
    CheckpointManager,
    LrSchedule,
    Monitor,
    PretrainTask,
    ReconstructionEvaluator,
    RunError,
    Trainer,
    find_checkpoint,
    make_adamw,
    parameter_groups,
    select_device,
)
from diffmae_video.models import (
    DECODERS,
    MAE,
    DiffMAE,
    MaskedAutoencoder,
    SpaceTimeViT,
    make_mask,
    tokens_to_pixel_mask,
)
from diffmae_video.models.decoders import Decoder

logger = logging.getLogger(__name__)

RECONSTRUCTED_CLIPS = 4  # clips on a sheet of sample reconstructions


class DatasetError(RunError):
    """The dataset of a config is missing, empty or malformed; the message says what to do."""


# -------------------------------------------------------------------------------------------------------------- models


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
    )


def build_decoder(cfg: CfgNode, encoder: SpaceTimeViT) -> Decoder:
    decoder = cfg.MODEL.DECODER
    return DECODERS[decoder.TYPE](
        grid=encoder.grid,
        encoder_width=encoder.width,
        width=decoder.WIDTH,
        depth=decoder.DEPTH,
        heads=decoder.HEADS,
        mlp_ratio=decoder.MLP_RATIO,
        patch_values=encoder.patch_embed.in_features,
        position=decoder.POSITION,
        temperature=cfg.MODEL.POSITION_TEMPERATURE,
    )


def build_model(cfg: CfgNode) -> MaskedAutoencoder:
    """The model of a config, with initial weights that depend on ``cfg.SEED`` alone."""
    masking = {
        "target": cfg.MODEL.TARGET,
        "mask_strategy": cfg.MASK.STRATEGY,
        "mask_ratio": cfg.MASK.RATIO,
        "pixel_mean": tuple(cfg.DATA.MEAN),
        "pixel_std": tuple(cfg.DATA.STD),
    }
    with torch.random.fork_rng():
        torch.manual_seed(cfg.SEED)
        encoder = build_encoder(cfg)
        decoder = build_decoder(cfg, encoder)
        if cfg.MODEL.NAME == "MAE":
            return MAE(encoder, decoder, **masking)
        return DiffMAE(
            encoder,
            decoder,
            build_schedule(cfg),
            prediction=cfg.MODEL.PREDICTION,
            input_scaling=cfg.MODEL.INPUT_SCALING,
            **masking,
        )


def load_model(path: str | Path, device: torch.device | str = "cpu") -> MaskedAutoencoder:
    """The model of a checkpoint, with its weights, in eval mode; its configuration is the attribute ``cfg``.

    Args:
        path: a checkpoint file, a run's folder (``OUTPUT_DIR``) or the ``latest`` in it: the newest whole checkpoint.
        device: where the model goes.

    Raises:
        FileNotFoundError: nothing there.
        engine.CheckpointError: a damaged file, or not one of ours.
    """
    state, _ = find_checkpoint(path)
    cfg = from_yaml(state["config"])
    model = build_model(cfg)
    model.load_state_dict(state["model"])
    model.cfg = cfg
    return model.to(device).eval()


# ---------------------------------------------------------------------------------------------------------------- data


class DataSource(NamedTuple):
    """One source of clips: the values of DATA, or those of one element of DATA.MIX."""

    path: str
    format: str
    prefix: str
    weight: float
    num_frames: int
    sampling_rate: int


def data_sources(cfg: CfgNode) -> list[DataSource]:
    """The sources of a run: one, unless ``DATA.MIX`` names several."""
    data, mix = cfg.DATA, cfg.DATA.MIX
    if not is_mix(cfg):
        return [
            DataSource(data.PATH_TO_DATA_DIR, data.FORMAT, data.PATH_PREFIX, 1.0, data.NUM_FRAMES, data.SAMPLING_RATE)
        ]
    count = len(mix.PATHS)
    columns = (mix.PATHS, mix.FORMATS, mix.PREFIXES, mix.WEIGHTS, mix.NUM_FRAMES, mix.SAMPLING_RATES)
    rows = zip(*(column if len(column) == count else list(column) * count for column in columns), strict=True)
    return [
        source._replace(
            num_frames=source.num_frames or data.NUM_FRAMES, sampling_rate=source.sampling_rate or data.SAMPLING_RATE
        )
        for source in (DataSource(*row) for row in rows)
    ]


def build_dataset(cfg: CfgNode, split: str = "train") -> ClipDataset | MixDataset:
    """The clips of a split: random and augmented for ``"train"``, centred and never substituted otherwise.

    Raises:
        DatasetError: nothing usable at ``DATA.PATH_TO_DATA_DIR`` or one of ``DATA.MIX.PATHS``, or flips of a dataset
            that tells left from right; the message names the page that prepares the dataset.
    """
    datasets = [build_source(cfg, split, source) for source in data_sources(cfg)]
    return MixDataset(datasets) if is_mix(cfg) else datasets[0]


def build_source(cfg: CfgNode, split: str, source: DataSource) -> ClipDataset:
    """One source of :func:`build_dataset`; raises what that does."""
    data = cfg.DATA
    try:
        if not source.path:
            raise FileNotFoundError("DATA.PATH_TO_DATA_DIR is not set")
        layout = detect_format(source.path, split) if source.format == "auto" else source.format
        if layout in ORIENTED_FORMATS and data.HORIZONTAL_FLIP:
            raise DatasetError(
                f"{source.path} is Something-Something, whose classes tell left from right: a mirrored video would "
                "carry the label of another class. Set DATA.HORIZONTAL_FLIP to False"
            )
        entries = read_manifest(source.path, split, source.prefix, layout, data.LABELS, data.FOLD)
    except (FileNotFoundError, ValueError) as error:
        raise DatasetError(
            f"{error}. {data.PAGE} says how to prepare this dataset; give its place as DATA.PATH_TO_DATA_DIR "
            "/path/to/it. configs/demo runs without it (`make demo`)"
        ) from error
    classes = len({entry.label for entry in entries if entry.label >= 0})
    logger.info("%s: %d videos of %d classes in %s (%s)", split, len(entries), classes, source.path, layout)
    return ClipDataset(
        entries,
        num_frames=source.num_frames,
        sampling_rate=source.sampling_rate,
        crop_size=data.CROP_SIZE,
        crop_scale=tuple(data.CROP_SCALE),
        crop_aspect=tuple(data.CROP_ASPECT),
        horizontal_flip=data.HORIZONTAL_FLIP,
        repeats=data.REPEATED_SAMPLING if split == "train" else 1,
        train=split == "train",
        decoder=data.DECODER,
        decode_short_side=data.DECODE_SHORT_SIDE,
        decode_timeout=data.DECODE_TIMEOUT,
        seed=cfg.SEED,
        sampling=data.SAMPLING,
        transform=build_transform(cfg) if split == "train" else None,
    )


def build_transform(cfg: CfgNode) -> PretrainTransform | None:
    """The augmentation of training clips; None where it is the random resized crop that ``ClipDataset`` does itself."""
    augment, jitter = cfg.AUGMENT, cfg.AUGMENT.COLOR_JITTER
    if augment.CROP == "random_resized" and not jitter and not augment.GRAYSCALE:
        return None
    crop = CropAndFlip(
        cfg.DATA.CROP_SIZE,
        augment.CROP,
        scale=tuple(cfg.DATA.CROP_SCALE),
        aspect=tuple(cfg.DATA.CROP_ASPECT),
        horizontal_flip=cfg.DATA.HORIZONTAL_FLIP,
    )
    return PretrainTransform(crop, ColorJitter(jitter, jitter, jitter), augment.GRAYSCALE)


def build_loader(
    cfg: CfgNode,
    dataset: ClipDataset | MixDataset,
    start_draw: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> DataLoader:
    """Endless micro-batches of ``dataset`` for one process, from draw number ``start_draw`` on."""
    sources = dataset.sources if isinstance(dataset, MixDataset) else [dataset]
    orders = [shard_order(source, cfg.SEED, cfg.DATA.SHARD_SHUFFLE_WINDOW) for source in sources]
    options = {
        "seed": cfg.SEED,
        "start_draw": start_draw,
        "rank": rank,
        "world_size": world_size,
        "videos_per_step": cfg.SOLVER.BATCH_SIZE // cfg.DATA.REPEATED_SAMPLING,
        "micro_batches": cfg.SOLVER.ACCUMULATION_STEPS,
    }
    if isinstance(dataset, MixDataset):
        weights = [source.weight for source in data_sources(cfg)]
        sampler = MixSampler(dataset.sizes, weights, orders=orders, **options)
    else:
        sampler = DrawSampler(len(dataset), order=orders[0], **options)
    loader = cfg.DATA_LOADER
    return make_loader(
        dataset,
        sampler,
        num_workers=loader.NUM_WORKERS,
        prefetch_factor=loader.PREFETCH_FACTOR,
        pin_memory=pin_memory and loader.PIN_MEMORY,
    )


# -------------------------------------------------------------------------------------------------------------- engine


def build_task(cfg: CfgNode) -> PretrainTask:
    """What ``cfg.TASK`` names; ``validate`` has checked the name."""
    tasks = {"pretrain": lambda: PretrainTask(cfg.DIFFUSION.STEPS)}
    return tasks[cfg.TASK]()


def training_length(cfg: CfgNode, videos: int) -> tuple[int, float]:
    """(optimiser steps, warm-up clips) of a run over a training set of ``videos``; an epoch is ``videos`` clips."""
    solver = cfg.SOLVER
    if solver.MAX_STEPS:
        return solver.MAX_STEPS, min(solver.WARMUP_EPOCHS * videos, 0.1 * solver.MAX_STEPS * solver.BATCH_SIZE)
    return max(math.ceil(solver.EPOCHS * videos / solver.BATCH_SIZE), 1), solver.WARMUP_EPOCHS * videos


def build_trainer(cfg: CfgNode) -> Trainer:
    """Everything that ``run_net.py`` runs. The data is looked for before the model is built.

    Raises:
        DatasetError: see :func:`build_dataset`.
    """
    dataset = build_dataset(cfg, "train")
    device = select_device(cfg.DEVICE)
    model = build_model(cfg).to(device)
    solver, train = cfg.SOLVER, cfg.TRAIN
    total_steps, warmup_clips = training_length(cfg, len(dataset))
    groups = parameter_groups(model, solver.WEIGHT_DECAY, model.no_weight_decay())
    return Trainer(
        model=model,
        task=build_task(cfg),
        optimizer=make_adamw(groups, betas=tuple(solver.BETAS)),
        schedule=LrSchedule.from_base(
            solver.BASE_LR,
            solver.BATCH_SIZE,
            solver.BASE_BATCH_SIZE,
            warmup_clips=warmup_clips,
            total_clips=total_steps * solver.BATCH_SIZE,
            min_lr=solver.MIN_LR,
        ),
        make_loader=lambda start_draw: build_loader(cfg, dataset, start_draw, pin_memory=device.type == "cuda"),
        total_steps=total_steps,
        clips_per_step=solver.BATCH_SIZE,
        draws_per_step=solver.BATCH_SIZE // cfg.DATA.REPEATED_SAMPLING,
        accumulation=solver.ACCUMULATION_STEPS,
        precision=train.PRECISION,
        clip_grad_norm=solver.CLIP_GRAD_NORM,
        checkpoints=CheckpointManager(Path(cfg.OUTPUT_DIR) / "checkpoints", train.KEEP_PERIOD),
        checkpoint_period=train.CHECKPOINT_PERIOD,
        monitor=Monitor(
            cfg.OUTPUT_DIR,
            total_clips=total_steps * solver.BATCH_SIZE,
            clips_per_epoch=len(dataset),
            log_period=train.LOG_PERIOD,
            tensorboard=train.TENSORBOARD,
        ),
        device=device,
        seed=cfg.SEED,
        max_unreadable_fraction=cfg.DATA.MAX_UNREADABLE_FRACTION,
        output_dir=cfg.OUTPUT_DIR,
        config_text=dump(cfg),
        evaluators=build_evaluators(cfg, model),
        auto_resume=train.AUTO_RESUME,
    )


def readable_clips(dataset: ClipDataset | MixDataset) -> Iterator[torch.Tensor]:
    """One clip (1, C, T, H, W) uint8 of every video that can be read, in order; the others are named in the log.

    Raises:
        DatasetError: no video can be read.
    """
    readable = 0
    for index in range(len(dataset)):
        try:
            clips = dataset[(index, index)].clips[:1]
        except UnreadableVideo as error:
            logger.warning("left out of the sample reconstructions: %s", error)
            continue
        readable += 1
        yield clips
    if not readable:
        raise DatasetError(f"none of the {len(dataset)} videos for sample reconstructions can be read")


def build_evaluators(cfg: CfgNode, model: MaskedAutoencoder) -> list[ReconstructionEvaluator]:
    """Sample reconstructions of the first validation clips (of the training clips, where there is no val.csv)."""
    if not cfg.TRAIN.VISUALIZE_PERIOD:
        return []
    try:
        dataset = build_dataset(cfg, "val")
    except DatasetError:
        dataset = build_dataset(cfg, "train")
    if isinstance(dataset, MixDataset):
        dataset = next(source for source in dataset.sources if source.num_frames == cfg.DATA.NUM_FRAMES)
    clips = torch.cat(list(itertools.islice(readable_clips(dataset), RECONSTRUCTED_CLIPS)))
    mask = make_mask(cfg.MASK.STRATEGY, model.grid, cfg.MASK.RATIO, len(clips), torch.Generator().manual_seed(cfg.SEED))
    return [
        ReconstructionEvaluator(
            clips,
            tokens_to_pixel_mask(mask, model.grid, model.patch_size),
            Path(cfg.OUTPUT_DIR) / "reconstructions",
            period=cfg.TRAIN.VISUALIZE_PERIOD,
            steps=cfg.TRAIN.VISUALIZE_STEPS,
        )
    ]
