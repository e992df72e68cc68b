"""Render the motion set: short H.264 clips of known motions over real photographs, labelled by the motion.

    python datasets/render_motion_set.py --output DIR [--clips 400] [--size 96] [--frames 24] [--seed 0] [--workers N]

Nothing is downloaded: the photographs are files inside the scikit-image and scikit-learn packages. A clip is a square
view moving over one photograph on which a cut-out of a second one lies. There are ten classes in five opposite pairs:
the camera pans left / right / up / down, zooms in / out or rolls left / right, or the cut-out moves left / right while
the camera drifts slowly in any direction. The class cannot be read off one frame: every clip has a cut-out, views of
all classes are drawn from the same ranges of position, size and angle, and opposite classes are each other's paths
played backwards.

Splits (shares of ``--clips``; classes balanced in each, photographs as evenly as the counts allow):

* ``train.csv``, 80 %;
* ``val.csv``, 10 %: camera paths that do not occur in train, over the same photographs;
* ``unseen.csv``, 10 %: background and cut-out from photographs that never occur in train or val.

Every CSV has Kinetics-style lines ``path label``, paths relative to the CSV; ``labels.csv`` names the classes. The set
is a function of the arguments. A complete set rendered with the same arguments is left alone (a stamp file tells); an
incomplete one, or one of other arguments, is rendered again.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from motion_scene import CLASSES, VIEW_SIDE, draw_scene, render
from PIL import Image

from diffmae_video.data.writing import write_video

VERSION = 2  # raised whenever the same arguments give other clips, so that old sets are rendered again
STAMP, STARTED = "motion_set.json", "motion_set.unfinished"
FPS = 12
# Sharpness of the photographs, 1 = as sharp as a clip can show. Soft pictures are what a network that trains for a few
# minutes can learn to continue: at 1, neighbouring 8 x 8 patches say little about each other.
DETAIL = 0.25

# (package, file inside it, crop box as shares of width and height). Few photographs, all with large shapes: a small
# network gets to know them within minutes.
SEEN = [
    ("sklearn", "datasets/images/china.jpg", (0, 0, 1, 1)),
    ("skimage", "data/astronaut.png", (0, 0, 1, 1)),
    ("sklearn", "datasets/images/flower.jpg", (0, 0, 1, 1)),
    ("skimage", "data/chelsea.png", (0, 0, 1, 1)),
    ("skimage", "data/coffee.png", (0, 0, 1, 1)),
]
UNSEEN = [
    ("skimage", "data/motorcycle_left.png", (0, 0, 1, 1)),
    ("skimage", "data/rocket.jpg", (0, 0, 1, 1)),
    ("skimage", "data/camera.png", (0, 0, 1, 1)),
]
SPLITS = {"train": (0.8, SEEN), "val": (0.1, SEEN), "unseen": (0.1, UNSEEN)}


def photograph_path(package: str, file: str) -> Path:
    """Where the photograph lies; the package is located but not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not (path := Path(spec.origin).parent / file).is_file():
        distribution = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
        raise SystemExit(
            f"error: the photograph {file} of the Python package {distribution} was not found; "
            f"install it with: pip install {distribution}"
        )
    return path


def load_photograph(source: tuple[str, str, tuple[float, ...]], size: int) -> torch.Tensor:
    """One photograph as float (3, H, W) in [0, 255]; a mid-sized view of it holds ``DETAIL * size`` pixels a side.

    Scaling down with a wide filter beforehand is what keeps the rendered motion free of flicker.
    """
    package, file, (left, top, right, bottom) = source
    image = Image.open(photograph_path(package, file)).convert("RGB")
    image = image.crop(
        (round(left * image.width), round(top * image.height), round(right * image.width), round(bottom * image.height))
    )
    scale = DETAIL * size / (sum(VIEW_SIDE) / 2) / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(image, np.float32).copy()).permute(2, 0, 1)


@dataclass(frozen=True)
class Job:
    """One clip to render."""

    split: str
    index: int
    name: str
    arguments: tuple[str, int, int, int]  # output, size, frames, seed

    @property
    def file(self) -> str:
        return f"{self.split}/{self.name}_{self.index:05d}.mp4"


_photographs: dict[tuple[str, str], torch.Tensor] = {}  # of one worker process: loaded once per process


def render_job(job: Job) -> None:
    """Render and write one clip; its randomness derives from (seed, split, index) alone."""
    torch.set_num_threads(1)
    output, size, frames, seed = job.arguments
    sources = SPLITS[job.split][1]
    for source in sources:
        if source[:2] not in _photographs:
            _photographs[source[:2]] = load_photograph(source, size)
    rng = np.random.default_rng([seed, list(SPLITS).index(job.split), job.index])
    # Shifted by one photograph from class to class, so that few clips already show every photograph, and in each full
    # round of len(sources) * len(CLASSES) clips every class meets every photograph once.
    background = (job.index // len(CLASSES) + job.index) % len(sources)
    other = (background + rng.integers(1, len(sources))) % len(sources)
    photograph, texture = (_photographs[sources[i][:2]] for i in (background, other))
    scene = draw_scene(rng, job.name, frames, photograph.shape[2] / photograph.shape[1])
    write_video(Path(output) / job.file, render(scene, photograph, texture, size), fps=FPS, gop=FPS)


def plan(output: Path, clips: int, size: int, frames: int, seed: int) -> list[Job]:
    """All clips of the set, classes in turn within each split."""
    names = list(CLASSES)
    counts = {split: round(clips * share) for split, (share, _) in SPLITS.items()}
    counts["train"] += clips - sum(counts.values())
    return [
        Job(split, i, names[i % len(names)], (str(output), size, frames, seed))
        for split, count in counts.items()
        for i in range(count)
    ]


def write_lists(output: Path, jobs: list[Job]) -> None:
    """train.csv, val.csv, unseen.csv and labels.csv."""
    names = list(CLASSES)
    for split in SPLITS:
        lines = [f"{job.file} {names.index(job.name)}\n" for job in jobs if job.split == split]
        (output / f"{split}.csv").write_text("".join(lines))
    with (output / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["label", "name", "meaning"])
        writer.writerows([i, name, meaning] for i, (name, meaning) in enumerate(CLASSES.items()))


def is_complete(output: Path, stamp: dict[str, int], jobs: list[Job]) -> bool:
    """Whether ``output`` holds a finished set of these very arguments."""
    try:
        found = json.loads((output / STAMP).read_text())
    except (OSError, json.JSONDecodeError):
        return False
    lists = [f"{split}.csv" for split in SPLITS] + ["labels.csv"]
    return found == stamp and all((output / file).is_file() for file in lists + [job.file for job in jobs])


def clear(output: Path) -> None:
    """Make ``output`` ready for rendering; what an earlier run left there is removed, nothing else ever is."""
    output.mkdir(parents=True, exist_ok=True)
    ours = (output / STAMP).exists() or (output / STARTED).exists()
    if not ours and any(output.iterdir()):
        raise SystemExit(f"error: {output} is not empty and holds no motion set; give a new folder as --output")
    (output / STARTED).touch()
    (output / STAMP).unlink(missing_ok=True)
    for split in SPLITS:
        (output / split).mkdir(exist_ok=True)
        for path in (output / split).glob("*.mp4"):
            path.unlink()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the set; made if it does not exist")
    parser.add_argument("--clips", type=int, default=400, help="clips in all three splits together (default 400)")
    parser.add_argument("--size", type=int, default=96, help="width and height of a clip, pixels, even (default 96)")
    parser.add_argument("--frames", type=int, default=24, help="frames of a clip (default 24)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other paths and cut-outs (default 0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    options = parser.parse_args(arguments)
    minimum = 10 * len(CLASSES)
    if options.clips < minimum:
        parser.error(f"--clips {options.clips}: at least {minimum} are needed for every class to occur in every split")
    if options.size < 16 or options.size % 2:
        parser.error(f"--size {options.size}: expected an even number of at least 16 pixels")
    if options.frames < 2 or options.workers < 1 or options.seed < 0:
        parser.error("expected --frames of at least 2, --workers of at least 1 and --seed of at least 0")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    started = time.perf_counter()
    stamp = {"version": VERSION, **{key: getattr(options, key) for key in ("clips", "size", "frames", "seed")}}
    jobs = plan(options.output, options.clips, options.size, options.frames, options.seed)
    if is_complete(options.output, stamp, jobs):
        print(f"{options.output} already holds this motion set ({len(jobs)} clips); nothing to do")
        return
    for package, file, _ in SEEN + UNSEEN:
        photograph_path(package, file)  # a missing package shows here, before anything is removed or written
    clear(options.output)
    with multiprocessing.Pool(options.workers) as pool:
        for _ in pool.imap_unordered(render_job, jobs, chunksize=4):
            pass
    write_lists(options.output, jobs)
    (options.output / STAMP).write_text(json.dumps(stamp) + "\n")
    (options.output / STARTED).unlink()
    print(f"rendered {len(jobs)} clips into {options.output} in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
