"""The picture of a classifier's confusions."""

from __future__ import annotations

import numpy as np
import pytest

from diffmae_video.visualize import BACKGROUND, GAP, HEAT, confusion_matrix


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
