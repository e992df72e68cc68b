"""Files that are rare or damaged in their own way: every decoder gives the right frames, or says that it cannot."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from diffmae_video.data import UnreadableVideo, read_frames, video_info
from diffmae_video.data.decoders import scan as scan_module
from diffmae_video.data.decoders.mpeg4 import PICTURE, MpegPictures
from diffmae_video.data.decoders.structure import broken_at
from diffmae_video.data.decoding import missing_backends

# What Xvid writes into a chunk without a picture of its own: a P-frame marked as not coded, 25 units per second.
STUB = PICTURE + b"\x50\x4f"


def readers() -> list[str]:
    return [name for name in ("auto", "decord", "torchcodec", "pyav") if name not in missing_backends()]


def sequential(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate(tmp_path, painted, numbers_of, suffix):
    """Frames that last from 1 to 7 units: numbers count frames, not time."""
    path = tmp_path / f"variable.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "10"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        time = 0
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(painted(number), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            time += 1 + number % 7
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = video_info(path)
    assert info.frames == 60 and info.duration == pytest.approx(2.36, rel=0.05)
    for backend in readers():
        try:
            assert numbers_of(read_frames(path, [59, 0, 13, 14, 33], backend)) == [59, 0, 13, 14, 33], backend
        except UnreadableVideo as error:
            assert backend == "decord" and "groups of pictures are open" in error.reason


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "mp4"), ("libvpx-vp9", "webm"), ("mpeg4", "avi")])
def test_odd_sizes(tmp_path, painted, numbers_of, codec, suffix):
    path = tmp_path / f"odd.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "20"} if codec != "mpeg4" else {"qscale": "2"})
        stream.height, stream.width, stream.pix_fmt = 65, 97, "yuv444p" if codec == "libx264" else "yuv420p"
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(painted(number, 65, 97), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert video_info(path)[2:4] == (97, 65)
    reference = sequential(path)
    for backend in readers():
        try:
            frames = read_frames(path, [29, 3, 17], backend)
        except UnreadableVideo as error:
            assert backend in ("decord", "torchcodec") and "4:4:4" in error.reason
            continue
        assert frames.shape == (3, 65, 97, 3) and numbers_of(frames) == [29, 3, 17]
        assert np.abs(frames.astype(int) - reference[[29, 3, 17]]).mean() < 2, backend


@pytest.mark.parametrize("name", ["h264_mkv", "vp9", "mpeg4", "mjpeg"])
@pytest.mark.parametrize("length", [40, 3000])
def test_a_gap_in_the_chain_of_frames(numbered_videos, tmp_path, name, length):
    """A demuxer would search for the next frame, and go on as if nothing were missing."""
    content = bytearray(numbered_videos[name].read_bytes())
    with av.open(str(numbered_videos[name])) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos]
    start = places[len(places) // 2] - 10  # over the header in front of a frame
    content[start : start + length] = bytes(length)
    path = tmp_path / numbered_videos[name].name
    path.write_bytes(content)
    for backend in readers():
        with pytest.raises(UnreadableVideo, match="damaged: no frame can be found at byte"):
            read_frames(path, [0], backend)


def test_sound_files_have_no_gap(numbered_videos, research_data):
    files = [
        *numbered_videos.values(),
        *(research_data / "mini").iterdir(),
        *(research_data / "ut-interaction").rglob("*.avi"),
    ]
    for path in files:
        with open(path, "rb") as file:
            assert broken_at(file, path.stat().st_size) is None, path


def chunks_of(path: Path) -> list[bytes]:
    """The packets of a video, in decoding order."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def write_avi(path: Path, source: Path, chunks: list[bytes]) -> Path:
    """An avi of these chunks, one per 1/25 s."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, chunk in enumerate(chunks):
            packet = av.Packet(chunk)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = PICTURE in chunk and kind_of(chunk) == 0
            new.mux(packet)
    return path


def kind_of(chunk: bytes) -> int:
    """0, 1, 2: the (first) picture is of the kind I, P, B."""
    return chunk[chunk.index(PICTURE) + 4] >> 6


def packed(chunks: list[bytes]) -> list[bytes]:
    """As Xvid packs them: a B-frame moves into the chunk in front of it, and a stub stays in place of the last one."""
    out = [b"\x00\x00\x01\xb2DivX503b1393p" + chunks[0]]
    for chunk, following in zip(chunks[1:], [*chunks[2:], None], strict=True):
        followed_by_b = following is not None and kind_of(following) == 2
        if kind_of(chunk) != 2:
            out.append(chunk + following if followed_by_b else chunk)
        else:
            out.append(following if followed_by_b else STUB)
    return out


PLACEHOLDERS = {  # what is done to the packed chunks, and how many of the 90 frames are left
    "packed": (lambda chunks: chunks, 90),
    "one byte for a stub": (lambda chunks: [b"\x7f" if chunk == STUB else chunk for chunk in chunks], 90),
    "one byte at the start": (lambda chunks: [chunks[0], b"\x7f", *chunks[1:]], 90),
    "a stub too many at the end": (lambda chunks: [*chunks, STUB], 90),
    "stubs too many inside": (lambda chunks: [*chunks[:31], STUB, *chunks[31:61], STUB, STUB, *chunks[61:]], 90),
}


@pytest.mark.parametrize("kind", PLACEHOLDERS)
def test_placeholders_of_packed_b_frames_are_no_frames(numbered_videos, tmp_path, numbers_of, kind):
    change, frames = PLACEHOLDERS[kind]
    chunks = packed(chunks_of(numbered_videos["mpeg4_b"]))
    assert chunks.count(STUB) > 20
    path = write_avi(tmp_path / "packed.avi", numbered_videos["mpeg4_b"], change(chunks))
    reference = sequential(path)
    assert len(reference) == video_info(path).frames == frames
    for backend in ("auto", "pyav"):
        assert np.array_equal(read_frames(path, range(frames), backend), reference)
        assert numbers_of(read_frames(path, [frames - 1, 0, 31, 30], backend)) == [89, 0, 31, 30]
    for backend in {"decord", "torchcodec"} & set(readers()):
        with pytest.raises(UnreadableVideo, match="packed B-frames"):
            read_frames(path, [0], backend)


def test_packed_b_frames_without_the_mark(numbered_videos, tmp_path):
    """FFmpeg then drops the second picture of every chunk: what is left is what a player shows."""
    chunks = packed(chunks_of(numbered_videos["mpeg4_b"]))
    chunks[0] = chunks[0].replace(b"1393p", b"1393n")
    path = write_avi(tmp_path / "unmarked.avi", numbered_videos["mpeg4_b"], chunks)
    reference = sequential(path)
    assert len(reference) == video_info(path).frames < 90
    for backend in ("auto", "pyav"):
        assert np.array_equal(read_frames(path, range(len(reference)), backend), reference)


@pytest.mark.parametrize("places", [[31], [31, 32, 61], [90]], ids=str)
def test_dropped_frames_without_b_frames(numbered_videos, tmp_path, places):
    """A stub where the encoder dropped a frame: the one before it is shown longer (FFmpeg repeats it at the end)."""
    chunks = chunks_of(numbered_videos["mpeg4"])
    for place in places:
        chunks.insert(place, STUB)
    path = write_avi(tmp_path / "dropped.avi", numbered_videos["mpeg4"], chunks)
    reference = sequential(path)
    frames = len(reference)
    assert video_info(path).frames == frames == (91 if places == [90] else 90)
    for backend in readers():
        try:
            assert np.abs(read_frames(path, range(frames), backend).astype(int) - reference).mean() < 2, backend
            picked = read_frames(path, [frames - 1, 70, 5], backend)
            assert np.abs(picked.astype(int) - reference[[frames - 1, 70, 5]]).mean() < 2, backend
        except UnreadableVideo:
            assert backend in ("decord", "torchcodec")  # refused, or it misses the frame repeated at the end


def test_small_packets_that_are_pictures(tmp_path, painted):
    """A picture in which nothing moves is as small as a stub."""
    path = tmp_path / "still.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"qscale": "2", "g": "12"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(painted(3, 32, 32), format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        pictures = MpegPictures(container.streams.video[0].codec_context.extradata)
    assert sum(map(pictures.shows, chunks_of(path))) == 30 and pictures.doubtful > 20
    assert video_info(path).frames == 30
    for backend in readers():
        assert read_frames(path, [29, 0, 13], backend).shape == (3, 32, 32, 3)


def test_lost_pictures_are_no_placeholders(numbered_videos, tmp_path):
    """Chunks whose pictures were lost (sound chain, whole file) do not go as stubs, even where there are stubs too."""
    chunks = [*packed(chunks_of(numbered_videos["mpeg4_b"])), STUB]
    for place in (40, 41, 43):
        chunks[place] = PICTURE + b"\x50\x4f" + bytes(40)
    path = write_avi(tmp_path / "lost.avi", numbered_videos["mpeg4_b"], chunks)
    with pytest.raises(UnreadableVideo):
        read_frames(path, [video_info(path).frames - 1])


def test_packets_alone_tell_the_frames_of_ordinary_files(numbered_videos, tmp_path, monkeypatch):
    """Nothing is decoded to count them."""
    files = [numbered_videos["mpeg4"], numbered_videos["mpeg4_b_mp4"]]
    chunks = packed(chunks_of(numbered_videos["mpeg4_b"]))
    files.append(write_avi(tmp_path / "ordinary.avi", numbered_videos["mpeg4_b"], chunks))
    monkeypatch.setattr(scan_module, "_count_by_decoding", lambda path: pytest.fail(f"{path} was decoded"))
    for path in files:
        assert scan_module.scan(str(path)).frames == 90


def test_placeholders_in_real_files(research_data):
    """Every clip of UT-Interaction: packed B-frames, many cut out of longer files."""
    folder = research_data / "ut-interaction"
    with open(folder / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        path, frames = folder / row["file"], int(row["frames"])
        assert video_info(path).frames == frames, path
        assert len(read_frames(path, [frames - 1], short_side=64)) == 1
    for name in ("point/set1_33_6_3.avi", "handshake/set1_41_8_0.avi", "push/set2_46_18_5.avi"):  # stubs too many
        reference = sequential(folder / name)
        picked = [len(reference) - 1, 0, 61, 60, 17]
        for backend in ("auto", "pyav"):
            assert np.array_equal(read_frames(folder / name, picked, backend), reference[picked]), name
