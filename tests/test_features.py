"""Features of whole videos: windows, layers, pooling, and looking up neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffmae_video import features as module
from diffmae_video.data import ClipDataset, Entry, read_frames
from diffmae_video.data.sampling import dense_indices, segment_indices
from diffmae_video.features import (
    FeatureOptions,
    block_tokens,
    encode_video,
    nearest,
    read_windows,
    window_frames,
    window_starts,
)
from diffmae_video.models import MAE, SpaceTimeViT
from diffmae_video.models.classifier import VideoClassifier
from diffmae_video.models.decoders import DECODERS


def make_encoder(class_token: bool = False, frames: int = 4, patch: int = 2) -> SpaceTimeViT:
    torch.manual_seed(0)
    encoder = SpaceTimeViT((3, frames, 32, 32), (patch, 8, 8), 24, depth=3, heads=2, class_token=class_token)
    for parameter in encoder.parameters():  # initial weights hardly answer to the input
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder


def make_model(**options) -> MAE:
    encoder = make_encoder(**options)
    values = encoder.patch_embed.in_features
    decoder = DECODERS["joint"](encoder.grid, 24, 24, 1, 2, mlp_ratio=2, patch_values=values, position="sincos")
    return MAE(encoder, decoder).eval()


@pytest.fixture(scope="module")
def model() -> MAE:
    return make_model()


def clips_of(path, numbers: np.ndarray) -> torch.Tensor:
    """uint8 (B, C, T, 32, 32): frame by frame, the central square."""
    clips = []
    for row in numbers:
        frames = torch.from_numpy(np.concatenate([read_frames(path, [number]) for number in row]))
        side = min(frames.shape[1:3])
        top, left = (frames.shape[1] - side) // 2, (frames.shape[2] - side) // 2
        square = frames[:, top : top + side, left : left + side].permute(3, 0, 1, 2)
        clips.append(torch.nn.functional.interpolate(square, (32, 32), mode="bilinear", antialias=True))
    return torch.stack(clips)


# ------------------------------------------------------------------------------------------------------------ windows


@pytest.mark.parametrize("span", [1, 2, 7, 16, 61])
@pytest.mark.parametrize("length", [1, 2, 6, 7, 8, 15, 16, 17, 61, 62, 90, 121, 122, 123])
def test_windows_cover_every_frame_and_end_with_the_video(length, span):
    for hop in {1, max(1, span // 3), max(1, span - 1), span, None}:
        starts = window_starts(length, span, hop)
        seen = {frame for start in starts for frame in range(start, start + span)}
        assert seen >= set(range(length))
        assert starts[0] == 0 and starts.dtype == np.int64 and (np.diff(starts) > 0).all()
        if length > span:
            assert starts[-1] + span == length
            assert (np.diff(starts)[:-1] == (hop or span)).all() and np.diff(starts)[-1] <= (hop or span)
        else:
            assert starts.tolist() == [0]


def test_windows_touch_by_default():
    assert window_starts(48, 16).tolist() == [0, 16, 32]
    assert window_starts(50, 16).tolist() == [0, 16, 32, 34]
    assert window_starts(50, 16, 40).tolist() == [0, 34]
    for wrong in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            window_starts(*wrong)


@pytest.mark.parametrize("length", [1, 2, 5, 10])
def test_a_short_video_is_one_window_by_the_rule_of_training(length):
    starts, numbers = window_frames(length, 4, FeatureOptions(sampling_rate=3))
    assert starts.tolist() == [0]
    np.testing.assert_array_equal(numbers[0], dense_indices(length, 4, 3))


def test_segment_sampling_is_one_window_over_the_whole_video():
    starts, numbers = window_frames(90, 4, FeatureOptions(sampling_rate=3, sampling="segment"))
    assert starts.tolist() == [0]
    np.testing.assert_array_equal(numbers, segment_indices(90, 4)[None])


@pytest.mark.parametrize("chunk", [1, 3 * 96 * 64 * 2, 2**28])
def test_windows_hold_the_frames_that_their_numbers_say(numbered_videos, numbers_of, monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    options = FeatureOptions(sampling_rate=3, fit="stretch", window_stride=4)
    path, info = numbered_videos["h264"], module.video_info(numbered_videos["h264"])
    numbers = window_frames(info.frames, 4, options)[1][[0, 1, 2, -1]]
    clips = read_windows(path, numbers, 64, info, options)
    assert clips.shape == (4, 3, 4, 64, 64) and clips.dtype == torch.uint8
    found = [numbers_of(clip.permute(1, 2, 3, 0).numpy()) for clip in clips]
    np.testing.assert_array_equal(found, numbers)


def test_only_frames_of_one_batch_are_read_at_a_time(numbered_videos, model, monkeypatch):
    requests = []

    def spy(path, indices, *arguments):
        requests.append(list(indices))
        return read_frames(path, indices, *arguments)

    monkeypatch.setattr(module, "read_frames", spy)
    encode_video(model, numbered_videos["h264"], FeatureOptions(sampling_rate=2, batch_size=3))
    assert max(map(len, requests)) == 12 and requests[0] == [*range(0, 7, 2), *range(7, 14, 2), *range(14, 21, 2)]
    assert requests[-1][-1] == 89


# ----------------------------------------------------------------------------------------------------------- encoding


def test_pooled_is_the_mean_of_what_the_model_encodes(numbered_videos, model):
    path = numbered_videos["h264"]
    found = encode_video(model, path, FeatureOptions(sampling_rate=4, batch_size=3))
    starts, numbers = window_frames(90, 4, FeatureOptions(sampling_rate=4))
    with torch.no_grad():
        tokens = model.encode(model.normalize(clips_of(path, numbers)))
    np.testing.assert_allclose(found.features, tokens.mean(1), atol=1e-5)
    assert found.features.shape == (7, 24) and found.features.dtype == np.float32
    assert found.starts.tolist() == [0, 13, 26, 39, 52, 65, 77] == starts.tolist()
    np.testing.assert_allclose(found.seconds, starts / 25)
    assert found.info.frames == 90


def test_dense_is_the_grid_of_tokens_in_time_row_column(numbered_videos, model):
    path = numbered_videos["h264"]
    options = FeatureOptions(sampling_rate=4, output="dense")
    found = encode_video(model, path, options).features
    assert found.shape == (7, 2, 4, 4, 24)
    with torch.no_grad():
        tokens = model.encode(model.normalize(clips_of(path, window_frames(90, 4, options)[1]))).numpy()
    for time, row, column in ((0, 0, 0), (0, 1, 3), (1, 0, 2), (1, 3, 1)):
        np.testing.assert_allclose(found[:, time, row, column], tokens[:, (time * 4 + row) * 4 + column], atol=1e-5)
    pooled = encode_video(model, path, FeatureOptions(sampling_rate=4)).features
    np.testing.assert_allclose(found.mean((1, 2, 3)), pooled, atol=1e-5)


def test_a_clip_of_one_window_is_the_clip_that_evaluation_sees(sample_videos, model):
    path = sample_videos / "clip_0.mp4"  # 24 frames: a single window of 4 frames, 10 apart, is longer
    dataset = ClipDataset([Entry(str(path), 0)], 4, 10, 32, train=False)
    with torch.no_grad():
        expected = model.encode(model.normalize(dataset[(0, 0)].clips)).mean(1)
    found = encode_video(model, path, FeatureOptions(sampling_rate=10)).features
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("class_token", [False, True])
def test_layers_are_the_outputs_of_the_blocks(class_token):
    model = make_model(class_token=class_token)
    clip = model.normalize(torch.randint(256, (2, 3, 4, 32, 32), dtype=torch.uint8))
    outputs = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: outputs.append(output)) for block in model.encoder.blocks
    ]
    with torch.no_grad():
        last = model.encode(clip)
        for hook in hooks:
            hook.remove()
        torch.testing.assert_close(block_tokens(model, clip), last)
        for layer in (-2, -3):
            torch.testing.assert_close(block_tokens(model, clip, layer), outputs[layer][:, int(class_token) :])
    for layer in (-4, 0, 1):
        with pytest.raises(ValueError, match="3 blocks, choose from -1 to -3"):
            block_tokens(model, clip, layer)


def test_a_classifier_gives_the_features_of_its_encoder(sample_videos):
    classifier = VideoClassifier(make_encoder(), num_classes=2, kind="linear").eval()
    options = FeatureOptions(sampling_rate=2)
    found = encode_video(classifier, sample_videos / "clip_0.mp4", options).features
    np.testing.assert_array_equal(found, encode_video(make_model(), sample_videos / "clip_0.mp4", options).features)


@pytest.mark.parametrize(("frames", "patch"), [(1, 1), (2, 2), (4, 2)])
def test_an_image_is_one_window(images, frames, patch):
    model = make_model(frames=frames, patch=patch)
    found = encode_video(model, images["png"], FeatureOptions(sampling_rate=4))
    assert found.features.shape == (1, 24) and found.starts.tolist() == [0] and found.seconds.tolist() == [0]
    with torch.no_grad():
        expected = model.encode(model.normalize(clips_of(images["png"], np.zeros((1, frames), int)))).mean(1)
    np.testing.assert_allclose(found.features, expected, atol=1e-6)


def test_bf16_is_close_and_float32(sample_videos, model):
    path = sample_videos / "clip_0.mp4"
    exact = encode_video(model, path, FeatureOptions(sampling_rate=2)).features
    rough = encode_video(model, path, FeatureOptions(sampling_rate=2, precision="bf16")).features
    assert rough.dtype == np.float32 and 0 < abs(rough - exact).max() < 0.1 * abs(exact).max()


def test_crop_and_stretch_show_other_things(numbered_videos, model):
    crop, stretch = (
        encode_video(model, numbered_videos["h264"], FeatureOptions(sampling_rate=4, fit=fit)).features
        for fit in ("crop", "stretch")
    )
    assert abs(crop - stretch).max() > 0.01


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"output": "token"}, "choose one of pooled, dense"),
        ({"fit": "pad"}, "choose one of crop, stretch"),
        ({"precision": "fp16"}, "choose one of fp32, bf16"),
        ({"decoder": "vlc"}, "unknown decoder"),
        ({"sampling": "sparse"}, "choose one of dense, segment"),
        ({"sampling_rate": 0}, "sampling_rate must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"window_stride": 0}, "window_stride must be at least 1"),
        ({"window_stride": 4, "sampling": "segment"}, "no meaning"),
        ({"layer": 0}, "-1 is the last block"),
    ],
)
def test_wrong_options(values, message):
    with pytest.raises(ValueError, match=message):
        FeatureOptions(**{"sampling_rate": 1} | values)


# ---------------------------------------------------------------------------------------------------------- neighbours


def test_nearest_by_cosine():
    features = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [-1.0, 0.0], [0.0, 0.0], [5.0, 0.0]], np.float32)
    rows, cosines = nearest(features, np.array([2.0, 0.0]), 6)
    assert rows.tolist() == [0, 5, 2, 1, 4, 3]
    np.testing.assert_allclose(cosines, [1, 1, 0.5**0.5, 0, 0, -1], atol=1e-12)
    rows, cosines = nearest(features, features[:3], 2)
    assert rows.shape == cosines.shape == (3, 2) and rows[:, 0].tolist() == [0, 1, 2]


def test_nearest_without_what_all_have_in_common():
    features = np.array([[100.0, 1.0], [100.0, -1.0], [101.0, 0.0]])
    rows, cosines = nearest(features, np.array([100.5, 2.0]), 3, center=True)
    mean = features.mean(0)
    expected = [
        np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a in features - mean for b in [[100.5, 2] - mean]
    ]
    assert rows[0] == 0
    np.testing.assert_allclose(cosines, np.array(expected)[rows])
    assert nearest(features, features[0], 3)[1].min() > 0.99 > 0 > cosines.min()


def test_nearest_refuses_what_does_not_fit():
    features = np.ones((3, 2))
    for query, k in ((np.ones(3), 1), (np.ones((1, 1, 2)), 1), (np.ones(2), 0), (np.ones(2), 4)):
        with pytest.raises(ValueError, match="expected features|k must be"):
            nearest(features, query, k)


def test_a_clip_is_nearest_to_itself(sample_videos, model):
    videos = [sample_videos / f"clip_{number}.mp4" for number in range(8)]
    options = FeatureOptions(sampling_rate=2)
    features = np.concatenate([encode_video(model, path, options).features[:1] for path in videos])
    rows, cosines = nearest(features, features, 2)
    assert rows[:, 0].tolist() == list(range(8))
    np.testing.assert_allclose(cosines[:, 0], 1)
    assert (cosines[:, 1] < 1).all()
