"""Videos beside images in one run, and the order of a run on other numbers of processes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from diffmae_video.data import ClipDataset, DrawSampler, Entry, MixDataset, MixSampler, make_loader, read_manifest


def take(iterable, count):
    return list(itertools.islice(iterable, count))


def pairs(batches):
    return [pair for batch in batches for pair in batch]


def plain(**options):
    return DrawSampler(size=17, videos_per_step=8, seed=3, **options)


def mixed(**options):
    return MixSampler(sizes=[10, 7, 30], weights=[2, 1, 1], videos_per_step=8, seed=3, **options)


@pytest.mark.parametrize("make", [plain, mixed])
@pytest.mark.parametrize("plan", [[(3, 1, 1), (4, 2, 1), (5, 4, 2)], [(1, 4, 1), (6, 1, 4), (2, 8, 1)], [(5, 2, 4)]])
def test_a_run_goes_on_with_other_numbers_of_processes(make, plan):
    """Parts of (steps, processes, micro-batches): together they draw what one undisturbed process does."""
    reference = take(make(), sum(steps for steps, _, _ in plan))
    done: list[list[tuple[int, int]]] = []
    for steps, world_size, micro in plan:
        start = 8 * len(done)
        ranks = [
            take(make(start_draw=start, rank=rank, world_size=world_size, micro_batches=micro), steps * micro)
            for rank in range(world_size)
        ]
        for step in range(steps):
            done.append(pairs(pairs(rank[step * micro : (step + 1) * micro] for rank in ranks)))
    assert done == reference
    assert [draw for draw, _ in pairs(done)] == list(range(8 * len(done)))


def test_every_step_has_one_source_and_every_source_its_share():
    steps = take(mixed(), 400)
    ends = np.cumsum([10, 7, 30])
    sources = [set(np.searchsorted(ends, [index for _, index in step], side="right")) for step in steps]
    assert all(len(found) == 1 for found in sources)
    order = np.array([found.pop() for found in sources])
    shares = np.cumsum(order[:, None] == np.arange(3), axis=0)
    expected = np.arange(1, 401)[:, None] * np.array([0.5, 0.25, 0.25])
    assert np.abs(shares - expected).max() <= 3
    assert not np.array_equal(order, mixed_sources(seed=4)) and np.array_equal(order, mixed_sources(seed=3))
    # Within a source, no video comes again before all have come.
    for source, (size, first) in enumerate(zip((10, 7, 30), (0, 10, 17), strict=True)):
        seen = [index - first for step, of in zip(steps, order, strict=True) if of == source for _, index in step]
        epochs = [seen[start : start + size] for start in range(0, len(seen) - size + 1, size)]
        assert len(epochs) > 10 and all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 5


def mixed_sources(seed):
    return MixSampler([10, 7, 30], [2, 1, 1], 8, seed=seed).sources(0, 400)


def test_what_a_mix_refuses():
    with pytest.raises(ValueError, match="keep the batch size"):
        mixed(start_draw=12)
    with pytest.raises(ValueError, match="weights above 0"):
        MixSampler([10, 7], [1.0], 8)
    with pytest.raises(ValueError, match="weights above 0"):
        MixSampler([10, 7], [1.0, 0.0], 8)
    with pytest.raises(ValueError, match="at least one source"):
        MixDataset([])


@pytest.fixture(scope="module")
def mix(sample_videos, images, damaged_videos):
    pictures = [Entry(str(images[name]), 7) for name in ("png", "jpg", "bmp", "webp")]
    pictures.append(Entry(str(damaged_videos["picture.jpg"]), 9))
    options = {"crop_size": 32, "repeats": 2, "seed": 11}
    return MixDataset(
        [
            ClipDataset(read_manifest(sample_videos), num_frames=4, sampling_rate=2, **options),
            ClipDataset(pictures, num_frames=1, sampling_rate=1, **options),
        ]
    )


def load(mix, num_workers, start_draw=0, steps=12):
    sampler = MixSampler(mix.sizes, [0.5, 0.5], 4, start_draw=start_draw, micro_batches=2)
    return take(make_loader(mix, sampler, num_workers), 2 * steps)


def test_batches_of_videos_and_of_images(mix):
    assert len(mix) == 11 and mix.entry(5).label == 1 and mix.entry(6).label == 7
    with pytest.raises(IndexError):
        mix.entry(11)
    batches = load(mix, num_workers=0)
    shapes = [tuple(batch.clips.shape[1:]) for batch in batches]
    assert set(shapes) == {(3, 4, 32, 32), (3, 1, 32, 32)} and shapes[::2] == shapes[1::2]
    assert torch.cat([batch.clip_ids for batch in batches]).tolist() == list(range(96))
    for batch, shape in zip(batches, shapes, strict=True):
        assert (set(batch.labels.tolist()) == {7}) == (shape[1] == 1), "a damaged image is replaced by an image"
    assert {path for batch in batches for path, _ in batch.failures} == {mix.entry(10).path}


def test_a_mix_does_not_depend_on_workers_and_resumes_exactly(mix):
    reference = load(mix, num_workers=0)
    for batches in (load(mix, num_workers=2), reference[:10] + load(mix, num_workers=1, start_draw=20, steps=7)):
        for expected, batch in zip(reference, batches, strict=True):
            assert torch.equal(expected.clips, batch.clips) and expected.paths == batch.paths
            assert torch.equal(expected.clip_ids, batch.clip_ids) and expected.failures == batch.failures
