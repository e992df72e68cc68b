"""From a config to a training run."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from diffmae_video.build.clip import build_teacher, with_clip_width
from diffmae_video.build.data import DatasetError, build_dataset, build_loader
from diffmae_video.build.inpainting import build_inpaint_eval
from diffmae_video.build.latent import check_labels, fit_to_clips
from diffmae_video.build.models import build_mask_mix, build_model
from diffmae_video.build.monitoring import build_monitor
from diffmae_video.build.recognition import (
    build_classify_task,
    build_knn,
    build_test,
    build_test_evaluator,
    describe_labels,
    labelled_dataset,
    own_device,
    start_weights,
    with_classes,
)
from diffmae_video.config import dump
from diffmae_video.data import ClipDataset, MixDataset, UnreadableVideo
from diffmae_video.engine import (
    CheckpointManager,
    ClassificationEvaluator,
    InpaintingRun,
    KnnRun,
    LrSchedule,
    Peers,
    PretrainTask,
    ReconstructionEvaluator,
    RunError,
    TestRun,
    Trainer,
    World,
    make_optimizer,
    parameter_groups,
)
from diffmae_video.engine.denoising import DenoisingEvaluator
from diffmae_video.engine.lock import lock_folder
from diffmae_video.engine.tasks import Task
from diffmae_video.engine.wrapping import WrapPlan, wrap
from diffmae_video.models import LatentDAE, MaskedAutoencoder, VideoClassifier, make_mask, tokens_to_pixel_mask

logger = logging.getLogger(__name__)

RECONSTRUCTED_CLIPS = 4  # clips on a sheet of sample reconstructions


def training_length(cfg: CfgNode, videos: int) -> tuple[int, float]:
    """(optimiser steps, warm-up clips) of a run over a training set of ``videos``; an epoch is ``videos`` clips."""
    solver = cfg.SOLVER
    if solver.MAX_STEPS:
        return solver.MAX_STEPS, min(solver.WARMUP_EPOCHS * videos, 0.1 * solver.MAX_STEPS * solver.BATCH_SIZE)
    return max(math.ceil(solver.EPOCHS * videos / solver.BATCH_SIZE), 1), solver.WARMUP_EPOCHS * videos


def build_run(cfg: CfgNode, peers: Peers | None = None) -> Trainer | TestRun | KnnRun | InpaintingRun:
    """What ``run_net.py`` runs: an object with ``run()``, by ``TASK``. The data is looked for before a model is built.

    Args:
        cfg: of the run.
        peers: the processes that run it together; None = this one alone.

    Raises:
        DatasetError: see :func:`build_dataset`.
        RunError: weights that are damaged or do not fit, or clips that the processes cannot share evenly.
    """
    if cfg.TASK == "test":
        return build_test(cfg, peers)
    if cfg.TASK == "knn":
        return build_knn(cfg, peers)
    if cfg.TASK == "inpaint_eval":
        if peers is not None and peers.world.size > 1:
            raise RunError(f"TASK 'inpaint_eval' runs in one process, not in {peers.world.size}: set NUM_GPUS to 1")
        return build_inpaint_eval(cfg)
    return build_trainer(cfg, peers)


def check_shares(cfg: CfgNode, world: World) -> None:
    """Raises RunError for a batch that the processes cannot share evenly."""
    videos, parts = cfg.SOLVER.BATCH_SIZE // cfg.DATA.REPEATED_SAMPLING, cfg.SOLVER.ACCUMULATION_STEPS
    if videos % (world.size * parts):
        unit = world.size * parts * cfg.DATA.REPEATED_SAMPLING
        raise RunError(
            f"SOLVER.BATCH_SIZE = {cfg.SOLVER.BATCH_SIZE} clips cannot be shared evenly by {world.size} processes x "
            f"SOLVER.ACCUMULATION_STEPS = {parts} (x DATA.REPEATED_SAMPLING = {cfg.DATA.REPEATED_SAMPLING} clips of a "
            f"video): set it to a multiple of {unit}"
        )


def warn_of_short_timeout(cfg: CfgNode, world: World) -> None:
    """Says that one process may wait for data for longer than the others wait for it."""
    keys = {"DATA.ROOT_TIMEOUT": cfg.DATA.ROOT_TIMEOUT, "DATA.DECODE_TIMEOUT": cfg.DATA.DECODE_TIMEOUT}
    longest = max(keys, key=keys.get)
    if world.size > 1 and world.is_first and keys[longest] >= cfg.DISTRIBUTED.TIMEOUT:
        logger.warning(
            "DISTRIBUTED.TIMEOUT is %g s and %s %g s: where one process waits so long for its data, the others give up "
            "before. Make the first one longer",
            cfg.DISTRIBUTED.TIMEOUT,
            longest,
            keys[longest],
        )


def build_trainer(cfg: CfgNode, peers: Peers | None = None) -> Trainer:
    """Pre-training, fine-tuning or a probe; arguments and errors as of :func:`build_run`."""
    peers = Peers() if peers is None else peers
    world = peers.world
    check_shares(cfg, world)
    warn_of_short_timeout(cfg, world)
    if world.is_first:
        lock_folder(cfg.OUTPUT_DIR)
    device = own_device(cfg, world)
    cfg, dataset, task, evaluators, description = _task(cfg, device)
    model = build_model(cfg)
    if not world.is_first:  # which tidies the folder up before the others look at it
        peers.wait_for("the output folder")
    checkpoints = build_checkpoints(cfg, world)
    peers.say("the output folder")
    weights_from, fitted = _start(cfg, model, device, dataset, checkpoints, peers)
    if cfg.TASK == "pretrain":
        evaluators = build_evaluators(cfg, model)
    solver, train = cfg.SOLVER, cfg.TRAIN
    total_steps, warmup_clips = training_length(cfg, len(dataset))
    # Before the model is wrapped: its operations are counted.
    total_clips = total_steps * solver.BATCH_SIZE
    monitor, compute = build_monitor(cfg, model, task, total_clips, len(dataset), world.rank, world.size)
    plan = build_wrap_plan(cfg)
    wrapped = wrap(model, plan, device, world)
    groups = parameter_groups(model, solver.WEIGHT_DECAY, model.no_weight_decay(), solver.LAYER_DECAY)
    return Trainer(
        model=wrapped,
        task=task,
        optimizer=make_optimizer(solver.OPTIMIZER, groups, tuple(solver.BETAS), solver.MOMENTUM),
        schedule=LrSchedule.from_base(
            solver.BASE_LR,
            solver.BATCH_SIZE,
            solver.BASE_BATCH_SIZE,
            warmup_clips=warmup_clips,
            total_clips=total_clips,
            min_lr=solver.MIN_LR,
        ),
        make_loader=lambda start_draw: build_loader(
            cfg, dataset, start_draw, world.rank, world.size, pin_memory=device.type == "cuda"
        ),
        total_steps=total_steps,
        clips_per_step=solver.BATCH_SIZE,
        draws_per_step=solver.BATCH_SIZE // cfg.DATA.REPEATED_SAMPLING,
        accumulation=solver.ACCUMULATION_STEPS,
        precision=train.PRECISION,
        clip_grad_norm=solver.CLIP_GRAD_NORM,
        checkpoints=checkpoints,
        checkpoint_period=train.CHECKPOINT_PERIOD,
        monitor=monitor,
        device=device,
        seed=cfg.SEED,
        max_unreadable_fraction=cfg.DATA.MAX_UNREADABLE_FRACTION,
        output_dir=cfg.OUTPUT_DIR,
        config_text=dump(cfg),
        evaluators=evaluators,
        weights_from=weights_from,
        auto_resume=train.AUTO_RESUME,
        ema_decay=train.EMA_DECAY,
        extra_description=[*fitted, *description, *compute, *plan.describe(world.size)],
        peers=peers,
    )


def _task(
    cfg: CfgNode, device: torch.device
) -> tuple[CfgNode, ClipDataset | MixDataset, Task, list[ClassificationEvaluator], list[str]]:
    """(the config with its classes, or CLIP's width; training clips; task; tests; lines for the log)"""
    if cfg.TASK != "pretrain":
        dataset, evaluator = labelled_dataset(cfg, "train"), build_test_evaluator(cfg)
        cfg = with_classes(cfg, dataset, evaluator.clips.dataset)
        return cfg, dataset, build_classify_task(cfg), [evaluator], [describe_labels(dataset)]
    dataset = build_dataset(cfg, "train")
    check_labels(cfg, dataset)
    cfg = with_clip_width(cfg)
    masks, (teacher, description) = build_mask_mix(cfg), build_teacher(cfg, device)
    description += [f"masks, drawn for every micro-batch: {masks}"] if masks else []
    return cfg, dataset, PretrainTask(cfg.DIFFUSION.STEPS, masks, teacher), [], description


def _start(
    cfg: CfgNode,
    model: MaskedAutoencoder | LatentDAE | VideoClassifier,
    device: torch.device,
    dataset: ClipDataset | MixDataset,
    checkpoints: CheckpointManager,
    peers: Peers,
) -> tuple[str, list[str]]:
    """Puts the model on its device and, where a run begins, gives it its weights, in every process the same.

    Returns:
        Where the weights come from, and lines for the log.
    """
    # A run that goes on has all its weights: where it once started from may be gone by now.
    if cfg.TRAIN.AUTO_RESUME and checkpoints.latest() is not None:
        model.to(device)
        return "", []
    weights_from, fitted = start_weights(cfg, model)
    model.to(device)
    if peers.world.is_first:
        fitted = [*fitted, *fit_to_clips(cfg, model, dataset)]
    peers.wait_for("what is fitted to the clips")
    peers.share(model)
    return weights_from, fitted


def build_checkpoints(cfg: CfgNode, world: World) -> CheckpointManager:
    """Of a run that has its output folder to itself: what is unfinished there is removed."""
    folder, train = Path(cfg.OUTPUT_DIR) / "checkpoints", cfg.TRAIN
    keep = (train.KEEP_PERIOD, train.KEEP_LAST, train.ON_FULL_DISK == "stop", world)
    if train.CHECKPOINT_FORMAT == "file":
        return CheckpointManager(folder, *keep)
    # Imported here: it takes a second, and most checkpoints are files.
    from diffmae_video.engine.sharded_checkpoints import ShardedCheckpoints

    return ShardedCheckpoints(folder, *keep, background=train.CHECKPOINT_ASYNC)


def build_wrap_plan(cfg: CfgNode) -> WrapPlan:
    return WrapPlan(
        activation_checkpointing=cfg.TRAIN.ACTIVATION_CHECKPOINTING,
        checkpoint_every=cfg.TRAIN.ACTIVATION_CHECKPOINT_EVERY,
        compile=cfg.TRAIN.COMPILE,
        parallel=cfg.DISTRIBUTED.PARALLEL,
        fsdp_precision=cfg.DISTRIBUTED.FSDP_PRECISION,
        cpu_offload=cfg.DISTRIBUTED.FSDP_CPU_OFFLOAD,
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


def build_evaluators(
    cfg: CfgNode, model: MaskedAutoencoder | LatentDAE
) -> list[ReconstructionEvaluator | DenoisingEvaluator]:
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
    folder, period = Path(cfg.OUTPUT_DIR) / "reconstructions", cfg.TRAIN.VISUALIZE_PERIOD
    if isinstance(model, LatentDAE):
        return [DenoisingEvaluator(clips, folder, period, seed=cfg.SEED)]
    mask = make_mask(cfg.MASK.STRATEGY, model.grid, cfg.MASK.RATIO, len(clips), torch.Generator().manual_seed(cfg.SEED))
    return [
        ReconstructionEvaluator(
            clips,
            tokens_to_pixel_mask(mask, model.grid, model.patch_size),
            folder,
            period=period,
            steps=cfg.TRAIN.VISUALIZE_STEPS,
        )
    ]
