"""Loader workers that die: the batches stay what they were, and what cannot be helped is said."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from diffmae_video.data import ClipDataset, DrawSampler, EvaluationClips, make_loader, read_manifest, workers
from diffmae_video.data.dataset import ClipSample
from diffmae_video.data.workers import WorkersDied


@pytest.fixture(scope="module")
def dataset(sample_videos):
    return ClipDataset(read_manifest(sample_videos), num_frames=4, sampling_rate=2, crop_size=32, repeats=2, seed=5)


def loader(dataset, num_workers=2):
    return make_loader(dataset, DrawSampler(len(dataset), 3, seed=2), num_workers)


def assert_same(one, other):
    assert one.paths == other.paths and torch.equal(one.clips, other.clips)
    assert torch.equal(one.clip_ids, other.clip_ids)


def test_killed_workers_change_nothing(dataset, caplog):
    """Not the batches, of which none is lost or twice, and not the random numbers of the step that waits for them."""
    expected = list(itertools.islice(loader(dataset, 0), 12))
    batches = iter(loader(dataset))
    torch.manual_seed(1)
    random_numbers = torch.get_rng_state()
    for number, batch in enumerate(expected):
        if number in (2, 3, 7):  # the second time before all that was handed out again has come back
            os.kill(batches.workers[number % 2].pid, signal.SIGKILL)
        if number == 9:
            for worker in batches.workers:
                os.kill(worker.pid, signal.SIGKILL)
        assert_same(next(batches), batch)
    assert torch.equal(torch.get_rng_state(), random_numbers)
    assert "was killed by SIGKILL" in caplog.text


def test_a_death_is_noticed_at_the_next_batch_and_nowhere_else(dataset):
    """torch would raise an error here, in the middle of whatever is being computed."""
    list(DataLoader([1, 2], num_workers=1))  # from now on
    batches = iter(loader(dataset))
    next(batches)
    os.kill(batches.workers[0].pid, signal.SIGKILL)
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        time.sleep(0.01)
    next(batches)


def test_workers_end_with_their_batches(dataset):
    batches = iter(loader(dataset))
    next(batches)
    processes = list(batches.workers)
    del batches
    for process in processes:
        process.join(5)
    assert not any(process.is_alive() for process in processes)


def test_an_evaluation_counts_every_video_once(sample_videos):
    dataset = ClipDataset(read_manifest(sample_videos), num_frames=4, sampling_rate=2, crop_size=32, train=False)
    clips = EvaluationClips(dataset, batch_size=1, num_workers=1)
    batches = iter(clips)
    ids = next(batches).clip_ids.tolist()
    (process,) = children()
    os.kill(process, signal.SIGKILL)
    ids += [number for batch in batches for number in batch.clip_ids.tolist()]
    assert ids == list(range(6)) and clips.read == 6


def children() -> list[int]:
    """Forked ones; multiprocessing has a tracker besides."""
    found = map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
    return [pid for pid in found if b"tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


class Trouble(Dataset):
    """Clips of which draw 5 makes trouble."""

    def __init__(self, trouble):
        self.trouble = trouble

    def __len__(self):
        return 8

    def __getitem__(self, item):
        draw, _ = item
        if draw == 5:
            self.trouble()
        return ClipSample(torch.full((1, 3, 2, 4, 4), draw, dtype=torch.uint8), 0, draw, "video", ())


def no_room():
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "died 3 times in a row.*SIGKILL.*DATA_LOADER.NUM_WORKERS"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), r"SIGBUS.*no shared memory.*/dev/shm has \d+ MB.*--shm-size"),
        (no_room, r"^There is no shared memory left .*PREFETCH_FACTOR \+ 1 batches.*--shm-size"),
    ],
    ids=["killed", "bus error", "no room"],
)
def test_what_happens_every_time_ends_with_the_reason(trouble, words):
    batches = iter(make_loader(Trouble(trouble), DrawSampler(8, 2), num_workers=1))
    with pytest.raises(WorkersDied, match=words):
        for _ in range(3):
            next(batches)


def test_an_error_of_a_worker_that_lives_is_raised():
    def trouble():
        raise KeyError("of the dataset")

    batches = iter(make_loader(Trouble(trouble), DrawSampler(8, 6), num_workers=1))
    with pytest.raises(KeyError, match="of the dataset"):
        next(batches)


def test_batches_are_in_shared_memory_when_the_worker_has_finished_them(dataset, monkeypatch):
    """On their way an error would only be printed, and the training process wait for ever."""
    monkeypatch.setattr(torch.Tensor, "share_memory_", lambda tensor: no_room())
    with pytest.raises(WorkersDied, match="no shared memory"):
        next(iter(loader(dataset, 1)))


def test_what_is_written_about_a_machine_without_shared_memory(monkeypatch):
    monkeypatch.setattr(workers, "SHARED_MEMORY", "/nowhere")
    assert "/nowhere does not answer" in workers._no_shared_memory()
