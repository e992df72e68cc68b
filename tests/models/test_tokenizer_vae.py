"""The latents of a convolutional VAE, against diffusers' own use of it."""

import json

import pytest
import torch

from diffmae_video.models.patches import patchify, unpatchify
from diffmae_video.models.tokenizer_fitting import fit_tokenizer
from diffmae_video.models.tokenizer_vae import ConvVAETokenizer, load_vae

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

GRID, PATCH = (2, 2, 3), (2, 8, 8)
SCALING = 0.4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random AutoencoderKL that makes frames 4 times smaller, with 4 channels."""
    path = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, norm_num_groups=4, layers_per_block=1,
        scaling_factor=SCALING,
    )  # fmt: skip
    vae.save_pretrained(path)
    return path


@pytest.fixture
def tokenizer(folder):
    return ConvVAETokenizer(load_vae(folder), GRID, PATCH)


def clips(batch=2, frames=4):
    return torch.rand(batch, 3, frames, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_token_has_the_latent_pixels_under_its_patch(folder, tokenizer):
    clip = clips()
    assert tokenizer.latent_dim == 2 * 2 * 2 * 4
    latents = tokenizer.project(patchify(clip, PATCH))
    assert latents.shape == (2, 12, tokenizer.latent_dim)
    vae = diffusers.AutoencoderKL.from_pretrained(folder).eval()
    with torch.no_grad():
        for b, t in ((0, 0), (1, 3)):
            expected = vae.encode(clip[b, :, t][None]).latent_dist.mean[0] * SCALING  # (4, 4, 6)
            got = unpatchify(latents, GRID, (2, 2, 2))[b, :, t]
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
            decoded = vae.decode(expected[None] / SCALING).sample[0]
            ours = unpatchify(tokenizer.restore(latents), GRID, PATCH)[b, :, t]
            torch.testing.assert_close(ours, decoded, atol=1e-4, rtol=1e-3)


def test_frames_do_not_see_each_other_and_clips_may_be_shorter(tokenizer):
    clip = clips()
    whole = tokenizer.project(patchify(clip, PATCH))
    short = tokenizer.project(patchify(clip[:, :, :2], PATCH))
    torch.testing.assert_close(short, whole[:, :6], atol=1e-5, rtol=1e-4)
    assert tokenizer.restore(short).shape == (2, 6, 2 * 8 * 8 * 3)
    with pytest.raises(ValueError, match="whole frames of 2 x 3 tokens, got 5"):
        tokenizer.project(patchify(clip, PATCH)[:, :5])


def test_nothing_of_it_is_trained_and_everything_is_saved(folder, tokenizer):
    assert not list(tokenizer.parameters())
    names = set(tokenizer.state_dict())
    vae = diffusers.AutoencoderKL.from_pretrained(folder)
    assert {f"vae.{name}" for name in vae.state_dict()} <= names
    tokenizer.requires_grad_(True)
    assert not tokenizer.project(patchify(clips(), PATCH)).requires_grad
    assert not tokenizer.train().vae.training


def test_its_fit_measures_the_scale(tokenizer):
    x = patchify(clips(8), PATCH)
    before = tokenizer.project(x).var((0, 1), unbiased=False).mean()
    fit_tokenizer(tokenizer, x.split(3))
    assert tokenizer.encode(x).var((0, 1), unbiased=False).mean() == pytest.approx(1, abs=1e-3)
    assert tokenizer.scale[0] == pytest.approx(before.rsqrt().item(), rel=1e-3)
    torch.testing.assert_close(
        tokenizer.decode(tokenizer.encode(x)), tokenizer.restore(tokenizer.project(x)), atol=1e-4, rtol=1e-3
    )


def test_a_patch_that_the_factor_does_not_divide(folder):
    with pytest.raises(ValueError, match="4 times smaller, which does not divide the patch 6 x 8"):
        ConvVAETokenizer(load_vae(folder), GRID, (1, 6, 8))


def test_folders_without_a_vae(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected config.json"):
        load_vae(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match="cannot be read"):
        load_vae(tmp_path)  # no weights


def test_weights_of_another_configuration(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "layers_per_block": 2}))
    weights = "diffusion_pytorch_model.safetensors"
    (tmp_path / weights).write_bytes((folder / weights).read_bytes())
    with pytest.raises(ValueError, match="not those of its config.json.*missing_keys"):
        load_vae(tmp_path)


def test_pickled_weights_are_not_read(folder, tmp_path):
    diffusers.AutoencoderKL.from_pretrained(folder).save_pretrained(tmp_path, safe_serialization=False)
    assert list(tmp_path.glob("*.bin"))
    with pytest.raises(ValueError, match="cannot be read"):
        load_vae(tmp_path)
