"""Pictures for people."""

from __future__ import annotations

import numpy as np
import pytest

from diffmae_video.visualize import (
    BACKGROUND,
    GAP,
    HEAT,
    HIDDEN_GREY,
    confusion_matrix,
    contact_sheet,
    evenly_spaced,
    masked_frames,
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


def test_confusion_matrix_shows_shares_of_rows():
    counts = np.array([[4, 0, 0], [1, 3, 0], [0, 0, 0]])
    page = confusion_matrix(counts, ["run", "jump", "sit"])
    # The cells end GAP before the right and the lower edge, or a pixel more: sides are even. 46 pixels each.
    left = np.flatnonzero((page[-GAP - 3] != BACKGROUND).any(-1))[0] - 1

    def colour(row, column):
        return page[-GAP - (3 - row) * 46 + 4, left + column * 46 + 4].tolist()

    assert colour(0, 0) == list(HEAT[-1]) and colour(0, 1) == colour(2, 2) == list(HEAT[0])
    assert colour(1, 0) == list(HEAT[2]), "a quarter is the middle of the scale"
    assert sum(colour(0, 0)) > sum(colour(1, 1)) > sum(colour(1, 0))
    assert (page[-3 * 46 :, :left] > 200).any(), "no names of rows"
    assert (page[60 : -3 * 46 - GAP, left:] > 200).any(), "no names of columns"
    assert (page[-3 * 46 - GAP : -2 * 46 - GAP, left : left + 46] == BACKGROUND).all(-1).sum() > 46 + 45, "no count"


@pytest.mark.parametrize("classes", [1, 2, 20, 21, 40, 41, 400, 1200])
def test_confusion_matrix_of_any_number_of_classes(classes):
    names = ["a very long name of a class that goes on and on and on" if i % 2 else "é" for i in range(classes)]
    page = confusion_matrix(np.eye(classes, dtype=int) * 12345, names)
    assert page.dtype == np.uint8 and page.shape[2] == 3 and max(page.shape) < 2500
    assert (page > 200).any()


def test_confusion_matrix_refuses_what_does_not_fit():
    for counts, names in ((np.zeros((2, 3)), ["a", "b"]), (np.zeros((2, 2)), ["a"]), (np.zeros((0, 0)), [])):
        with pytest.raises(ValueError, match="class names"):
            confusion_matrix(counts, names)
