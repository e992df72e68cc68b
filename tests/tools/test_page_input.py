"""What the page makes of a visitor's file: tools/page_input.py on real uploads, most of them damaged or hostile."""

from __future__ import annotations

import itertools

import av
import numpy as np
import pytest
from PIL import Image

from diffmae_video.data import read_frames, video_info


def test_a_clip_has_the_frames_asked_for(page, uploads):
    clip = page.page_input.read_clip(str(uploads / "clip.mp4"), 1, 2, 3, page.page_input.Limits())
    assert np.array_equal(clip.frames, read_frames(uploads / "clip.mp4", [1, 4]))
    assert list(clip.indices) == [1, 4] and clip.total == 6 and clip.fps == pytest.approx(10 / 3)
    assert clip.describe() == "clip.mp4: 64x48, 6 frames; taken: 2, from 1 to 4"


@pytest.mark.parametrize(("name", "size", "least"), [("clip.mp4", "64x48", 23), ("picture.png", "52x40", 23)])
def test_what_is_larger_is_scaled_down_and_that_is_said(page, uploads, name, size, least):
    clip = page.page_input.read_clip(str(uploads / name), 0, 4, 1, page.page_input.Limits(side=32))
    assert max(clip.frames.shape[1:3]) <= 32 and min(clip.frames.shape[1:3]) >= least
    assert (
        size in clip.describe() and f"scaled down to {clip.frames.shape[2]}x{clip.frames.shape[1]}" in clip.describe()
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.mp4", "its content is no video"),
        ("cut.mp4", "cannot be read"),
        ("empty.mp4", "is empty"),
        ("playlist.mp4", "its content is no video"),
        ("concat.mp4", "its content is no video"),
        ("nothing.mp4", "cannot be read"),
        ("text.png", "its content is no picture"),
        ("cut.png", "cannot be read"),
        ("large.png", "9000x9000 pixels: at most 64 million"),
        ("bomb.png", "far too many pixels"),
        ("vector.png", "its content is no picture"),
        ("notes.txt", "neither a video nor an image"),
        ("missing.mp4", "cannot be read"),
    ],
)
def test_garbage_is_refused_by_name_without_its_folder(page, uploads, name, message):
    with pytest.raises(page.page_input.Refused) as refused:
        page.page_input.read_clip(str(uploads / name), 0, 4, 1, page.page_input.Limits())
    assert message in str(refused.value) and str(refused.value).startswith(name)
    assert str(uploads) not in str(refused.value)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "avi", "flv", "wmv", "mpg", "ts", "gif", "ogv", "3gp"])
def test_every_kind_of_video_is_known_by_its_content(page, uploads, tmp_path, suffix):
    codec = {"webm": "vp9", "gif": "gif", "ogv": "libvpx", "flv": "flv", "wmv": "wmv2", "mpg": "mpeg1video"}
    frames = read_frames(uploads / "clip.mp4", range(4))
    with av.open(str(tmp_path / f"clip.{suffix}"), "w") as container:
        stream = container.add_stream(codec.get(suffix, "libx264" if suffix != "avi" else "mpeg4"), rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb8" if suffix == "gif" else "yuv420p"
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=stream.pix_fmt))
            )
        container.mux(stream.encode(None))
    clip = page.page_input.read_clip(str(tmp_path / f"clip.{suffix}"), 0, 3, 1, page.page_input.Limits())
    assert clip.frames.shape == (3, 48, 64, 3) and abs(clip.frames.astype(int) - frames[:3]).mean() < 30


def test_a_photograph_taken_sideways_is_turned(page, tmp_path):
    image = Image.new("RGB", (60, 40))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "photo.jpg", exif=exif)
    clip = page.page_input.read_clip(str(tmp_path / "photo.jpg"), 0, 1, 1, page.page_input.Limits())
    assert clip.frames.shape == (1, 60, 40, 3) and clip.describe() == "photo.jpg: 40x60"


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((6, 1, 1), "frames 0 to 5"), ((-1, 1, 1), "first frame -1"), ((0, 65, 1), "1 to 64"), ((0, 1, 0), "stride 0")],
)
def test_numbers_outside_of_the_limits_are_refused(page, uploads, numbers, message):
    with pytest.raises(page.page_input.Refused, match=message):
        page.page_input.read_clip(str(uploads / "clip.mp4"), *numbers, page.page_input.Limits())


def test_large_video_frames_are_refused_before_they_are_read(page, uploads, monkeypatch):
    monkeypatch.setattr(page.page_input, "read_frames", lambda *a, **k: pytest.fail("was read"))
    with pytest.raises(page.page_input.Refused, match="64x48 pixels"):
        page.page_input.read_clip(str(uploads / "clip.mp4"), 0, 1, 1, page.page_input.Limits(video_pixels=1000))


def test_both_looks_at_a_video_are_under_the_time_limit(page, uploads, monkeypatch):
    seen = {}
    for name, real in (("video_info", video_info), ("read_frames", read_frames)):
        spy = lambda *a, name=name, real=real, **k: seen.update({name: k["timeout"]}) or real(*a, **k)  # noqa: E731
        monkeypatch.setattr(page.page_input, name, spy)
    page.page_input.read_clip(str(uploads / "clip.mp4"), 0, 1, 1, page.page_input.Limits(decode_seconds=17))
    assert seen == {"video_info": 17, "read_frames": 17}


def test_paths_reach_the_decoding_process_as_plain_text(page, uploads, monkeypatch):
    class Path(str):  # as Gradio has one: where it is unpickled, its module is imported
        pass

    seen, real = [], page.page_input.video_info
    monkeypatch.setattr(page.page_input, "video_info", lambda path, **k: seen.append(type(path)) or real(path, **k))
    reader = page.page_input.ClipReader(page.page_input.Limits())
    assert reader(Path(uploads / "clip.mp4"), 0, 1, 1).total == 6 and seen == [str]
    reader.close()


def test_samples_of_the_demo(page, tmp_path):
    assert page.page_input.demo_samples(tmp_path) == []
    for split, name in itertools.product(("val", "unseen"), ("pan_up_00001", "roll_left_00002", "roll_left_00003")):
        (tmp_path / split).mkdir(exist_ok=True)
        (tmp_path / split / f"{name}.mp4").touch()
    found = page.page_input.demo_samples(tmp_path)
    assert [s.title for s in found] == [f"{m} ({k})" for k in ("known", "unseen") for m in ("pan up", "roll left")]
    assert all(sample.path.exists() for sample in found)
