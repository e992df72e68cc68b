"""A fifth of a set is damaged: training reads past it, reports every file and loses no other; evaluation counts it."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from diffmae_video.data import Entry, read_manifest
from diffmae_video.data.dataset import ClipDataset
from diffmae_video.data.evaluation import EvaluationClips

TOOL = Path(__file__).parents[2] / "tools" / "run_net.py"
VIDEOS = 40
TINY = """
DATA: {NUM_FRAMES: 4, SAMPLING_RATE: 2, CROP_SIZE: 32, MAX_UNREADABLE_FRACTION: 0.5}
DATA_LOADER: {NUM_WORKERS: 2, PIN_MEMORY: False}
MODEL:
  PATCH_SIZE: [2, 16, 16]
  ENCODER: {WIDTH: 16, DEPTH: 1, HEADS: 2}
  DECODER: {WIDTH: 16, DEPTH: 1, HEADS: 2}
MASK: {RATIO: 0.5}
SOLVER: {BATCH_SIZE: 8, MAX_STEPS: 15}
TRAIN: {LOG_PERIOD: 5, CHECKPOINT_PERIOD: 100, PRECISION: fp32, TENSORBOARD: False}
DEVICE: cpu
"""


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bits(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in random.Random(0).sample(range(0, len(content)), len(content) // 20):
        content[place] ^= 1 << place % 8
    path.write_bytes(content)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    "cut": cut,
    "flipped": flip_bits,
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("this file got another extension\n" * 30),
    "folder": as_folder,
    "forbidden": lambda path: path.chmod(0),
    "removed": lambda path: path.unlink(),
}


@pytest.fixture
def damaged_set(numbered_videos, tmp_path) -> tuple[Path, dict[str, Path]]:
    """40 videos of three kinds in a list, 8 of them damaged: (folder, damaged file by damage)."""
    kinds = [numbered_videos[name] for name in ("h264", "vp9", "mpeg4")]
    files = []
    for number in range(VIDEOS):
        source = kinds[number % 3]
        files.append(tmp_path / f"video_{number:02d}{source.suffix}")
        shutil.copy(source, files[-1])
    damaged = {}
    for number, (name, damage) in enumerate(DAMAGES.items()):
        path = files[5 * number]
        if name == "forbidden" and os.geteuid() == 0:
            continue  # root may read everything
        damage(path)
        damaged[name] = path
    lines = [f"{path.name} {number % 4}\n" for number, path in enumerate(files)]
    (tmp_path / "train.csv").write_text("".join(lines))
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path, damaged


def test_training_reads_past_it(damaged_set, monkeypatch):
    """Three epochs through run_net; one more file disappears on the way."""
    folder, damaged = damaged_set
    specification = importlib.util.spec_from_file_location("run_net", TOOL)
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    leaving = folder / "video_39.mp4"
    drawn = set()

    from diffmae_video.engine.tasks import PretrainTask

    original = PretrainTask.loss

    def watching(self, model, batch, *arguments):
        drawn.update(filter(None, batch.paths))  # clips that FLOPs are counted with have none
        if str(leaving) in drawn and leaving.exists():
            leaving.unlink()
        return original(self, model, batch, *arguments)

    monkeypatch.setattr(PretrainTask, "loss", watching)
    output = folder / "run"
    overrides = ["DATA.PATH_TO_DATA_DIR", str(folder), "OUTPUT_DIR", str(output)]
    assert tool.run([str(folder / "tiny.yaml")], overrides, print_config=False) == 0
    lines = dict(line.split("\t") for line in (output / "unreadable.txt").read_text().splitlines())
    assert set(lines) - {str(leaving)} == {str(path) for path in damaged.values()}
    assert not leaving.exists()
    assert all(reason.strip() for reason in lines.values())
    assert "truncated" in lines[str(damaged["cut"])]
    assert "no such" in lines[str(damaged["removed"])]
    everything = {entry.path for entry in read_manifest(folder)}
    assert drawn == everything - {str(path) for path in damaged.values()}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_replaces_nothing_and_counts(damaged_set, num_workers):
    folder, damaged = damaged_set
    entries = read_manifest(folder)
    dataset = ClipDataset(entries, num_frames=4, sampling_rate=2, crop_size=32, train=False)
    clips = EvaluationClips(dataset, batch_size=7, num_workers=num_workers)
    for _ in range(2):
        paths, labels = [], []
        for batch in clips:
            assert not batch.failures and batch.clips.shape[1:] == (3, 4, 32, 32)
            paths += batch.paths
            labels += batch.labels.tolist()
        bad = {str(path) for path in damaged.values()}
        assert paths == [entry.path for entry in entries if entry.path not in bad]
        assert labels == [entry.label for entry in entries if entry.path not in bad]
        assert {path for path, _ in clips.unreadable} == bad
        assert clips.read == VIDEOS - len(bad)
        assert clips.summary() == f"{VIDEOS - len(bad)} videos; {len(bad)} more are unreadable and left out"


def test_evaluation_of_a_sound_set(sample_videos):
    dataset = ClipDataset(read_manifest(sample_videos), num_frames=4, sampling_rate=2, crop_size=32, train=False)
    clips = EvaluationClips(dataset, batch_size=2, indices=[4, 1, 2])
    batches = list(clips)
    assert [len(batch.paths) for batch in batches] == [2, 1]
    assert batches[0].paths == [dataset.entry(4).path, dataset.entry(1).path]
    assert clips.summary() == "3 videos, all readable"
    assert np.array_equal(batches[1].clips[0], dataset[(2, 2)].clips[0])


def test_a_training_dataset_is_refused(sample_videos):
    dataset = ClipDataset([Entry("a.mp4", 0)], num_frames=4, sampling_rate=2, crop_size=32)
    with pytest.raises(ValueError, match="train=False"):
        EvaluationClips(dataset, batch_size=2)
