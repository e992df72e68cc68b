from __future__ import annotations

import numpy as np
import pytest
import torch

from diffmae_video.data import ClipDataset, Entry, UnreadableVideo, read_frames, read_manifest
from diffmae_video.data import dataset as dataset_module


def make(entries, **options):
    defaults = {"num_frames": 8, "sampling_rate": 4, "crop_size": 32, "seed": 3}
    return ClipDataset(entries, **(defaults | options))


def numbered(numbered_videos, names=("h264", "vp9", "mpeg4")):
    return [Entry(str(numbered_videos[name]), label) for label, name in enumerate(names)]


def clip_numbers(numbers_of, clips):
    """Numbers painted into clips (R, C, T, S, S) that show the whole frame: R lists of T."""
    return [numbers_of(clip.permute(1, 2, 3, 0).numpy()) for clip in clips]


WHOLE_FRAME = {"crop_scale": (1.0, 1.0), "crop_aspect": (1.5, 1.5), "horizontal_flip": False, "crop_size": 64}


def test_a_sample(numbered_videos):
    sample = make(numbered(numbered_videos), repeats=3)[(5, 1)]
    assert sample.clips.shape == (3, 3, 8, 32, 32) and sample.clips.dtype == torch.uint8
    assert (sample.label, sample.draw, sample.path, sample.failures) == (1, 5, str(numbered_videos["vp9"]), ())


def test_clips_hold_the_frames_of_a_dense_span(numbered_videos, numbers_of):
    dataset = make(numbered(numbered_videos), repeats=4, **WHOLE_FRAME)
    starts = []
    for draw in range(12):
        for clip in clip_numbers(numbers_of, dataset[(draw, draw % 3)].clips):
            assert np.diff(clip).tolist() == [4] * 7
            starts.append(clip[0])
    assert len(set(starts)) > 25 and max(starts) <= 90 - 29  # 48 draws out of 62 places


def test_everything_random_depends_on_seed_and_draw_alone(numbered_videos):
    entries = numbered(numbered_videos)
    first, again = make(entries, repeats=2)[(7, 0)], make(entries, repeats=2)[(7, 0)]
    assert torch.equal(first.clips, again.clips)
    assert not torch.equal(first.clips[0], first.clips[1]), "the clips of one video must differ"
    assert not torch.equal(first.clips, make(entries, repeats=2)[(8, 0)].clips)
    assert not torch.equal(first.clips, make(entries, repeats=2, seed=4)[(7, 0)].clips)
    assert torch.equal(first.clips[:1], make(entries, repeats=1)[(7, 0)].clips), "the first of R clips is the only one"


def test_repeats_open_the_video_once(numbered_videos, monkeypatch):
    calls = []
    read = dataset_module.read_frames
    monkeypatch.setattr(dataset_module, "read_frames", lambda *arguments: calls.append(arguments) or read(*arguments))
    make(numbered(numbered_videos), repeats=4)[(0, 0)]
    assert len(calls) == 1
    needed = calls[0][1]
    assert len(needed) == len(set(needed)) <= 32


def test_evaluation_is_centred_and_fixed(numbered_videos, numbers_of):
    dataset = make(numbered(numbered_videos), train=False, repeats=4, crop_size=64)
    sample = dataset[(0, 0)]
    assert sample.clips.shape == (1, 3, 8, 64, 64)
    assert torch.equal(sample.clips, dataset[(99, 0)].clips)
    # 90 frames, a span of 29: starts at 30. The central square of 96 x 64 shows the middle 5 1/3 of 8 blocks.
    reference = make([Entry(str(numbered_videos["h264"]), 0)], train=False, num_frames=1)
    assert torch.equal(reference[(0, 0)].clips, reference[(1, 0)].clips)
    expected = read_frames(numbered_videos["h264"], range(30, 60, 4))[:, :, 16:80]
    assert np.array_equal(sample.clips[0].permute(1, 2, 3, 0).numpy(), expected)


def test_short_video_and_image_repeat_the_last_frame(sample_videos, images):
    path = str(sample_videos / "clip_0.mp4")  # 24 frames; a clip spans 57
    clip = make([Entry(path, 0)], num_frames=8, sampling_rate=8)[(0, 0)].clips[0]
    assert torch.equal(clip[:, 3], clip[:, 7]) and not torch.equal(clip[:, 2], clip[:, 3])
    still = make([Entry(str(images["png"]), -1)], num_frames=4)[(0, 0)]
    assert still.clips.shape == (1, 3, 4, 32, 32) and still.label == -1
    assert torch.equal(still.clips[0], still.clips[0][:, :1].expand(-1, 4, -1, -1))
    assert make([Entry(str(images["jpg"]), 0)], num_frames=1)[(0, 0)].clips.shape == (1, 3, 1, 32, 32)


def test_decode_short_side(numbered_videos, monkeypatch):
    asked = []
    read = dataset_module.read_frames
    monkeypatch.setattr(
        dataset_module, "read_frames", lambda *arguments: asked.append(arguments[3]) or read(*arguments)
    )
    make(numbered(numbered_videos), decode_short_side=40)[(0, 0)]
    assert asked == [40]


def test_unreadable_videos_are_recorded_and_replaced(numbered_videos, damaged_videos):
    bad = [Entry(str(path), 9) for path in damaged_videos.values()]
    gone = Entry("/nowhere/gone.mp4", 9)
    entries = [*bad, gone, *numbered(numbered_videos)]
    dataset = make(entries)
    failed = set()
    for draw in range(len(bad) + 1):
        sample = dataset[(draw, draw)]
        assert sample.label in (0, 1, 2) and sample.clips.shape == (1, 3, 8, 32, 32)
        assert sample.failures[0][0] == entries[draw].path and entries[draw].path in sample.failures[0][1]
        assert sample.path in {entry.path for entry in entries[-3:]}
        again = dataset[(draw, draw)]
        assert again.path == sample.path and torch.equal(again.clips, sample.clips), "the replacement must be fixed"
        failed |= {path for path, _ in sample.failures}
    assert failed == {entry.path for entry in [*bad, gone]}


def test_evaluation_never_substitutes(numbered_videos, damaged_videos):
    entries = [Entry(str(damaged_videos["zeros.mp4"]), 0), Entry("/nowhere/gone.mp4", 0), *numbered(numbered_videos)]
    dataset = make(entries, train=False)
    for index in (0, 1):
        with pytest.raises(UnreadableVideo) as caught:
            dataset[(0, index)]
        assert caught.value.path == entries[index].path
        assert str(caught.value).count(entries[index].path) in (1, 2)


def test_nothing_readable_at_all_stops(damaged_videos):
    with pytest.raises(UnreadableVideo, match="20 videos in a row could not be read; the last one: "):
        make([Entry(str(damaged_videos["zeros.mp4"]), 0)])[(0, 0)]


def test_real_clips_of_every_codec(research_data):
    entries = read_manifest(research_data / "mini")
    assert len(entries) > 25
    dataset = make(entries, num_frames=4, crop_size=56, decode_short_side=96)
    for index in range(len(entries)):
        sample = dataset[(index, index)]
        assert sample.failures == () and sample.path == entries[index].path, sample.failures


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop_scale": (0.5, 1.5)}, "crop_scale"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale"),
        ({"crop_aspect": (2.0, 1.0)}, "crop_aspect"),
        ({"num_frames": 0}, "at least 1"),
        ({"decoder": "opencv"}, "unknown decoder"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        make([Entry("a.mp4", 0)], **wrong)
    with pytest.raises(ValueError, match="at least one video"):
        make([])


def test_segment_sampling(numbered_videos, numbers_of):
    """Training: one frame of every fifth of 90 frames; evaluation: clips at their stated places."""
    options = {"num_frames": 5, "sampling": "segment"}
    dataset = make(numbered(numbered_videos), repeats=3, **options, **WHOLE_FRAME)
    clips = [clip for draw in range(9) for clip in clip_numbers(numbers_of, dataset[(draw, draw % 3)].clips)]
    assert all([number // 18 for number in clip] == [0, 1, 2, 3, 4] for clip in clips)
    assert len(set(map(tuple, clips))) > 20

    entries = numbered(numbered_videos)
    for count, places in ((1, [9]), (2, [4, 13])):
        clips = make(entries, train=False, test_clips=count, crop_size=64, **options)[(0, 0)].clips
        assert clips.shape == (count, 3, 5, 64, 64)
        frames = [read_frames(entries[0].path, range(place, 90, 18))[:, :, 16:80] for place in places]
        assert np.array_equal(clips.permute(0, 2, 3, 4, 1).numpy(), np.stack(frames))
    with pytest.raises(ValueError, match="unknown sampling"):
        make(entries, sampling="sparse")
