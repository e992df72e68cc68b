from __future__ import annotations

from collections import Counter

import pytest

from diffmae_video.data import Entry, labelled_subset

ENTRIES = [Entry(f"{number}.mp4", number * 7 % 3) for number in range(60)]


def test_as_many_of_every_class_in_the_order_of_the_list():
    subset = labelled_subset(ENTRIES, 4, seed=1)
    assert Counter(entry.label for entry in subset) == {0: 4, 1: 4, 2: 4}
    assert subset == [entry for entry in ENTRIES if entry in subset]
    assert labelled_subset(ENTRIES, 4, seed=1) == subset and labelled_subset(ENTRIES, 4, seed=2) != subset
    assert labelled_subset(ENTRIES, 20, seed=1) == ENTRIES


def test_smaller_subsets_are_part_of_larger_ones():
    subsets = [set(labelled_subset(ENTRIES, count, seed=3)) for count in (1, 5, 10, 20)]
    assert all(small < large for small, large in zip(subsets, subsets[1:], strict=False))


def test_a_class_does_not_depend_on_the_others():
    alone = labelled_subset([entry for entry in ENTRIES if entry.label == 2], 5, seed=0)
    assert [entry for entry in labelled_subset(ENTRIES, 5, seed=0) if entry.label == 2] == alone


def test_choices_are_spread_evenly():
    drawn = Counter(entry for seed in range(300) for entry in labelled_subset(ENTRIES, 5, seed))
    assert set(drawn) == set(ENTRIES) and max(drawn.values()) < 110 and min(drawn.values()) > 45  # 75 expected


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="1 of 4 classes have fewer: class 7 has 2"):
        labelled_subset([*ENTRIES, Entry("a.mp4", 7), Entry("b.mp4", 7)], 3, seed=0)
    with pytest.raises(ValueError, match="c.mp4 has no label"):
        labelled_subset([*ENTRIES, Entry("c.mp4", -1)], 3, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        labelled_subset(ENTRIES, 0, seed=0)
