"""From nothing to an inpainted video: renders a sample set, pre-trains a small DiffMAE on it, inpaints held-out clips.

    python tools/demo.py

It types three commands for you and prints each of them, so that you can go on from there with your own data. A run
that was stopped goes on where it was; what is complete is not done again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA, CONFIG, RUN = Path("data_demo/motion"), Path("configs/demo/pretrain.yaml"), Path("runs/demo")
# Camera paths that were not trained on, over photographs that were; and over photographs that were not.
HELD_OUT = ("val", "unseen")
MASK = ("--mask", "tube", "--stride", "2", "--steps", "5")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder of the rendered set (default {DATA})")
    parser.add_argument("--output", type=Path, default=RUN, help=f"folder of the run (default {RUN})")
    parser.add_argument("--clips", type=int, default=400, help="clips to render (default 400)")
    parser.add_argument("--inpaint", type=int, default=3, help="clips to inpaint of each held-out split (default 3)")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config overrides, e.g. SOLVER.MAX_STEPS 50")
    return parser.parse_args(arguments)


def run(*command: str | Path) -> None:
    """Runs a Python command of this repository, shown as a person would type it; ends the demo if it fails."""
    words = [str(word) for word in command]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    status = subprocess.run([sys.executable, *words], cwd=ROOT).returncode
    if status:
        raise SystemExit(status)


def held_out_clips(data: Path, count: int) -> list[Path]:
    """Clips that were not trained on, ``count`` of each split, spread over its list."""
    clips = []
    for split in HELD_OUT:
        lines = (ROOT / data / f"{split}.csv").read_text().splitlines()
        clips += [data / lines[i * len(lines) // count].rpartition(" ")[0] for i in range(count)]
    return clips


def summary(results: dict[str, dict[str, float]]) -> str:
    """Table of the PSNR (dB) inside the mask: a row per clip, named split/clip, and a mean per split."""
    fills = list(next(iter(results.values())))
    rows = [("PSNR inside the mask (dB)", *fills)]
    for split in HELD_OUT:
        clips = {name: values for name, values in results.items() if name.startswith(f"{split}/")}
        rows += [(name, *(f"{values[fill]:.2f}" for fill in fills)) for name, values in clips.items()]
        means = (statistics.mean(values[fill] for values in clips.values()) for fill in fills)
        rows.append((f"mean of {split}", *(f"{mean:.2f}" for mean in means)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))] for row in rows)
    return "\n".join("  ".join(line) for line in lines)


def main() -> None:
    options = parse()
    started = time.monotonic()
    run("datasets/render_motion_set.py", "--output", options.data, "--clips", str(options.clips))
    train = ["tools/run_net.py", "--cfg", CONFIG, "DATA.PATH_TO_DATA_DIR", options.data, "OUTPUT_DIR", options.output]
    run(*train, *options.overrides)
    results, folder = {}, options.output / "inpainted"
    for clip in held_out_clips(options.data, options.inpaint):
        file = folder / f"{clip.parent.name}_{clip.name}"
        files = ["--output", file, "--sheet", file.with_suffix(".png"), "--metrics", file.with_suffix(".json")]
        run("tools/inpaint.py", "--weights", options.output, "--input", clip, *MASK, *files)
        results[f"{clip.parent.name}/{clip.stem}"] = json.loads((ROOT / file.with_suffix(".json")).read_text())["psnr"]
    print(f"\n{summary(results)}\n(val: photographs seen in training, camera paths not; unseen: neither)")
    print(f"\nmasked input | inpainted | original, in {time.monotonic() - started:.0f} s:")
    for video in sorted((ROOT / folder).glob("*.mp4")):
        print(f"  {video}\n  {video.with_suffix('.png')}")


if __name__ == "__main__":
    main()
