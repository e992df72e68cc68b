"""Memory over thousands of opens: every decoder by itself, and "auto" in the process that a time limit brings.

    python tests/soak/decoder_memory.py                      # 5,000 opens of each, a few minutes
    python tests/soak/decoder_memory.py --opens 500 --decoders pyav
    python tests/soak/decoder_memory.py --data /data/videos  # a folder of your own files instead of rendered ones

Every open finds the frames of the file anew (nothing is remembered from the last time) and reads four of them; every
tenth file is damaged. The table shows resident memory after a warm-up of a tenth of the opens, and at the end. Exit
code 1 if any grew by more than --limit MB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

DECODERS = ("decord", "torchcodec", "pyav", "auto", "auto in a decoding process")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opens", type=int, default=5000)
    parser.add_argument("--decoders", nargs="+", default=DECODERS, choices=DECODERS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=float, default=30, help="MB")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the child process that measures one decoder
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.data, arguments.opens)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or render(Path(folder))
        print(f"{'decoder':28} {'opens':>6} {'read':>6} {'warm MB':>8} {'end MB':>8} {'growth MB':>10} {'per open':>9}")
        growths = [report(decoder, data, arguments.opens) for decoder in arguments.decoders]
    return int(max(growths) > arguments.limit)


def render(folder: Path) -> Path:
    """Eleven small videos: H.264, MPEG-4 and VP9, with one of them cut short."""
    import av
    import numpy as np

    numbers = np.random.default_rng(0)
    frames = np.repeat(np.repeat(numbers.integers(0, 255, (64, 30, 40, 3), np.uint8), 8, 1), 8, 2)
    for number in range(10):
        codec, suffix = (("libx264", "mp4"), ("mpeg4", "avi"), ("libvpx-vp9", "webm"))[number % 3]
        with av.open(str(folder / f"video_{number}.{suffix}"), "w") as container:
            stream = container.add_stream(codec, rate=25, options={"g": "16", "cpu-used": "8", "bf": "0"})
            stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
            for frame in np.roll(frames, number, axis=0):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
    whole = (folder / "video_0.mp4").read_bytes()
    (folder / "video_x.mp4").write_bytes(whole[: len(whole) // 2])
    return folder


def report(decoder: str, data: Path, opens: int) -> float:
    """Prints a line about one decoder, measured in a process of its own; returns the growth in MB."""
    command = [sys.executable, __file__, "--only", decoder, "--data", str(data), "--opens", str(opens)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    warm, end, read = json.loads(result.stdout.splitlines()[-1])
    if not read:
        print(f"{decoder:28} not installed here, or no file that it reads")
        return 0.0
    per_open = 1000 * (end - warm) / (0.9 * opens)
    print(
        f"{decoder:28} {opens:6d} {read:6d} {warm:8.1f} {end:8.1f} {end - warm:+10.1f} {per_open:+6.2f} kB", flush=True
    )
    return end - warm


def measure(decoder: str, data: Path, opens: int) -> tuple[float, float, int]:
    """(MB after a tenth of the opens, MB after all of them, opens that gave frames)."""
    from diffmae_video.data import UnreadableVideo, read_frames, video_info, watchdog

    files = sorted(str(path) for path in data.iterdir() if path.is_file())
    backend, timeout = decoder.split()[0], 60 if "process" in decoder else 0
    read, warm, process = 0, 0.0, os.getpid()
    for number in range(opens):
        with contextlib.suppress(UnreadableVideo, ImportError):
            path = files[number % len(files)]
            forget(timeout)
            frames = video_info(path, backend, timeout).frames
            read_frames(path, [0, frames // 3, frames // 2, frames - 1], backend, timeout=timeout)
            read += 1
        if timeout and not number:
            process = watchdog.run(os.getpid, timeout=timeout)
        if number + 1 == opens // 10:
            warm = resident(process)
    return warm, resident(process), read


def forget(timeout: float) -> None:
    """Empties the memory of indices, where the decoding happens."""
    from diffmae_video.data import watchdog
    from diffmae_video.data.decoders import index

    if timeout:
        watchdog.run(index.forget, timeout=timeout)
    else:
        index.forget()


def resident(process: int) -> float:
    """MB of memory in use by a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(main())
