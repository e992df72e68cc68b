"""The demo from end to end, as a person types it, with a few clips and steps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffmae_video.data import video_info

ROOT = Path(__file__).parents[2]


def test_the_demo_renders_trains_and_inpaints(tmp_path):
    pytest.importorskip("skimage", reason="the photographs of the motion set come with scikit-image")
    small = ["SOLVER.MAX_STEPS", "2", "DATA_LOADER.NUM_WORKERS", "0", "TRAIN.VISUALIZE_PERIOD", "0"]
    command = [sys.executable, "tools/demo.py", "--data", tmp_path / "set", "--output", tmp_path / "run"]
    done = subprocess.run(
        [*command, "--clips", "100", "--inpaint", "1", *small], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    videos = sorted((tmp_path / "run" / "inpainted").glob("*.mp4"))
    assert len(videos) == 2
    for video in videos:
        assert video_info(video).frames == 12
        assert str(video) in done.stdout and video.with_suffix(".png").stat().st_size > 1000
        values = json.loads(video.with_suffix(".json").read_text())["psnr"]
        assert {"inpainted", "mean colour", "nearest visible patch"} <= set(values)
        assert f"{values['inpainted']:.2f}" in done.stdout
    assert "mean of val" in done.stdout and "mean of unseen" in done.stdout
