"""Mask strategies, their indices, and their relation to pixels."""

import pytest
import torch

from diffmae_video.models.masks import (
    STRATEGIES,
    make_mask,
    mask_indices,
    pixel_mask_to_tokens,
    tokens_to_pixel_mask,
)

GRID = (8, 14, 14)


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("grid", [GRID, (1, 14, 14), (2, 2, 2), (4, 3, 5)])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75, 0.9, 0.999])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_clip_hides_equally_many_and_never_all(strategy, ratio, grid):
    if strategy == "frame" and grid[0] < 2:
        with pytest.raises(ValueError, match="1 place"):
            make_mask(strategy, grid, ratio, 3)
        return
    mask = make_mask(strategy, grid, ratio, 3, generator())
    t, h, w = grid
    assert mask.shape == (3, t * h * w) and mask.dtype == torch.bool
    visible, hidden = mask_indices(mask)
    assert visible.shape[1] >= 1 and hidden.shape[1] >= 1


def test_hidden_share_is_the_nearest_to_the_ratio():
    assert make_mask("random", GRID, 0.9, 2).sum(1).tolist() == [1411, 1411]  # of 1568
    assert make_mask("tube", GRID, 0.9, 2).sum(1).tolist() == [176 * 8] * 2  # of 196 places
    assert make_mask("frame", GRID, 0.5, 2).sum(1).tolist() == [4 * 196] * 2
    assert make_mask("center", (8, 16, 16), 0.25, 1).sum().item() == 8 * 8 * 8


def test_tube_is_the_same_in_every_slot_and_random_is_not():
    tube = make_mask("tube", GRID, 0.9, 4, generator()).reshape(4, 8, 196)
    assert torch.equal(tube, tube[:, :1].expand_as(tube))
    random = make_mask("random", GRID, 0.9, 4, generator()).reshape(4, 8, 196)
    assert not torch.equal(random[:, 0], random[:, 1])
    assert not torch.equal(tube[0], tube[1]), "clips of a batch get different masks"


def test_frame_hides_whole_slots():
    frame = make_mask("frame", GRID, 0.75, 4, generator()).reshape(4, 8, 196)
    assert torch.equal(frame.all(2), frame.any(2))


def test_block_and_center_are_boxes():
    for strategy in ("block", "center"):
        for mask in make_mask(strategy, GRID, 0.4, 8, generator()).reshape(8, *GRID):
            sides = [mask.any(dim=d1).any(dim=d2).sum().item() for d1, d2 in ((2, 1), (2, 0), (1, 0))]
            assert sides[0] * sides[1] * sides[2] == mask.sum().item()
    center = make_mask("center", GRID, 0.4, 2).reshape(2, *GRID)
    assert torch.equal(center, center.flip(2)) and torch.equal(center, center.flip(3))
    assert center[:, :, 7, 7].all()


def test_every_token_is_hidden_equally_often():
    share = make_mask("random", (2, 4, 4), 0.75, 4000, generator()).float().mean(0)
    assert share.min() > 0.72 and share.max() < 0.78


def test_a_generator_per_clip_gives_the_clip_its_mask_in_any_batch():
    def seeded(*seeds):
        return [torch.Generator().manual_seed(s) for s in seeds]

    for strategy in STRATEGIES:
        assert torch.equal(
            make_mask(strategy, GRID, 0.9, 3, seeded(1, 2, 3))[2:], make_mask(strategy, GRID, 0.9, 1, seeded(3))
        )


def test_indices_are_in_token_order_and_partition_the_tokens():
    mask = make_mask("random", GRID, 0.9, 2, generator())
    visible, hidden = mask_indices(mask)
    for row in range(2):
        assert visible[row].tolist() == (~mask[row]).nonzero().flatten().tolist()
        assert hidden[row].tolist() == mask[row].nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.tensor([[True, False, False], [True, True, False]]), r"same number.*\[1, 2\]"),
        (torch.ones(2, 4, dtype=torch.bool), "hides 4 of 4"),
        (torch.zeros(2, 4, dtype=torch.bool), "hides 0 of 4"),
        (torch.zeros(2, 4), "bool"),
    ],
)
def test_unusable_masks_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        mask_indices(mask)


@pytest.mark.parametrize("bad", [("tubes", 0.5), ("tube", 0.0), ("tube", 1.0)])
def test_unknown_strategies_and_ratios_are_refused(bad):
    with pytest.raises(ValueError):
        make_mask(bad[0], GRID, bad[1])


def test_a_patch_is_hidden_if_any_of_its_pixels_is():
    pixels = torch.zeros(1, 4, 16, 24, dtype=torch.bool)
    pixels[0, 3, 15, 8] = True  # one pixel of slot 1, row 1, column 1
    tokens = pixel_mask_to_tokens(pixels, (2, 8, 8))
    assert tokens.reshape(2, 2, 3).nonzero().tolist() == [[1, 1, 1]]
    back = tokens_to_pixel_mask(tokens, (2, 2, 3), (2, 8, 8))
    assert back.sum() == 2 * 8 * 8 and back[0, 2:, 8:, 8:16].all()
