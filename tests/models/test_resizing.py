"""Resizing of positions and patch embeddings: what must stay the same stays the same."""

import pytest
import torch
from torch.nn import functional as F

from diffmae_video.models.patches import PatchEmbedding, patchify
from diffmae_video.models.positions import PositionEmbedding
from diffmae_video.models.resizing import (
    frame_matrix,
    resampling_matrix,
    resize_patch_weight,
    resize_space,
    resize_table,
    resize_time,
    weight_matrix,
)

SIZES = [(16, 14), (14, 16), (16, 8), (8, 16), (16, 1), (1, 4), (4, 3), (7, 7)]


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def answer(clip, weight, patch):
    """Tokens (N, D) of a clip (C, T, H, W) under an embedding's weights."""
    return patchify(clip[None], patch)[0] @ weight.T


# ---------------------------------------------------------------------------------------------------------- positions


def test_an_equal_grid_changes_nothing():
    space, time = noise(6, 8), noise(4, 8)
    assert resize_space(space, (2, 3), (2, 3)) is space
    assert resize_time(time, 4) is time


@pytest.mark.parametrize("old,new", SIZES)
def test_what_is_the_same_everywhere_stays_so(old, new):
    for mode in ("bilinear", "bicubic"):
        torch.testing.assert_close(resampling_matrix(old, new, mode).sum(1), torch.ones(new, dtype=torch.float64))


@pytest.mark.parametrize("new", [(8, 20), (24, 9), (5, 5)])
def test_space_is_torchs_antialiased_bicubic_resize(new):
    old = (12, 10)
    space = noise(120, 8)
    picture = space.T.reshape(1, 8, *old)
    expected = F.interpolate(picture, new, mode="bicubic", align_corners=False, antialias=True)[0].flatten(1).T
    torch.testing.assert_close(resize_space(space, old, new), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("new,error", [(21, 1e-5), (28, 1e-5), (7, 1e-5), (9, 0.02)])
def test_a_linear_ramp_stays_linear_inside(new, error):
    old = 14
    place = (torch.arange(new) + 0.5) * old / new - 0.5  # of the new slots among the old ones
    inside = slice(3, -3)  # 9 of 14: a widened kernel that meets the old slots unevenly
    ramp = torch.arange(old).float()
    in_time = resize_time(ramp[:, None].repeat(1, 4), new)
    torch.testing.assert_close(in_time[inside], place[inside, None].repeat(1, 4), rtol=0, atol=error)
    rows = resize_space(ramp.repeat_interleave(5)[:, None], (old, 5), (new, 7)).reshape(new, 7)
    torch.testing.assert_close(rows[inside], place[inside, None].repeat(1, 7), rtol=0, atol=error)


def test_the_two_parts_together_are_the_interpolation_in_three_dimensions():
    old, new = (3, 4, 5), (5, 6, 7)
    torch.manual_seed(0)
    source, target = PositionEmbedding(old, 8, "separable"), PositionEmbedding(new, 8, "separable")
    with torch.no_grad():
        target.space.copy_(resize_space(source.space, old[1:], new[1:]))
        target.time.copy_(resize_time(source.time, new[0]))
    matrices = [
        resampling_matrix(o, n, mode).float()
        for o, n, mode in zip(old, new, ("bilinear", "bicubic", "bicubic"), strict=True)
    ]
    whole = torch.einsum("at,bh,cw,thwd->abcd", *matrices, source()[0].unflatten(0, old))
    torch.testing.assert_close(target()[0], whole.flatten(0, 2))


@pytest.mark.parametrize("old, new", [((3, 4, 5), (5, 6, 7)), ((4, 6, 6), (2, 3, 3)), ((2, 3, 4), (1, 3, 4))])
def test_a_table_that_is_the_sum_of_two_parts_becomes_the_sum_of_the_resized_parts(old, new):
    torch.manual_seed(0)
    parts = PositionEmbedding(old, 8, "separable")
    space, time = resize_space(parts.space, old[1:], new[1:]), resize_time(parts.time, new[0])
    expected = (time[:, None] + space[None]).flatten(0, 1)
    torch.testing.assert_close(resize_table(parts()[0], old, new), expected)


def test_a_table_is_interpolated_in_three_dimensions_and_stays_on_its_own_grid():
    old, new = (3, 4, 5), (5, 6, 7)
    table = noise(60, 8)
    matrices = [
        resampling_matrix(o, n, mode).float()
        for o, n, mode in zip(old, new, ("bilinear", "bicubic", "bicubic"), strict=True)
    ]
    whole = torch.einsum("at,bh,cw,thwd->abcd", *matrices, table.unflatten(0, old))
    torch.testing.assert_close(resize_table(table, old, new), whole.flatten(0, 2))
    assert torch.equal(resize_table(table, old, old), table)


def test_image_positions_are_repeated_over_a_clip_and_come_back():
    image = noise(1, 8)
    clip = resize_time(image, 8)
    torch.testing.assert_close(clip, image.expand(8, -1))
    torch.testing.assert_close(resize_time(clip, 1), image)


# ---------------------------------------------------------------------------------------------------- patch embedding


@pytest.mark.parametrize("old,new", SIZES)
def test_weights_keep_their_sum(old, new):
    for mode in ("bilinear", "bicubic"):
        torch.testing.assert_close(weight_matrix(old, new, mode).sum(0), torch.ones(old, dtype=torch.float64))


@pytest.mark.parametrize("old,new", [(14, 16), (8, 16), (1, 4)])
def test_a_larger_patch_answers_the_enlarged_picture_as_before(old, new):
    w, x = noise(old).double(), noise(old, seed=1).double()
    larger = resampling_matrix(old, new, "bicubic") @ x
    torch.testing.assert_close(larger @ (weight_matrix(old, new, "bicubic") @ w), x @ w)


@pytest.mark.parametrize("old,new", [(16, 14), (16, 8), (4, 2)])
def test_a_smaller_patch_has_the_least_error_among_weights_of_the_same_sum(old, new):
    resample = resampling_matrix(old, new, "bicubic")
    w = noise(old).double()
    fitted = weight_matrix(old, new, "bicubic") @ w
    least = (resample.T @ fitted - w).square().sum()  # E[(<x, w> - <B x, w'>)^2] over x ~ N(0, I)
    for seed in range(5):
        other = noise(new, seed=seed).double() * 0.01
        assert (resample.T @ (fitted + other - other.mean()) - w).square().sum() > least


def test_there_and_back_is_the_identity():
    weight = noise(5, 1 * 8 * 8 * 3)
    larger = resize_patch_weight(weight, (1, 8, 8), (2, 16, 12))
    assert larger.shape == (5, 2 * 16 * 12 * 3)
    assert resize_patch_weight(weight, (1, 8, 8), (1, 8, 8)) is weight
    frames = resize_patch_weight(weight, (1, 8, 8), (4, 8, 8))
    torch.testing.assert_close(resize_patch_weight(frames, (4, 8, 8), (1, 8, 8)), weight)


@pytest.mark.parametrize("inflation", ["average", "center"])
@pytest.mark.parametrize("frames", [2, 3, 4])
def test_a_still_clip_has_the_tokens_of_its_picture(frames, inflation):
    image, weight = noise(3, 1, 16, 24), noise(5, 8 * 8 * 3, seed=1)
    expected = answer(image, weight, (1, 8, 8))
    inflated = resize_patch_weight(weight, (1, 8, 8), (frames, 8, 8), inflation)
    still = image.expand(-1, frames, -1, -1)
    torch.testing.assert_close(answer(still, inflated, (frames, 8, 8)), expected, rtol=1e-4, atol=1e-4)
    deflated = resize_patch_weight(inflated, (frames, 8, 8), (1, 8, 8), inflation)
    torch.testing.assert_close(deflated, weight)


def test_average_gives_every_frame_its_share_and_center_all_to_one():
    weight = noise(5, 2 * 2 * 3)
    average = resize_patch_weight(weight, (1, 2, 2), (3, 2, 2)).reshape(5, 3, -1)
    torch.testing.assert_close(average, (weight / 3)[:, None].expand(-1, 3, -1))
    center = resize_patch_weight(weight, (1, 2, 2), (3, 2, 2), "center").reshape(5, 3, -1)
    assert torch.equal(center[:, 1], weight) and not center[:, [0, 2]].any()
    assert frame_matrix(1, 2, "center").tolist() == [[0], [1]]  # frame n // 2


@pytest.mark.parametrize("old,new", [(2, 4), (4, 2), (2, 3), (3, 2)])
def test_a_still_clip_is_answered_alike_with_other_frame_counts(old, new):
    image, weight = noise(3, 1, 8, 8), noise(5, old * 8 * 8 * 3, seed=1)
    expected = answer(image.expand(-1, old, -1, -1), weight, (old, 8, 8))
    resized = resize_patch_weight(weight, (old, 8, 8), (new, 8, 8))
    torch.testing.assert_close(
        answer(image.expand(-1, new, -1, -1), resized, (new, 8, 8)), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("new", [(1, 14, 14), (1, 8, 32), (2, 20, 10)])
def test_a_uniform_picture_is_answered_alike_by_patches_of_another_size(new):
    torch.manual_seed(0)
    old = (1, 16, 16)
    source, target = PatchEmbedding(3, old, 5), PatchEmbedding(3, new, 5)
    with torch.no_grad():
        target.weight.copy_(resize_patch_weight(source.weight, old, new))
        target.bias.copy_(source.bias)
    color = noise(3, 1, 1, 1)
    expected, actual = (e(patchify(color.expand(3, *p)[None], p)) for e, p in ((source, old), (target, new)))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_an_unknown_inflation_is_refused():
    with pytest.raises(ValueError, match="unknown inflation 'mean': choose one of average, center"):
        resize_patch_weight(noise(5, 12), (1, 2, 2), (2, 2, 2), "mean")
