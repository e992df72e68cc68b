"""From a config to classifiers: how many classes, which labels, and what becomes of the weights they start from."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from diffmae_video.build import DatasetError, build_model, build_trainer, load_model
from diffmae_video.build.recognition import class_names, describe_labels, labelled_dataset, start_weights, with_classes
from diffmae_video.config import dump, load_config
from diffmae_video.data import Mixing, write_image
from diffmae_video.engine import RunError, save_checkpoint

SMALL = (
    "DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.CROP_SIZE 32 DATA.DECODE_TIMEOUT 0 DATA_LOADER.NUM_WORKERS 0 "
    "MODEL.PATCH_SIZE [2,8,8] MODEL.ENCODER.WIDTH 24 MODEL.ENCODER.DEPTH 2 MODEL.ENCODER.HEADS 2 "
    "MODEL.DECODER.WIDTH 16 MODEL.DECODER.DEPTH 1 MODEL.DECODER.HEADS 2 MASK.RATIO 0.5 MASK.STRATEGY random "
    "SOLVER.BATCH_SIZE 4 DEVICE cpu TRAIN.TENSORBOARD False"
).split()
CLASS_TOKEN = "MODEL.ENCODER.CLASS_TOKEN True"
READS_CLASS_TOKEN = f"{CLASS_TOKEN} MODEL.HEAD.POOL class_token"
LEARNED = "MODEL.ENCODER.POSITION separable MODEL.DECODER.POSITION separable"
TABLES = (
    f"{CLASS_TOKEN} MODEL.ENCODER.POSITION learned MODEL.DECODER.POSITION learned MODEL.DECODER.TYPE joint "
    "MODEL.DECODER.CLASS_POSITION True"
)
FIXED = "MODEL.ENCODER.POSITION sincos"
IMAGE = "DATA.NUM_FRAMES 1 MODEL.PATCH_SIZE [1,8,8]"
PRETEXT = ("decoder.", "noisy_embed.", "time_embed.")
NORM = ("encoder.norm.",)
HEAD = ("head.",)
PIXELS = ("pixel_",)


def config(task: str, options: str = "", **more):
    """A small config; classifiers have 3 classes."""
    classes = [] if task == "pretrain" else ["MODEL.NUM_CLASSES", 3]
    pairs = itertools.chain.from_iterable(more.items())
    return load_config((), [*SMALL, "TASK", task, *classes, *options.split(), *map(str, pairs)])


def random_weights(model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name, value in state.items():
        if value.is_floating_point() and not name.startswith(PIXELS):
            value.add_(torch.randn(value.shape, generator=generator))
    return state


def checkpoint(folder: Path, cfg, averaged: bool = False) -> dict[str, torch.Tensor]:
    """Writes a run folder with random weights of a config's model; returns those that its users are to get."""
    model = build_model(cfg)
    state = {"format": 1, "model": random_weights(model, 1), "optimizer": {}, "config": dump(cfg), "rng": {}}
    state |= {"progress": {"step": 7, "clips": 28, "draws": 28, "unreadable": 0}, "monitor": {}}
    if averaged:
        state |= {"ema": random_weights(model, 2), "ema_updates": 7}
    (folder / "checkpoints").mkdir(parents=True)
    save_checkpoint(folder / "checkpoints" / "step_00000007.pt", state)
    return state["ema" if averaged else "model"]


def start(cfg, source: Path):
    """(model with the weights at ``source``, where they come from, the lines of the log)."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(source)
    model = build_model(cfg)
    return model, *start_weights(cfg, model)


# ------------------------------------------------------------------------------------------------ classes and labels


@pytest.fixture
def lists(sample_videos, tmp_path):
    """Writes lists of the sample videos with the labels given, and returns the folder: lists(train, val)."""

    def write(train: list[int], val: list[int]) -> Path:
        for name, labels in (("train", train), ("val", val)):
            lines = [f"{sample_videos}/clip_{number}.mp4 {label}\n" for number, label in enumerate(labels)]
            (tmp_path / f"{name}.csv").write_text("".join(lines))
        return tmp_path

    return write


def counted(folder: Path, **more) -> int:
    """The number of classes of a run over a folder of lists."""
    cfg = config("finetune", **{"MODEL.NUM_CLASSES": 0, "DATA.PATH_TO_DATA_DIR": folder, **more})
    datasets = [labelled_dataset(cfg, "train"), labelled_dataset(cfg, "val", test_views=True)]
    before = cfg.MODEL.NUM_CLASSES
    resolved = with_classes(cfg, *datasets)
    assert cfg.MODEL.NUM_CLASSES == before and resolved.is_frozen()
    return resolved.MODEL.NUM_CLASSES


def test_classes_are_counted_over_both_lists(lists):
    assert counted(lists([0, 1, 0, 3], [0, 1])) == 4
    assert counted(lists([0, 1, 0, 3], [0, 5])) == 6
    assert counted(lists([0, 1], [0, 1]), **{"MODEL.NUM_CLASSES": 7}) == 7


@pytest.mark.parametrize("train, val", [([0, 1, 4], [0]), ([0, 1], [0, 4])])
def test_a_label_beyond_the_classes_is_refused(lists, train, val):
    with pytest.raises(DatasetError, match=r"NUM_CLASSES is 4, but .* a video of class 4 .*at least 5, or to 0"):
        counted(lists(train, val), **{"MODEL.NUM_CLASSES": 4})


def test_videos_without_labels_are_refused(lists):
    with pytest.raises(DatasetError, match=r"2 of the 3 videos of 'train' .*no label.*'finetune'.*your_own_videos\.md"):
        counted(lists([0, -1, -1], [0]))
    with pytest.raises(DatasetError, match="1 of the 2 videos of 'val'"):
        counted(lists([0, 1], [-1, 0]))


def test_a_training_run_knows_its_classes(lists, tmp_path):
    folder = lists([0, 1, 0, 3], [0, 5])
    options = {"MODEL.NUM_CLASSES": 0, "DATA.PATH_TO_DATA_DIR": folder, "OUTPUT_DIR": tmp_path / "run"}
    trainer = build_trainer(config("finetune", "AUGMENT.MIXUP 0.8 AUGMENT.ERASING 0.3 SOLVER.MAX_STEPS 2", **options))
    assert trainer.model.num_classes == 6 and "NUM_CLASSES: 6" in trainer.config_text
    assert trainer.stepper.task.mixing == Mixing(6, 0.8, 0.0, smoothing=0.0)
    assert trainer.stepper.task.erasing.probability == 0.3
    assert "labels: 4 videos of 3 classes, 1 to 2 per class" in trainer.extra_description


def test_a_few_labels_per_class_are_part_of_more_of_them(sample_videos):
    def chosen(split: str, count: int, task: str = "finetune") -> list[str]:
        cfg = config(task, f"DATA.LABELS_PER_CLASS {count}", **{"DATA.PATH_TO_DATA_DIR": sample_videos})
        dataset = labelled_dataset(cfg, split, test_views=task == "knn")
        return [dataset.entry(number).path for number in range(len(dataset))]

    one, two, every = (set(chosen("train", count)) for count in (1, 2, 3))
    assert one < two < every and [len(one), len(two), len(every)] == [2, 4, 6]
    assert chosen("train", 3) == chosen("train", 0)
    assert set(chosen("train", 1, "knn")) == one, "the neighbours are the labelled ones"
    assert len(chosen("val", 2)) == 2, "all of what is measured, which has 1 per class"
    with pytest.raises(DatasetError, match=r"LABELS_PER_CLASS is 4, but .*class 0 has 3.*Lower it"):
        chosen("train", 4)


def test_labels_are_described(sample_videos):
    cfg = config("linear", "DATA.LABELS_PER_CLASS 2", **{"DATA.PATH_TO_DATA_DIR": sample_videos})
    assert describe_labels(labelled_dataset(cfg, "train")) == "labels: 4 videos of 2 classes, 2 to 2 per class"


def test_classes_have_the_names_of_their_folders_or_numbers(tmp_path, painted, sample_videos):
    for number, name in enumerate(("walk", "dive")):
        write_image(tmp_path / "train" / name / "image.png", painted(number, 32, 32))
    assert class_names(config("finetune", **{"DATA.PATH_TO_DATA_DIR": tmp_path}), 2) == ["dive", "walk"]
    assert class_names(config("finetune", **{"DATA.PATH_TO_DATA_DIR": sample_videos}), 3) == ["0", "1", "2"]
    with pytest.raises(DatasetError, match="names of the classes cannot be read.*names class 1: walk"):
        class_names(config("finetune", **{"DATA.PATH_TO_DATA_DIR": tmp_path}), 1)


# ---------------------------------------------------------------------------------------------------- start weights

# source, target, and what of the target stays at its initial values
CHAINS = {
    "pretrain -> finetune": ("pretrain", "finetune", HEAD),
    "pretrain -> finetune, class token": (f"pretrain {CLASS_TOKEN}", f"finetune {READS_CLASS_TOKEN}", HEAD),
    "pretrain -> linear": ("pretrain", "linear", HEAD),
    "pretrain -> attentive": (f"pretrain {FIXED}", f"attentive {FIXED}", HEAD),
    "pretrain -> knn": ("pretrain", "knn", HEAD),
    "pretrain -> pretrain": ("pretrain", "pretrain", ()),
    "MAE -> finetune": ("pretrain MODEL.NAME MAE", "finetune", HEAD),
    "MAE -> linear": ("pretrain MODEL.NAME MAE", "linear", HEAD),
    "finetune -> finetune": ("finetune", "finetune", ()),
    "finetune -> other classes": ("finetune MODEL.NUM_CLASSES 5", "finetune", HEAD),
    "finetune -> linear": ("finetune", "linear", HEAD + NORM),
    "finetune -> knn": ("finetune", "knn", HEAD + NORM),
    "finetune -> pretrain": ("finetune", "pretrain", PRETEXT + NORM),
    "finetune -> MAE": (f"finetune {READS_CLASS_TOKEN}", f"pretrain {CLASS_TOKEN} MODEL.NAME MAE", PRETEXT + ("mask",)),
    "class token -> mean": (f"finetune {READS_CLASS_TOKEN}", f"finetune {CLASS_TOKEN}", HEAD),
    "mean -> class token": (f"finetune {CLASS_TOKEN}", f"finetune {READS_CLASS_TOKEN}", HEAD + NORM),
    "linear -> linear": ("linear", "linear", ()),
    "linear -> other classes": ("linear MODEL.NUM_CLASSES 2", "linear", HEAD),
    "linear -> another pool": (f"linear {CLASS_TOKEN}", f"linear {READS_CLASS_TOKEN}", HEAD),
    "linear -> finetune": ("linear", "finetune", HEAD),
    "linear -> pretrain": ("linear", "pretrain", PRETEXT),
    "attentive -> attentive": ("attentive", "attentive MODEL.HEAD.PROBE_HEADS 2", ()),
    "attentive -> other heads": ("attentive", "attentive MODEL.HEAD.PROBE_HEADS 4", HEAD),
    "attentive -> deeper": ("attentive", "attentive MODEL.HEAD.PROBE_DEPTH 2", HEAD),
}


@pytest.mark.parametrize("source, target, fresh", CHAINS.values(), ids=CHAINS)
def test_what_starts_from_the_weights_and_what_afresh(tmp_path, source, target, fresh):
    (task, _, options), (own_task, _, own_options) = source.partition(" "), target.partition(" ")
    cfg = config(own_task, own_options, SEED=3)
    state, initial = checkpoint(tmp_path, config(task, options)), build_model(cfg).state_dict()
    model, origin, lines = start(cfg, tmp_path)
    for name, value in model.state_dict().items():
        expected = initial[name] if name.startswith((*fresh, *PIXELS)) else state[name]
        assert torch.equal(value, expected), name
    assert origin == f"{tmp_path}/checkpoints/step_00000007.pt ({task}, 7 steps)"
    kinds = ("loaded", "in the weights, not used") + (("left at initial values",) if fresh else ())
    assert tuple(line.partition(": ")[0] for line in lines) == kinds


def test_the_log_says_what_became_of_every_weight(tmp_path):
    checkpoint(tmp_path / "pretrain", config("pretrain"))
    checkpoint(tmp_path / "finetune", config("finetune"))
    encoder = "loaded: encoder.patch_embed (2 tensors), encoder.position (2 tensors), encoder.blocks (24 tensors)"
    assert start(config("finetune"), tmp_path / "pretrain")[2] == [
        encoder,
        "in the weights, not used: pixel_mean, pixel_std, encoder.norm (2 tensors), decoder (28 tensors), "
        "noisy_embed (2 tensors), time_embed (4 tensors)",
        "left at initial values: head (4 tensors)",
    ]
    assert start(config("linear"), tmp_path / "finetune")[2] == [
        encoder,
        "in the weights, not used: pixel_mean, pixel_std, head (4 tensors)",
        "left at initial values: encoder.norm (2 tensors), head (5 tensors)",
    ]


def test_averaged_weights_are_what_a_run_starts_from(tmp_path):
    averaged = checkpoint(tmp_path, config("finetune", "TRAIN.EMA_DECAY 0.9"), averaged=True)
    for model in (start(config("finetune"), tmp_path)[0], load_model(tmp_path)):
        assert all(torch.equal(value, averaged[name]) for name, value in model.state_dict().items())


def test_no_weights_are_said_to_be_none():
    cfg = config("finetune")
    assert start_weights(cfg, build_model(cfg)) == ("random initialisation", [])


@pytest.mark.parametrize("positions", [LEARNED, FIXED])
def test_pre_training_goes_on_with_more_frames_at_a_higher_resolution(tmp_path, positions):
    state = checkpoint(tmp_path, config("pretrain", positions))
    cfg = config("pretrain", f"{positions} DATA.NUM_FRAMES 8 DATA.CROP_SIZE 48", SEED=3)
    model, _, lines = start(cfg, tmp_path)
    learned = positions == LEARNED
    for name, value in model.state_dict().items():
        if ".position." in name:
            assert learned and value.shape != state[name].shape
            torch.testing.assert_close(value.mean(0), state[name].mean(0), rtol=0, atol=0.3)
        else:
            assert torch.equal(value, state[name]), name
    text = "\n".join(lines)
    if learned:
        for part, width in (("encoder", 24), ("decoder", 16)):
            assert f"{part}.position.space (16, {width}) -> (36, {width}), positions 4x4 -> 6x6, bicubic" in text
            assert f"{part}.position.time (2, {width}) -> (4, {width}), positions 2 -> 4, linear" in text
    else:
        assert "encoder.position: fixed, those of the new grid: 2x4x4 -> 4x6x6 tokens, not interpolated" in text
        assert torch.equal(model.encoder.position(), build_model(cfg).encoder.position())


def test_pre_training_goes_on_with_a_position_for_every_token(tmp_path):
    checkpoint(tmp_path, config("pretrain", TABLES))
    model, _, lines = start(config("pretrain", f"{TABLES} DATA.NUM_FRAMES 8 DATA.CROP_SIZE 48", SEED=3), tmp_path)
    for part, width in (("encoder", 24), ("decoder", 16)):
        how = "positions 2x4x4 -> 4x6x6, bicubic in space, linear in time"
        assert f"resized: {part}.position.table (32, {width}) -> (144, {width}), {how}" in lines
    assert model.decoder.class_position.shape == (1, 1, 16)
    with pytest.raises(RunError, match="set MODEL.DECODER.CLASS_POSITION as in the weights' run"):
        start(config("pretrain", f"{TABLES} MODEL.DECODER.CLASS_POSITION False"), tmp_path)
    with pytest.raises(RunError, match="MODEL.ENCODER.POSITION learned, this run has sincos_1d"):
        start(config("pretrain", f"{TABLES} MODEL.ENCODER.POSITION sincos_1d"), tmp_path)


@pytest.mark.parametrize("inflation", ["average", "center"])
def test_a_static_clip_is_to_a_video_model_what_the_image_was(tmp_path, inflation):
    image_cfg = config("linear", IMAGE)
    checkpoint(tmp_path, image_cfg)
    image_model, _, _ = start(image_cfg, tmp_path)
    model, _, lines = start(config("linear", f"MODEL.INFLATION {inflation}"), tmp_path)
    assert any(f"patch of 1 -> 2 frames, {inflation}" in line for line in lines)
    assert any("positions 1 -> 2, linear" in line for line in lines)
    image = torch.randn(2, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = model.eval().encode(image.expand(-1, -1, 4, -1, -1)).unflatten(1, (2, 16))
    expected = image_model.eval().encode(image)
    for slot in range(2):
        torch.testing.assert_close(tokens[:, slot], expected, rtol=1e-3, atol=1e-4)
    first, second = model.encoder.patch_embed.weight.unflatten(1, (2, -1)).unbind(1)
    assert torch.equal(first, second if inflation == "average" else torch.zeros_like(first))


@pytest.mark.parametrize("task", ["linear", "pretrain"])
@pytest.mark.parametrize(
    "options, message",
    [
        ("MODEL.ENCODER.HEADS 3", "trained with MODEL.ENCODER.HEADS 2, this run has 3: set it to the former"),
        ("DATA.MEAN [0.4,0.5,0.5] MODEL.TARGET normalized", r"DATA.MEAN \[0.5, 0.5, 0.5\], this run has \[0.4, 0.5"),
        ("DATA.STD [0.5,0.25,0.5] MODEL.TARGET normalized", r"DATA.STD \[0.5, 0.5, 0.5\], this run has \[0.5, 0.25"),
        ("MODEL.ENCODER.WIDTH 48 MODEL.ENCODER.HEADS 4", "of width 24, MODEL.ENCODER.WIDTH is 48"),
        ("MODEL.ENCODER.DEPTH 3", "of depth 2, MODEL.ENCODER.DEPTH is 3"),
        (CLASS_TOKEN, "set MODEL.ENCODER.CLASS_TOKEN as in the weights' run"),
        (FIXED, "set MODEL.ENCODER.POSITION as in the weights' run"),
    ],
)
def test_weights_that_would_mean_something_else_are_refused(tmp_path, task, options, message):
    checkpoint(tmp_path, config("pretrain"))
    cfg = config(task, f"{options} MODEL.WEIGHTS {tmp_path}")
    model = build_model(cfg)
    with pytest.raises(RunError, match=message):
        start_weights(cfg, model)
    untouched = build_model(cfg).state_dict()
    assert all(torch.equal(value, untouched[name]) for name, value in model.state_dict().items())


def test_another_number_of_decoder_heads_is_refused_where_the_decoder_goes_on(tmp_path):
    checkpoint(tmp_path, config("pretrain"))
    start(config("finetune", "MODEL.DECODER.HEADS 4"), tmp_path)
    with pytest.raises(RunError, match="MODEL.DECODER.HEADS 2, this run has 4"):
        start(config("pretrain", "MODEL.DECODER.HEADS 4"), tmp_path)


def test_fixed_positions_of_another_temperature_are_refused(tmp_path):
    checkpoint(tmp_path, config("pretrain", FIXED))
    with pytest.raises(RunError, match="MODEL.POSITION_TEMPERATURE 10000"):
        start(config("finetune", f"{FIXED} MODEL.POSITION_TEMPERATURE 30"), tmp_path)


def test_fixed_positions_of_another_kind_are_refused(tmp_path):
    """They are not among the weights, so that no shape shows it."""
    checkpoint(tmp_path, config("pretrain", FIXED))
    with pytest.raises(RunError, match="MODEL.ENCODER.POSITION sincos, this run has sincos_1d"):
        start(config("finetune", f"{FIXED} MODEL.ENCODER.POSITION sincos_1d"), tmp_path)
    with pytest.raises(RunError, match="MODEL.DECODER.POSITION sincos, this run has sincos_1d"):
        start(config("pretrain", f"{FIXED} MODEL.DECODER.POSITION sincos_1d"), tmp_path)


def test_another_target_is_said_where_the_decoder_goes_on(tmp_path):
    """Its shapes are the same; the first loss is not."""
    checkpoint(tmp_path, config("pretrain"))
    _, _, lines = start(config("pretrain", "MODEL.TARGET normalized"), tmp_path)
    assert "MODEL.TARGET: the decoder was trained with raw, this run goes on with normalized" in lines
    _, _, lines = start(config("pretrain"), tmp_path)
    assert not any("goes on with" in line for line in lines)
