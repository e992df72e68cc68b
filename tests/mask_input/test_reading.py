"""Which form of a mask it is that a user typed, and what holds for all forms."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffmae_video.data.writing import write_video
from diffmae_video.mask_input import (
    REGIONS,
    box_mask,
    frames_mask,
    grow_mask,
    moving_box_mask,
    object_numbers,
    read_mask,
    region_mask,
    strategy_mask,
)
from diffmae_video.models.masks import STRATEGIES

SHAPE, PATCH = (4, 6, 8), (2, 2, 2)


@pytest.fixture
def labels(tmp_path) -> str:
    """Path of a picture with object 1 in the first and object 2 in the last two columns."""
    pixels = np.repeat(np.array([[1, 1, 0, 0, 0, 0, 2, 2]], np.uint8), 6, axis=0)
    Image.fromarray(pixels).save(tmp_path / "labels.png")
    return str(tmp_path / "labels.png")


def test_read_mask_knows_what_it_was_given(tmp_path, labels):
    for name in STRATEGIES:
        expected = strategy_mask(name, 0.25, SHAPE, PATCH, seed=3)
        assert np.array_equal(read_mask(name, SHAPE, PATCH, 0.25, 3), expected)
    for name in REGIONS:
        assert np.array_equal(read_mask(name, SHAPE, PATCH, 0.5), region_mask(name, SHAPE))
    assert np.array_equal(read_mask("1,1,3,3", SHAPE, PATCH, 0.5), box_mask("1,1,3,3", SHAPE))
    keyframes = "0:1,1,3,3 2:2,1,4,3"
    assert np.array_equal(read_mask(keyframes, SHAPE, PATCH, 0.5), moving_box_mask(keyframes, SHAPE))
    assert np.array_equal(read_mask("frames:1-2", SHAPE, PATCH, 0.5), frames_mask("frames:1-2", SHAPE))
    picture = np.isin(np.arange(8), [0, 1, 6, 7]) & np.ones(SHAPE, bool)
    assert np.array_equal(read_mask(labels, SHAPE, PATCH, 0.5), picture)
    assert np.array_equal(read_mask(str(tmp_path), SHAPE, PATCH, 0.5), picture)  # a folder of one picture
    video = np.zeros((4, 48, 64, 3), np.uint8)
    video[:, :, 32:] = 255
    write_video(tmp_path / "mask.avi", video, fps=10)
    assert np.array_equal(read_mask(str(tmp_path / "mask.avi"), SHAPE, PATCH, 0.5), region_mask("right-half", SHAPE))


def test_frames_of_the_input_choose_the_pictures(tmp_path):
    for i in range(9):
        Image.fromarray(np.eye(6, 8, i - 4, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    mask = read_mask(str(tmp_path), SHAPE, PATCH, 0.5, indices=range(1, 9, 2), total=9)
    assert np.array_equal(mask, [np.eye(6, 8, i - 4, dtype=bool) for i in (1, 3, 5, 7)])


def test_many_keyframes_are_longer_than_a_file_name_may_be():
    keyframes = " ".join(f"{i}:{i % 40},1,{i % 40 + 8},9" for i in range(60))
    mask = read_mask(keyframes, (60, 16, 64), PATCH, 0.5)
    assert all(mask[i, 1:9, i % 40 : i % 40 + 8].all() and mask[i].sum() == 64 for i in range(60))
    with pytest.raises(FileNotFoundError, match="there is no file or folder of that name"):
        read_mask("x" * 1000, SHAPE, PATCH, 0.5)


def test_a_name_goes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "center").mkdir()
    Image.fromarray(np.eye(6, 8, dtype=np.uint8)).save(tmp_path / "center" / "0.png")
    assert np.array_equal(read_mask("center", SHAPE, PATCH, 0.25), strategy_mask("center", 0.25, SHAPE, PATCH))
    assert np.array_equal(read_mask("./center", SHAPE, PATCH, 0.25)[3], np.eye(6, 8, dtype=bool))


def test_objects_then_invert_then_grow(labels):
    columns = np.flatnonzero(read_mask(labels, SHAPE, PATCH, 0.5, objects=[2])[0, 0])
    assert np.array_equal(columns, [6, 7])
    columns = np.flatnonzero(read_mask(labels, SHAPE, PATCH, 0.5, objects=[2], invert=True)[0, 0])
    assert np.array_equal(columns, [0, 1, 2, 3, 4, 5])
    columns = np.flatnonzero(read_mask(labels, SHAPE, PATCH, 0.5, objects=[2], invert=True, grow=1)[0, 0])
    assert np.array_equal(columns, [0, 1, 2, 3, 4, 5, 6])  # what grows is what is hidden in the end


@pytest.mark.parametrize("given", ["center", "right-half", "frames:1", "1,1,3,3", "0:1,1,3,3 2:2,1,4,3"])
def test_every_form_can_be_inverted_and_grown(given):
    mask = read_mask(given, SHAPE, PATCH, 0.25)
    assert np.array_equal(read_mask(given, SHAPE, PATCH, 0.25, invert=True), ~mask)
    assert np.array_equal(read_mask(given, SHAPE, PATCH, 0.25, grow=1), grow_mask(mask, 1))


@pytest.mark.parametrize("given", ["center", "right-half", "frames:1", "1,1,3,3", "0:1,1,3,3"])
def test_objects_are_for_pictures(given):
    with pytest.raises(ValueError, match="has no objects to choose from: they are numbers in mask pictures"):
        read_mask(given, SHAPE, PATCH, 0.25, objects=[1])


def test_a_file_that_is_not_there_is_named_before_its_objects():
    with pytest.raises(FileNotFoundError, match="no_such_file.*there is no file or folder of that name"):
        read_mask("no_such_file", SHAPE, PATCH, 0.25, objects=[1])


def test_a_video_has_no_objects(tmp_path):
    write_video(tmp_path / "mask.mp4", np.zeros((4, 48, 64, 3), np.uint8), fps=10)
    with pytest.raises(ValueError, match="a video does not keep the numbers of objects"):
        read_mask(str(tmp_path / "mask.mp4"), SHAPE, PATCH, 0.5, objects=[1])


def test_what_is_no_mask_names_the_forms_and_the_nearest_name():
    with pytest.raises(FileNotFoundError, match="did you mean tube.* expected a strategy .*right-half.*frames:8-15"):
        read_mask("tubes", SHAPE, PATCH, 0.5)
    with pytest.raises(FileNotFoundError, match="did you mean right-half"):
        read_mask("right_half", SHAPE, PATCH, 0.5)
    with pytest.raises(FileNotFoundError, match="'masks/dog.png': expected a strategy"):
        read_mask("masks/dog.png", SHAPE, PATCH, 0.5)


def test_a_mask_hides_something_and_leaves_something(tmp_path, labels):
    Image.new("L", (8, 6)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match="hides no pixel: hidden pixels are those that are not black"):
        read_mask(str(tmp_path / "black.png"), SHAPE, PATCH, 0.5)
    with pytest.raises(ValueError, match="hides every pixel: leave some visible"):
        read_mask("0,0,8,6", SHAPE, PATCH, 0.5)
    with pytest.raises(ValueError, match="hides no pixel: all of it is hidden before it is inverted"):
        read_mask("0,0,8,6", SHAPE, PATCH, 0.5, invert=True)
    with pytest.raises(ValueError, match="hides every pixel once it is inverted and grown by 9 pixels"):
        read_mask(labels, SHAPE, PATCH, 0.5, objects=[1], invert=True, grow=9)
    with pytest.raises(ValueError, match="hides every pixel once it is grown by 4 pixels"):
        read_mask("right-half", SHAPE, PATCH, 0.5, grow=4)
    with pytest.raises(ValueError, match="cannot grow by -2 pixels"):
        read_mask("right-half", SHAPE, PATCH, 0.5, grow=-2)


def test_object_numbers():
    assert object_numbers("1,3") == (1, 3)
    assert object_numbers(" 255 ") == (255,)
    for given in ("", "1,", "a", "-1", "1.5"):
        with pytest.raises(ValueError, match="expected their palette indices or grey values, such as 1 or 1,3"):
            object_numbers(given)
