"""From a configuration to what watches a run."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from diffmae_video.build import build_model
from diffmae_video.build.monitoring import build_monitor
from diffmae_video.config import load_config
from diffmae_video.engine import PretrainTask, RunError

TINY = [
    "DATA.NUM_FRAMES", 4, "DATA.CROP_SIZE", 16, "MODEL.PATCH_SIZE", [2, 8, 8], "MODEL.ENCODER.WIDTH", 16,
    "MODEL.ENCODER.DEPTH", 1, "MODEL.ENCODER.HEADS", 2, "MODEL.DECODER.WIDTH", 16, "MODEL.DECODER.DEPTH", 1,
    "MODEL.DECODER.HEADS", 2, "MASK.STRATEGY", "random", "MASK.RATIO", 0.5, "TRAIN.PRECISION", "fp32", "DEVICE", "cpu",
    "TRAIN.TENSORBOARD", False,
]  # fmt: skip


@pytest.fixture
def make(tmp_path):
    def build(*overrides, **options):
        cfg = load_config([], [*TINY, "OUTPUT_DIR", str(tmp_path), *overrides])
        return build_monitor(cfg, build_model(cfg), PretrainTask(1000), 80, 20, **options)

    return build


def test_the_peak_is_of_all_processes(make):
    monitor, lines = make("TRAIN.PEAK_TFLOPS", 2.5, world_size=4)
    assert monitor._compute.peak == 4 * 2.5e12 and monitor._compute.flops_per_clip > 0
    (line,) = lines
    assert "GFLOP per clip; peak 2.5 TFLOP/s per process (TRAIN.PEAK_TFLOPS)" in line
    measured, (line,) = make()
    assert measured._compute.peak > 1e8 and "(measured, matrix products in fp32)" in line


def test_only_the_first_process_counts_and_sends(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monitor, lines = make("TRAIN.WANDB", "offline", rank=1, world_size=2)
    assert monitor._compute is None and monitor._sinks == [] and lines == []


def test_steps_of_different_sizes_have_no_utilisation(make):
    mix = ["MASK.MIX.STRATEGIES", ["random", "tube"], "MASK.MIX.RATIOS_LOW", [0.4], "MASK.MIX.RATIOS_HIGH", [0.6]]
    sources = ["DATA.MIX.PATHS", ["a", "b"], "DATA.MIX.NUM_FRAMES", [2, 4]]
    for overrides in (mix, sources):
        monitor, (line,) = make(*overrides)
        assert monitor._compute is None and "there is no MFU" in line


def test_weights_and_biases_gets_the_whole_configuration(make, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RunError, match="pip install wandb"):
        make("TRAIN.WANDB", "offline")
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())
    monitor, _ = make("TRAIN.WANDB", "online", "TRAIN.WANDB_PROJECT", "films")
    (sink,) = monitor._sinks
    assert (sink.mode, sink.project, sink.output_dir) == ("online", "films", tmp_path)
    assert sink.config["MASK"]["RATIO"] == 0.5 and sink.config["TRAIN"]["WANDB"] == "online"


@pytest.mark.parametrize("tokenizer", ["pca", "patch_ae"])
def test_a_tokenizer_that_a_resumed_run_loads_later_does_not_hinder(tokenizer, tmp_path):
    of_decoder = {"MODEL.DECODER.WIDTH", "MODEL.DECODER.HEADS", "MASK.STRATEGY", "MASK.RATIO"}
    pairs = [pair for pair in zip(TINY[::2], TINY[1::2], strict=True) if pair[0] not in of_decoder]
    latent = ["MODEL.NAME", "LatentDAE", "MODEL.LDAE.TOKENIZER", tokenizer, "MODEL.LDAE.RESIDUAL_WEIGHT", 1.0]
    cfg = load_config([], [*(item for pair in pairs for item in pair), *latent, "OUTPUT_DIR", str(tmp_path)])
    model = build_model(cfg)
    monitor, _ = build_monitor(cfg, model, PretrainTask(1000), 80, 20)
    assert monitor._compute.flops_per_clip > 0 and not model.tokenizer.is_fitted()
