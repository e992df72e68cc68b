"""The estimate of a training step's memory: against a small model on this CPU, against hand formulas, as a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diffmae_video.config import load_config
from diffmae_video.engine.wrapping import WrapPlan

ROOT = Path(__file__).parents[2]
SMALL = (
    "DATA.CROP_SIZE 64 DATA.NUM_FRAMES 4 MODEL.ENCODER.WIDTH 96 MODEL.ENCODER.DEPTH 4 MODEL.ENCODER.HEADS 4 "
    "MODEL.DECODER.WIDTH 64 MODEL.DECODER.HEADS 4 MODEL.DECODER.DEPTH 2 MASK.RATIO 0.5"
).split()


@pytest.fixture
def tracking(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import memory_tracking

    return memory_tracking


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import estimate_memory

    return estimate_memory


def run(*arguments):
    command = [sys.executable, "tools/estimate_memory.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_counts_what_a_step_takes(tracking, precision, checkpointing):
    cfg = load_config((), [*SMALL, "TRAIN.PRECISION", precision])
    counted, measured = tracking.compare(cfg, WrapPlan(checkpointing), batch=4)
    assert counted == pytest.approx(measured, rel=0.02)


def test_grows_with_the_clips_alone(tracking):
    """Two other batches lie on the line through the two that are counted."""
    cfg, plan = load_config((), SMALL), WrapPlan()
    first, second = (tracking.measure(cfg, plan, False, batches) for batches in ((8, 16), (24, 56)))
    assert first.per_clip == pytest.approx(second.per_clip, rel=1e-3)
    assert first.fixed == pytest.approx(second.fixed, rel=0.01, abs=2e4)


def test_counts_of_a_model(tracking):
    """Fixed memory of autocast: a bfloat16 copy of every weight of a product; none where FSDP has them so already."""
    cfg = load_config((), SMALL)
    whole, half = (
        tracking.measure(cfg, WrapPlan(parallel=parallel, fsdp_precision="bf16"), parallel == "fsdp")
        for parallel in ("ddp", "fsdp")
    )
    assert whole.parameters == whole.trained == half.parameters
    assert whole.fixed == pytest.approx(2 * whole.parameters, rel=0.05)
    assert half.fixed == pytest.approx(2 * whole.outside, rel=0.3)
    assert whole.block == 4 * 3 * 96**2 + 2 * 2 * 96 + (3 + 1 + 4 + 1) * 96  # weights, norms, biases of a ViT's block
    full = tracking.measure(cfg, WrapPlan("full"), False)
    assert full.kept_per_clip < 0.6 * whole.kept_per_clip and full.per_clip < whole.per_clip


def test_a_frozen_encoder_keeps_nothing(tracking):
    cfg = load_config((), "TASK linear MODEL.NUM_CLASSES 5 MODEL.ENCODER.DEPTH 2 DATA.CROP_SIZE 64".split())
    sizes = tracking.measure(cfg, WrapPlan(), False)
    assert sizes.kept_per_clip < 0.1 * sizes.per_clip and sizes.trained < 0.01 * sizes.parameters


def test_arithmetic(tool, tracking):
    sizes = tracking.Sizes(
        parameters=1000, trained=900, buffers=8, block=100, outside=50, fixed=10.0, per_clip=7.0, kept_per_clip=5.0
    )
    ddp = tool.estimate(sizes, moments=8, average=True)
    assert ddp.state == 4 * 1000 + (4 + 8 + 4) * 900 + 8 and ddp.working == 10
    assert ddp.total(3) == ddp.state + 10 + 21
    assert ddp.largest_batch(ddp.total(3)) == 3 and ddp.largest_batch(ddp.total(3) - 1) == 2
    assert ddp.largest_batch(100) == 0
    fsdp = tool.estimate(sizes, moments=8, average=False, cards=4, sharded=True, bf16=True)
    assert fsdp.state == (4 * 1000 + 12 * 900) / 4 + 8
    assert fsdp.working == 10 + 8 * 50 + 100 * (2 + 2 + 2 + 4)


def test_command():
    done = run("--cfg", "configs/demo/pretrain.yaml", "MODEL.DECODER.DEPTH", 1, "--cards", 4, "--batch", 2)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")]
    clips = {(row[1].strip(), row[2].strip()): int(row[-2]) for row in rows[2:]}
    assert set(clips) == {(name, how) for name in ("one card, or DDP", "FSDP over 4") for how in ("none", "full")}
    assert clips["one card, or DDP", "full"] > clips["one card, or DDP", "none"] > 0
    assert done.stdout.count("check, activation checkpointing") == 2 and "averaged weights" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cfg", "configs/K400/test_5x3.yaml"), "trains nothing"),
        (("--cfg", "configs/absent.yaml"), "absent.yaml"),
        (("--cfg", "configs/demo/pretrain.yaml", "--cards", "1"), "at least 2"),
    ],
)
def test_wrong_arguments(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
