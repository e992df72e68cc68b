"""From a config to a measurement of inpainting, and what is refused on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffmae_video.build import DatasetError, build_model, build_run
from diffmae_video.config import dump, load_config
from diffmae_video.engine import InpaintingRun, RunError, save_checkpoint
from diffmae_video.perceptual import LPIPS

SMALL = (
    "DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.CROP_SIZE 32 DATA.DECODE_TIMEOUT 0 DATA_LOADER.NUM_WORKERS 0 "
    "MODEL.PATCH_SIZE [2,8,8] MODEL.ENCODER.WIDTH 24 MODEL.ENCODER.DEPTH 2 MODEL.ENCODER.HEADS 2 "
    "MODEL.DECODER.WIDTH 16 MODEL.DECODER.DEPTH 1 MODEL.DECODER.HEADS 2 MASK.RATIO 0.4 MASK.STRATEGY random "
    "DEVICE cpu TRAIN.PRECISION fp32"
).split()


def config(*options: object, task: str = "inpaint_eval"):
    return load_config((), [*SMALL, "TASK", task, *map(str, options)])


def checkpoint(folder: Path, *options: object, task: str = "pretrain") -> Path:
    """A run folder with the initial weights of a config's model."""
    cfg = config(*options, task=task)
    state = {"format": 1, "model": build_model(cfg).state_dict(), "optimizer": {}, "config": dump(cfg), "rng": {}}
    state |= {"progress": {"step": 7, "clips": 28, "draws": 28, "unreadable": 0}, "monitor": {}}
    (folder / "checkpoints").mkdir(parents=True)
    save_checkpoint(folder / "checkpoints" / "step_00000007.pt", state)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    return {
        "diffmae": checkpoint(folder / "diffmae"),
        "mae": checkpoint(folder / "mae", "MODEL.NAME", "MAE"),
        "normalized": checkpoint(folder / "normalized", "MODEL.TARGET", "normalized"),
        "larger": checkpoint(folder / "larger", "DATA.CROP_SIZE", 40),
        "classifier": checkpoint(folder / "classifier", "MODEL.NUM_CLASSES", 2, task="finetune"),
    }


@pytest.fixture
def options(sample_videos, weights, tmp_path):
    return ["DATA.PATH_TO_DATA_DIR", sample_videos, "OUTPUT_DIR", tmp_path, "MODEL.WEIGHTS", weights["diffmae"]]


def test_models_masks_and_samplings_of_the_config(options, weights):
    pytest.importorskip("cv2")
    extra = [
        "INPAINT.COMPARE",
        [str(weights["mae"]), str(weights["diffmae"])],
        "INPAINT.MASKS",
        ["random", "right-half"],
    ]
    extra += ["INPAINT.STEPS", [2, 3], "INPAINT.SAMPLERS", ["ddim", "ddpm"], "INPAINT.SAMPLES", 2, "SEED", 3]
    run = build_run(config(*options, *extra, "INPAINT.THRESHOLD", 0.9, "INPAINT.IMPUTE", False))
    assert isinstance(run, InpaintingRun)
    assert list(run.models) == ["DiffMAE", "MAE"]  # one path, given twice, is one model
    names = [(method.name, method.sampler, method.steps, method.samples) for method in run.methods]
    assert [name[0] for name in names[:4]] == [
        "mean colour", "nearest visible patch", "in time, between visible pixels", "OpenCV inpaint (Telea)",
    ]  # fmt: skip
    assert [name[1:] for name in names[4:8]] == [("ddim", 2, 2), ("ddim", 3, 2), ("ddpm", 2, 2), ("ddpm", 3, 2)]
    assert names[-1] == ("MAE", "", 1, 1)
    mask = run.masks["random"](5)
    assert mask.shape == (4, 32, 32) and mask.mean() == pytest.approx(13 / 32)  # MASK.RATIO of the training
    assert np.array_equal(mask, run.masks["random"](5)) and not np.array_equal(mask, run.masks["random"](6))
    assert run.masks["right-half"](0)[:, :, 16:].all()
    assert len(run.description) == 2 and "LPIPS is not measured" in run.description[0]


def test_every_second_frame_has_fills_too(options):
    run = build_run(config(*options, "INPAINT.MASKS", ["every-second-frame"], "INPAINT.FILLS", ["nearest_patch"]))
    rows = run.run()
    assert [row.method for row in rows] == ["nearest visible patch", "DiffMAE"] and rows[0].clips == 2


def test_some_of_the_clips(options):
    run = build_run(config(*options, "TEST.SPLIT", "train", "INPAINT.MAX_CLIPS", 3))
    assert list(run.clips.indices) == [0, 2, 4]
    assert sum(len(batch.clips) for batch in run.clips) == 3


def test_weights_of_the_output_folder(options, sample_videos, weights):
    cfg = config("DATA.PATH_TO_DATA_DIR", sample_videos, "OUTPUT_DIR", weights["mae"], "INPAINT.FILLS", [])
    assert list(build_run(cfg).models) == ["MAE"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["MODEL.WEIGHTS", "nowhere"], "nowhere.*MODEL.WEIGHTS.*INPAINT.COMPARE"),
        (["INPAINT.COMPARE", ["nowhere"]], "nowhere"),
        (["MODEL.WEIGHTS", "{normalized}"], "normalised targets"),
        (["INPAINT.COMPARE", ["{larger}"]], "takes clips .* 40.*the configuration says"),
        (["MODEL.WEIGHTS", "{classifier}"], "VideoClassifier, which paints nothing"),
        (["INPAINT.MASKS", ["rihgt-half"]], "INPAINT.MASKS 'rihgt-half'.*right-half"),
        (["INPAINT.MASKS", ["frames:9"]], "INPAINT.MASKS 'frames:9'"),
        (["INPAINT.LPIPS_BACKBONE", "a.pth", "INPAINT.LPIPS_HEADS", "b.pth"], "LPIPS: .*a.pth"),
        (["INPAINT.FEATURE_WEIGHTS", "nowhere"], "nowhere"),
        (["INPAINT.FEATURE_WEIGHTS", "{larger}"], "takes clips .* 40"),
    ],
)
def test_what_cannot_be_measured_says_so(options, weights, extra, message):
    extra = [str(value).format(**weights) for value in extra]
    with pytest.raises((RunError, FileNotFoundError), match=f"(?s){message}"):
        build_run(config(*options, *extra))


def test_missing_data_names_its_page(options):
    with pytest.raises(DatasetError, match="your_own_videos"):
        build_run(config(*options, "DATA.PATH_TO_DATA_DIR", "nowhere"))


def test_lpips_and_features_are_measured_where_their_files_are(options, weights, monkeypatch):
    given = []
    monkeypatch.setattr(
        "diffmae_video.build.inpainting.load_lpips", lambda *files: given.append(files) or LPIPS("alexnet")
    )
    extra = ["INPAINT.LPIPS_BACKBONE", "a.pth", "INPAINT.LPIPS_HEADS", "b.pth", "INPAINT.FILLS", ["mean"]]
    run = build_run(config(*options, *extra, "INPAINT.FEATURE_WEIGHTS", weights["classifier"], "INPAINT.STEPS", [1]))
    assert given == [("a.pth", "b.pth")] and run.description == ()
    row = run.run()[0]
    assert len(row.values["lpips"]) == 2 and np.isfinite(row.mean("lpips")) and row.mean("frechet") >= 0
