"""Re-encode the videos of a dataset so that training reads them several times faster.

    python datasets/reencode.py --input /data/videos --output /data/videos_256 [--split train] [--short-side 256]
                                [--gop 12] [--crf 23] [--workers N] [--path-prefix DIR]

``--input`` is whatever ``DATA.PATH_TO_DATA_DIR`` takes: a folder of videos, a folder with lists, a list. Every video
becomes an H.264 mp4 with the shorter side scaled down to ``--short-side`` (never up), a keyframe every ``--gop``
frames, turned as it is displayed, without sound; ``<output>/<split>.csv`` lists the new files with their labels.

Frame i stays frame i: the number of frames of every new file is compared with its source. The encoding is made for
fast decoding (x264's fastdecode: no arithmetic coding, no deblocking), and frames between keyframes follow one pattern
in which three of four are referred to by no other, so that a clip of every fourth frame decodes half of what it spans;
docs/performance.md has what this gains and costs. The time between frames becomes even (the source's average).

A file appears complete or not at all, and what is there already is not done again: after an interruption, call it
again. Videos that cannot be read are left out of the list, named at the end and in ``<output>/unreadable_<split>.txt``.
Images and folders of frames are listed as they are. Exit codes: 0 done, 2 bad arguments or nothing readable, 130
Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffmae_video.data import NO_LABEL, Entry, UnreadableVideo, read_manifest, video_info
from diffmae_video.data.decoders.common import scaled_size
from diffmae_video.data.decoders.container import import_av, open_video
from diffmae_video.data.decoders.index import VideoIndex, read_index
from diffmae_video.data.decoding import is_image

STAMP = "reencode.json"
# A fixed pattern P b b b: the b are referred to by nothing, and a reader that does not want one skips it.
PATTERN = "bframes=3:b-adapt=0:b-pyramid=none:log-level=none"


class Settings(NamedTuple):
    """How videos are encoded."""

    short_side: int  # pixels; 0 = as it is
    gop: int  # frames from keyframe to keyframe
    crf: int  # x264's quality, 0 (lossless) to 51


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="a folder or a list, as DATA.PATH_TO_DATA_DIR")
    parser.add_argument("--output", type=Path, required=True, help="folder for the new files and their list")
    parser.add_argument("--split", default="train", help="which list of a folder with lists (default train)")
    parser.add_argument("--path-prefix", default="", help="put before relative paths, as DATA.PATH_PREFIX")
    parser.add_argument("--short-side", type=int, default=256, help="pixels, 0 = as it is (default 256)")
    parser.add_argument("--gop", type=int, default=12, help="frames from keyframe to keyframe (default 12)")
    parser.add_argument("--crf", type=int, default=23, help="x264's quality, 0 best to 51 worst (default 23)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parsed = parser.parse_args(arguments)
    if parsed.short_side < 0 or parsed.gop < 1 or not 0 <= parsed.crf <= 51 or parsed.workers < 1:
        parser.error("--short-side must be at least 0, --gop and --workers at least 1, --crf in 0 ... 51")
    return parsed


def reencode(source: str, target: Path, settings: Settings) -> bool:
    """Write ``target`` unless it is there and complete; returns whether it was written.

    Raises:
        UnreadableVideo: the source does not decode, or decodes to another number of frames than it lists.
        FileNotFoundError: there is no such source.
    """
    index = read_index(source)
    if target.exists() and _frames_in(target) == index.frames:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp.mp4")
    try:
        _encode(source, temporary, index, settings)
        written = _frames_in(temporary)
        if written != index.frames:
            raise UnreadableVideo(source, f"lists {index.frames} frames, but {written} were written")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _frames_in(path: Path) -> int:
    """Number of frames; 0 for a file that is no video."""
    try:
        return video_info(path).frames
    except UnreadableVideo:
        return 0


def _encode(source: str, path: Path, index: VideoIndex, settings: Settings) -> None:
    av = import_av()
    width, height = scaled_size(index.width, index.height, settings.short_side)
    width, height = width + width % 2, height + height % 2  # yuv420p holds even sizes only
    options = {"crf": str(settings.crf), "preset": "medium", "tune": "fastdecode", "threads": "1"}
    options["x264-params"] = f"{PATTERN}:keyint={settings.gop}:min-keyint={settings.gop}:scenecut=0"
    rate = Fraction(index.fps).limit_denominator(60000)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = 1 / rate
        for number, picture in enumerate(_pictures(source, index, width, height)):
            picture.pts, picture.time_base = number, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _pictures(source: str, index: VideoIndex, width: int, height: int) -> Iterator:
    """The frames as they are displayed, yuv420p of the given size, without the source's marks of frame types."""
    av = import_av()
    turn = index.orientation
    if turn.transpose:
        width, height = height, width
    with open_video(source) as (container, stream):
        for frame in container.decode(stream):
            scaled = frame.reformat(width=width, height=height, format="yuv420p", interpolation="AREA", threads=1)
            if turn.transpose or turn.reverse_rows or turn.reverse_columns:
                upright = np.ascontiguousarray(turn.apply(scaled.to_ndarray(format="rgb24")))
                scaled = av.VideoFrame.from_ndarray(upright, format="rgb24")
            scaled.pict_type = (
                av.video.frame.PictureType.NONE
            )  # else the encoder would make keyframes where the source has them
            yield scaled


def is_video(path: str) -> bool:
    """Neither an image nor a folder of frames."""
    return not is_image(path) and not os.path.isdir(path)


def targets(entries: Sequence[Entry], source: Path, output: Path, split: str) -> list[Path]:
    """Where every entry goes: the same folders below ``output`` as below the list or folder ``source``."""
    paths = [Path(os.path.abspath(entry.path)) for entry in entries]
    root = Path(os.path.abspath(source if source.is_dir() else source.parent))
    if not all(path.is_relative_to(root) for path in paths):
        root, output = Path(os.path.commonpath([path.parent for path in paths])), output / split
    found = [output / path.relative_to(root) for path in paths]
    stems: dict[Path, set[str]] = {}
    for path in found:
        stems.setdefault(path.with_suffix(""), set()).add(path.suffix)
    # a.avi beside a.mp4: both keep their suffix in the new name
    return [
        path.with_suffix(".mp4") if len(stems[path.with_suffix("")]) == 1 else path.with_name(path.name + ".mp4")
        for path in found
    ]


def check_stamp(output: Path, settings: Settings) -> None:
    """Files of other settings must not be taken for done.

    Raises:
        ValueError: ``output`` was filled with other settings.
    """
    output.mkdir(parents=True, exist_ok=True)
    stamp = output / STAMP
    if stamp.exists():
        before = Settings(**json.loads(stamp.read_text()))
        if before != settings:
            raise ValueError(f"{output} holds files of {before}; choose another --output, or the same settings")
    else:
        stamp.write_text(json.dumps(settings._asdict()) + "\n")


def write_list(output: Path, split: str, rows: Sequence[tuple[str, int]]) -> Path:
    """``<output>/<split>.csv``: ``path label`` lines, the label left out where there is none."""
    path = output / f"{split}.csv"
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(f"{file} {label}\n" if label != NO_LABEL else f"{file}\n" for file, label in rows))
    os.replace(temporary, path)
    return path


def run(options: argparse.Namespace) -> int:
    settings = Settings(options.short_side, options.gop, options.crf)
    entries = read_manifest(options.input, options.split, options.path_prefix)
    check_stamp(options.output, settings)
    places = targets(entries, options.input, options.output, options.split)
    # one job per file: a list may name a file twice
    jobs = {place: entry.path for entry, place in zip(entries, places, strict=True) if is_video(entry.path)}
    problems = encode_all(jobs, settings, options.workers)
    rows = [
        (os.path.relpath(place, options.output) if place in jobs else os.path.abspath(entry.path), entry.label)
        for entry, place in zip(entries, places, strict=True)
        if place not in problems
    ]
    report = options.output / f"unreadable_{options.split}.txt"
    report.write_text("".join(f"{message}\n" for message in problems.values()))
    for message in problems.values():
        print(f"unreadable: {message}", file=sys.stderr)
    if not rows:
        print("error: none of the videos could be read", file=sys.stderr)
        return 2
    path = write_list(options.output, options.split, rows)
    print(f"{path}: {len(rows)} files, {len(entries) - len(rows)} left out ({report})")
    return 0


def encode_all(jobs: dict[Path, str], settings: Settings, workers: int) -> dict[Path, str]:
    """Runs all jobs in ``workers`` processes; returns what could not be read: target -> message."""
    problems: dict[Path, str] = {}
    started, shown, written, size = time.monotonic(), 0.0, 0, [0, 0]
    with ProcessPoolExecutor(workers) as pool:
        futures = {pool.submit(reencode, source, place, settings): place for place, source in jobs.items()}
        for done, future in enumerate(as_completed(futures), start=1):
            place = futures[future]
            try:
                written += future.result()
                size = [size[0] + os.path.getsize(jobs[place]), size[1] + place.stat().st_size]
            except (UnreadableVideo, FileNotFoundError) as error:
                problems[place] = str(error)
            if time.monotonic() - shown > 2 or done == len(jobs):
                shown = time.monotonic()
                print(f"{done} of {len(jobs)} files, {len(problems)} unreadable, {shown - started:.0f} s", flush=True)
    print(f"{written} written, {len(jobs) - written - len(problems)} were there; {size[0]:,} -> {size[1]:,} bytes")
    return problems


def main() -> int:
    try:
        return run(parse_arguments())
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
