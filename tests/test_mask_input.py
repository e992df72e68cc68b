"""What users give as a mask."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffmae_video.mask_input import (
    box_mask,
    folder_mask,
    patch_in_pixels,
    read_mask,
    read_mask_picture,
    strategy_mask,
)
from diffmae_video.models.masks import STRATEGIES


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_strategy_mask_hides_whole_patches_at_about_the_ratio(name):
    shape, patch = (8, 96, 144), (2.0, 12.0, 12.0)
    mask = strategy_mask(name, 0.5, shape, patch)
    tokens = mask[::2, ::12, ::12]
    assert np.array_equal(np.kron(tokens, np.ones((2, 12, 12), bool)), mask)
    assert abs(mask.mean() - 0.5) < 0.15
    assert np.array_equal(mask, strategy_mask(name, 0.5, shape, patch))
    if name != "center":
        assert any(not np.array_equal(mask, strategy_mask(name, 0.5, shape, patch, seed)) for seed in (1, 2, 3))


def test_a_patch_grows_with_the_input():
    assert patch_in_pixels((24, 96, 96), (8, 64, 64), (2, 8, 8)) == (2.0, 12.0, 12.0)
    assert patch_in_pixels((24, 32, 64), (8, 64, 64), (2, 8, 8)) == (2.0, 4.0, 4.0)
    # 96 x 130: worked on at 64 x 88, eleven patches wide
    assert patch_in_pixels((24, 96, 130), (8, 64, 64), (2, 8, 8)) == (2.0, 12.0, 130 / 11)
    assert patch_in_pixels((24, 96, 130), (8, 64, 64), (2, 8, 8), fit="native") == (2.0, 8.0, 130 / 16)


def test_box_in_pixels_and_in_shares():
    mask = box_mask("2,1,6,4", (3, 8, 10))
    assert mask[:, 1:4, 2:6].all() and mask.sum() == 3 * 3 * 4
    assert np.array_equal(box_mask("0.2, 0.125, 0.6, 0.5", (3, 8, 10)), mask)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("1,2,3", "four numbers"),
        ("a,b,c,d", "four numbers"),
        ("0,0,0.5,0.5", "four numbers"),
        ("6,0,2,4", "expected 0 <= x0 < x1 <= 10"),
        ("0,0,11,4", "the size of the input"),
        ("-1,0,5,4", "the size of the input"),
        ("nan,nan,nan,nan", "four numbers"),
    ],
)
def test_box_errors(box, message):
    with pytest.raises(ValueError, match=message):
        box_mask(box, (3, 8, 10))


def drawn(mode: str) -> Image.Image:
    """8 x 6 picture whose left half says "hidden" in this mode."""
    hidden = np.zeros((6, 8), np.uint8)
    hidden[:, :4] = 1
    if mode == "P":
        image = Image.fromarray(hidden * 3)
        image.putpalette([0, 0, 0] * 256)  # every index black: only the index can tell
        return image
    if mode == "RGBA":
        pixels = np.full((6, 8, 4), 255, np.uint8)
        pixels[..., 3] = hidden * 255
        return Image.fromarray(pixels)
    if mode == "RGB":
        return Image.fromarray(hidden[..., None] * np.array([0, 9, 0], np.uint8))
    if mode == "1":
        return Image.fromarray(hidden.astype(bool))
    return Image.fromarray(hidden * (255 if mode == "L" else 1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "index"])
def test_mask_pictures_of_every_kind(tmp_path, mode):
    drawn(mode).save(tmp_path / "mask.png")
    mask = read_mask_picture(tmp_path / "mask.png", 6, 8)
    assert mask.dtype == np.bool_ and mask[:, :4].all() and not mask[:, 4:].any()


def test_mask_picture_is_scaled_only_if_the_aspect_ratio_agrees(tmp_path):
    drawn("L").save(tmp_path / "mask.png")
    mask = read_mask_picture(tmp_path / "mask.png", 60, 80)
    assert mask[:, :40].all() and not mask[:, 40:].any()
    with pytest.raises(ValueError, match="is 8x6 and the input is 64x64"):
        read_mask_picture(tmp_path / "mask.png", 64, 64)


def test_jpeg_blur_around_a_mask_is_not_hidden(tmp_path):
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:, :13] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.jpg", quality=30)
    assert np.array_equal(read_mask_picture(tmp_path / "mask.jpg", 32, 32), pixels > 0)


def test_mask_folder(tmp_path):
    for i in range(4):
        pixels = np.zeros((6, 8), np.uint8)
        pixels[:, i] = 1
        Image.fromarray(pixels).save(tmp_path / f"{i:05d}.png")
    (tmp_path / "notes.txt").write_text("ignored")
    whole = folder_mask(tmp_path, (4, 6, 8), range(4), 4)
    assert all(whole[i, :, i].all() and whole[i].sum() == 6 for i in range(4))
    assert np.array_equal(folder_mask(tmp_path, (2, 6, 8), [1, 3], 4), whole[[1, 3]])  # a mask for every frame
    assert np.array_equal(folder_mask(tmp_path, (4, 6, 8), [5, 6, 7, 8], 9), whole)  # a mask for every frame used
    with pytest.raises(ValueError, match="holds 4 pictures, but the input has 9 frames, of which 3 are used"):
        folder_mask(tmp_path, (3, 6, 8), [0, 1, 2], 9)


def test_read_mask_knows_what_it_was_given(tmp_path):
    shape, patch = (2, 6, 8), (2, 2, 2)
    drawn("L").save(tmp_path / "mask.png")
    assert np.array_equal(read_mask("center", shape, patch, 0.25), strategy_mask("center", 0.25, shape, patch))
    assert np.array_equal(read_mask("1,1,3,3", shape, patch, 0.5), box_mask("1,1,3,3", shape))
    assert read_mask(str(tmp_path / "mask.png"), shape, patch, 0.5)[:, :, :4].all()
    with pytest.raises(FileNotFoundError, match="expected a strategy .*tube"):
        read_mask("tubes", shape, patch, 0.5)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        read_mask(str(tmp_path / "text.png"), shape, patch, 0.5)
    Image.new("L", (8, 6)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match="hides no pixel"):
        read_mask(str(tmp_path / "black.png"), shape, patch, 0.5)
    with pytest.raises(ValueError, match="hides every pixel"):
        read_mask("0,0,8,6", shape, patch, 0.5)
