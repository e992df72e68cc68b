from __future__ import annotations

import pickle
from collections import Counter

import pytest
import torch

from diffmae_video.data.rand_augment import OPERATIONS, RandAugment, apply_operation


def clip_of(frames=4, size=24):
    clip = torch.randint(0, 256, (3, 1, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return clip.repeat(1, frames, 1, 1)


def test_timm_notation():
    assert RandAugment.parse("rand-m7-n4-mstd0.5-inc1") == RandAugment(7, 4, 0.5, True)
    assert RandAugment.parse("rand-m9-mstd0.5-inc1") == RandAugment(9, 2, 0.5, True)
    assert RandAugment.parse("rand") == RandAugment(10, 2, 0.0, False, 0.5, 10)
    assert RandAugment.parse("rand-inc0-p1-n3-m5-mmax8") == RandAugment(5, 3, 0.0, False, 1.0, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("augmix-m3", 'must begin with "rand"'),
        ("", 'must begin with "rand"'),
        ("rand-m7-w0", "'w0' is none of m, n, mstd, inc, p, mmax"),
        ("rand-m", "'m' is none of"),
        ("rand-m7-m9", "gives 'm' twice"),
        ("rand--m7", "'' is none of"),
        ("rand-m11", r"magnitude must be in \[0, 10\]"),
        ("rand-n0", "layers must be at least 1"),
        ("rand-p1.5", "probability"),
        ("rand-m5-mmax20", "max_magnitude"),
    ],
)
def test_bad_notation(text, message):
    with pytest.raises(ValueError, match=message):
        RandAugment.parse(text)


# timm's LEVEL_TO_ARG, by hand: (name, argument at 0, at 7, at 10 with sign 1, with sign -1 at 7); increasing
ARGUMENTS = [
    ("Rotate", 0, 21, 30, -21),
    ("Posterize", 4, 2, 1, 2),
    ("Solarize", 256, 77, 0, 77),
    ("SolarizeAdd", 0, 77, 110, 77),
    ("Color", 1, 1.63, 1.9, 0.37),
    ("Contrast", 1, 1.63, 1.9, 0.37),
    ("Brightness", 1, 1.63, 1.9, 0.37),
    ("Sharpness", 1, 1.63, 1.9, 0.37),
    ("ShearX", 0, 0.21, 0.3, -0.21),
    ("ShearY", 0, 0.21, 0.3, -0.21),
    ("TranslateXRel", 0, 0.315, 0.45, -0.315),
    ("TranslateYRel", 0, 0.315, 0.45, -0.315),
]


@pytest.mark.parametrize(("name", "at_0", "at_7", "at_10", "negative"), ARGUMENTS)
def test_arguments_are_those_of_timm(name, at_0, at_7, at_10, negative):
    argument = OPERATIONS[name][1]
    found = [argument(*level_and_sign, True) for level_and_sign in [(0, 1), (7, 1), (10, 1), (7, -1)]]
    assert found == pytest.approx([at_0, at_7, at_10, negative])


def test_the_set_without_inc():
    found = {name: OPERATIONS[name][1](7.0, 1.0, False) for name in ("Posterize", "Solarize", "Color", "Sharpness")}
    assert found == pytest.approx({"Posterize": 2, "Solarize": 179, "Color": 1.36, "Sharpness": 1.36})
    assert OPERATIONS["Posterize"][1](0.0, 1.0, False) == 1 and OPERATIONS["Solarize"][1](10, 1, False) == 256


def test_every_operation_has_fifteen_names_and_treats_all_frames_alike():
    clip = clip_of()
    assert len(OPERATIONS) == 15 and {name for name, (_, argument) in OPERATIONS.items() if argument is None} == {
        "AutoContrast", "Equalize", "Invert",
    }  # fmt: skip
    for name in OPERATIONS:
        changed = apply_operation(clip, name, 7.0)
        assert changed.shape == clip.shape and changed.dtype == torch.uint8
        assert torch.equal(changed, changed[:, :1].expand_as(changed)), name
        assert not torch.equal(changed, clip) or name == "AutoContrast", name


@pytest.mark.parametrize("name", ["Rotate", "Solarize", "SolarizeAdd", "Color", "Contrast", "Brightness", "ShearY"])
def test_magnitude_zero_changes_nothing_in_the_increasing_set(name):
    assert torch.equal(apply_operation(clip_of(), name, 0.0), clip_of())


def test_draws_follow_the_notation():
    generator = torch.Generator().manual_seed(0)
    augment = RandAugment.parse("rand-m7-n4-mstd0.5-inc1")
    drawn = [augment.draw(generator) for _ in range(3000)]
    operations = [operation for clip in drawn for operation in clip]
    assert len(operations) / 3000 == pytest.approx(4 * 0.5, abs=0.08) and max(map(len, drawn)) == 4
    shares = Counter(name for name, _, _ in operations)
    assert set(shares) == set(OPERATIONS) and max(shares.values()) < 1.3 * min(shares.values())
    assert any(len({name for name, _, _ in clip}) < len(clip) for clip in drawn), "drawn with replacement"
    levels = torch.tensor([level for _, level, _ in operations])
    assert levels.mean() == pytest.approx(7, abs=0.05) and levels.std() == pytest.approx(0.5, abs=0.03)
    assert sum(sign for _, _, sign in operations) / len(operations) == pytest.approx(0, abs=0.06)


def test_strengths_are_cut_or_uniform():
    generator = torch.Generator().manual_seed(0)
    strong = [RandAugment(9.5, 8, 2.0, probability=1.0).draw(generator) for _ in range(100)]
    levels = [level for clip in strong for _, level, _ in clip]
    assert len(levels) == 800 and max(levels) == 10 and 0.2 < levels.count(10) / 800 < 0.6
    uniform = [RandAugment(6.0, 8, 101.0, probability=1.0).draw(generator) for _ in range(100)]
    levels = torch.tensor([level for clip in uniform for _, level, _ in clip])
    assert 0 <= levels.min() < 0.1 and 5.9 < levels.max() <= 6 and levels.mean() == pytest.approx(3, abs=0.2)
    assert {len(RandAugment(5, 3, probability=0.0).draw(generator)) for _ in range(20)} == {0}


def test_the_generator_decides_and_frames_agree():
    augment = RandAugment.parse("rand-m9-n4-mstd0.5-inc1-p0.9")
    clip = clip_of()
    results = [augment(clip, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    torch.manual_seed(5)  # the global state must not matter
    assert torch.equal(results[0], augment(clip, torch.Generator().manual_seed(1)))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert torch.equal(results[0], results[0][:, :1].expand_as(results[0]))
    assert torch.equal(clip, clip_of()), "the clip that was passed must not change"
    assert pickle.loads(pickle.dumps(augment)) == augment
