"""From a config to classifiers: their classes, the weights they start from, and how they are measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from diffmae_video.build.data import DatasetError, build_dataset
from diffmae_video.build.latent import require_fitted
from diffmae_video.build.models import build_model, load_model
from diffmae_video.config import dump, from_yaml, resolve_encoder
from diffmae_video.data import ClipDataset, EvaluationClips, Mixing, RandomErasing, read_class_names
from diffmae_video.engine import (
    ClassificationEvaluator,
    ClassifyTask,
    KnnRun,
    Peers,
    RunError,
    TestRun,
    World,
    ema_state,
    find_checkpoint,
    select_device,
)
from diffmae_video.models import MaskedAutoencoder, VideoClassifier
from diffmae_video.models.fitting import PRETEXT, fit_weights


def labelled_dataset(cfg: CfgNode, split: str, test_views: bool = False) -> ClipDataset:
    """The clips of a split, every video of which has a label; arguments as of :func:`build_dataset`.

    Raises:
        DatasetError: as :func:`build_dataset`; also videos without a label.
    """
    dataset = build_dataset(cfg, split, test_views)
    unlabelled = int((dataset.labels < 0).sum())
    if unlabelled:
        raise DatasetError(
            f"{unlabelled} of the {len(dataset)} videos of {split!r} in {cfg.DATA.PATH_TO_DATA_DIR} have no label (or "
            f"-1), which TASK {cfg.TASK!r} needs: {cfg.DATA.PAGE} says how labels are given"
        )
    return dataset


def with_classes(cfg: CfgNode, *datasets: ClipDataset) -> CfgNode:
    """The config with ``MODEL.NUM_CLASSES``: counted where it is 0, compared with the labels where it is not.

    Raises:
        DatasetError: a label that ``MODEL.NUM_CLASSES`` does not reach.
    """
    highest = max(int(dataset.labels.max()) for dataset in datasets)
    if not cfg.MODEL.NUM_CLASSES:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.NUM_CLASSES = highest + 1
        cfg.freeze()
    if highest >= cfg.MODEL.NUM_CLASSES:
        raise DatasetError(
            f"MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}, but {cfg.DATA.PATH_TO_DATA_DIR} has a video of class "
            f"{highest} (they count from 0): set it to at least {highest + 1}, or to 0 to have them counted"
        )
    return cfg


def class_names(cfg: CfgNode, num_classes: int) -> list[str]:
    """What the classes are called, where the dataset's layout says it; else their numbers.

    Raises:
        DatasetError: names that do not fit.
    """
    data = cfg.DATA
    try:
        return read_class_names(data.PATH_TO_DATA_DIR, data.FORMAT, data.LABELS, num_classes)
    except (FileNotFoundError, ValueError) as error:
        raise DatasetError(f"the names of the classes cannot be read: {error}") from error


def describe_labels(dataset: ClipDataset) -> str:
    """One line for the log: how many labels a training run has."""
    counts = Counter(dataset.labels.tolist()).values()
    return f"labels: {len(dataset)} videos of {len(counts)} classes, {min(counts)} to {max(counts)} per class"


def build_classify_task(cfg: CfgNode) -> ClassifyTask:
    augment = cfg.AUGMENT
    mixing = Mixing(
        cfg.MODEL.NUM_CLASSES,
        mixup_alpha=augment.MIXUP,
        cutmix_alpha=augment.CUTMIX,
        probability=augment.MIX_PROBABILITY,
        switch_probability=augment.MIX_SWITCH_PROBABILITY,
        smoothing=augment.LABEL_SMOOTHING,
    )
    return ClassifyTask(mixing, RandomErasing(augment.ERASING) if augment.ERASING else None)


def build_test_evaluator(cfg: CfgNode) -> ClassificationEvaluator:
    """Measures the classifier of a run on TEST.SPLIT, every TRAIN.EVAL_PERIOD steps and after the last one."""
    dataset = labelled_dataset(cfg, cfg.TEST.SPLIT, test_views=True)
    return ClassificationEvaluator(_clips(cfg, dataset), cfg.TRAIN.EVAL_PERIOD, unreadable=cfg.TEST.UNREADABLE)


def _clips(cfg: CfgNode, dataset: ClipDataset, world: World = World()) -> EvaluationClips:  # noqa: B008 - it is frozen
    """All videos, or one process's part of them: a stretch of the list, so that the parts in order are the whole."""
    first, last = (part * len(dataset) // world.size for part in (world.rank, world.rank + 1))
    return EvaluationClips(dataset, cfg.TEST.BATCH_SIZE, cfg.DATA_LOADER.NUM_WORKERS, range(first, last))


# ---------------------------------------------------------------------------------------------------- start weights


def start_weights(cfg: CfgNode, model: MaskedAutoencoder | VideoClassifier) -> tuple[str, list[str]]:
    """Fits the weights at ``MODEL.WEIGHTS`` onto ``model``.

    Returns:
        Where the weights come from, and lines for the log that say what was loaded, resized, left out and initialised.

    Raises:
        FileNotFoundError: nothing there.
        RunError: a damaged file, or weights that do not fit; the model is unchanged then.
    """
    if not cfg.MODEL.WEIGHTS:
        return "random initialisation", []
    state, path = find_checkpoint(cfg.MODEL.WEIGHTS)
    source = from_yaml(state["config"])
    _check_what_no_shape_shows(cfg, source, path)
    patch, size = tuple(source.MODEL.PATCH_SIZE), source.DATA.CROP_SIZE
    skip, fresh = _left_out(cfg, source)
    try:
        report = fit_weights(
            model,
            ema_state(state),
            (source.DATA.NUM_FRAMES // patch[0], size // patch[1], size // patch[2]),
            patch,
            inflation=cfg.MODEL.INFLATION,
            skip=skip,
            fresh=fresh,
            source_temperature=source.MODEL.POSITION_TEMPERATURE,
        )
    except ValueError as error:
        raise RunError(f"{path} does not fit: {error}") from error
    lines = report.lines() + _other_objective(cfg, source)
    return f"{path} ({source.TASK}, {state['progress']['step']} steps)", lines


def _other_objective(cfg: CfgNode, source: CfgNode) -> list[str]:
    """What a decoder that goes on predicted before and is to predict now, where that differs; no shape shows it."""
    if not source.TASK == cfg.TASK == "pretrain":
        return []
    keys = ("TARGET", "TARGET_FRAMES", "PREDICTION")
    pairs = {key: (source.MODEL[key], cfg.MODEL[key]) for key in keys}
    return [
        f"MODEL.{key}: the decoder was trained with {theirs}, this run goes on with {ours}"
        for key, (theirs, ours) in pairs.items()
        if theirs != ours
    ]


def _check_what_no_shape_shows(cfg: CfgNode, source: CfgNode, path: Path) -> None:
    """Raises RunError for settings with which the weights would fit and mean something else."""
    (width, _, heads), (own_width, _, own_heads) = resolve_encoder(source), resolve_encoder(cfg)
    pairs = {
        "DATA.MEAN": (list(source.DATA.MEAN), list(cfg.DATA.MEAN)),
        "DATA.STD": (list(source.DATA.STD), list(cfg.DATA.STD)),
    }
    if width == own_width:  # another one shows, and is what is to be said then
        pairs["MODEL.ENCODER.HEADS"] = (heads, own_heads)
    nodes = ["ENCODER"]
    if source.TASK == cfg.TASK == "pretrain":
        nodes.append("DECODER")
        pairs["MODEL.DECODER.HEADS"] = (source.MODEL.DECODER.HEADS, cfg.MODEL.DECODER.HEADS)
    for node in nodes:
        kinds = source.MODEL[node].POSITION, cfg.MODEL[node].POSITION
        if "separable" not in kinds:  # fixed positions are not among the weights
            pairs[f"MODEL.{node}.POSITION"] = kinds
    for key, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise RunError(f"{path} was trained with {key} {theirs}, this run has {ours}: set it to the former")


def _left_out(cfg: CfgNode, source: CfgNode) -> tuple[list[str], list[str]]:
    """Names of the weights that a run does not take, and of its own that start afresh, by what the two runs train.

    A decoder goes on where pre-training does, a head where it is the same head.
    """
    skip, fresh = [], []
    if (source.TASK == "pretrain") != (cfg.TASK == "pretrain"):
        (fresh if cfg.TASK == "pretrain" else skip).extend(PRETEXT)
    same_features = all(source.MODEL.CLIP[key] == cfg.MODEL.CLIP[key] for key in ("WIDTH", "LAYER"))
    if source.TASK == cfg.TASK == "pretrain" and not same_features:
        fresh.append("feature_head.")
    same_head = _head(source) == _head(cfg)
    if source.TASK != "pretrain" and not same_head:
        skip.append("head.")
    if cfg.TASK != "pretrain" and not same_head:
        fresh.append("head.")
    # A fine-tuned encoder with mean pooling has no last norm: the head normalises the mean instead.
    if _has_last_norm(source) and not _has_last_norm(cfg):
        skip.append("encoder.norm.")
    if _has_last_norm(cfg) and not _has_last_norm(source):
        fresh.append("encoder.norm.")
    return skip, fresh


def _head(cfg: CfgNode) -> tuple:
    """What makes a head another one, although its shapes may be the same."""
    head = cfg.MODEL.HEAD
    reads = (head.PROBE_HEADS or resolve_encoder(cfg)[2], head.PROBE_DEPTH) if cfg.TASK == "attentive" else head.POOL
    return cfg.TASK, cfg.MODEL.NUM_CLASSES, reads


def _has_last_norm(cfg: CfgNode) -> bool:
    return cfg.TASK != "finetune" or cfg.MODEL.HEAD.POOL == "class_token"


# -------------------------------------------------------------------------------------------------------- measuring


def build_test(cfg: CfgNode, peers: Peers | None = None) -> TestRun:
    """The multi-view test of a trained classifier: of MODEL.WEIGHTS, or of OUTPUT_DIR's own newest checkpoint.

    ``peers``: the processes that share the videos; None = this one alone.

    Raises:
        DatasetError, RunError: no labelled data, no classifier, or one that takes clips of another shape.
    """
    weights = cfg.MODEL.WEIGHTS or cfg.OUTPUT_DIR
    dataset = labelled_dataset(cfg, cfg.TEST.SPLIT, test_views=True)
    peers = Peers() if peers is None else peers
    device = own_device(cfg, peers.world)
    model = load_model(weights, device)
    if not isinstance(model, VideoClassifier):
        raise RunError(
            f"{weights} is a {type(model).__name__}, which has no classes: train a classifier on it (TASK finetune, "
            "linear or attentive, MODEL.WEIGHTS the same), or use TASK knn"
        )
    _check_shape(cfg, model, weights)
    clips = _clips(cfg, dataset, peers.world)
    return TestRun(clips=clips, **_measuring(cfg, model, peers, [f"weights: {weights}, {model.kind}"]))


def own_device(cfg: CfgNode, world: World) -> torch.device:
    """Where this process computes; raises as :func:`select_device`."""
    return select_device(cfg.DEVICE, world.local_rank if world.size > 1 else None)


def _check_shape(cfg: CfgNode, model: VideoClassifier, weights: str) -> None:
    frames, size = model.clip_shape[1:3]
    if (frames, size) != (cfg.DATA.NUM_FRAMES, cfg.DATA.CROP_SIZE):
        raise RunError(
            f"{weights} takes clips of DATA.NUM_FRAMES {frames} and DATA.CROP_SIZE {size}, the configuration says "
            f"{cfg.DATA.NUM_FRAMES} and {cfg.DATA.CROP_SIZE}: use the former, or fine-tune at the latter"
        )


def build_knn(cfg: CfgNode, peers: Peers | None = None) -> KnnRun:
    """Nearest neighbours of TEST.SPLIT's videos among the training videos, by the features of MODEL.WEIGHTS.

    ``peers``: the processes that share the videos; None = this one alone.

    Raises:
        DatasetError, RunError: no labelled data, or weights that do not fit.
    """
    train = labelled_dataset(cfg, "train", test_views=True)
    test = labelled_dataset(cfg, cfg.TEST.SPLIT, test_views=True)
    cfg = with_classes(cfg, train, test)
    peers = Peers() if peers is None else peers
    device = own_device(cfg, peers.world)
    model = build_model(cfg)
    origin, lines = start_weights(cfg, model)
    require_fitted(model)
    return KnnRun(
        train_clips=_clips(cfg, train, peers.world),
        clips=_clips(cfg, test, peers.world),
        k=cfg.KNN.K,
        temperature=cfg.KNN.TEMPERATURE,
        **_measuring(cfg, model.to(device), peers, [f"weights: {origin}", *lines, describe_labels(train)]),
    )


def _measuring(cfg: CfgNode, model: VideoClassifier, peers: Peers, description: Sequence[str]) -> dict:
    """What every measurement takes."""
    return {
        "model": model,
        "class_names": class_names(cfg, model.num_classes),
        "output_dir": Path(cfg.OUTPUT_DIR),
        "config_text": dump(cfg),
        "device": next(model.parameters()).device,
        "precision": cfg.TRAIN.PRECISION,
        "unreadable": cfg.TEST.UNREADABLE,
        "description": description,
        "peers": peers,
    }
