"""Recording a denoising, and showing it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffmae_video.visualize import GAP, Trajectory, trajectory_strip, trajectory_video

CLIP = (2, 3, 4, 128, 128)  # as large as panels of a strip are at least: nothing is enlarged
HIDDEN_FRAMES = [2, 3]


def step(number: int, total: int, rows=(0, 1)) -> SimpleNamespace:
    """A step whose hidden pixels, in the last two frames, say which step and clip it is."""
    visible = torch.rand(CLIP, generator=torch.Generator().manual_seed(0))
    noisy, clean = visible.clone(), visible.clone()
    for place, row in enumerate(rows):
        noisy[place, :, HIDDEN_FRAMES] = (10 * number + row) / 255
        clean[place, :, HIDDEN_FRAMES] = (10 * number + row + 5) / 255
    return SimpleNamespace(
        number=number, total=total, t=1000 - 10 * number, noisy=noisy[: len(rows)], clean=clean[: len(rows)], rows=rows
    )


def recorded(total: int = 20, most: int = 5, row: int = 0) -> Trajectory:
    trajectory = Trajectory(most, row)
    for number in range(1, total + 1):
        trajectory(step(number, total))
    return trajectory


@pytest.mark.parametrize("total", [1, 2, 5, 20])
def test_at_most_so_many_steps_are_kept_with_both_ends(total):
    trajectory = recorded(total, most=5)
    times = [kept.t for kept in trajectory.steps]
    assert len(times) == min(total, 5)
    assert times[0] == 990 and times[-1] == 1000 - 10 * total
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("row", [0, 1])
def test_frames_of_the_chosen_clip_are_kept_as_they_were(row):
    kept = recorded(row=row).steps[0]
    assert kept.noisy.dtype == np.uint8 and kept.noisy.shape == (4, 128, 128, 3)
    assert (kept.noisy[HIDDEN_FRAMES] == 10 + row).all() and (kept.clean[HIDDEN_FRAMES] == 15 + row).all()
    expected = (step(1, 20).noisy[row, :, 0] * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(kept.noisy[0], expected)


def test_pixels_outside_0_to_1_are_clipped_and_later_changes_of_the_tensors_do_not_matter():
    trajectory, wild = Trajectory(), step(1, 1)
    wild.noisy.mul_(3).sub_(1)
    trajectory(wild)
    before = trajectory.steps[0].noisy.copy()
    wild.noisy.zero_()
    assert np.array_equal(trajectory.steps[0].noisy, before) and before.min() == 0 and before.max() == 255


def test_only_the_group_with_the_clip_counts_and_a_new_chain_replaces_the_old():
    trajectory = Trajectory(row=3)
    trajectory(step(1, 1, rows=(0, 2)))
    assert trajectory.steps == []
    trajectory(step(1, 1, rows=(1, 3)))
    assert (trajectory.steps[0].noisy[3] == 13).all()
    trajectory = recorded(total=3)
    for number in (1, 2):
        trajectory(step(number, 2))
    assert len(trajectory.steps) == 2


def test_strip_has_a_column_per_step_and_shows_a_frame_with_something_hidden():
    trajectory = recorded(most=4)
    sheet = trajectory_strip(trajectory)
    left, top = sheet.shape[1] - 4 * (128 + GAP), sheet.shape[0] - 2 * (128 + GAP)
    left, top = left - left % 2, top - top % 2  # sides are rounded up
    for column, kept in enumerate(trajectory.steps):
        x = slice(left + column * (128 + GAP) + 2, left + column * (128 + GAP) + 120)
        assert np.array_equal(np.unique(sheet[top + 4 : top + 120, x]), np.unique(kept.noisy[3]))
        assert np.array_equal(np.unique(sheet[top + 128 + GAP + 4 : top + 250, x]), np.unique(kept.clean[3]))
    assert (sheet[: top - 1] > 200).any() and (sheet[:, : left - 1] > 200).any(), "no captions or titles"
    first = trajectory_strip(trajectory, frame=0)
    assert first.shape == sheet.shape and len(np.unique(first[top + 4 : top + 120, -100:-10])) > 200


def test_video_plays_on_through_the_steps_and_shows_the_result_whole():
    trajectory = recorded(most=3)
    whole = trajectory_video(trajectory, minimum=128)
    assert whole.dtype == np.uint8 and whole.shape[0] == 3 * 4
    assert whole.shape[1] % 2 == 0 and whole.shape[2] % 2 == 0
    short = trajectory_video(trajectory, fps=10, seconds_per_step=0.2, minimum=128)
    assert len(short) == 2 + 2 + 4
    top = whole.shape[1] - 128 - GAP
    top -= top % 2
    shown = short[:, top : top + 128, GAP : GAP + 128]
    steps = trajectory.steps
    expected = [steps[0].noisy[:2], steps[1].noisy[2:], steps[2].noisy]
    assert np.array_equal(shown, np.concatenate(expected))
    estimates = short[:, top : top + 128, 128 + 2 * GAP : 256 + 2 * GAP]
    assert np.array_equal(estimates[-4:], steps[2].clean)
    assert not np.array_equal(whole[0, : top - 1], whole[-1, : top - 1]), "the title says t"


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        Trajectory(1)
    for show in (trajectory_strip, trajectory_video):
        with pytest.raises(ValueError, match="no step was recorded"):
            show(Trajectory())
    with pytest.raises(ValueError, match="frames 0 to 3"):
        trajectory_strip(recorded(), frame=4)
    for options in ({"fps": 0}, {"seconds_per_step": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be positive"):
            trajectory_video(recorded(), **options)
