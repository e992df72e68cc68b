"""Blocks and encoders that are told a timestep."""

import pytest
import torch

from diffmae_video.features import block_tokens
from diffmae_video.models import SpaceTimeViT, VideoClassifier
from diffmae_video.models.blocks import AdaLNBlock, Block, initialize
from diffmae_video.models.patches import patchify
from diffmae_video.models.tokenizers import LatentEmbedding, PixelTokenizer

CLIP, PATCH, WIDTH = (3, 2, 8, 8), (1, 4, 4), 24


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights that nothing leaves out: before training the conditioned parts are zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def encoder(**options) -> SpaceTimeViT:
    torch.manual_seed(0)
    return SpaceTimeViT(CLIP, PATCH, width=WIDTH, depth=3, heads=2, **{"time_conditioning": True, **options})


def clips(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, *CLIP, generator=torch.Generator().manual_seed(1)) * 2 - 1


# ------------------------------------------------------------------------------------------------------------- blocks


def test_block_is_that_of_dit():
    """diffusers' transformer block with "ada_norm_zero" is DiT's; same weights, same output."""
    attention = pytest.importorskip("diffusers.models.attention")
    block = randomised(AdaLNBlock(WIDTH, 2, 4.0))
    theirs = attention.BasicTransformerBlock(
        WIDTH, 2, WIDTH // 2, norm_type="ada_norm_zero", num_embeds_ada_norm=5, attention_bias=True, norm_eps=1e-6,
        norm_elementwise_affine=False, activation_fn="gelu",
    ).eval()  # fmt: skip
    ours, state = block.state_dict(), {}
    for name, part in zip("qkv", ours["attn.qkv.weight"].chunk(3), strict=True):
        state[f"attn1.to_{name}.weight"] = part
    for name, part in zip("qkv", ours["attn.qkv.bias"].chunk(3), strict=True):
        state[f"attn1.to_{name}.bias"] = part
    pairs = {"attn.proj": "attn1.to_out.0", "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2"}
    pairs["modulation"] = "norm1.linear"
    for own, other in pairs.items():
        state |= {f"{other}.{kind}": ours[f"{own}.{kind}"] for kind in ("weight", "bias")}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("norm1.emb.") for name in missing)
    x, condition = torch.randn(2, 5, WIDTH), torch.randn(2, 1, WIDTH)
    theirs.norm1.emb.forward = lambda *_, **__: condition[:, 0]
    expected = theirs(x, timestep=torch.zeros(2), class_labels=torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(block(x, condition), expected, atol=1e-5, rtol=1e-4)


def test_block_passes_its_input_on_before_training():
    block = AdaLNBlock(WIDTH, 2, 4.0).apply(initialize)
    x, condition = torch.randn(2, 5, WIDTH), torch.randn(2, 1, WIDTH)
    assert torch.equal(block(x, condition), x)
    assert block.norm1.weight is None and isinstance(block, Block)
    block(x, condition).square().mean().backward()
    assert block.modulation.weight.grad.abs().sum() > 0  # so that the first step moves it


# ------------------------------------------------------------------------------------------------------------ encoder


def test_encoder_without_conditioning_is_the_plain_one():
    plain = SpaceTimeViT(CLIP, PATCH, width=WIDTH, depth=3, heads=2)
    assert not any("modulation" in name or "time_embed" in name for name in plain.state_dict())
    patches = patchify(clips(), PATCH)
    x = plain.embed(patches)
    for block in plain.blocks:
        x = block(x)
    torch.testing.assert_close(plain.features(patches)[0], plain.norm(x))


def test_encoder_reads_at_its_timestep_unless_told_another():
    model = randomised(encoder(timestep=7))
    x = model.embed(patchify(clips(), PATCH))
    default, told = model.run(x)[0], model.run(x, condition=model.condition(torch.tensor([7, 7])))[0]
    torch.testing.assert_close(default, told)
    torch.testing.assert_close(model(clips()), default)
    other = model.run(x, condition=model.condition(torch.tensor([7, 400])))[0]
    torch.testing.assert_close(other[0], default[0])
    assert not torch.allclose(other[1], default[1], atol=1e-2)
    assert not torch.allclose(randomised(encoder(timestep=8))(clips()), default, atol=1e-4)


def test_features_of_blocks_are_conditioned_too():
    model = randomised(encoder(timestep=7, class_token=True))
    features = model.features(patchify(clips(), PATCH), last=3)
    assert [feature.shape for feature in features] == [(2, 9, WIDTH)] * 3
    for layer in (-2, -3):
        holder = torch.nn.Module()
        holder.encoder = model
        torch.testing.assert_close(block_tokens(holder, clips(), layer), features[-layer - 1][:, 1:])


@pytest.mark.parametrize("kind", ["finetune", "linear", "attentive"])
def test_classifier_of_a_conditioned_encoder(kind):
    model = randomised(VideoClassifier(encoder(timestep=3), 5, kind, probe_heads=2))
    assert model(clips()).shape == (2, 5)
    assert model.encode(clips()).shape == (2, 8, WIDTH)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert ("encoder.time_embed.fc1.weight" in trained) == (kind == "finetune")


def test_encoder_with_a_tokenizer_embeds_latents():
    tokenizer = PixelTokenizer(48)
    tokenizer.finish(torch.full((48,), 0.25), "global")  # latents are patches times 2
    plain, latent = randomised(encoder()), randomised(encoder(tokenizer=tokenizer))
    latent.load_state_dict(plain.state_dict(), strict=False)
    assert isinstance(latent.patch_embed, LatentEmbedding)
    with torch.no_grad():
        latent.patch_embed.weight /= 2
    torch.testing.assert_close(latent(clips()), plain(clips()), atol=1e-5, rtol=1e-4)
    patches = patchify(clips(), PATCH)
    torch.testing.assert_close(latent.patch_embed.embed_latents(tokenizer.encode(patches)), plain.patch_embed(patches))
