"""The frozen CLIP image encoder: which frame and which place a feature is of, and what a folder must hold."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from clip_fakes import DEPTH, WIDTH, save_clip
from safetensors.torch import load_file, save_file

from diffmae_video.clip_features import (
    MEAN,
    STD,
    load_clip_teacher,
    middle_frames,
    read_normalization,
    read_vision_config,
)

transformers = pytest.importorskip("transformers")

PATCH = (2, 8, 8)  # of the clips; 32 x 32 pixels are 4 x 4 patches, as CLIP's own


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def normalized(frames: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return (frames.float() / 255 - mean) / std


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip") / "vision")


@pytest.fixture(scope="module")
def reference(folder):
    return transformers.CLIPVisionModel.from_pretrained(folder).eval()


# ------------------------------------------------------------------------------------------------------- what it gives


@pytest.mark.parametrize("layer", [-1, -2, -DEPTH])
def test_features_are_the_hidden_states_of_transformers(folder, reference, layer):
    """Of single frames, the class token left out, in the order time slot, row, column."""
    teacher, clip = load_clip_teacher(folder, PATCH, layer), pixels(2, 3, 6, 32, 32)
    features = teacher(clip)
    assert features.shape == (2, 3 * 16, WIDTH)
    for number in range(2):
        for slot in range(3):
            frame = normalized(clip[number, :, 2 * slot])[None]
            with torch.no_grad():
                expected = reference(pixel_values=frame, output_hidden_states=True).hidden_states[layer][0, 1:]
            torch.testing.assert_close(features[number, 16 * slot : 16 * (slot + 1)], expected, atol=1e-5, rtol=1e-5)


def test_blocks_behind_the_wanted_one_are_not_built(folder):
    sizes = [
        sum(p.numel() for p in load_clip_teacher(folder, PATCH, layer).vision.parameters()) for layer in (-1, -2, -3)
    ]
    assert sizes[0] - sizes[1] == sizes[1] - sizes[2] > 5000


@pytest.mark.parametrize(
    "kind, shard", [("CLIPVisionModelWithProjection", "1GB"), ("CLIPModel", "1GB"), ("CLIPModel", "20KB")]
)
def test_a_whole_clip_and_one_with_projection_and_one_in_parts_give_the_same(tmp_path, kind, shard):
    save_clip(tmp_path / "model", kind, seed=3, shard=shard)
    assert (len(list((tmp_path / "model").glob("*.safetensors"))) > 1) == (shard == "20KB")
    model = getattr(transformers, kind).from_pretrained(tmp_path / "model").eval()
    clip = pixels(1, 3, 1, 32, 32)
    with torch.no_grad():
        expected = model.vision_model(pixel_values=normalized(clip[:, :, 0])).last_hidden_state[:, 1:]
    torch.testing.assert_close(load_clip_teacher(tmp_path / "model", PATCH)(clip), expected, atol=1e-5, rtol=1e-5)


def test_unit_pixels_are_uint8_pixels(folder):
    teacher, clip = load_clip_teacher(folder, PATCH), pixels(2, 3, 4, 32, 32)
    torch.testing.assert_close(teacher(clip.float() / 255), teacher(clip), atol=1e-6, rtol=1e-6)


def test_a_feature_is_of_its_patch(folder):
    """Brightening one place changes the feature of just that place most, in its own time slot and in no other."""
    teacher, dark = load_clip_teacher(folder, (2, 8, 16)), torch.full((1, 3, 4, 32, 96), 60, dtype=torch.uint8)
    before = teacher(dark).reshape(2, 4, 6, WIDTH)  # t, h, w
    for slot, row, column in ((0, 0, 0), (1, 2, 5), (0, 3, 1)):
        bright = dark.clone()
        bright[:, :, 2 * slot, 8 * row : 8 * (row + 1), 16 * column : 16 * (column + 1)] = 250
        change = (teacher(bright).reshape(2, 4, 6, WIDTH) - before).norm(dim=-1)
        assert change.flatten().argmax() == (slot * 4 + row) * 6 + column
        assert change[1 - slot].max() == 0 and change[slot].min() > 0  # attention sees the whole frame, no other one


@pytest.mark.parametrize("pt, expected", [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4]), (3, [1, 4]), (6, [2])])
def test_the_middle_frame_of_a_slot_is_seen(folder, pt, expected):
    clip = pixels(1, 3, 6, 32, 32)
    assert torch.equal(middle_frames(clip, pt), clip[:, :, expected])
    teacher = load_clip_teacher(folder, (pt, 8, 8))
    others = torch.ones(6, dtype=torch.bool)
    others[expected] = False
    changed = clip.masked_fill(others[:, None, None], 0)
    assert torch.equal(teacher(changed), teacher(clip))
    image = clip[:, :, expected[:1]]  # a slot by itself
    torch.testing.assert_close(teacher(image), teacher(clip)[:, :16], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size, patch, frame", [(32, 4, 64), (64, 16, 32), (48, 16, 24), (96, 8, 96)])
def test_frames_are_resized_until_clip_has_the_patches_of_the_model(folder, reference, size, patch, frame):
    teacher, clip = load_clip_teacher(folder, (1, patch, patch)), pixels(1, 3, 1, size, size)
    assert teacher.frame_size(size, size) == (frame, frame)
    picture = torch.nn.functional.interpolate(
        clip[:, :, 0].float() / 255, (frame, frame), mode="bicubic", antialias=True
    ).clamp(0, 1)
    with torch.no_grad():
        expected = reference(pixel_values=normalized(255 * picture), interpolate_pos_encoding=True)
    features = teacher(clip)
    assert features.shape == (1, (size // patch) ** 2, WIDTH)
    torch.testing.assert_close(features, expected.last_hidden_state[:, 1:], atol=1e-4, rtol=1e-4)


def test_nothing_of_it_learns_and_nothing_can_hold_it(folder):
    teacher = load_clip_teacher(folder, PATCH)
    features = teacher(pixels(1, 3, 2, 32, 32).float().div(255).requires_grad_())
    assert not features.requires_grad and not features.is_inference()
    assert not any(p.requires_grad for p in teacher.vision.parameters()) and not teacher.vision.training
    assert not isinstance(teacher, torch.nn.Module)  # a module would enter the state of whatever keeps it


def test_it_runs_under_the_autocast_of_the_run(folder):
    teacher, clip = load_clip_teacher(folder, PATCH), pixels(2, 3, 2, 32, 32)
    exact = teacher(clip)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = teacher(clip)
    assert not torch.equal(rough.float(), exact)
    assert torch.nn.functional.cosine_similarity(rough.float(), exact, dim=-1).min() > 0.99


def test_loading_it_draws_nothing_from_the_global_generator(folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_clip_teacher(folder, PATCH)
    assert torch.equal(torch.rand(3), expected)


def test_clips_without_whole_patches_are_refused(folder):
    teacher = load_clip_teacher(folder, PATCH)
    with pytest.raises(ValueError, match=r"1 frame or a multiple of 2, got \(1, 3, 5, 32, 32\)"):
        teacher(pixels(1, 3, 5, 32, 32))
    for shape in ((1, 3, 4, 36, 32), (1, 3, 4, 32, 36), (1, 1, 4, 32, 32)):
        with pytest.raises(ValueError, match=r"\(B, 3, T, H, W\) of whole patches \(2, 8, 8\)"):
            teacher(pixels(*shape))


# ------------------------------------------------------------------------------------------------- what a folder holds


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_mean_and_deviation_are_those_of_the_folder(copy):
    assert read_normalization(copy) == (MEAN, STD)
    own = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": own}))
    assert read_normalization(copy) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    (copy / "preprocessor_config.json").write_text(json.dumps({**own, "image_std": [1, 1, 1]}))
    teacher, clip = load_clip_teacher(copy, PATCH), pixels(1, 3, 1, 32, 32)
    frame = clip[:, :, 0].float() / 255 - torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1)
    with torch.no_grad():
        expected = teacher.vision(pixel_values=frame).last_hidden_state[:, 1:]
    torch.testing.assert_close(teacher(clip), expected, atol=1e-5, rtol=1e-5)


def test_half_precision_files_become_float32(copy):
    state = {name: value.half() for name, value in load_file(copy / "model.safetensors").items()}
    save_file(state, copy / "model.safetensors")
    teacher = load_clip_teacher(copy, PATCH)
    assert {p.dtype for p in teacher.vision.parameters()} == {torch.float32}
    assert teacher(pixels(1, 3, 2, 32, 32)).dtype == torch.float32


def test_names_of_older_files_are_known(copy):
    """Files of earlier versions of `transformers` have a prefix, and a table of positions' numbers."""
    state = load_file(copy / "model.safetensors")
    clip, expected = pixels(1, 3, 2, 32, 32), load_clip_teacher(copy, PATCH)
    older = {f"vision_model.{name.removeprefix('vision_model.')}": value for name, value in state.items()}
    older |= {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    save_file(older, copy / "model.safetensors")
    assert torch.equal(load_clip_teacher(copy, PATCH)(clip), expected(clip))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("encoder.layers.1.mlp.fc1.bias"), r"encoder\.layers\.1\.mlp\.fc1\.bias is missing"),
        (lambda s: s.update(pooler=torch.zeros(2)), "pooler is not expected"),
        (lambda s: s.update({"pre_layrnorm.bias": torch.zeros(7)}), r"pre_layrnorm\.bias is \(7,\), not \(32,\)"),
        (
            lambda s: [s.pop(name) for name in list(s) if ".layers.2." in name],
            r"layers\.2\.\S+ is missing; .* and 12 more",
        ),
    ],
)
def test_weights_that_are_not_those_of_the_configuration_are_refused(copy, change, message):
    state = {name.removeprefix("vision_model."): v for name, v in load_file(copy / "model.safetensors").items()}
    change(state)
    save_file(state, copy / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_clip_teacher(copy, PATCH)


def test_no_folder_or_half_of_one(copy, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder openai/clip: expected .*docs/clip\.md.*downloaded"):
        read_vision_config("openai/clip")
    with pytest.raises(FileNotFoundError, match="no folder .*model.safetensors: expected the folder"):
        read_vision_config(copy / "model.safetensors")
    (copy / "model.safetensors").rename(copy / "other.txt")
    with pytest.raises(FileNotFoundError, match="has no model.safetensors: expected"):
        load_clip_teacher(copy, PATCH)
    (copy / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        read_vision_config(copy)
    (copy / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        read_vision_config(copy)
    (copy / "open_clip_config.json").write_text("{}")
    with pytest.raises(ValueError, match="a model of open_clip, whose format is not read"):
        read_vision_config(copy)


def test_a_pickle_is_never_read(copy):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04}.")
    with pytest.raises(FileNotFoundError, match=r"\.bin file only, a pickle, which can run code.*docs/clip\.md"):
        load_clip_teacher(copy, PATCH)


def test_damaged_and_missing_files(copy, tmp_path):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors is not a whole safetensors file"):
        load_clip_teacher(copy, PATCH)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 605156676\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        load_clip_teacher(copy, PATCH)
    parts = save_clip(tmp_path / "parts", "CLIPModel", shard="20KB")
    sorted(parts.glob("*.safetensors"))[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-\d+\.safetensors is not there, but .*index.json"):
        load_clip_teacher(parts, PATCH)


@pytest.mark.parametrize("kind", ["vit", "siglip_vision_model", None])
def test_another_model_is_no_clip(copy, kind):
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, "model_type": kind}))
    with pytest.raises(ValueError, match=f"a model of type {kind!r}, not CLIP"):
        load_clip_teacher(copy, PATCH)


@pytest.mark.parametrize("layer", [0, 1, -DEPTH - 1])
def test_a_layer_that_is_not_there(folder, layer):
    with pytest.raises(ValueError, match=f"has 3 blocks, -3 to -1: there is no block {layer}"):
        load_clip_teacher(folder, PATCH, layer)


def test_without_the_package_it_says_what_to_install(folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'need the package transformers.*-e "\.\[clip\]"'):
        read_vision_config(folder)
