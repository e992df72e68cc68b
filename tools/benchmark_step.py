"""``benchmark.py step``: seconds per clip of a pre-training step, against VideoMAE of ``transformers``.

Forward and backward pass (or whole optimiser steps) of networks with the same encoder take turns on the same uint8
clips, with as many hidden tokens; the pixels' way into the network is part of a step in both programs. Ours draws its
masks, timesteps and noise inside of it, VideoMAE is given its masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from step_batch import largest_batch, margin
from step_profile import Profile, profile_step
from step_report import Case, Findings, make_figure, make_goals, plain, print_profiles, print_tables
from step_ways import Program, Way, Workshop, make_ways, select

from diffmae_video.benchmarking import describe_machine, interleave, write_report
from diffmae_video.engine.flops import measured_peak

PEAK_MEASUREMENTS = 3
GIB = 2**30


def run(
    config: Path,
    overrides: Sequence[str],
    rounds: int,
    batch: int,
    precisions: Sequence[str],
    ways: Sequence[str],
    compiled: bool,
    optimizer_step: bool,
    profile: bool,
    output: Path,
) -> int:
    """Measures, prints tables and writes the report; returns the exit code.

    Args:
        batch: clips per step; 0 = for every case the largest that fits into the memory of a GPU.
        ways: patterns of the ways' names; empty = all of them.
        compiled: every way once more with torch.compile.
        optimizer_step, profile: whole optimiser steps; also where their time goes.
    """
    workshop, notes = Workshop(config, overrides, optimizer_step), []
    device = workshop.device
    if batch == 0 and device.type != "cuda":
        raise ValueError(f"--batch 0 fills a GPU's memory, and this runs on {device}: give a number, such as --batch 2")
    chosen = select(make_ways(workshop.cfg), ways or ["*"])
    programs, flops = _programs(workshop, chosen, precisions, compiled)
    batches = _batches(programs, batch, device, notes)
    candidates = {case: partial(_step, programs[case], case, size) for case, size in batches.items()}
    peaks = {precision: _peak(device, precision) for precision in precisions}
    seconds = _seconds(candidates, batches, rounds)
    memory = {case: _memory(candidates[case], programs[case], device) for case in candidates}
    of_all = (chosen[0].name, seconds, peaks)
    figures = [make_figure(case, batches[case], flops[case.way], memory[case], *of_all) for case in seconds]
    found = Findings(_settings(workshop, rounds, batch), peaks, figures, make_goals(chosen, seconds), notes)
    print_tables(found)
    profiles = _profiles(candidates, device) if profile else {}
    write_report(output, {"benchmark": "step", **describe_machine(["torch", "transformers"]), **plain(found, profiles)})
    print(f"\n{output}")
    return 0


def _seconds(
    candidates: dict[Case, Callable[[int], object]], batches: dict[Case, int], rounds: int
) -> dict[Case, list[float]]:
    """Per clip, of every round."""
    try:
        taken = interleave(candidates, rounds)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"out of memory between two steps: choose fewer --ways or a smaller --batch: {error}"
        ) from error
    return {case: [second / batches[case] for second in of_case] for case, of_case in taken.items()}


def _profiles(candidates: dict[Case, Callable[[int], object]], device: torch.device) -> dict[Case, Profile]:
    """Of a step of every case that is not compiled; prints them."""
    profiles = {case: profile_step(partial(go, 0), device) for case, go in candidates.items() if not case.compiled}
    print_profiles(profiles)
    return profiles


def _programs(
    workshop: Workshop, ways: Iterable[Way], precisions: Sequence[str], compiled: bool
) -> tuple[dict[Case, Program], dict[str, float | None]]:
    """The program of every case, and operations per clip of every way."""
    programs, flops = {}, {}
    for way in ways:
        plain = workshop.make(way, compiled=False)
        flops[way.name] = plain.flops_per_clip(precisions[0])
        versions = {False: plain, **({True: workshop.make(way, compiled=True)} if compiled else {})}
        programs |= {Case(way.name, precision, kind): versions[kind] for kind in versions for precision in precisions}
    # What is compared stands together, and what is compiled comes after what is not.
    order = sorted(programs, key=lambda case: (case.compiled, precisions.index(case.precision)))
    return {case: programs[case] for case in order}, flops


def _batches(programs: dict[Case, Program], batch: int, device: torch.device, notes: list[str]) -> dict[Case, int]:
    """Clips per step of every case that runs, each of which has run then; ``notes`` gets lines about the others."""
    if not batch:
        # What optimisers keep is there from the first step on, and is not to be missing after the search.
        for case, program in programs.items():
            if not case.compiled:
                with suppress(torch.OutOfMemoryError):
                    program.step(1, case.precision)
    batches: dict[Case, int] = {}
    for case, program in programs.items():
        # A graph is made for one size: what is compiled takes the size of what is not.
        known = batches.get(case._replace(compiled=False)) if case.compiled else None
        try:
            size = batch or known or _search(case, program, device)
            if size:
                _try(case, program, size)
                batches[case] = size
            else:
                notes.append(f"{case}: not one clip fits into the memory of {device}")
        except RuntimeError as error:
            if not case.compiled and not isinstance(error, torch.OutOfMemoryError):
                raise
            notes.append(f"{case}: did not run: {str(error).strip().splitlines()[0]}")
        program.clear()
    if not batches:
        raise ValueError(f"nothing ran: {'; '.join(notes)}")
    return batches


def _try(case: Case, program: Program, size: int) -> None:
    loss = float(program.step(size, case.precision))
    if not math.isfinite(loss):
        raise ValueError(f"{case}: the loss is {loss}: what computes no numbers is not measured")


def _search(case: Case, program: Program, device: torch.device) -> int:
    def release() -> None:
        program.clear()
        torch.cuda.empty_cache()

    with margin(device):
        return largest_batch(lambda size: _try(case, program, size), release)


def _step(program: Program, case: Case, size: int, _: int) -> None:
    program.step(size, case.precision)


def _peak(device: torch.device, precision: str) -> float:
    return max(measured_peak(device, precision) for _ in range(PEAK_MEASUREMENTS))


def _memory(go: Callable[[int], object], program: Program, device: torch.device) -> float | None:
    """GiB during a step without what the other programs keep on the GPU."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    go(0)
    return (torch.cuda.max_memory_allocated(device) - before + program.kept_bytes()) / GIB


def _settings(workshop: Workshop, rounds: int, batch: int) -> dict[str, object]:
    device, mask = workshop.device, workshop.mask(1)[0]
    return {
        "file": str(workshop.config),
        "overrides": list(workshop.overrides),
        "rounds": rounds,
        "batch": batch,
        "step": "gradient, clipping, AdamW" if workshop.optimizer_step else "forward and backward",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "fp32_products": torch.get_float32_matmul_precision(),
        "clip": workshop.clip_shape,
        "visible": int((~mask).sum()),
        "hidden": int(mask.sum()),
    }
