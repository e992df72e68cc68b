"""Images per second and core: tar shards beside plain files, beside the usual Pillow pipeline and webdataset.

All ways give a 224 x 224 (or ``size``) random resized crop, flipped at random. They take turns in every round, in one
process with one thread; the report is the median over rounds and the quartiles.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from benchmark_videos import _surface
from PIL import Image

from diffmae_video.data import ClipDataset, read_manifest, shard_order
from diffmae_video.data.decoders import image_backend
from diffmae_video.data.packed import open_media, shard_of

SCALE, ASPECT = (0.2, 1.0), (3 / 4, 4 / 3)
PHOTO, SMALL = (375, 500), (32, 32)  # the usual size of an ImageNet picture, and CIFAR's
QUALITY = 92


def prepare(cache: Path, name: str, count: int, height: int, width: int) -> tuple[Path, Path]:
    """(folder of JPEG files in 10 class folders, folder of shards with the same files), rendered where missing."""
    folder, shards = cache / f"{name}_{count}", cache / f"{name}_{count}_shards"
    if not (folder / "done").exists():
        rng = np.random.default_rng(0)
        surface = _surface(rng, 1024).astype(np.uint8)
        for number in range(count):
            top, left = rng.integers(1024 - height), rng.integers(1024 - width)
            path = folder / f"class_{number % 10}" / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            view = surface[top : top + height, left : left + width]
            Image.fromarray(view).save(path, quality=QUALITY)
        (folder / "done").touch()
    write_shards(folder, shards, count)
    return folder, shards


def write_shards(folder: Path, shards: Path, count: int) -> None:
    """20 shards, so that the window of 8 is a part of them."""
    script = Path(__file__).parents[1] / "datasets" / "write_shards.py"
    command = [sys.executable, script, "--input", folder, "--output", shards, "--max-count", str(max(1, count // 20))]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


# ---------------------------------------------------------------------------------------------------------------- ways


def ours(source: Path, size: int, seed: int) -> Callable[[], Iterator[object]]:
    """Our dataset over a folder or over shards, in the order in which training reads it."""
    dataset = ClipDataset(read_manifest(source), 1, 1, size, SCALE, ASPECT, horizontal_flip=True, seed=seed)
    order = shard_order(dataset, seed, window=8)

    def epoch() -> Iterator[object]:
        generator = torch.Generator().manual_seed(seed)
        places = order(0) if order else torch.randperm(len(dataset), generator=generator)
        for draw, place in enumerate(places.tolist()):
            yield dataset[(draw, place)].clips

    return epoch


def usual_transform(image: Image.Image, size: int, rng: np.random.Generator) -> torch.Tensor:
    """What torchvision's RandomResizedCrop, RandomHorizontalFlip, ToTensor and Normalize do, with Pillow and torch."""
    width, height = image.size
    box = (0, 0, width, height)
    for _ in range(10):
        area = width * height * rng.uniform(*SCALE)
        ratio = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            box = (left, top, left + w, top + h)
            break
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255) - 0.5) / 0.5


def usual(folder: Path, size: int, seed: int) -> Callable[[], Iterator[object]]:
    """One file after the other, in random order, through the usual pipeline."""
    paths = [entry.path for entry in read_manifest(folder)]

    def epoch() -> Iterator[object]:
        rng = np.random.default_rng(seed)
        for place in rng.permutation(len(paths)):
            with Image.open(paths[place]) as image:
                yield usual_transform(image.convert("RGB"), size, rng)

    return epoch


def webdataset_way(shards: Path, size: int, seed: int) -> Callable[[], Iterator[object]] | None:
    """webdataset reads our shards, the usual pipeline does the rest; None where it is not installed."""
    try:
        import webdataset
    except ImportError:
        return None
    urls = sorted(str(file) for file in shards.glob("*.tar"))

    def epoch() -> Iterator[object]:
        rng = np.random.default_rng(seed)
        for sample in webdataset.WebDataset(urls, shardshuffle=False).shuffle(1000):
            with Image.open(io.BytesIO(sample["jpg"])) as image:
                yield usual_transform(image.convert("RGB"), size, rng)

    return epoch


# ----------------------------------------------------------------------------------------------------------- measuring


def stages(source: Path, size: int, seed: int) -> dict[str, float]:
    """Microseconds per image of our way; time of this process, except for reading from the disk, which is waiting."""
    dataset = ClipDataset(read_manifest(source), 1, 1, size, SCALE, ASPECT, horizontal_flip=True, seed=seed)
    order = shard_order(dataset, seed, window=8)
    places = order(0) if order else torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    paths = [dataset.entry(place).path for place in places.tolist()]
    evict({shard_of(path) or path for path in paths})
    waited = per_image(paths, read_bytes, time.perf_counter)
    read = per_image(paths, read_bytes, time.process_time)
    decoded = per_image(paths, lambda path: image_backend.read(path, None), time.process_time)
    draws = iter(enumerate(places.tolist()))
    whole = per_image(paths, lambda _: dataset[next(draws)], time.process_time)
    return {"read from disk": waited, "read": read, "decode": decoded - read, "crop, resize, rest": whole - decoded}


def read_bytes(path: str) -> None:
    with open_media(path) as file:
        file.read()


def per_image(paths: list[str], function: Callable[[str], object], clock: Callable[[], float]) -> float:
    """Microseconds by ``clock``."""
    started = clock()
    for path in paths:
        function(path)
    return (clock() - started) / len(paths) * 1e6


def evict(paths: set[str]) -> None:
    """Ask the system to drop its copies of these files, so that the next read comes from the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        with contextlib.closing(os.fdopen(descriptor, "rb")):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def speed(epoch: Callable[[], Iterator[object]]) -> float:
    """Images per second of this process's own time: what one core does that has nothing else to do."""
    started = time.process_time()
    count = sum(1 for _ in epoch())
    return count / (time.process_time() - started)


def run(rounds: int, cache: Path, output: Path, count: int, seed: int) -> int:
    """Measure both sizes, print a table, write the report; returns the exit code."""
    torch.set_num_threads(1)
    report: dict[str, object] = {"rounds": rounds, "images": count}
    for name, (height, width), size in (("photo", PHOTO, 224), ("small", SMALL, 32)):
        folder, shards = prepare(cache, name, count, height, width)
        os.sync()  # dirty pages cannot be evicted
        ways = {
            "plain files, ours": ours(folder, size, seed),
            "shards, ours": ours(shards, size, seed),
            "plain files, usual Pillow pipeline": usual(folder, size, seed),
            "shards, webdataset + usual pipeline": webdataset_way(shards, size, seed),
        }
        speeds: dict[str, list[float]] = {way: [] for way, epoch in ways.items() if epoch}
        parts: dict[str, list[dict[str, float]]] = {}
        for _ in range(rounds):
            for way in speeds:
                speeds[way].append(speed(ways[way]))
            for source, path in (("plain files", folder), ("shards", shards)):
                parts.setdefault(source, []).append(stages(path, size, seed))
        report[name] = summary(name, height, width, speeds, parts)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {output}")
    return 0


def summary(
    name: str, height: int, width: int, speeds: dict[str, list[float]], parts: dict[str, list[dict[str, float]]]
) -> dict[str, object]:
    """Print one size's tables, return their numbers."""
    print(f"\n{name}: JPEG {width} x {height}")
    for way, values in speeds.items():
        low, middle, high = np.percentile(values, (25, 50, 75))
        print(f"  {way:38s} {middle:7.0f} images/s ({low:.0f} to {high:.0f})")
    medians = {
        source: {part: float(np.median([value[part] for value in values])) for part in values[0]}
        for source, values in parts.items()
    }
    for key, values in medians.items():
        print(f"  {key:38s} " + "  ".join(f"{part} {value:6.0f} us" for part, value in values.items()))
    return {"images_per_second": speeds, "microseconds": medians}
