"""A data folder that is away is waited for; a file that is missing alone is not."""

from __future__ import annotations

import os
import shutil
import threading
import time

import pytest
import torch

from diffmae_video.config import ConfigError, load_config
from diffmae_video.data import (
    ClipDataset,
    DataFolderGone,
    DrawSampler,
    UnreadableVideo,
    folder_watch,
    make_loader,
    read_manifest,
)
from diffmae_video.data.folder_watch import FolderWatch, common_folder, is_there


@pytest.mark.parametrize(
    ("paths", "folder"),
    [
        (["/data/a.mp4"], "/data"),
        (["/data/a.mp4", "/data/ab.mp4"], "/data"),
        (["/data/x/a.mp4", "/data/y/b.mp4"], "/data"),
        (["/data/archery/a.mp4", "/data/abseiling/b.mp4", "/data/c.mp4"], "/data"),
        (["/one/a.mp4", "/two/b.mp4"], "/"),
        (["a.mp4", "b.mp4"], "."),
        (["/data/x-0.tar@512+10/a.mp4", "/data/x-0.tar@512+99/b.mp4"], "/data"),
        (["/data/x-0.tar@512+10/a.mp4", "/data/x-1.tar@512+99/b.mp4"], "/data"),
    ],
)
def test_the_folder_of_all_files(paths, folder):
    assert common_folder(iter(paths)) == folder


def test_an_empty_folder_is_where_no_disk_is_mounted(tmp_path):
    assert not is_there(str(tmp_path)) and not is_there(str(tmp_path / "none"))
    (tmp_path / "file").touch()
    assert is_there(str(tmp_path)) and not is_there(str(tmp_path / "file"))


def test_a_folder_that_hangs_is_away(monkeypatch):
    """What looks is cut off: here `sleep`, which a shell runs, stands for a disk that does not answer."""
    monkeypatch.setattr(folder_watch, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(folder_watch, "is_there", os.system)
    watch = FolderWatch(["x/a.mp4"], seconds=0.1, isolated=True)
    watch.folder = "sleep 20"
    started = time.monotonic()
    with pytest.raises(DataFolderGone):
        watch.waited("a reason")
    assert time.monotonic() - started < 15


@pytest.fixture
def videos(sample_videos, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_watch, "PAUSE_SECONDS", 0.02)
    return shutil.copytree(sample_videos, tmp_path / "videos")


def clips_of(videos, **options):
    options = {"num_frames": 4, "sampling_rate": 2, "crop_size": 32, "seed": 5, "folder_timeout": 60} | options
    return ClipDataset(read_manifest(videos), **options)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("emptied", [False, True])
def test_the_same_clip_is_read_when_the_folder_is_back(videos, train, emptied, caplog):
    dataset = clips_of(videos, train=train)
    expected = dataset[(7, 3)]
    elsewhere = videos.with_name("elsewhere")
    videos.rename(elsewhere)
    if emptied:
        videos.mkdir()

    def back():
        if emptied:
            videos.rmdir()
        elsewhere.rename(videos)

    timer = threading.Timer(0.3, back)
    timer.start()
    sample = dataset[(7, 3)]
    timer.join()
    assert torch.equal(sample.clips, expected.clips) and sample.path == expected.path and not sample.failures
    assert "waiting for it" in caplog.text and "is back after" in caplog.text


def test_a_file_that_is_missing_alone_is_replaced_at_once(videos, caplog):
    dataset = clips_of(videos)
    os.unlink(dataset.entry(3).path)
    sample = dataset[(7, 3)]
    assert [path for path, _ in sample.failures] == [dataset.entry(3).path] and "waiting" not in caplog.text


@pytest.mark.parametrize("decode_timeout", [0, 30])
def test_a_folder_that_comes_back_before_it_is_looked_at_costs_nothing(videos, decode_timeout, monkeypatch):
    dataset = clips_of(videos, decode_timeout=decode_timeout)
    expected = dataset[(7, 3)]
    elsewhere, waited = videos.with_name("elsewhere"), folder_watch.FolderWatch.waited

    def back_before_the_look(watch, why):
        if elsewhere.exists():
            elsewhere.rename(videos)
        return waited(watch, why)

    monkeypatch.setattr(folder_watch.FolderWatch, "waited", back_before_the_look)
    videos.rename(elsewhere)
    sample = dataset[(7, 3)]
    assert torch.equal(sample.clips, expected.clips) and sample.path == expected.path and not sample.failures


def test_a_file_that_is_there_and_not_found_is_tried_twice(videos, monkeypatch):
    dataset, tries = clips_of(videos, train=False), []

    def never_found(path, draw, attempt):
        tries.append(path)
        raise FileNotFoundError(f"no such video: {path}")

    monkeypatch.setattr(dataset, "_clips", never_found)
    with pytest.raises(UnreadableVideo, match="no such video"):
        dataset[(7, 3)]
    assert len(tries) == 2


def test_without_a_limit_nothing_is_waited_for(videos):
    dataset = clips_of(videos, folder_timeout=0)
    videos.rename(videos.with_name("elsewhere"))
    with pytest.raises(RuntimeError, match="20 videos in a row"):
        dataset[(7, 3)]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_folder_that_stays_away_is_named_in_one_line(videos, num_workers):
    dataset = clips_of(videos, folder_timeout=0.2)
    batches = iter(make_loader(dataset, DrawSampler(len(dataset), 2), num_workers))
    next(batches)
    videos.rename(videos.with_name("elsewhere"))
    with pytest.raises(DataFolderGone, match=r"^the data folder .*videos does not answer .*0.2 s \(DATA.ROOT_TIMEOUT"):
        for _ in range(9):
            next(batches)


def test_the_limit_is_a_key():
    assert load_config([], ["DATA.ROOT_TIMEOUT", "0"]).DATA.ROOT_TIMEOUT == 0
    with pytest.raises(ConfigError, match="DATA.ROOT_TIMEOUT is -1"):
        load_config([], ["DATA.ROOT_TIMEOUT", "-1"])
