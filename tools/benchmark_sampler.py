"""``benchmark.py sampler``: seconds per inpainted clip, where they go, and what encoding once is worth.

Ways of the same reverse chain take turns in every round, in float32 and in bfloat16:

* ours: ``inpaint`` with ``overlap="none"``: encoder, keys and values once, then one decoder pass a step;
* ours, overlap: ``inpaint`` as it is by default, with patches that overlap in time: more windows;
* keys and values again: the encoder once, the decoder's reading of what it says at every step;
* naive: all of it at every step.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from diffmae_video.benchmarking import Spread, describe_machine, format_table, interleave, write_report
from diffmae_video.build import build_model
from diffmae_video.config import load_config
from diffmae_video.diffusion import randn, sample
from diffmae_video.engine import select_device
from diffmae_video.engine.wrapping import autocast
from diffmae_video.inpainting import inpaint
from diffmae_video.models import DiffMAE, mask_indices, tokens_to_pixel_mask
from diffmae_video.models.masked_autoencoder import Context
from diffmae_video.models.patches import gather_patches, gather_tokens, patchify

WAYS = ("ours", "ours, overlap", "keys and values again", "naive")
PARTS = ("encoder", "keys and values", "decoder", "sampler and pixels")


class Work(NamedTuple):
    """What every way computes."""

    model: DiffMAE
    clips: torch.Tensor  # (B, C, T, H, W) uint8
    tokens: torch.Tensor  # (B, N) bool, True = hidden
    steps: int
    sampler: str
    seed: int

    @property
    def device(self) -> torch.device:
        return self.clips.device


def make_work(model: DiffMAE, batch: int, steps: int, sampler: str, seed: int, device: torch.device) -> Work:
    generator = torch.Generator().manual_seed(seed)
    clips = torch.randint(0, 256, (batch, *model.clip_shape), dtype=torch.uint8, generator=generator)
    tokens = model.make_mask(batch, [torch.Generator(device).manual_seed(seed + i) for i in range(batch)])
    return Work(model, clips.to(device), tokens, steps, sampler, seed)


def fill(work: Work, way: str, precision: str) -> torch.Tensor:
    """The inpainted clips (of our ways), or the hidden patches (B, M, P) that come out of the other ways."""
    with torch.no_grad(), autocast(precision, work.device):
        if way.startswith("ours"):
            overlap = "time" if way == "ours, overlap" else "none"
            pixels = tokens_to_pixel_mask(work.tokens, work.model.grid, work.model.patch_size)
            return inpaint(work.model, work.clips, pixels, work.steps, work.sampler, work.seed, overlap=overlap)
        return _chain(work, way)


def _chain(work: Work, way: str) -> torch.Tensor:
    """The chain of ``inpaint``, with more done at every step than needs to be."""
    model, (visible, hidden) = work.model, mask_indices(work.tokens)
    patches = gather_patches(model.normalize(work.clips), visible, model.patch_size)

    def encode() -> list[torch.Tensor]:
        return model.encoder.features(patches, visible, last=model.decoder.feature_layers)

    def denoise(features: list[torch.Tensor], x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        context = Context(model.decoder.prepare(features, visible), hidden, model.decoder.positions(hidden))
        return model.denoise(context, x_t, t)

    once = encode() if way == "keys and values again" else None
    generators = [torch.Generator(work.device).manual_seed(work.seed + i) for i in range(len(work.clips))]
    noise = patchify(randn(work.clips.shape, generators, work.device), model.patch_size)
    return sample(
        lambda x_t, t: denoise(encode() if once is None else once, x_t, t),
        gather_tokens(noise, hidden),
        model.schedule,
        steps=work.steps,
        sampler=work.sampler,
        prediction=model.prediction,
        clamp=(-1, 1),
        generator=generators,
    )


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def parts(work: Work, precision: str) -> dict[str, float]:
    """Seconds that one run of ours spends in each of ``PARTS``."""
    seconds: defaultdict[str, float] = defaultdict(float)
    model = work.model

    def timed(part: str, function: Callable, *arguments: object, **options: object) -> object:
        started = now(work.device)
        result = function(*arguments, **options)
        seconds[part] += now(work.device) - started
        return result

    places = {
        "encoder": (model.encoder, "features"),
        "keys and values": (model.decoder, "prepare"),
        "decoder": (model, "denoise"),
    }
    try:
        for part, (owner, name) in places.items():
            setattr(owner, name, partial(timed, part, getattr(owner, name)))
        started = now(work.device)
        fill(work, "ours", precision)
        total = now(work.device) - started
    finally:
        for owner, name in places.values():
            owner.__dict__.pop(name, None)  # the method itself is the class's
    seconds["sampler and pixels"] = total - sum(seconds.values())
    return {part: seconds[part] for part in PARTS}


def largest_difference(work: Work) -> float:
    """Between our clips and those of the naive way, in grey levels, float32."""
    model, (_, hidden) = work.model, mask_indices(work.tokens)
    ours = gather_tokens(patchify(fill(work, "ours", "fp32").float(), model.patch_size), hidden)
    naive = fill(work, "naive", "fp32")  # in [-1, 1], as raw targets of a DiffMAE always are
    return (ours - (naive + 1) * 127.5).abs().max().item()


def run(
    config: Path,
    overrides: Sequence[str],
    rounds: int,
    batch: int,
    steps: int,
    sampler: str,
    precisions: Sequence[str],
    output: Path,
    seed: int,
) -> int:
    """Measures, prints two tables and writes the report; returns the exit code."""
    cfg = load_config([config], overrides)
    device, model = select_device(cfg.DEVICE), build_model(cfg)
    if not isinstance(model, DiffMAE):
        raise ValueError(f"{config} is no DiffMAE, the model that samples: choose a pre-training recipe of one")
    work = make_work(model.to(device).eval(), batch, steps, sampler, seed, device)
    candidates = {
        (way, precision): lambda number, way=way, precision=precision: (fill(work, way, precision), now(device))
        for way in WAYS
        for precision in precisions
    }
    seconds = interleave(candidates, rounds)
    rows = []
    for way, precision in candidates:
        own, ours = seconds[way, precision], seconds["ours", precisions[0]]
        ratio = Spread.of(own_second / our_second for own_second, our_second in zip(own, ours, strict=True))
        rows.append([f"{way}, {precision}", Spread.of(second / batch for second in own), ratio])
    print(f"{config}, {batch} clips, {sampler}, {steps} steps, {torch.get_num_threads()} threads; {rounds} rounds\n")
    print(format_table(["way", "seconds per clip", f"times ours in {precisions[0]}"], rows))
    split = {precision: _shares([parts(work, precision) for _ in range(rounds)]) for precision in precisions}
    print()
    lines = [[part, *(split[precision][part] for precision in precisions)] for part in PARTS]
    print(format_table(["share of our time", *precisions], lines))
    difference = largest_difference(work)
    print(f"\nlargest difference between our pixels and the naive way's: {difference:.2f} grey levels (of 255)")
    report = {
        "benchmark": "sampler",
        **describe_machine(["torch", "numpy"]),
        "config": {
            "file": str(config), "overrides": list(overrides), "rounds": rounds, "batch": batch, "steps": steps,
            "sampler": sampler, "seed": seed, "device": str(device), "threads": torch.get_num_threads(),
            "visible": int((~work.tokens[0]).sum()), "hidden": int(work.tokens[0].sum()),
        },
        "figures": [{"way": row[0], "seconds_per_clip": row[1], "ratio": row[2]} for row in rows],
        "shares": split,
        "largest_difference": difference,
    }  # fmt: skip
    write_report(output, report)
    print(f"\n{output}")
    return 0


def _shares(runs: Sequence[dict[str, float]]) -> dict[str, str]:
    """Of every part, the median over runs of its share, in percent."""
    shares = {part: Spread.of(100 * run[part] / sum(run.values()) for run in runs).median for part in PARTS}
    return {part: f"{share:.1f} %" for part, share in shares.items()}
