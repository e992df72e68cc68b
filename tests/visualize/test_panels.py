"""Videos beside each other and sheets of frames."""

from __future__ import annotations

import numpy as np
import pytest

from diffmae_video.visualize import (
    BACKGROUND,
    GAP,
    HIDDEN_GREY,
    contact_sheet,
    evenly_spaced,
    frame_sheet,
    masked_frames,
    panels,
    side_by_side,
    upscale,
)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_masked_frames_hides_exactly_the_mask():
    frames, mask = noise(2, 8, 8), np.zeros((2, 8, 8), bool)
    mask[:, 2:5, 3:6] = True
    shown = masked_frames(frames, mask)
    assert (shown[mask] == HIDDEN_GREY).all()
    assert np.array_equal(shown[~mask], frames[~mask])


def test_upscale_only_enlarges_and_keeps_the_aspect_ratio():
    assert upscale(noise(1, 96, 64), 256).shape == (1, 384, 256, 3)
    for height in (300, 240):  # 240 is nearly 256: not worth a blur
        large = noise(1, height, 400)
        assert upscale(large, 256) is large


def test_evenly_spaced_has_both_ends():
    assert evenly_spaced(24, 6)[0] == 0 and evenly_spaced(24, 6)[-1] == 23 and len(evenly_spaced(24, 6)) == 6
    assert evenly_spaced(1, 6) == [0]
    assert evenly_spaced(3, 6) == [0, 1, 2]


def test_side_by_side_shows_every_panel_unchanged_under_a_readable_title():
    videos = {"masked input": noise(3, 260, 270), "original": 255 - noise(3, 260, 270)}
    page = side_by_side(videos)
    assert page.dtype == np.uint8 and page.shape[1] % 2 == 0 and page.shape[2] % 2 == 0
    top = page.shape[1] - 260 - 6
    assert np.array_equal(page[:, top : top + 260, 6:276], videos["masked input"])
    assert np.array_equal(page[:, top : top + 260, 282:552], videos["original"])
    title = page[0, :top, 6:276]
    assert (title > 200).any(), "no text was drawn"
    assert (page[0, :top, 552:] == BACKGROUND).all()


def test_side_by_side_shrinks_rows_that_browsers_cannot_play():
    page = side_by_side({str(i): noise(1, 200, 1000) for i in range(3)}, minimum=1, max_width=1200)
    assert 1150 <= page.shape[2] <= 1200
    assert page.shape[1] < 140  # the panels' height went down with their width


def test_contact_sheet_puts_frames_in_order():
    rows = [noise(4, 128, 130), 255 - noise(4, 128, 130)]
    sheet = contact_sheet(rows, captions=[f"frame {i}" for i in range(4)])
    top = sheet.shape[0] - 2 * (128 + GAP)
    for row in range(2):
        for column in range(4):
            y, x = top + row * (128 + GAP), GAP + column * (130 + GAP)
            assert np.array_equal(sheet[y : y + 128, x : x + 130], rows[row][column])
    assert (sheet[:top] > 200).any(), "no captions"
    titled = contact_sheet(rows, ["masked", "original"])
    left = titled.shape[1] - 4 * (130 + GAP) - 1
    assert left > 40 and (titled[:, :left] > 200).any(), "no titles"


def test_pictures_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="one shape"):
        side_by_side({"a": noise(1, 8, 8), "b": noise(2, 8, 8)})
    with pytest.raises(ValueError, match="one shape"):
        contact_sheet([])
    with pytest.raises(ValueError, match="expected 1 titles, got 2"):
        contact_sheet([noise(1, 8, 8)], ["a", "b"])


def test_frame_sheet_shows_evenly_spaced_frames_under_their_numbers(monkeypatch):
    seen = {}
    monkeypatch.setattr(panels, "contact_sheet", lambda *arguments: seen.update(arguments=arguments))
    videos = {"a": noise(9, 8, 8), "b": 255 - noise(9, 8, 8)}
    frame_sheet(videos, columns=3, numbers=range(10, 100, 10), minimum=64)
    rows, titles, captions, minimum = seen["arguments"]
    assert np.array_equal(rows, [video[[0, 4, 8]] for video in videos.values()])
    assert (titles, captions, minimum) == (["a", "b"], ["frame 10", "frame 50", "frame 90"], 64)
    frame_sheet(videos, columns=2)
    assert seen["arguments"][2] == ["frame 0", "frame 8"]


def test_frame_sheet_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="numbers of 2 frames, got 3"):
        frame_sheet({"a": noise(2, 8, 8)}, numbers=[1, 2, 3])
    with pytest.raises(ValueError, match="one shape"):
        frame_sheet({"a": noise(2, 8, 8), "b": noise(3, 8, 8)})
