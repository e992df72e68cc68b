from __future__ import annotations

import itertools
import os
import signal
import time

import pytest
import torch

from diffmae_video.data import ClipBatch, ClipDataset, DrawSampler, Entry, make_loader, read_frames, read_manifest


def take(iterable, count):
    return list(itertools.islice(iterable, count))


def draws(batches):
    return [pair for batch in batches for pair in batch]


def test_every_epoch_visits_every_video_once_in_another_order():
    pairs = draws(take(DrawSampler(size=10, videos_per_step=4, seed=1), 15))
    assert [draw for draw, _ in pairs] == list(range(60))
    epochs = [[index for _, index in pairs[start : start + 10]] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert pairs == draws(take(DrawSampler(size=10, videos_per_step=4, seed=1), 15))
    assert pairs != draws(take(DrawSampler(size=10, videos_per_step=4, seed=2), 15))


@pytest.mark.parametrize("step", [1, 2, 5, 7])
def test_resume_gives_exactly_the_remaining_batches(step):
    whole = take(DrawSampler(size=10, videos_per_step=4), 12)
    rest = take(DrawSampler(size=10, videos_per_step=4, start_draw=4 * step), 12 - step)
    assert rest == whole[step:]


@pytest.mark.parametrize(("world_size", "micro_batches"), [(1, 1), (1, 4), (2, 2), (4, 1), (4, 3)])
def test_processes_and_micro_batches_share_the_draws_of_a_step(world_size, micro_batches):
    reference = take(DrawSampler(size=17, videos_per_step=12), 5)
    shares = [
        DrawSampler(17, 12, rank=rank, world_size=world_size, micro_batches=micro_batches) for rank in range(world_size)
    ]
    batches = [take(share, 5 * micro_batches) for share in shares]
    for step in range(5):
        of_step = [batch[step * micro_batches : (step + 1) * micro_batches] for batch in batches]
        assert {len(batch) for share in of_step for batch in share} == {12 // world_size // micro_batches}
        assert draws(draws(of_step)) == reference[step]


def test_fewer_videos_than_a_batch():
    batches = take(DrawSampler(size=3, videos_per_step=8), 3)
    assert [len(batch) for batch in batches] == [8, 8, 8]
    assert sorted(index for _, index in draws(batches)) == sorted([0, 1, 2] * 8)


def test_bad_numbers():
    with pytest.raises(ValueError, match="choose a multiple of 6"):
        DrawSampler(size=10, videos_per_step=8, world_size=2, micro_batches=3)
    for wrong in ({"size": 0}, {"start_draw": -1}, {"rank": 1}, {"micro_batches": 0}):
        with pytest.raises(ValueError, match="must be at least"):
            DrawSampler(**({"size": 10, "videos_per_step": 4} | wrong))


@pytest.fixture(scope="module")
def dataset(sample_videos, damaged_videos):
    entries = read_manifest(sample_videos) + [Entry(str(damaged_videos["zeros.mp4"]), 5)]
    return ClipDataset(entries, num_frames=4, sampling_rate=2, crop_size=32, repeats=2, seed=11)


def load(dataset, num_workers, start_draw=0, batches=5):
    loader = make_loader(dataset, DrawSampler(len(dataset), 3, start_draw=start_draw), num_workers)
    return take(loader, batches)


def same(one: ClipBatch, other: ClipBatch) -> bool:
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other, strict=True))


def test_a_batch(dataset):
    batch = load(dataset, num_workers=0, start_draw=6, batches=1)[0]
    assert batch.clips.shape == (6, 3, 4, 32, 32) and batch.clips.dtype == torch.uint8
    assert batch.labels.dtype == batch.clip_ids.dtype == torch.int64
    assert batch.clip_ids.tolist() == [12, 13, 14, 15, 16, 17]  # draws 6, 7, 8 of two clips each
    assert len(batch.paths) == 6 and batch.paths[0] == batch.paths[1]
    labels = {entry.path: entry.label for entry in (dataset.entry(index) for index in range(len(dataset)))}
    assert batch.labels.tolist() == [labels[path] for path in batch.paths]
    assert same(batch, batch.to("cpu"))


def test_batches_do_not_depend_on_the_number_of_workers(dataset):
    """Bit for bit, failures and replacements included; and decoding in this process before forking does no harm."""
    read_frames(dataset.entry(0).path, [0, 5], backend="decord")
    reference = load(dataset, num_workers=0)
    assert sum(len(batch.failures) for batch in reference) >= 2
    for num_workers in (1, 2):
        for expected, batch in zip(reference, load(dataset, num_workers), strict=True):
            assert same(expected, batch)


def test_resume_gives_the_same_clips(dataset):
    whole = load(dataset, num_workers=0, batches=5)
    rest = load(dataset, num_workers=2, start_draw=9, batches=2)
    assert same(rest[0], whole[3]) and same(rest[1], whole[4])


def test_a_finite_list_of_batches(dataset):
    batches = list(make_loader(dataset, [[(0, 0), (1, 1)], [(2, 2)]], num_workers=0))
    assert [batch.clip_ids.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]


def test_workers_leave_ctrl_c_to_the_main_process(dataset, capfd):
    loader = make_loader(dataset, DrawSampler(len(dataset), 3), num_workers=2)
    batches = iter(loader)
    first = next(batches)
    for worker in batches.workers:
        os.kill(worker.pid, signal.SIGINT)
    time.sleep(0.2)
    assert all(worker.is_alive() for worker in batches.workers)
    assert next(batches).clip_ids[0] == first.clip_ids[-1] + 1
    assert "KeyboardInterrupt" not in capfd.readouterr().err


def test_an_unreadable_video_in_evaluation_is_named(sample_videos, damaged_videos):
    entries = [Entry(str(damaged_videos["zeros.mp4"]), 0)]
    dataset = ClipDataset(entries, num_frames=4, sampling_rate=2, crop_size=32, train=False)
    for num_workers in (0, 1):
        with pytest.raises(RuntimeError, match="zeros.mp4"):
            next(iter(make_loader(dataset, [[(0, 0)]], num_workers)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_pinned_batches_reach_the_gpu(dataset):
    batch = next(iter(make_loader(dataset, DrawSampler(len(dataset), 3), num_workers=1, pin_memory=True)))
    assert isinstance(batch, ClipBatch) and batch.clips.is_pinned()
    assert batch.to("cuda").clips.device.type == "cuda"
