"""Lines that matplotlib draws: what is handed to it, and that a readable picture comes out."""

from __future__ import annotations

import builtins

import numpy as np
import pytest

from diffmae_video.diffusion import NoiseSchedule
from diffmae_video.visualize import Panel, curves, line_plot, schedule_curves

pytest.importorskip("matplotlib")
STEPS = [1, 2, 5, 10, 20, 50, 250, 1000]


def colours_of(picture: np.ndarray) -> set[str]:
    return {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(picture.reshape(-1, 3), axis=0)}


@pytest.fixture
def drawn(monkeypatch):
    """The axes that a plot was drawn on."""
    axes, real = [], curves._draw
    monkeypatch.setattr(curves, "_draw", lambda *arguments: (axes.append(arguments[0]), real(*arguments)))
    return axes


def test_every_series_is_drawn_in_its_own_colour_in_all_panels(drawn):
    panels = [
        Panel({"ddim": (STEPS, range(8)), "ddpm": (STEPS, range(8, 16))}, title="first", log_x=True),
        Panel({"ddpm": ([1, 2], [3, 4])}, {"ddpm": ([1, 2], [5, 6])}, x_label="steps", y_label="dB", y_range=(0, 10)),
    ]
    picture = line_plot(panels, "quality")
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert {curves.COLOURS[0], curves.COLOURS[1]} <= colours_of(picture) and curves.COLOURS[2] not in colours_of(
        picture
    )
    first, second = drawn
    lines = [(line.get_color(), line.get_linestyle(), list(line.get_ydata())) for line in second.get_lines()]
    assert lines == [(curves.COLOURS[1], "-", [3, 4]), (curves.COLOURS[1], "--", [5, 6])]
    assert first.get_xscale() == "log" and [tick.get_text() for tick in first.get_xticklabels()] == list(
        map(str, STEPS)
    )
    assert (second.get_xlabel(), second.get_ylabel(), second.get_ylim()) == ("steps", "dB", (0, 10))


@pytest.mark.parametrize("names", [2, 7, 12])
def test_the_legend_lies_inside_the_picture(names, monkeypatch):
    figures, real = [], curves._figure
    monkeypatch.setattr(curves, "_figure", lambda *size: figures.append(real(*size)) or figures[-1])
    line_plot(Panel({f"a name of some length {i}": ([0, 1], [i, i]) for i in range(names)}))
    (figure,) = figures
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
    assert len(figure.legends[0].get_texts()) == names


def test_a_smoothed_line_has_what_it_was_made_of_behind_it(drawn):
    line_plot(Panel({"a": ([1, 2], [3, 4])}, faint={"a": ([1, 2], [2, 5])}, log_y=True))
    (axes,) = drawn
    behind, front = axes.get_lines()
    assert list(behind.get_ydata()) == [2, 5] and behind.get_alpha() < 0.5 and front.get_alpha() is None
    assert behind.get_color() == front.get_color() and axes.get_yscale() == "log"


def test_many_series_have_a_colour_each(drawn):
    line_plot(Panel({f"run {number}": ([0, 1], [number, number]) for number in range(20)}))
    assert len({line.get_color() for line in drawn[0].get_lines()}) == 20


def test_a_single_series_needs_no_legend(monkeypatch):
    figures, real = [], curves._figure
    monkeypatch.setattr(curves, "_figure", lambda *size: figures.append(real(*size)) or figures[-1])
    line_plot(Panel({"ddim": (STEPS, STEPS)}))
    assert figures[0].legends == []


def test_schedules_are_signal_noise_and_the_logarithm_of_their_ratio(drawn):
    schedules = {f"linear, rho {rho}": NoiseSchedule("linear", rho=rho).abar.numpy() for rho in (1.0, 0.6)}
    schedule_curves(schedules)
    levels, ratio = drawn
    for number, abar in enumerate(schedules.values()):
        signal, noise = levels.get_lines()[number], levels.get_lines()[number + 2]
        assert signal.get_linestyle() == "-" and noise.get_linestyle() == "--"
        assert signal.get_color() == noise.get_color() == ratio.get_lines()[number].get_color()
        assert np.allclose(signal.get_ydata() ** 2 + noise.get_ydata() ** 2, 1)
        assert np.allclose(signal.get_ydata() ** 2, abar) and list(signal.get_xdata()) == list(range(1000))
        expected = np.clip(np.log(abar / (1 - abar)), -30, 15)
        assert np.allclose(ratio.get_lines()[number].get_ydata(), expected)
    assert ratio.get_lines()[1].get_ydata().min() == -30, "rho 0.6 leaves less than that: clipped"


def test_no_signal_and_no_noise_at_all_are_clipped(drawn):
    schedule_curves({"ends": [1.0, 0.5, 0.0]})
    assert drawn[1].get_lines()[0].get_ydata().tolist() == [15, 0, -30]


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="at least one panel"):
        line_plot([])
    with pytest.raises(ValueError, match="at least one panel"):
        line_plot(Panel({}))
    with pytest.raises(ValueError, match="'ddim' of 'PSNR' has 2 xs and 3 ys"):
        line_plot(Panel({"ddim": ([1, 2], [1, 2, 3])}, title="PSNR"))
    with pytest.raises(ValueError, match=r"'late': expected abar \(steps,\) in \[0, 1\]"):
        schedule_curves({"late": [0.5, 1.5]})


def test_a_missing_matplotlib_is_named(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        line_plot(Panel({"ddim": ([1], [1])}))
