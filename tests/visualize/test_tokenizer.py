import numpy as np
import pytest

from diffmae_video.visualize.layout import BACKGROUND
from diffmae_video.visualize.tokenizer import tokenizer_picture


def frames(value: int) -> np.ndarray:
    return np.full((3, 16, 16, 3), value, np.uint8)


def test_frames_above_and_through_the_tokenizer_below():
    picture = tokenizer_picture(frames(250), frames(90), "pca, 8 values")
    bright, dark = (picture == 250).all(-1), (picture == 90).all(-1)
    assert 0 <= bright.sum() - 3 * 128 * 128 < 20 and 0 <= dark.sum() - 3 * 128 * 128 < 20  # letters have greys too
    assert bright[: len(picture) // 2].sum() > 9 * bright[len(picture) // 2 :].sum()
    assert dark[len(picture) // 2 :].sum() > 9 * dark[: len(picture) // 2].sum()


def test_the_curve_stands_below():
    pytest.importorskip("matplotlib")
    plain = tokenizer_picture(frames(250), frames(90), "pca, 8 values")
    whole = tokenizer_picture(frames(250), frames(90), "pca, 8 values", np.linspace(0.5, 1, 48))
    assert len(whole) > len(plain) + 200
    assert (whole[: len(plain), : plain.shape[1]] == plain).all()
    below = whole[len(plain) :]
    assert (below == 255).all(-1).mean() > 0.5  # a plot on white
    assert (whole[len(plain) :, -1] == BACKGROUND).all() or below.shape[1] == plain.shape[1]


def test_frames_of_different_shapes():
    with pytest.raises(ValueError, match="one shape"):
        tokenizer_picture(frames(250), frames(90)[:2], "pca, 8 values")
