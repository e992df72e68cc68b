"""What ``benchmark.py step`` says: figures, goals, and their tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from step_profile import GROUPS, Profile
from step_ways import Way

from diffmae_video.benchmarking import Spread, format_table

Seconds = dict["Case", list[float]]  # per clip, of every round


class Case(NamedTuple):
    """What takes turns."""

    way: str
    precision: str
    compiled: bool

    def __str__(self) -> str:
        return ", ".join([self.way, self.precision, *(["compiled"] if self.compiled else [])])


class Figure(NamedTuple):
    """What was measured of a case; None where it was not, or could not be."""

    case: Case
    batch: int
    seconds_per_clip: Spread
    clips_per_second: float
    times_videomae: Spread | None  # the ratio within rounds, at the same precision
    gflop_per_clip: float | None
    tflops: float | None
    mfu: float | None  # share of the measured peak
    memory_gib: float | None  # largest during a step, with the network's own weights


class Goal(NamedTuple):
    """A ratio that was to be reached."""

    case: Case
    rival: str
    goal: float
    ratio: Spread

    @property
    def met(self) -> bool:
        return self.ratio.median >= self.goal


class Findings(NamedTuple):
    """All that is said of a run besides profiles; the names are those of the report."""

    config: dict[str, object]
    peak_flops: dict[str, float]  # operations per second of matrix products, by precision
    figures: list[Figure]
    goals: list[Goal]
    notes: list[str]  # about what did not run


def plain(found: Findings, profiles: dict[Case, Profile]) -> dict[str, object]:
    """For the report: dictionaries instead of named tuples."""
    return {
        **found._asdict(),
        "figures": [{**figure._asdict(), "case": figure.case._asdict()} for figure in found.figures],
        "goals": [{**goal._asdict(), "case": goal.case._asdict(), "met": goal.met} for goal in found.goals],
        "profiles": [{"case": case._asdict(), **one._asdict()} for case, one in profiles.items()],
    }


def make_figure(
    case: Case,
    batch: int,
    flops: float | None,
    memory: float | None,
    base: str,
    seconds: Seconds,
    peaks: dict[str, float],
) -> Figure:
    """``flops``: operations per clip; ``base``: the way that all are compared with; the last two are of all cases."""
    spread = Spread.of(seconds[case])
    done = None if flops is None else flops / spread.median
    return Figure(
        case=case,
        batch=batch,
        seconds_per_clip=spread,
        clips_per_second=1 / spread.median,
        times_videomae=ratio(seconds, case, base),
        gflop_per_clip=None if flops is None else flops / 1e9,
        tflops=None if done is None else done / 1e12,
        mfu=None if done is None else done / peaks[case.precision],
        memory_gib=memory,
    )


def ratio(seconds: Seconds, case: Case, rival: str) -> Spread | None:
    """How many times as fast as ``rival`` at the same precision, compiled if it is and the rival could be."""
    against = seconds.get(case._replace(way=rival)) or seconds.get(Case(rival, case.precision, False))
    return against and Spread.of(theirs / own for theirs, own in zip(against, seconds[case], strict=True))


def make_goals(ways: Iterable[Way], seconds: Seconds) -> list[Goal]:
    """Of the cases that ran and whose rival did."""
    with_goals = {way.name: way for way in ways if way.goal is not None}
    goals = []
    for case in seconds:
        way = with_goals.get(case.way)
        times = way and ratio(seconds, case, way.rival)
        if times:
            goals.append(Goal(case, way.rival, way.goal, times))
    return goals


def print_tables(found: Findings) -> None:
    s, clip = found.config, " x ".join(map(str, found.config["clip"]))
    print(
        f"{s['file']}, clips of {clip}, {s['visible']} tokens visible, {s['hidden']} hidden; "
        f"{s['step']} on {s['device']}, {s['threads']} threads; {s['rounds']} rounds"
    )
    peaks = (f"in {name} {peak / 1e12:.3g} TFLOP/s" for name, peak in found.peak_flops.items())
    print(f"peak of matrix products: {', '.join(peaks)}\n")
    header = ["way", "clips", "seconds per clip", "times VideoMAE", "GFLOP per clip", "TFLOP/s", "MFU"]
    on_gpu = any(figure.memory_gib is not None for figure in found.figures)
    rows = [_row(figure, on_gpu) for figure in found.figures]
    print(format_table([*header, *(["clips per second", "memory, GiB"] if on_gpu else [])], rows))
    if found.goals:
        print()
        lines = [[f"{g.case} / {g.rival}", g.goal, g.ratio, "yes" if g.met else "no"] for g in found.goals]
        print(format_table(["times as fast, within rounds", "goal", "median (quartiles)", "met"], lines))
    for note in found.notes:
        print(f"\n{note}")


def _row(figure: Figure, on_gpu: bool) -> list[object]:
    f = figure
    cells = [
        f.case,
        f.batch,
        _precise(f.seconds_per_clip),
        f.times_videomae or "-",
        _number(f.gflop_per_clip, ".4g"),
        _number(f.tflops, ".3g"),
        _number(f.mfu, ".1%"),
    ]
    return [*cells, *([f"{f.clips_per_second:.1f}", _number(f.memory_gib, ".1f")] if on_gpu else [])]


def _precise(spread: Spread) -> str:
    """With three digits: steps take seconds on a CPU and milliseconds on a GPU."""
    return f"{spread.median:.3g} ({spread.low:.3g} - {spread.high:.3g})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def print_profiles(profiles: dict[Case, Profile]) -> None:
    rows = [[case, *(f"{share:.1f}" for share in p.shares.values()), p.attention] for case, p in profiles.items()]
    print()
    print(format_table(["share of a step, %", *GROUPS, "attention kernel"], rows))
