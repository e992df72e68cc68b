"""From a config to datasets and loaders."""

from __future__ import annotations

import logging
from typing import NamedTuple

from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader

from diffmae_video.config import is_mix
from diffmae_video.data import (
    ORIENTED_FORMATS,
    ClipDataset,
    ColorJitter,
    CropAndFlip,
    DrawSampler,
    Entry,
    MixDataset,
    MixSampler,
    PretrainTransform,
    RandAugment,
    RecognitionTransform,
    detect_format,
    labelled_subset,
    make_loader,
    read_manifest,
    shard_order,
)
from diffmae_video.engine import RunError

logger = logging.getLogger(__name__)


class DatasetError(RunError):
    """The dataset of a config is missing, empty or malformed; the message says what to do."""


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


def build_dataset(cfg: CfgNode, split: str = "train", test_views: bool = False) -> ClipDataset | MixDataset:
    """The clips of a split: random and augmented for ``"train"``, centred and never substituted otherwise.

    Args:
        split: name of its list or folder.
        test_views: all views of every video that TEST asks for, in order, instead of the random or the centred one.

    Raises:
        DatasetError: nothing usable at ``DATA.PATH_TO_DATA_DIR`` or one of ``DATA.MIX.PATHS``, or flips of a dataset
            that tells left from right; the message names the page that prepares the dataset.
    """
    datasets = [build_source(cfg, split, source, test_views) for source in data_sources(cfg)]
    return MixDataset(datasets) if is_mix(cfg) else datasets[0]


def build_source(cfg: CfgNode, split: str, source: DataSource, test_views: bool = False) -> ClipDataset:
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
    if data.LABELS_PER_CLASS and split == "train":
        entries = _labelled(cfg, entries, source)
    train = split == "train" and not test_views
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
        repeats=data.REPEATED_SAMPLING if train else 1,
        train=train,
        decoder=data.DECODER,
        decode_short_side=data.DECODE_SHORT_SIDE,
        decode_timeout=data.DECODE_TIMEOUT,
        folder_timeout=data.ROOT_TIMEOUT,
        seed=cfg.SEED,
        sampling=data.SAMPLING,
        transform=build_transform(cfg) if train else None,
        fit=data.FIT,
        test_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS if test_views else 1,
        test_crops=cfg.TEST.NUM_SPATIAL_CROPS if test_views else 1,
    )


def _labelled(cfg: CfgNode, entries: list[Entry], source: DataSource) -> list[Entry]:
    try:
        return labelled_subset(entries, cfg.DATA.LABELS_PER_CLASS, cfg.SEED)
    except ValueError as error:
        raise DatasetError(
            f"DATA.LABELS_PER_CLASS is {cfg.DATA.LABELS_PER_CLASS}, but in {source.path}: {error}. Lower it"
        ) from error


def build_transform(cfg: CfgNode) -> PretrainTransform | RecognitionTransform | None:
    """The augmentation of training clips; None where it is the random resized crop that ``ClipDataset`` does itself.

    Raises:
        DatasetError: AUGMENT.RAND_AUGMENT cannot be read.
    """
    augment, jitter = cfg.AUGMENT, cfg.AUGMENT.COLOR_JITTER
    if augment.CROP == "random_resized" and not jitter and not augment.GRAYSCALE and not augment.RAND_AUGMENT:
        return None
    crop = CropAndFlip(
        cfg.DATA.CROP_SIZE,
        augment.CROP,
        scale=tuple(cfg.DATA.CROP_SCALE),
        aspect=tuple(cfg.DATA.CROP_ASPECT),
        horizontal_flip=cfg.DATA.HORIZONTAL_FLIP,
        relative_aspect=cfg.DATA.FIT == "stretch",
    )
    colors = ColorJitter(jitter, jitter, jitter)
    if cfg.TASK == "pretrain":
        return PretrainTransform(crop, colors, augment.GRAYSCALE)
    try:
        operations = RandAugment.parse(augment.RAND_AUGMENT) if augment.RAND_AUGMENT else None
    except ValueError as error:
        raise DatasetError(f"AUGMENT.RAND_AUGMENT: {error}") from error
    return RecognitionTransform(crop, operations, colors, augment.GRAYSCALE, augment_first=augment.RAND_AUGMENT_FIRST)


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
