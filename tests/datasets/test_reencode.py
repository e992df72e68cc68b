"""Re-encoded files hold the same frames in the same order, decode from anywhere, and damaged ones are reported."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffmae_video.data import read_frames, read_manifest, video_info
from diffmae_video.data.decoders.index import read_index

ROOT = Path(__file__).parents[2]


def reencode(source, output, *arguments):
    command = [sys.executable, "datasets/reencode.py", "--input", source, "--output", output, "--workers", "2"]
    return subprocess.run(
        [*map(str, command), *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def source(numbered_videos, turned_videos, damaged_videos, images, tmp_path_factory):
    """A list of good videos of several kinds, an image, and damaged files."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "deep").mkdir()
    shutil.copy(numbered_videos["h264"], folder / "a.mp4")
    shutil.copy(numbered_videos["mpeg4"], folder / "a.avi")
    shutil.copy(numbered_videos["h264_open_groups"], folder / "deep" / "open.mp4")
    shutil.copy(turned_videos[90, False], folder / "turned.mp4")
    shutil.copy(damaged_videos["cut_short.mp4"], folder / "cut.mp4")
    shutil.copy(images["png"], folder / "picture.png")
    names = ["a.mp4 0", "a.avi 1", "deep/open.mp4 2", "turned.mp4 3", "cut.mp4 4", "gone.mp4 5", "picture.png 6"]
    (folder / "train.csv").write_text("\n".join(names) + "\n")
    return folder


@pytest.fixture(scope="module")
def output(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reencoded") / "new"
    done = reencode(source, folder, "--short-side", 48)
    assert done.returncode == 0, done.stderr
    assert "5 files, 2 left out" in done.stdout
    assert "cut.mp4: truncated" in done.stderr and "gone.mp4" in done.stderr
    return folder


def test_frames_sizes_and_labels(output, source, numbers_of):
    entries = read_manifest(output)
    assert [entry.label for entry in entries] == [0, 1, 2, 3, 6]
    names = [str(Path(entry.path).relative_to(output)) for entry in entries[:4]]
    assert names == ["a.mp4.mp4", "a.avi.mp4", "deep/open.mp4", "turned.mp4"]
    assert Path(entries[4].path) == source / "picture.png"
    for entry in entries[:3]:
        info = video_info(entry.path)
        assert (info.frames, info.width, info.height, round(info.fps)) == (90, 72, 48, 25)
        assert numbers_of(read_frames(entry.path, range(90))) == list(range(90))
        index = read_index(entry.path)
        assert index.keyframes.tolist() == list(range(0, 90, 12)) and index.can_drop_frames
    report = (output / "unreadable_train.txt").read_text()
    assert "cut.mp4" in report and "gone.mp4" in report and len(report.splitlines()) == 2


def test_it_is_upright_without_a_tag(output, source):
    frames = read_frames(output / "turned.mp4", [5, 60]).astype(int)
    assert frames.shape == (2, 72, 48, 3) and read_index(str(output / "turned.mp4")).orientation == (
        read_index(str(output / "deep" / "open.mp4")).orientation
    )
    expected = read_frames(source / "turned.mp4", [5, 60], short_side=48)
    assert np.abs(frames - expected).mean() < 12


def test_again_does_only_what_is_missing(output, source):
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.mp4")}
    lost = output / "deep" / "open.mp4"
    lost.write_bytes(lost.read_bytes()[:2000])  # not as this script leaves files, but a disk may
    done = reencode(source, output, "--short-side", 48)
    assert done.returncode == 0 and "1 written, 3 were there" in done.stdout, done.stdout + done.stderr
    changed = [path for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert changed == [lost] and video_info(lost).frames == 90
    assert not list(output.rglob("*.tmp*")), "no temporary file may stay"


def test_other_settings_are_refused(output, source):
    done = reencode(source, output, "--short-side", 32)
    assert done.returncode == 2 and "choose another --output" in done.stderr


def test_never_larger_and_lists_elsewhere(numbered_videos, tmp_path):
    listing = tmp_path / "lists" / "mine.csv"
    listing.parent.mkdir()
    listing.write_text(f"{numbered_videos['vp9']}\n")
    done = reencode(listing, tmp_path / "new", "--gop", 30)
    assert done.returncode == 0, done.stderr
    (entry,) = read_manifest(tmp_path / "new")
    assert entry.label == -1 and Path(entry.path) == tmp_path / "new" / "train" / "vp9.mp4"
    assert video_info(entry.path)[:4] == (90, 25.0, 96, 64)
    assert read_index(entry.path).keyframes.tolist() == [0, 30, 60]


def test_nothing_readable(damaged_videos, tmp_path):
    shutil.copy(damaged_videos["zeros.mp4"], tmp_path / "zeros.mp4")
    done = reencode(tmp_path, tmp_path / "new")
    assert done.returncode == 2 and "none of the videos could be read" in done.stderr
    done = reencode(tmp_path / "nowhere", tmp_path / "new")
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr
