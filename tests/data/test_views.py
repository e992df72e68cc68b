from __future__ import annotations

import numpy as np
import pytest
import torch

from diffmae_video.data import ClipDataset, Entry, UnreadableVideo, read_manifest
from diffmae_video.data import dataset as dataset_module
from diffmae_video.data.evaluation import EvaluationClips
from diffmae_video.data.transforms import Box, center_crop
from diffmae_video.data.views import cut_views, spatial_boxes, view_indices


def views_of(path, num_frames, sampling_rate, size, clips, crops=3, **options):
    """The views of one video, as the dataset reads them: uint8 (K * S, C, T, size, size)."""
    dataset = ClipDataset(
        [Entry(str(path), 0)],
        num_frames,
        sampling_rate,
        size,
        train=False,
        test_clips=clips,
        test_crops=crops,
        **options,
    )
    return dataset[(0, 0)].clips


def test_crops_lie_along_the_longer_side():
    assert spatial_boxes(256, 340, 3) == [Box(0, 0, 256, 256), Box(0, 42, 256, 256), Box(0, 84, 256, 256)]
    assert spatial_boxes(340, 256, 3) == [Box(0, 0, 256, 256), Box(42, 0, 256, 256), Box(84, 0, 256, 256)]
    assert spatial_boxes(100, 200, 1) == [Box(0, 50, 100, 100)]
    assert spatial_boxes(100, 200, 2) == [Box(0, 0, 100, 100), Box(0, 100, 100, 100)]
    assert spatial_boxes(64, 64, 3) == [Box(0, 0, 64, 64)] * 3
    with pytest.raises(ValueError, match="at least 1 crop"):
        spatial_boxes(64, 64, 0)


def test_dense_clips_spread_from_the_first_frame_to_the_last():
    numbers = view_indices(300, 16, 4, clips=7)
    assert numbers.shape == (7, 16) and (np.diff(numbers) == 4).all()
    assert numbers[:, 0].tolist() == [0, 39, 79, 119, 159, 199, 239] and numbers[-1, -1] == 299
    assert view_indices(300, 16, 4, clips=1)[0, 0] == 119
    assert view_indices(30, 16, 4, clips=5)[:, 0].tolist() == [0] * 5, "a short video: every clip starts at 0"


def test_segment_clips_take_other_frames_of_the_same_parts():
    numbers = view_indices(80, 8, 1, clips=2, sampling="segment")
    assert (numbers // 10 == np.arange(8)).all() and (numbers[1] - numbers[0] == 5).all()


@pytest.mark.parametrize(("clips", "crops", "sampling"), [(7, 3, "dense"), (5, 3, "dense"), (2, 3, "segment")])
def test_views_of_a_real_file_in_one_pass(numbered_videos, monkeypatch, clips, crops, sampling):
    calls = []
    read = dataset_module.read_frames
    monkeypatch.setattr(dataset_module, "read_frames", lambda *arguments: calls.append(arguments) or read(*arguments))
    views = views_of(numbered_videos["h264"], 8, 4, 64, clips, crops, sampling=sampling)
    assert views.shape == (clips * crops, 3, 8, 64, 64) and views.dtype == torch.uint8 and views.is_contiguous()
    (call,) = calls
    assert len(call[1]) == len(set(call[1].tolist()))
    expected = view_indices(90, 8, 4, clips, sampling)
    frames = read(numbered_videos["h264"], range(90))  # 64 x 96: crops at columns 0, 16, 32 need no scaling
    for clip in range(clips):
        for crop, left in enumerate((0, 16, 32)):
            wanted = frames[expected[clip], :, left : left + 64]
            assert np.array_equal(views[clip * crops + crop].permute(1, 2, 3, 0).numpy(), wanted)


def test_portrait_videos_are_cut_from_top_to_bottom(turned_videos):
    views = views_of(turned_videos[(90, False)], 4, 4, 64, clips=1)
    assert not torch.equal(views[0], views[1]) and not torch.equal(views[1], views[2])
    frames = torch.arange(96, dtype=torch.uint8).view(1, 96, 1, 1).expand(1, 96, 64, 3)
    cut = cut_views(frames, torch.zeros(1, 1, dtype=torch.int64), 3, 64)
    assert cut[:, 0, 0, 0, 0].tolist() == [0, 16, 32] and cut[:, 0, 0, -1, 0].tolist() == [63, 79, 95]


def test_a_single_view_is_the_centre(numbered_videos):
    frames = dataset_module.read_frames(numbered_videos["vp9"], view_indices(90, 8, 4, clips=1)[0])
    views = views_of(numbered_videos["vp9"], 8, 4, 40, clips=1, crops=1)
    assert torch.equal(views[0], center_crop(torch.from_numpy(frames), 40))


def test_images_and_scaled_decoding(images, numbered_videos):
    assert views_of(images["png"], 1, 1, 32, clips=1).shape == (3, 3, 1, 32, 32)
    small = views_of(numbered_videos["h264"], 4, 4, 32, clips=2, decode_short_side=32)
    whole = views_of(numbered_videos["h264"], 4, 4, 32, clips=2)
    assert small.shape == whole.shape and (small.float() - whole.float()).abs().mean() < 25


def test_an_unreadable_video_raises(damaged_videos):
    for name in ("zeros.mp4", "cut_short.mp4", "picture.jpg"):
        with pytest.raises(UnreadableVideo) as caught:
            views_of(damaged_videos[name], 8, 4, 32, clips=7)
        assert caught.value.path == str(damaged_videos[name])


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match="at least 1 clip"):
        view_indices(90, 8, 4, clips=0)
    for options, message in [
        ({"clips": 0}, "test_clips must be at least 1"),
        ({"clips": 1, "crops": 0}, "at least 1 crop"),
        ({"clips": 1, "crops": 3, "fit": "stretch"}, "use 1 crop"),
        ({"clips": 1, "fit": "squeeze"}, "unknown fit 'squeeze'"),
    ]:
        with pytest.raises(ValueError, match=message):
            views_of("a.mp4", 8, 4, 32, **options)


# ------------------------------------------------------------------------------------------------------------- stretch


def test_stretched_views_show_the_whole_frame(numbered_videos, turned_videos, numbers_of):
    """All 8 blocks of the painted number are seen, of which the central square of 96 x 64 cuts off some."""
    for path in (numbered_videos["h264"], turned_videos[(180, False)]):
        views = views_of(path, 8, 4, 64, clips=3, crops=1, fit="stretch")
        assert views.shape == (3, 3, 8, 64, 64)
    views = views_of(numbered_videos["h264"], 8, 4, 64, clips=3, crops=1, fit="stretch")
    numbers = [numbers_of(view.permute(1, 2, 3, 0).numpy()) for view in views]
    assert numbers == view_indices(90, 8, 4, clips=3).tolist()
    assert spatial_boxes(40, 100, 1, "stretch") == [Box(0, 0, 40, 100)]


@pytest.mark.parametrize("name", ["h264", "portrait"])
def test_stretched_training_crops_have_the_shape_of_the_frame(numbered_videos, turned_videos, monkeypatch, name):
    path = numbered_videos["h264"] if name == "h264" else turned_videos[(90, False)]
    options = {"num_frames": 2, "sampling_rate": 1, "crop_size": 64, "crop_aspect": (1.0, 1.0), "fit": "stretch"}
    whole = ClipDataset([Entry(str(path), 0)], crop_scale=(1.0, 1.0), horizontal_flip=False, **options)[(4, 0)].clips
    start = ClipDataset([Entry(str(path), 0)], train=False, test_clips=89, **options)[(0, 0)].clips
    assert sum(torch.equal(whole[0], clip) for clip in start) == 1, "the whole frame is one of the possible crops"
    boxes = []
    cut = dataset_module.random_resized_crop_flip.__globals__["crop_and_resize"]
    monkeypatch.setitem(
        dataset_module.random_resized_crop_flip.__globals__,
        "crop_and_resize",
        lambda frames, box, size: boxes.append(box) or cut(frames, box, size),
    )
    dataset = ClipDataset([Entry(str(path), 0)], crop_scale=(0.2, 1.0), **options)
    for draw in range(12):
        dataset[(draw, 0)]
    shape = 96 / 64 if name == "h264" else 64 / 96
    assert all(abs(box.width / box.height / shape - 1) < 0.05 for box in boxes) and len(set(boxes)) > 10


# ------------------------------------------------------------------------------------------- views of a whole test set


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_views_of_a_video_stand_together_in_the_order_of_the_list(sample_videos, damaged_videos, num_workers):
    entries = read_manifest(sample_videos)
    entries = [*entries[:3], Entry(str(damaged_videos["zeros.mp4"]), 1), *entries[3:]]
    dataset = ClipDataset(entries, 2, 3, 32, train=False, test_clips=2, test_crops=3)
    clips = EvaluationClips(dataset, batch_size=2, num_workers=num_workers)
    assert clips.views == 6 and clips.indices == list(range(7)) and dataset.labels.tolist() == [0, 1, 0, 1, 1, 0, 1]
    batches = list(clips)
    assert [len(batch.clips) for batch in batches] == [12, 6, 12, 6]
    read = [0, 1, 2, 4, 5, 6]
    assert [path for batch in batches for path in batch.paths] == [entries[i].path for i in read for _ in range(6)]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [entries[i].label for i in read for _ in range(6)]
    assert torch.cat([batch.clip_ids for batch in batches]).tolist() == [
        6 * i + view for i in read for view in range(6)
    ]
    assert torch.equal(torch.cat([batch.clips for batch in batches]), torch.cat([dataset[(0, i)].clips for i in read]))
    assert clips.unreadable_indices == [3] and clips.unreadable[0][0] == entries[3].path
