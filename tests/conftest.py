"""Shared fixtures: small real video and image files, rendered once per session, whose frames carry their number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from diffmae_video.data.writing import write_image, write_video

BITS = 8


def paint(number: int, height: int = 64, width: int = 96) -> np.ndarray:
    """A frame uint8 (height, width, 3): a coloured gradient that moves; its number in black and white blocks below."""
    rows, columns = np.indices((height, width))
    frame = np.stack([4 * columns + 5 * number, 3 * rows + 2 * number, columns + rows + 90], -1) % 256
    for bit in range(BITS):
        block = slice(bit * width // BITS, (bit + 1) * width // BITS)
        frame[height // 2 :, block] = 255 if number >> bit & 1 else 0
    return frame.astype(np.uint8)


def read_numbers(frames: np.ndarray) -> list[int]:
    """The numbers that ``paint`` put into frames (N, H, W, 3), at any size."""
    height, width = frames.shape[1:3]
    centres = [round((bit + 0.5) * width / BITS) for bit in range(BITS)]
    bits = frames[:, 3 * height // 4, centres].mean(-1) > 127
    return [int(sum(1 << bit for bit in np.flatnonzero(row))) for row in bits]


def encode(
    path: Path,
    codec: str,
    frames: Sequence[np.ndarray],
    options: dict[str, str],
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode frames with 25 frames per second."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def remux(source: Path, path: Path, shift: int = 0, rotation: int = 0, hflip: bool = False) -> Path:
    """Copy the packets of ``source``: ``shift`` frames earlier (an edit list hides those before 0), and turned."""
    with av.open(str(source)) as old, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        if rotation or hflip:
            stream.set_display_rotation(rotation, hflip=hflip)
        for packet in old.demux(video=0):
            if packet.size:
                offset = round(shift / 25 / packet.time_base)
                packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
                packet.stream = stream
                new.mux(packet)
    return path


@pytest.fixture(scope="session")
def research_data() -> Path:
    """Real clips and lists that are not part of the repository; tests that need them are skipped without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no research data at {folder}")
    return folder


@pytest.fixture(scope="session")
def numbers_of() -> Callable[[np.ndarray], list[int]]:
    """Reads the numbers painted into frames (N, H, W, 3)."""
    return read_numbers


@pytest.fixture(scope="session")
def painted() -> Callable[..., np.ndarray]:
    """Paints the frame of a number: painted(number, height=64, width=96) -> uint8 (height, width, 3)."""
    return paint


@pytest.fixture(scope="session")
def numbered_videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Videos of 90 frames, 96x64, 25 frames per second, in which frame i carries the number i; by name."""
    folder = tmp_path_factory.mktemp("numbered")
    frames = [paint(number) for number in range(90)]
    closed = {"x264-params": "keyint=24:min-keyint=24:bframes=3:b-adapt=0:scenecut=0:log-level=none"}
    opened = {"x264-params": "keyint=10:open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
    refresh = {"x264-params": "keyint=12:intra-refresh=1"}
    quiet = {"x265-params": "keyint=10:min-keyint=1:log-level=none"}
    good = {"qscale": "2", "g": "12"}
    videos = {
        "h264": encode(folder / "h264.mp4", "libx264", frames, closed),
        "h264_mkv": encode(folder / "h264.mkv", "libx264", frames, closed),
        "vp9": encode(folder / "vp9.webm", "libvpx-vp9", frames, {"g": "20", "cpu-used": "8", "crf": "20"}),
        "mpeg4": encode(folder / "mpeg4.avi", "mpeg4", frames, good),
        "mjpeg": encode(folder / "mjpeg.avi", "mjpeg", frames, {"qscale": "2"}),
        # what decord does not index rightly, or not at all
        "h264_open_groups": encode(folder / "open.mp4", "libx264", frames, opened),
        "h264_refresh": encode(folder / "refresh.mkv", "libx264", frames, refresh),
        "h264_stream": encode(folder / "h264.ts", "libx264", frames, closed),
        "h264_avi": encode(folder / "h264.avi", "libx264", frames, closed),
        "hevc": encode(folder / "hevc.mp4", "libx265", frames, quiet),
        "mpeg4_b": encode(folder / "mpeg4_b.avi", "mpeg4", frames, good | {"bf": "2"}),
        "mpeg4_b_mp4": encode(folder / "mpeg4_b.mp4", "mpeg4", frames, good | {"bf": "2"}),
    }
    return videos


@pytest.fixture(scope="session")
def cut_video(numbered_videos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mp4 whose edit list hides the first 17 frames: frame i carries the number i + 17."""
    return remux(numbered_videos["h264"], tmp_path_factory.mktemp("cut") / "cut.mp4", shift=17)


@pytest.fixture(scope="session")
def turned_videos(
    numbered_videos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[int, bool], Path]:
    """The same h264 video with a display matrix: (degrees counter-clockwise, mirrored) -> mp4."""
    folder = tmp_path_factory.mktemp("turned")
    return {
        (degrees, hflip): remux(
            numbered_videos["h264"], folder / f"{degrees}_{hflip}.mp4", rotation=degrees, hflip=hflip
        )
        for degrees in (90, 180, 270)
        for hflip in (False, True)
    }


@pytest.fixture(scope="session")
def damaged_videos(numbered_videos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files that hold no video, or only a part of one; by what is wrong."""
    folder = tmp_path_factory.mktemp("damaged")
    whole = write_video(folder / "whole.mp4", np.stack([paint(number) for number in range(90)]), fps=25)
    contents = {
        "cut_short.mp4": whole.read_bytes()[: whole.stat().st_size * 2 // 3],  # its index stands in front
        "no_index.mp4": numbered_videos["h264"].read_bytes()[:-200],  # its index stood at the end
        "cut_short.avi": numbered_videos["mpeg4"].read_bytes()[: numbered_videos["mpeg4"].stat().st_size // 2],
        "cut_short.webm": numbered_videos["vp9"].read_bytes()[: numbered_videos["vp9"].stat().st_size // 2],
        "zeros.mp4": bytes(5000),
        "empty.mp4": b"",
        "text.mp4": b"this is not a video\n" * 50,
        "picture.jpg": b"nor is this a picture",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.mp4").mkdir()
    return {name: folder / name for name in [*contents, "folder.mp4"]}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The painted frame 5 in every image format, by suffix; "rotated" is a JPEG that EXIF turns by 90 degrees."""
    folder = tmp_path_factory.mktemp("images")
    frame = paint(5)
    files = {suffix: write_image(folder / f"image.{suffix}", frame) for suffix in ("png", "jpg", "bmp")}
    Image.fromarray(frame).save(folder / "image.webp", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the viewer has to turn it clockwise
    Image.fromarray(frame).save(folder / "rotated.jpeg", quality=95, exif=exif)
    return files | {"webp": folder / "image.webp", "rotated": folder / "rotated.jpeg"}


@pytest.fixture(scope="session")
def sample_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset: 8 H.264 mp4 of 24 frames, 64x64; train.csv lists 6, val.csv 2; classes 0 and 1.

    A bright square moves over a gradient: to the right in class 0, downwards in class 1.
    """
    folder = tmp_path_factory.mktemp("sample_videos")
    lines = []
    for number in range(8):
        rows, columns = np.indices((64, 64))
        background = np.stack([2 * rows + 20 * number, 2 * columns, 200 - rows - columns], -1).astype(np.uint8)
        frames = np.repeat(background[None], 24, axis=0)
        for time, frame in enumerate(frames):
            top, left = (24, 2 * time) if number % 2 == 0 else (2 * time, 24)
            frame[top : top + 14, left : left + 14] = (250, 240, 30 * number)
        write_video(folder / f"clip_{number}.mp4", frames, fps=12)
        lines.append(f"clip_{number}.mp4 {number % 2}\n")
    (folder / "train.csv").write_text("".join(lines[:6]))
    (folder / "val.csv").write_text("".join(lines[6:]))
    return folder
