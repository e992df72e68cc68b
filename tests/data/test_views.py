from __future__ import annotations

import numpy as np
import pytest
import torch

from diffmae_video.data import ClipDataset, Entry, UnreadableVideo
from diffmae_video.data import views as views_module
from diffmae_video.data.transforms import Box
from diffmae_video.data.views import cut_views, read_views, spatial_boxes, view_indices


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
def test_views_of_a_real_file_in_one_pass(numbered_videos, numbers_of, monkeypatch, clips, crops, sampling):
    calls = []
    read = views_module.read_frames
    monkeypatch.setattr(views_module, "read_frames", lambda *arguments: calls.append(arguments) or read(*arguments))
    views = read_views(numbered_videos["h264"], 8, 4, 64, clips, crops, sampling)
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
    views = read_views(turned_videos[(90, False)], 4, 4, 64, clips=1)
    assert not torch.equal(views[0], views[1]) and not torch.equal(views[1], views[2])
    frames = torch.arange(96, dtype=torch.uint8).view(1, 96, 1, 1).expand(1, 96, 64, 3)
    cut = cut_views(frames, torch.zeros(1, 1, dtype=torch.int64), 3, 64)
    assert cut[:, 0, 0, 0, 0].tolist() == [0, 16, 32] and cut[:, 0, 0, -1, 0].tolist() == [63, 79, 95]


def test_a_single_view_is_the_clip_of_evaluation(numbered_videos):
    path = str(numbered_videos["vp9"])
    sample = ClipDataset([Entry(path, 0)], num_frames=8, sampling_rate=4, crop_size=40, train=False)[(0, 0)]
    assert torch.equal(read_views(path, 8, 4, 40, clips=1, crops=1), sample.clips)


def test_images_and_scaled_decoding(images, numbered_videos):
    assert read_views(images["png"], 1, 1, 32, clips=1).shape == (3, 3, 1, 32, 32)
    small = read_views(numbered_videos["h264"], 4, 4, 32, clips=2, decode_short_side=32)
    whole = read_views(numbered_videos["h264"], 4, 4, 32, clips=2)
    assert small.shape == whole.shape and (small.float() - whole.float()).abs().mean() < 25


def test_an_unreadable_video_raises(damaged_videos):
    for name in ("zeros.mp4", "cut_short.mp4", "picture.jpg"):
        with pytest.raises(UnreadableVideo) as caught:
            read_views(damaged_videos[name], 8, 4, 32, clips=7)
        assert caught.value.path == str(damaged_videos[name])
    with pytest.raises(ValueError, match="at least 1 clip"):
        view_indices(90, 8, 4, clips=0)
