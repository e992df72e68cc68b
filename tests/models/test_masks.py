"""Mask strategies, their indices, and their relation to pixels."""

import pytest
import torch

from diffmae_video.models.masks import (
    STRATEGIES,
    MaskMix,
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


# ------------------------------------------------------------------------------------------------------ mix of masks

MIX = MaskMix(
    strategies=("random", "tube", "frame"),
    weights=(3.0, 1.0, 4.0),
    ratios=((0.6, 0.95), (0.5, 0.9), (0.5, 0.5)),
)


def test_a_mix_draws_by_weight_and_uniformly_between_its_ratios():
    draws, source = [], generator()
    for _ in range(8000):
        draws.append(MIX.draw(source))
    for strategy, weight, (low, high) in zip(MIX.strategies, MIX.weights, MIX.ratios, strict=True):
        ratios = torch.tensor([ratio for name, ratio in draws if name == strategy], dtype=torch.float64)
        assert len(ratios) / len(draws) == pytest.approx(weight / 8, abs=0.02)
        assert ratios.min() >= low and ratios.max() <= high
        if low < high:
            quarters = torch.histc(ratios, 4, low, high) / len(ratios)
            assert quarters.tolist() == pytest.approx([0.25] * 4, abs=0.04)
    assert {ratio for name, ratio in draws if name == "frame"} == {0.5}, "a range of one ratio is exactly that"


def test_a_draw_is_a_function_of_its_generator_alone():
    state = torch.get_rng_state()
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    first, again, other = ([MIX.draw(source) for _ in range(5)] for source in seeds)
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)
    scaled = MaskMix(MIX.strategies, tuple(10 * weight for weight in MIX.weights), MIX.ratios)
    assert scaled.draw(generator()) == MIX.draw(generator()), "the sum of the weights does not matter"
    one, source = MaskMix(("tube",), (1.0,), ((0.5, 0.5),)), generator()
    one.draw(source)
    MIX.draw(rest := generator())
    assert torch.equal(torch.rand(1, generator=source), torch.rand(1, generator=rest)), "two numbers, whatever is drawn"


def test_draws_are_fixed_for_all_time():
    """Changing them would change every run that is resumed."""
    choices = [MIX.draw(torch.Generator().manual_seed(seed)) for seed in (1, 2, 4)]
    assert [choice.strategy for choice in choices] == ["random", "frame", "tube"]
    assert [choice.ratio for choice in choices] == pytest.approx(
        [0.6785940772986776, 0.5, 0.7926618905439997], rel=1e-12
    )


def test_clips_of_a_batch_share_a_choice_and_have_masks_of_their_own():
    source, counts = generator(), set()
    for _ in range(20):
        choice = MIX.draw(source)
        clips = [torch.Generator().manual_seed(seed) for seed in range(4)]
        mask = make_mask(choice.strategy, GRID, choice.ratio, 4, clips)
        hidden = mask_indices(mask)[1].shape[1]
        assert hidden / mask.shape[1] == pytest.approx(choice.ratio, abs=0.005)
        assert not torch.equal(mask[0], mask[1]) or choice.strategy == "frame"
        counts.add(hidden)
    assert len(counts) > 10


def test_a_mix_says_what_it_draws():
    assert str(MIX) == "random 0.6 to 0.95 (38%), tube 0.5 to 0.9 (12%), frame 0.5 (50%)"


@pytest.mark.parametrize(
    "strategies, weights, ratios, message",
    [
        ((), (), (), "for every strategy"),
        (("tube", "random"), (1.0,), ((0.5, 0.9), (0.5, 0.9)), r"\(2, 1, 2\)"),
        (("tube", "random"), (1.0, 1.0), ((0.5, 0.9),), r"\(2, 2, 1\)"),
        (("tube", "tube"), (1.0, 1.0), ((0.5, 0.9), (0.1, 0.2)), "there twice"),
        (("tube", "random"), (1.0, 0.0), ((0.5, 0.9), (0.5, 0.9)), "above 0"),
        (("tubes",), (1.0,), ((0.5, 0.9),), "unknown mask strategy 'tubes'"),
        (("tube",), (1.0,), ((0.0, 0.9),), "mask ratio 0.0 is outside"),
        (("tube",), (1.0,), ((0.5, 1.0),), "mask ratio 1.0 is outside"),
        (("tube",), (1.0,), ((0.9, 0.5),), "the lower end comes first"),
    ],
)
def test_mixes_that_cannot_be_drawn_from_are_refused(strategies, weights, ratios, message):
    with pytest.raises(ValueError, match=message):
        MaskMix(strategies, weights, ratios)
