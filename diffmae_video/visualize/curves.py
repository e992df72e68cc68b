"""Numbers as lines: one or several panels of a plot, and the noise schedules. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Series = Mapping[str, tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]]

# Okabe and Ito's palette, which people with colour-blindness can tell apart; its yellow is too pale for lines on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
LOG_SNR_RANGE = (-30.0, 15.0)
DOTS_PER_INCH = 100
PANEL_INCHES = (4.6, 3.4)  # width, height
LINE_INCHES = 0.22  # a line of text
LETTER_INCHES, LEGEND_LINE_INCHES = 0.085, 0.65  # of a legend: about a letter, and the line with its margins
MOST_TICKS = 6  # of a linear x axis
MARKED_POINTS = 25  # lines through at most so many points show where these are


@dataclass(frozen=True)
class Panel:
    """One plot of a picture.

    Args:
        series: name -> (xs, ys), a solid line each; a name has the same colour in all panels.
        dashed: the same as dashed lines, in the colours of their names.
        title, x_label, y_label: above, below and left of it.
        log_x: logarithmic x axis, with a tick at each of the xs if these are few.
        log_y: logarithmic y axis.
        y_range: (lowest, highest) value that is shown; None = all.
        keys: what solid and dashed lines are, written into the panel; None = nothing.
        faint: as ``series``, pale and behind them: what a smoothed line was made of.
    """

    series: Series
    dashed: Series = field(default_factory=dict)
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    y_range: tuple[float, float] | None = None
    keys: tuple[str, str] | None = None
    faint: Series = field(default_factory=dict)


def line_plot(panels: Panel | Sequence[Panel], title: str = "") -> np.ndarray:
    """Panels in a row under one ``title``, with one legend of the series' names below them.

    Returns:
        uint8 (H, W, 3), 100 dots per inch, black on white.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no panel, no series, or xs and ys of different lengths.
    """
    panels = [panels] if isinstance(panels, Panel) else list(panels)
    _check(panels)
    _require_matplotlib()
    colours = _colours(panels)
    widest = LEGEND_LINE_INCHES + LETTER_INCHES * max(map(len, colours))
    columns = max(min(int(PANEL_INCHES[0] * len(panels) / widest), len(colours)), 1)
    legend_lines = -(-len(colours) // columns) if len(colours) > 1 else 0
    figure = _figure(PANEL_INCHES[0] * len(panels), PANEL_INCHES[1] + LINE_INCHES * (legend_lines + bool(title)))
    if title:
        figure.suptitle(title)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel, colours)
    if legend_lines:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], color=colour, linewidth=2) for colour in colours.values()]
        figure.legend(handles, list(colours), loc="outside lower center", ncols=columns, frameon=False)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def schedule_curves(schedules: Mapping[str, Sequence[float] | np.ndarray]) -> np.ndarray:
    """Noise schedules: left, how much signal, sqrt(abar), and noise, sqrt(1 - abar), there is; right, their ratio.

    The ratio is log(abar / (1 - abar)), the natural logarithm of the signal-to-noise ratio; it is shown from -30 to 15.

    Args:
        schedules: title -> abar (steps,) in [0, 1], such as ``NoiseSchedule(...).abar``.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ImportError, ValueError: as :func:`line_plot`; abar outside [0, 1].
    """
    signal, noise, ratio = {}, {}, {}
    for name, abar in schedules.items():
        abar = np.asarray(abar, np.float64)
        if abar.ndim != 1 or not ((abar >= 0) & (abar <= 1)).all():
            raise ValueError(f"schedule {name!r}: expected abar (steps,) in [0, 1]")
        t = np.arange(len(abar))
        signal[name], noise[name] = (t, np.sqrt(abar)), (t, np.sqrt(1 - abar))
        with np.errstate(divide="ignore"):  # no signal at all, or no noise: infinitely far down or up, and so clipped
            ratio[name] = (t, np.clip(np.log(abar) - np.log1p(-abar), *LOG_SNR_RANGE))
    levels = Panel(signal, noise, "signal and noise", "timestep t", "factor", keys=("signal", "noise"))
    log_ratio = Panel(ratio, {}, "signal-to-noise ratio", "timestep t", "log (signal² / noise²)")
    return line_plot([levels, log_ratio])


def _check(panels: Sequence[Panel]) -> None:
    if not panels or not all(panel.series for panel in panels):
        raise ValueError("expected at least one panel, and a series in every panel")
    for panel in panels:
        for name, (xs, ys) in [*panel.series.items(), *panel.dashed.items(), *panel.faint.items()]:
            if len(xs) != len(ys):
                raise ValueError(f"series {name!r} of {panel.title!r} has {len(xs)} xs and {len(ys)} ys")


def _colours(panels: Sequence[Panel]) -> dict[str, str]:
    """Name of a series -> colour, in the order in which the names appear."""
    names = dict.fromkeys(name for panel in panels for name in [*panel.series, *panel.dashed, *panel.faint])
    if len(names) <= len(COLOURS):
        return dict(zip(names, COLOURS, strict=False))
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    # More than anybody can tell apart at a glance: neighbours look alike, but no two the same.
    return {name: to_hex(colormaps["turbo"](number / (len(names) - 1))) for number, name in enumerate(names)}


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("a plot needs the package matplotlib: pip install matplotlib") from error


def _figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, with what draws it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not one of pyplot's, which are kept until they are closed.
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw(axes: Any, panel: Panel, colours: Mapping[str, str]) -> None:
    for name, (xs, ys) in panel.faint.items():
        axes.plot(xs, ys, color=colours[name], alpha=0.25, linewidth=1)
    for lines, style in ((panel.series, "-"), (panel.dashed, "--")):
        for name, (xs, ys) in lines.items():
            marker = "o" if len(xs) <= MARKED_POINTS else ""
            axes.plot(xs, ys, style, color=colours[name], marker=marker, markersize=4, linewidth=1.5)
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=MOST_TICKS)  # more of them would run into each other
    if panel.log_x:
        axes.set_xscale("log")
        ticks = sorted({x for xs, _ in panel.series.values() for x in xs})
        if len(ticks) <= MARKED_POINTS:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
    if panel.log_y:
        axes.set_yscale("log")
    if panel.y_range is not None:
        axes.set_ylim(*panel.y_range)
    if panel.keys is not None:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], color="0.3", linestyle=style) for style in ("-", "--")]
        axes.legend(handles, panel.keys, frameon=False)
