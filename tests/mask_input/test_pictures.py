"""Which pixels of a mask picture are hidden."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffmae_video.mask_input import read_mask_picture


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
    if mode == "I;16":
        return Image.fromarray(hidden.astype(np.uint16) * 300)
    return Image.fromarray(hidden * (255 if mode == "L" else 1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "I;16", "index"])
def test_mask_pictures_of_every_kind(tmp_path, mode):
    drawn(mode).save(tmp_path / "mask.png")
    mask = read_mask_picture(tmp_path / "mask.png", 6, 8)
    assert mask.dtype == np.bool_ and mask[:, :4].all() and not mask[:, 4:].any()


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "LA", "CMYK"])
@pytest.mark.parametrize("suffix", ["tif", "bmp", "webp"])
def test_mask_pictures_in_other_formats(tmp_path, mode, suffix):
    colours = drawn("L").convert("RGB")
    image = colours.quantize(2) if mode == "P" else colours.convert(mode)
    options = {"lossless": True} if suffix == "webp" else {}
    if suffix in ("bmp", "webp") and mode in ("LA", "CMYK"):
        image = image.convert("RGB")
    image.save(tmp_path / f"mask.{suffix}", **options)
    mask = read_mask_picture(tmp_path / f"mask.{suffix}", 6, 8)
    assert mask[:, :4].all() and not mask[:, 4:].any()


@pytest.mark.parametrize("black", [0, 1, 5])
def test_a_painting_reduced_to_a_palette_has_black_anywhere(tmp_path, black):
    """Paint programs number colours as they like; index 0 is no background where black is elsewhere."""
    white = 0 if black else 3
    indices = np.where(np.asarray(drawn("1")), white, black).astype(np.uint8)
    image = Image.fromarray(indices)
    palette = np.full((256, 3), 90)
    palette[white], palette[black] = 255, 0
    image.putpalette(palette.astype(np.uint8).tobytes())
    image.save(tmp_path / "mask.png")
    mask = read_mask_picture(tmp_path / "mask.png", 6, 8)
    assert mask[:, :4].all() and not mask[:, 4:].any()


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_what_is_transparent_by_key_or_palette_is_visible(tmp_path, mode):
    """Left half transparent white; of the right half the upper part is white, the lower black."""
    indices = np.full((6, 8), 1, np.uint8)
    indices[:, :4] = 2
    indices[3:, 4:] = 0
    image = Image.fromarray(indices)
    image.putpalette([0, 0, 0, 255, 255, 255, 254, 254, 254])
    image = image if mode == "P" else image.convert(mode)
    image.save(tmp_path / "mask.png", transparency={"P": 2, "L": 254, "RGB": (254, 254, 254)}[mode])
    mask = read_mask_picture(tmp_path / "mask.png", 6, 8)
    assert mask[:3, 4:].all() and mask.sum() == 3 * 4


def test_a_photograph_is_turned_as_its_tag_says(tmp_path):
    image = drawn("L")
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "mask.png", exif=exif)
    mask = read_mask_picture(tmp_path / "mask.png", 6, 8)
    assert mask[:, 4:].all() and not mask[:, :4].any()


def test_mask_picture_is_scaled_only_if_the_aspect_ratio_agrees(tmp_path):
    drawn("L").save(tmp_path / "mask.png")
    mask = read_mask_picture(tmp_path / "mask.png", 60, 80)
    assert mask[:, :40].all() and not mask[:, 40:].any()
    with pytest.raises(ValueError, match="is 8x6 and the input is 64x64"):
        read_mask_picture(tmp_path / "mask.png", 64, 64)


def test_a_thin_line_survives_shrinking(tmp_path):
    """Nearest neighbour would drop two of three lines."""
    for place in range(90):
        pixels = np.zeros((60, 90), np.uint8)
        pixels[:, place] = 255
        Image.fromarray(pixels).save(tmp_path / "mask.png")
        mask = read_mask_picture(tmp_path / "mask.png", 20, 30)
        assert mask[:, place // 3].all() and mask.sum() == 20


def test_shrinking_moves_no_edge(tmp_path):
    pixels = np.zeros((60, 90), np.uint8)
    pixels[15:30, 30:60] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    expected = np.zeros((40, 60), bool)
    expected[10:20, 20:40] = True
    assert np.array_equal(read_mask_picture(tmp_path / "mask.png", 40, 60), expected)


def test_jpeg_blur_around_a_mask_is_not_hidden(tmp_path):
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:, :13] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.jpg", quality=30)
    assert np.array_equal(read_mask_picture(tmp_path / "mask.jpg", 32, 32), pixels > 0)


def segmentation() -> np.ndarray:
    """6 x 8 with objects 1, 2 and 5, two columns each, after two columns of background."""
    return np.repeat(np.array([[0, 0, 1, 1, 2, 2, 5, 5]], np.uint8), 6, axis=0)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "I;16"])
def test_chosen_objects(tmp_path, mode):
    labels = segmentation()
    if mode == "P":
        image = Image.fromarray(labels)
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128])  # DAVIS
    else:
        image = Image.fromarray(labels.astype(np.uint16)) if mode == "I;16" else Image.fromarray(labels).convert(mode)
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask_picture(tmp_path / "mask.png", 6, 8), labels > 0)
    assert np.array_equal(read_mask_picture(tmp_path / "mask.png", 6, 8, objects=[2]), labels == 2)
    assert np.array_equal(read_mask_picture(tmp_path / "mask.png", 6, 8, objects={1, 5}), np.isin(labels, [1, 5]))
    with pytest.raises(ValueError, match=r"has no object 3, 4: .* there are 0, 1, 2, 5 \(0 is the background\)"):
        read_mask_picture(tmp_path / "mask.png", 6, 8, objects=[3, 4, 5])


def test_objects_of_a_grey_ramp_are_not_all_listed(tmp_path):
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"has no object 99: .* 18, 19 and 28 more"):
        read_mask_picture(tmp_path / "mask.png", 6, 8, objects=[99])


def test_objects_need_numbers(tmp_path):
    image = Image.fromarray(segmentation())
    image.save(tmp_path / "mask.jpg")
    with pytest.raises(ValueError, match="JPEG does not keep the numbers of objects"):
        read_mask_picture(tmp_path / "mask.jpg", 6, 8, objects=[1])
    Image.fromarray(segmentation()[..., None] * np.array([0, 9, 3], np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="has colours instead of numbers"):
        read_mask_picture(tmp_path / "mask.png", 6, 8, objects=[9])


def test_what_is_no_picture(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_mask_picture(tmp_path / "mask.png", 6, 8)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        read_mask_picture(tmp_path / "text.png", 6, 8)
    drawn("RGB").resize((200, 100)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        read_mask_picture(tmp_path / "half.png", 100, 200)
    drawn("L").save(tmp_path / "pages.tif", save_all=True, append_images=[drawn("L")])
    with pytest.raises(ValueError, match="holds 2 pictures: expected one"):
        read_mask_picture(tmp_path / "pages.tif", 6, 8)
