"""The videos of the loader's benchmark: 340 x 256, 30 frames per second, H.264, rendered once into a folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffmae_video.data.decoders.container import import_av

HEIGHT, WIDTH, FPS = 256, 340, 30
NOISE = 12.0  # standard deviation of the heavy film's grain, of 255
HEAVY_BITS_PER_SECOND = 5_000_000


def scene(count: int, noise: float) -> Iterator[np.ndarray]:
    """Frames uint8 (256, 340, 3): a camera moves over a landscape, a disc of another one over it; ``noise`` = grain.

    Surfaces have the spectrum of natural pictures (amplitude falls with frequency).
    """
    rng = np.random.default_rng(0)
    background, surface = _surface(rng, 768), _surface(rng, 512)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for time in range(count):
        frame = _window(background, 200 + 40 * np.cos(time / 61), 200 + 60 * np.sin(time / 47))
        row, column = 128 + 50 * np.cos(time / 31), 170 + 80 * np.sin(time / 23)
        inside = np.clip((55 - np.hypot(columns - column, rows - row)) / 1.5 + 0.5, 0, 1)[..., None]
        frame = inside * _window(surface, 250 - row, 260 - column) + (1 - inside) * frame
        if noise:
            frame = frame + rng.normal(0, noise, (HEIGHT, WIDTH, 1))
        yield np.clip(frame, 0, 255).astype(np.uint8)


def _surface(rng: np.random.Generator, size: int) -> np.ndarray:
    """float (size, size, 3), 0 to 255."""
    frequency = np.hypot(np.fft.rfftfreq(size)[None], np.fft.fftfreq(size)[:, None])
    frequency[0, 0] = 1
    channels = []
    for _ in range(4):
        wave = (rng.standard_normal(frequency.shape) + 1j * rng.standard_normal(frequency.shape)) / frequency**1.25
        channel = np.fft.irfft2(wave, (size, size))
        channels.append((channel - channel.mean()) / channel.std())
    return np.clip(128 + 45 * np.stack([0.8 * channels[3] + 0.4 * c for c in channels[:3]], -1), 0, 255)


def _window(surface: np.ndarray, top: float, left: float) -> np.ndarray:
    """The region at a fractional place, bilinear."""
    row, column = int(top), int(left)
    down, right = top - row, left - column
    region = surface[row : row + HEIGHT + 1, column : column + WIDTH + 1]
    region = (1 - down) * region[:-1] + down * region[1:]
    return (1 - right) * region[:, :-1] + right * region[:, 1:]


def prepare(cache: Path, frames: int) -> dict[str, Path]:
    """light: few keyframes, low bitrate; heavy: the same with grain, 5 Mb/s; reencoded: that by datasets/reencode.py.

    Returns:
        kind -> file. What is there already is not rendered again.
    """
    folder = cache / f"{frames}_frames"
    light, heavy = folder / "light" / "video.mp4", folder / "heavy" / "video.mp4"
    if not light.exists():
        _encode(light, scene(frames, 0), {"crf": "28"})
    if not heavy.exists():
        _encode(heavy, scene(frames, NOISE), {"b": str(HEAVY_BITS_PER_SECOND)})
    script = Path(__file__).resolve().parent.parent / "datasets" / "reencode.py"
    output = folder / "reencoded"
    command = [sys.executable, str(script), "--input", str(heavy.parent), "--output", str(output), "--workers", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"light": light, "heavy": heavy, "reencoded": output / "video.mp4"}


def _encode(path: Path, frames: Iterator[np.ndarray], options: dict[str, str]) -> None:
    av = import_av()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "medium", "threads": "1", **options})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    temporary.replace(path)
