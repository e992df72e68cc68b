"""Pre-training with CLIP targets: from the config to a run, and what becomes of its checkpoints."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from clip_fakes import WIDTH, save_clip

from diffmae_video.build import build_model, build_run, build_trainer, load_model
from diffmae_video.build.clip import build_teacher, with_clip_width
from diffmae_video.build.recognition import start_weights
from diffmae_video.clip_features import ClipTeacher
from diffmae_video.config import ConfigError, from_yaml, load_config
from diffmae_video.engine import RunError, TrainingInterrupted, load_checkpoint
from diffmae_video.inpainting import inpaint

TOOL = Path(__file__).parents[2] / "tools" / "run_net.py"
SMALL = (
    "DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.CROP_SIZE 32 DATA.DECODE_TIMEOUT 0 DATA_LOADER.NUM_WORKERS 0 "
    "MODEL.PATCH_SIZE [2,8,8] MODEL.ENCODER.WIDTH 24 MODEL.ENCODER.DEPTH 2 MODEL.ENCODER.HEADS 2 "
    "MODEL.DECODER.WIDTH 16 MODEL.DECODER.DEPTH 1 MODEL.DECODER.HEADS 2 MASK.RATIO 0.5 MASK.STRATEGY random "
    "SOLVER.BATCH_SIZE 4 SOLVER.BASE_LR 0.05 SOLVER.MAX_STEPS 4 SOLVER.ACCUMULATION_STEPS 2 DEVICE cpu "
    "TRAIN.LOG_PERIOD 1 TRAIN.CHECKPOINT_PERIOD 2 TRAIN.EMA_DECAY 0.9 TRAIN.PRECISION fp32 TRAIN.TENSORBOARD False"
).split()
TIMINGS = ("clips_per_second", "step_seconds", "data_wait_share", "wall_seconds", "tflops", "mfu")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip") / "model")


def config(*options: object, **keys: object):
    return load_config((), [*SMALL, *map(str, options), *(str(item) for pair in keys.items() for item in pair)])


@pytest.fixture
def recipe(sample_videos, clip_folder, tmp_path):
    """A config of pre-training with CLIP targets: recipe(KEY, value, ...)."""

    def make(*options: object):
        paths = ("DATA.PATH_TO_DATA_DIR", sample_videos, "OUTPUT_DIR", tmp_path / "run")
        return config(*paths, "MODEL.CLIP.WEIGHTS", clip_folder, *options)

    return make


def log_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def newest(folder: Path) -> dict:
    return load_checkpoint(sorted((folder / "checkpoints").glob("step_*.pt"))[-1])


def pixels(batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (batch, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def model_and_teacher(recipe, *options: object):
    cfg = with_clip_width(recipe(*options))
    return build_model(cfg), build_teacher(cfg, torch.device("cpu"))[0]


# ---------------------------------------------------------------------------------------------------------------- a run


@pytest.mark.parametrize("name", ["DiffMAE", "MAE"])
@pytest.mark.parametrize("loss", ["cosine", "mse"])
def test_a_run_logs_both_parts_and_their_weighted_sum(recipe, tmp_path, name, loss):
    weights = ("MODEL.CLIP.LOSS_WEIGHT", 0.5, "MODEL.CLIP.PIXEL_WEIGHT", 2.0, "MODEL.CLIP.LOSS", loss)
    build_trainer(recipe("MODEL.NAME", name, *weights)).run()
    log = log_of(tmp_path / "run")
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    for line in log:
        assert line["loss"] == pytest.approx(2 * line["loss_pixels"] + 0.5 * line["loss_features"], rel=1e-5)
        assert line["loss_features"] > 0.01


def test_the_first_loss_is_that_of_the_features_of_the_whole_clips(recipe):
    """Computed once more, from the batch: the teacher sees every pixel of what the model is shown a part of."""
    trainer = build_trainer(recipe("MODEL.CLIP.LAYER", -2))
    assert isinstance(trainer.stepper.task.teacher, ClipTeacher)
    model, task = trainer.model.eval(), trainer.stepper.task
    batch = next(iter(trainer.make_loader(0)))
    seeded = [torch.Generator().manual_seed(number) for number in range(len(batch.clips))]
    loss, metrics = task.loss(model, batch, seeded, torch.Generator())
    seeded = [torch.Generator().manual_seed(number) for number in range(len(batch.clips))]
    found = []
    model.feature_head.register_forward_hook(lambda _, __, out: found.append(out))
    output = model(model.normalize(batch.clips), generator=seeded, features=task.teacher(batch.clips))
    assert torch.equal(loss, output.loss)
    frames = (batch.clips[:, :, ::2].float() / 255).transpose(1, 2).flatten(0, 1)
    frames = (frames - task.teacher.mean) / task.teacher.std
    with torch.no_grad():
        tokens = task.teacher.vision(pixel_values=frames).last_hidden_state[:, 1:]
    wanted = tokens.reshape(*output.mask.shape, WIDTH)[output.mask].reshape(found[0].shape)
    expected = (1 - torch.nn.functional.cosine_similarity(found[0], wanted, dim=-1)).mean()
    assert metrics["loss_features"].tolist() == pytest.approx([2 * expected.item(), 2], rel=1e-5)


def test_the_features_can_be_learned(recipe, tmp_path):
    build_trainer(recipe("SOLVER.MAX_STEPS", 40, "SOLVER.BASE_LR", 0.5, "SOLVER.WARMUP_EPOCHS", 0)).run()
    losses = [line["loss_features"] for line in log_of(tmp_path / "run")]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_teacher_is_in_no_state(recipe, tmp_path):
    trainer, plain = build_trainer(recipe()), build_model(recipe("MODEL.CLIP.WEIGHTS", ""))
    vision = trainer.stepper.task.teacher.vision
    before = {name: value.clone() for name, value in vision.state_dict().items()}
    trainer.run()
    assert all(torch.equal(value, before[name]) for name, value in vision.state_dict().items())
    state, head = newest(tmp_path / "run"), {"feature_head.weight", "feature_head.bias"}
    assert state["model"].keys() == state["ema"].keys() == plain.state_dict().keys() | head
    assert len(state["optimizer"]["state"]) == len(list(plain.parameters())) + 2
    assert state["model"]["feature_head.weight"].shape == (WIDTH, 16)
    assert from_yaml(state["config"]).MODEL.CLIP.WIDTH == WIDTH


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(recipe, tmp_path, monkeypatch):
    build_trainer(recipe("OUTPUT_DIR", tmp_path / "straight")).run()
    call, calls = ClipTeacher.__call__, []

    def interrupted(teacher, clips):
        calls.append(1)
        if len(calls) == 6:  # in the second part of the third step
            raise KeyboardInterrupt
        return call(teacher, clips)

    monkeypatch.setattr(ClipTeacher, "__call__", interrupted)
    with pytest.raises(TrainingInterrupted):
        build_trainer(recipe()).run()
    assert len(log_of(tmp_path / "run")) == 2
    build_trainer(recipe()).run()
    assert log_of(tmp_path / "run") == log_of(tmp_path / "straight")
    ours, theirs = newest(tmp_path / "run"), newest(tmp_path / "straight")
    for part in ("model", "ema"):
        assert all(torch.equal(ours[part][name], value) for name, value in theirs[part].items())


def test_images_beside_videos_and_bf16(recipe, sample_videos, tmp_path):
    """Clips of one frame have the features of one time slot."""
    mix = ["DATA.MIX.PATHS", [str(sample_videos)] * 2, "DATA.MIX.NUM_FRAMES", [4, 1], "DATA.PATH_TO_DATA_DIR", ""]
    build_trainer(recipe(*mix, "TRAIN.PRECISION", "bf16", "SOLVER.MAX_STEPS", 8)).run()
    assert all(0 < line["loss_features"] < 2 for line in log_of(tmp_path / "run"))


def test_the_log_says_what_the_teacher_is(recipe, clip_folder):
    lines = build_trainer(recipe("MODEL.CLIP.LAYER", -2)).extra_description
    (line,) = [line for line in lines if "CLIP" in line]
    assert line.startswith(f"CLIP targets: {clip_folder}, block 2, 32 wide, 0.0") and line.endswith("slot, at 32x32")
    larger = recipe("DATA.CROP_SIZE", 48)
    (line,) = build_teacher(with_clip_width(larger), torch.device("cpu"))[1]
    assert line.endswith("at 48x48, trained at 32x32: its positions are interpolated")


# --------------------------------------------------------------------------------------------- what reaches the student


@pytest.mark.parametrize("name", ["DiffMAE", "MAE"])
@pytest.mark.parametrize("loss", ["cosine", "mse"])
def test_features_alone_train_encoder_and_head(recipe, name, loss):
    options = ("MODEL.NAME", name, "MODEL.CLIP.PIXEL_WEIGHT", 0, "MODEL.CLIP.LOSS", loss)
    model, teacher = model_and_teacher(recipe, *options)
    output = model(model.normalize(pixels()), features=teacher(pixels()))
    assert torch.equal(output.per_clip_loss, output.parts["features"])
    output.loss.backward()
    still = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == {"decoder.head.weight", "decoder.head.bias"}  # the head of pixels


@pytest.mark.parametrize("name", ["DiffMAE", "MAE"])
def test_hidden_pixels_reach_the_target_and_never_the_prediction(recipe, name):
    """With other hidden pixels the teacher's features are others; predictions, at the same x_t, are the same."""
    model, teacher = model_and_teacher(recipe, "MODEL.NAME", name)
    predicted = []
    model.eval().feature_head.register_forward_hook(lambda _, __, out: predicted.append(out))
    mask = model.make_mask(2, torch.Generator().manual_seed(0))
    hidden = mask.reshape(2, 1, 2, 4, 4).repeat_interleave(2, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)
    clip = pixels()
    other = torch.where(hidden, pixels(seed=1), clip)
    losses = []
    noise = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(2))
    for shown in (clip, other):
        extra = {}
        if name == "DiffMAE":  # noise that leads to the same noisy patches
            signal, spread = model.schedule.scales(torch.tensor([600, 600]), noise)
            gap = (signal / spread).reshape(-1, 1, 1, 1, 1) * (model.normalize(clip) - model.normalize(shown))
            extra = {"t": torch.tensor([600, 600]), "noise": noise + gap}
        losses.append(model(model.normalize(shown), mask, features=teacher(shown), **extra).parts["features"])
    torch.testing.assert_close(*predicted, atol=1e-5, rtol=1e-5)
    assert (losses[0] - losses[1]).abs().min() > 1e-4
    visible = ~mask
    assert (teacher(clip) - teacher(other))[visible].abs().max() > 1e-3  # attention: also features of visible places


# ------------------------------------------------------------------------------------------ what becomes of the weights


@pytest.fixture(scope="module")
def finished(sample_videos, clip_folder, tmp_path_factory):
    """A run folder whose teacher is gone."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(clip_folder, folder / "clip")
    options = (
        "DATA.PATH_TO_DATA_DIR",
        sample_videos,
        "OUTPUT_DIR",
        folder / "run",
        "MODEL.CLIP.WEIGHTS",
        folder / "clip",
    )
    build_trainer(config(*options, "SOLVER.MAX_STEPS", 2)).run()
    shutil.rmtree(folder / "clip")
    return folder / "run"


def test_the_model_needs_no_teacher(finished):
    model = load_model(finished)
    assert model.feature_width == WIDTH and model.cfg.MODEL.CLIP.WIDTH == WIDTH
    assert model.encode(model.normalize(pixels())).shape == (2, 32, 24)
    mask = torch.zeros(2, 4, 32, 32, dtype=torch.bool)
    mask[:, :, 8:16, 8:24] = True
    filled = inpaint(model, pixels(), mask, steps=2)
    visible = ~mask[:, None].expand(-1, 3, -1, -1, -1)
    assert torch.equal(filled[visible], pixels()[visible]) and not torch.equal(filled, pixels())


@pytest.mark.parametrize("task", ["finetune", "linear", "attentive"])
def test_classifiers_start_from_it(finished, sample_videos, tmp_path, task):
    options = ("TASK", task, "MODEL.WEIGHTS", finished, "OUTPUT_DIR", tmp_path / "run", "SOLVER.ACCUMULATION_STEPS", 1)
    cfg = config("DATA.PATH_TO_DATA_DIR", sample_videos, *options, "SOLVER.MAX_STEPS", 1, "MODEL.NUM_CLASSES", 2)
    trainer = build_trainer(cfg)
    assert any("not used" in line and "feature_head (2 tensors)" in line for line in trainer.extra_description)
    ours, theirs = trainer.model.encoder.state_dict(), newest(finished)["ema"]
    assert all(torch.equal(value, theirs[f"encoder.{name}"]) for name, value in ours.items())
    trainer.run()


def test_nearest_neighbours_and_inpainting_are_measured(finished, sample_videos, tmp_path):
    options = ("DATA.PATH_TO_DATA_DIR", sample_videos, "MODEL.WEIGHTS", finished, "TRAIN.EMA_DECAY", 0)
    knn = ("TASK", "knn", "KNN.K", 2, "OUTPUT_DIR", tmp_path / "knn")
    build_run(config(*options, *knn)).run()
    painting = ("TASK", "inpaint_eval", "OUTPUT_DIR", tmp_path / "paint", "INPAINT.STEPS", [2], "INPAINT.FILLS", [])
    build_run(config(*options, *painting, "INPAINT.MASKS", ["center"])).run()
    assert list((tmp_path / "knn").iterdir()) and list((tmp_path / "paint").iterdir())


def test_going_on_without_the_teacher_says_what_it_is_for(finished, sample_videos):
    gone = finished.parent / "clip"
    options = ("DATA.PATH_TO_DATA_DIR", sample_videos, "OUTPUT_DIR", finished, "MODEL.CLIP.WEIGHTS", gone)
    with pytest.raises(
        RunError, match=rf"no folder {gone}: .*to begin with and to go on; using what was trained does not"
    ):
        build_trainer(config(*options, "SOLVER.MAX_STEPS", 3))
    with pytest.raises(ConfigError, match="MODEL.CLIP.WEIGHTS names no CLIP model.*WIDTH to 0 to do without"):
        build_trainer(config(*options[:4], "MODEL.CLIP.WIDTH", WIDTH, "SOLVER.MAX_STEPS", 3))


def test_a_run_that_had_no_head_is_not_gone_on_with_by_one_that_has(recipe, tmp_path):
    build_trainer(recipe("MODEL.CLIP.WEIGHTS", "", "SOLVER.MAX_STEPS", 2)).run()
    with pytest.raises(RunError, match="does not fit this run's model .*feature_head.weight.*another OUTPUT_DIR"):
        build_trainer(recipe()).run()


def head_lines(cfg) -> tuple[torch.nn.Module, list[str]]:
    """The model with the weights that its config names, and what the log says about the head."""
    cfg = with_clip_width(cfg)
    model = build_model(cfg)
    return model, [line for line in start_weights(cfg, model)[1] if "feature_head" in line]


def test_pre_training_goes_on_with_without_and_with_another_teacher(recipe, finished, tmp_path):
    """The head by name: taken over where the features are the same ones, else left out, or at initial values."""
    state = newest(finished)["ema"]
    weights = ("MODEL.WEIGHTS", finished)
    model, lines = head_lines(recipe(*weights))
    assert torch.equal(model.feature_head.weight, state["feature_head.weight"]) and "loaded: " in lines[0]

    without, lines = head_lines(recipe(*weights, "MODEL.CLIP.WEIGHTS", ""))
    assert not hasattr(without, "feature_head") and torch.equal(
        without.decoder.head.weight, state["decoder.head.weight"]
    )
    assert len(lines) == 1 and lines[0].startswith("in the weights, not used") and "feature_head (2" in lines[0]

    wider = save_clip(tmp_path / "wider", hidden_size=48)
    for options in (("MODEL.CLIP.WEIGHTS", wider), ("MODEL.CLIP.LAYER", -2)):
        cfg = recipe(*weights, *options)
        model, lines = head_lines(cfg)
        fresh = build_model(with_clip_width(cfg))
        assert torch.equal(model.feature_head.weight, fresh.feature_head.weight)
        assert torch.equal(model.decoder.head.weight, state["decoder.head.weight"])
        assert any(line.startswith("left at initial values: feature_head") for line in lines)

    headless = recipe("MODEL.CLIP.WEIGHTS", "", "OUTPUT_DIR", tmp_path / "headless", "SOLVER.MAX_STEPS", 1)
    build_trainer(headless).run()
    model, lines = head_lines(recipe("MODEL.WEIGHTS", tmp_path / "headless"))
    assert lines == ["left at initial values: feature_head (2 tensors)"]


# --------------------------------------------------------------------------------------------------------------- errors


def test_a_width_that_is_not_the_teachers_is_refused(recipe):
    assert with_clip_width(recipe("MODEL.CLIP.WIDTH", WIDTH)).MODEL.CLIP.WIDTH == WIDTH
    with pytest.raises(ConfigError, match=r"MODEL\.CLIP\.WIDTH is 33, but the features of .* are 32 wide.*or to 0"):
        build_trainer(recipe("MODEL.CLIP.WIDTH", 33))
    cfg = recipe()
    assert with_clip_width(cfg).MODEL.CLIP.WIDTH == WIDTH and cfg.MODEL.CLIP.WIDTH == 0
    with pytest.raises(ConfigError, match=r"MODEL\.CLIP\.WIDTH is 0, to be read from the folder"):
        build_model(cfg)


@pytest.mark.parametrize(
    "options, message",
    [
        (["MODEL.CLIP.WEIGHTS", "nowhere/clip"], "MODEL.CLIP.WEIGHTS: no folder nowhere/clip: expected"),
        (["MODEL.CLIP.LAYER", "-9"], "MODEL.CLIP.WEIGHTS: the CLIP model in .* has 3 blocks, -3 to -1"),
    ],
)
def test_errors_of_the_folder_are_one_line(recipe, capsys, options, message):
    specification = importlib.util.spec_from_file_location("run_net_of_clip", TOOL)
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    pairs = [str(option) for option in options]
    cfg = recipe()
    given = ["MODEL.CLIP.WEIGHTS", cfg.MODEL.CLIP.WEIGHTS, "DATA.PATH_TO_DATA_DIR", cfg.DATA.PATH_TO_DATA_DIR]
    empty = Path(cfg.OUTPUT_DIR).parent / "empty.yaml"
    empty.write_text("SEED: 0\n")
    assert tool.run([str(empty)], [*SMALL, *given, "OUTPUT_DIR", cfg.OUTPUT_DIR, *pairs], print_config=False) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert re.search(message, printed), printed


def test_a_model_trained_on_features_alone_paints_nothing(recipe):
    model, _ = model_and_teacher(recipe, "MODEL.CLIP.PIXEL_WEIGHT", 0)
    with pytest.raises(ValueError, match="trained on features alone"):
        inpaint(model.eval(), pixels(), torch.ones(2, 4, 32, 32, dtype=torch.bool), steps=1)
