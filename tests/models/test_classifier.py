"""The recognition models: what they compute, what of them is trained, and two published ones with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffmae_video.models import SpaceTimeViT, VideoClassifier
from diffmae_video.models.classifier import KINDS, AttentiveHead, PooledHead, pool_tokens
from diffmae_video.models.patches import patchify

CLIP, PATCH, TOKENS = (3, 4, 16, 24), (2, 8, 8), 12
WIDTH, CLASSES = 24, 5


def build(
    kind="finetune", class_token=False, clip=CLIP, patch=PATCH, drop_path=0.0, position="separable", **options
) -> VideoClassifier:
    """A small classifier whose head is large enough for its scores to tell something."""
    torch.manual_seed(0)
    encoder = SpaceTimeViT(clip, patch, WIDTH, 3, 2, position=position, class_token=class_token, drop_path=drop_path)
    model = VideoClassifier(encoder, CLASSES, kind, probe_heads=2, **{"init_std": 0.5, **options})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # biases and norms start at 0 and 1, which would hide that they are left out
                parameter.add_(0.3 * torch.randn(parameter.shape))
            elif "position" in name:
                parameter.mul_(20)
    return model


def clips(batch=2, shape=CLIP, seed=1) -> torch.Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


def layer_norm(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    deviation = ((x - x.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True).add(1e-6).sqrt()
    return (x - x.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("class_token, pool", [(False, "mean"), (True, "mean"), (True, "class_token")])
def test_shapes(kind, class_token, pool):
    model = build(kind, class_token, pool=pool).eval()
    assert model.clip_shape == CLIP and model.patch_size == PATCH and model.grid == (2, 2, 3)
    assert model.frozen == (kind != "finetune")
    assert model(clips()).shape == (2, CLASSES)
    assert model.pooled(clips()).shape == (2, WIDTH)
    assert model.encode(clips()).shape == (2, TOKENS, WIDTH)
    assert model.tokens(clips()).shape == (2, TOKENS + class_token, WIDTH)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 2])
def test_an_image_is_a_clip_with_one_frame(kind, frames):
    model = build(kind, clip=(3, frames, 16, 24), patch=(frames, 8, 8)).eval()
    image = (255 * torch.rand(2, 3, 1, 16, 24, generator=torch.Generator().manual_seed(0))).to(torch.uint8)
    clip = model.normalize(image)
    assert clip.shape == (2, 3, frames, 16, 24) and model.grid == (1, 2, 3)
    assert model(clip).shape == (2, CLASSES)
    same(clip[:, :, -1], image[:, :, 0].float() / 127.5 - 1)


def test_the_pixel_statistics_are_part_of_the_weights():
    model = build(pixel_mean=(0.4, 0.5, 0.6), pixel_std=(0.1, 0.2, 0.25))
    assert {"pixel_mean", "pixel_std"} <= set(model.state_dict())
    clip = torch.full((1, *CLIP), 0.6)
    assert model.normalize(clip)[0, :, 0, 0, 0].tolist() == pytest.approx([2.0, 0.5, 0.0], abs=1e-5)


# ------------------------------------------------------------------------------------------------------- fine-tuning


def test_fine_tuning_normalises_the_mean_of_the_tokens_and_not_the_tokens():
    model = build(class_token=True).eval()
    assert isinstance(model.encoder.norm, nn.Identity) and not [n for n in model.state_dict() if "encoder.norm" in n]
    x = model.encoder.embed(patchify(clips(), PATCH))
    for block in model.encoder.blocks:
        x = block(x)
    mean = x[:, 1:].mean(dim=1)  # without the class token
    same(model.pooled(clips()), mean)
    same(model(clips()), model.head.classifier(layer_norm(mean, model.head.norm)))


def test_the_class_token_is_read_after_the_encoders_own_norm():
    model = build(class_token=True, pool="class_token").eval()
    assert isinstance(model.encoder.norm, nn.LayerNorm) and isinstance(model.head.norm, nn.Identity)
    x = model.encoder.embed(patchify(clips(), PATCH))
    for block in model.encoder.blocks:
        x = block(x)
    same(model(clips()), model.head.classifier(layer_norm(x[:, 0], model.encoder.norm)))


def test_dropout_is_of_what_the_last_layer_reads():
    model = build(dropout=0.5)
    model.head.classifier = nn.Identity()
    torch.manual_seed(3)
    dropped = model(clips(64)).detach()
    kept = dropped != 0
    assert 0.4 < kept.float().mean() < 0.6
    same(dropped[kept], 2 * model.eval()(clips(64))[kept])


def test_the_last_layer_starts_within_two_standard_deviations_and_without_bias():
    torch.manual_seed(0)
    for head in (
        PooledHead(200, 300, "mean", nn.Identity(), 0.0, 2e-5),
        AttentiveHead(200, 300, 2, 1, 2.0, 0.0, 2e-5),
    ):
        weight = head.classifier.weight
        assert weight.abs().max() <= 4e-5 and not head.classifier.bias.any()
        assert weight.std().item() == pytest.approx(0.88 * 2e-5, rel=0.02)  # of a normal cut at two


def test_what_is_pooled():
    tokens = torch.arange(12.0).reshape(1, 4, 3)
    assert pool_tokens(tokens, "mean", False).tolist() == [[4.5, 5.5, 6.5]]
    assert pool_tokens(tokens, "mean", True).tolist() == [[6.0, 7.0, 8.0]]
    assert pool_tokens(tokens, "class_token", True).tolist() == [[0.0, 1.0, 2.0]]


# ------------------------------------------------------------------------------------------------------------- probes


def test_the_linear_probes_norm_has_no_parameters_and_learns_statistics_in_training_alone():
    model = build("linear")
    norm = model.head.norm
    assert isinstance(norm, nn.BatchNorm1d) and norm.eps == 1e-6 and not list(norm.parameters())
    features = model.pooled(clips(8))
    scores = model.train()(clips(8))
    normal = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(scores, model.head.classifier(normal), rtol=1e-4, atol=1e-4)
    same(norm.running_mean, 0.1 * features.mean(0))
    same(norm.running_var, 0.9 + 0.1 * features.var(0))
    before = norm.running_mean.clone()
    scores = model.eval()(clips(8, seed=2))
    assert torch.equal(norm.running_mean, before) and norm.num_batches_tracked == 1
    normal = (model.pooled(clips(8, seed=2)) - before) / (norm.running_var + 1e-6).sqrt()
    same(scores, model.head.classifier(normal))


def test_a_probe_reads_tokens_after_the_encoders_norm():
    model = build("linear").eval()
    encoder = model.encoder
    x = encoder.embed(patchify(clips(), PATCH))
    for block in encoder.blocks:
        x = block(x)
    same(model.pooled(clips()), layer_norm(x, encoder.norm).mean(dim=1))


def attend(head: AttentiveHead, tokens: torch.Tensor) -> torch.Tensor:
    """The block of the query, attention head by attention head."""
    context, outputs = layer_norm(tokens, head.norm1), []
    size = WIDTH // 2
    key, value = (layer.T for layer in head.attn.kv.weight.chunk(2))
    key_bias, value_bias = head.attn.kv.bias.chunk(2)
    query = head.query[0, 0] @ head.attn.q.weight.T + head.attn.q.bias
    for part in (slice(0, size), slice(size, WIDTH)):
        k = context @ key[:, part] + key_bias[part]
        v = context @ value[:, part] + value_bias[part]
        weights = torch.exp(k @ query[part] / math.sqrt(size))
        outputs.append((weights / weights.sum(1, keepdim=True))[:, None] @ v)
    x = head.query[0, 0] + torch.cat(outputs, dim=-1)[:, 0] @ head.attn.proj.weight.T + head.attn.proj.bias
    hidden = F.gelu(layer_norm(x, head.norm2) @ head.mlp.fc1.weight.T + head.mlp.fc1.bias)
    x = x + hidden @ head.mlp.fc2.weight.T + head.mlp.fc2.bias
    return x @ head.classifier.weight.T + head.classifier.bias


@pytest.mark.parametrize("class_token", [False, True])
def test_the_attentive_probe_is_one_query_that_attends_to_all_tokens(class_token):
    model = build("attentive", class_token).eval()
    assert model.head.mlp.fc1.out_features == 4 * WIDTH and len(model.head.blocks) == 0
    same(model(clips()), attend(model.head, model.encoder(clips())))


def test_a_deeper_attentive_probe_has_self_attention_blocks_before_its_query():
    model = build("attentive", probe_depth=3).eval()
    tokens = model.encoder(clips())
    assert len(model.head.blocks) == 2
    for block in model.head.blocks:
        tokens = block(tokens)
    same(model(clips()), attend(model.head, tokens))


# ------------------------------------------------------------------------------------------------------ what is trained


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_a_frozen_encoder_stays_as_it_is(kind):
    model = build(kind, drop_path=0.9)
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    assert all(not module.training for module in model.train().encoder.modules())
    assert model.head.training and model.training
    first, second = model.tokens(clips()), model.tokens(clips())
    assert torch.equal(first, second) and not first.requires_grad, "drop path is off"
    assert not any(module.training for module in model.eval().modules())
    assert build(drop_path=0.9).train().encoder.training, "a fine-tuned encoder drops paths"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("class_token", [False, True])
def test_the_gradient_reaches_what_is_trained_and_nothing_else(kind, class_token):
    model = build(kind, class_token, probe_depth=2).train()
    F.cross_entropy(model(clips(4)), torch.tensor([0, 1, 2, 3])).backward()
    expected = {n for n, _ in model.named_parameters() if kind == "finetune" or n.startswith("head.")}
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == expected == reached


def test_positions_and_tokens_are_not_decayed():
    positions = {"encoder.position.space", "encoder.position.time"}
    assert build().no_weight_decay() == positions
    assert build(class_token=True).no_weight_decay() == positions | {"encoder.class_token"}
    assert build("attentive").no_weight_decay() == positions | {"head.query"}
    assert build(position="learned").no_weight_decay() == {"encoder.position.table"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "probe"}, "unknown kind 'probe': choose one of finetune, linear, attentive"),
        ({"pool": "max"}, "unknown pool 'max': choose one of mean, class_token"),
        ({"pool": "class_token"}, 'pool "class_token" needs an encoder with a class token'),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_no_classes_and_clips_of_another_size_are_refused():
    with pytest.raises(ValueError, match="at least 1 class, got 0"):
        VideoClassifier(SpaceTimeViT(CLIP, PATCH, WIDTH, 1, 2), 0)
    with pytest.raises(ValueError, match="expected clips"):
        build()(clips(shape=(3, 4, 16, 16)))


# ------------------------------------------------------------------------------------------------- published models


def spread(model: nn.Module) -> None:
    """Large random weights: with the small initial ones a missing part would hardly show."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))


def transformers_blocks(state: dict[str, torch.Tensor], layer: str, names: dict[str, str], ours: str) -> dict:
    """One block of theirs, its query, key and value joined, under our names."""
    parts = {}
    for kind in ("weight", "bias"):
        joined = [state.get(f"{layer}.{names[part]}.{kind}", torch.zeros(WIDTH)) for part in ("q", "k", "v")]
        parts[f"{ours}.attn.qkv.{kind}"] = torch.cat(joined)
        for our_name in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            parts[f"{ours}.{our_name}.{kind}"] = state[f"{layer}.{names[our_name]}.{kind}"]
    return parts


def as_patch_weights(convolution: torch.Tensor) -> torch.Tensor:
    """(D, C, pt, ph, pw) -> (D, pt * ph * pw * C)."""
    return convolution.permute(0, 2, 3, 4, 1).flatten(1)


def test_videomae_with_mean_pooling_has_the_same_scores():
    """Its positions are a fixed table of its own, so it is given ours."""
    reference = pytest.importorskip("transformers")
    config = reference.VideoMAEConfig(
        image_size=16, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=WIDTH, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=48, num_labels=CLASSES, use_mean_pooling=True, layer_norm_eps=1e-6,
    )  # fmt: skip
    theirs = reference.VideoMAEForVideoClassification(config).eval()
    spread(theirs)
    theirs.fc_norm.eps = 1e-6
    encoder = SpaceTimeViT((3, 4, 16, 16), PATCH, WIDTH, depth=2, heads=2, mlp_ratio=2.0)
    ours = VideoClassifier(encoder, CLASSES).eval()
    theirs.videomae.embeddings.position_embeddings = 20 * encoder.position().detach()
    state, weights = theirs.state_dict(), {name: 20 * p for name, p in encoder.position.named_parameters("position")}
    embedding = "videomae.embeddings.patch_embeddings.projection"
    weights |= {
        "patch_embed.weight": as_patch_weights(state[f"{embedding}.weight"]),
        "patch_embed.bias": state[f"{embedding}.bias"],
    }
    names = {
        **{part: f"attention.attention.{name}" for part, name in zip("qkv", ("query", "key", "value"), strict=True)},
        "attn.proj": "attention.output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    for block in range(2):
        weights |= transformers_blocks(state, f"videomae.encoder.layer.{block}", names, f"blocks.{block}")
    encoder.load_state_dict(weights)
    ours.head.norm.load_state_dict(theirs.fc_norm.state_dict())
    ours.head.classifier.load_state_dict(theirs.classifier.state_dict())
    clip = clips(3, (3, 4, 16, 16))
    expected = theirs(clip.transpose(1, 2)).logits
    assert expected.std() > 0.5
    same(ours(clip), expected)


def test_a_vit_with_a_class_token_has_the_same_scores():
    """Its class token has a position too, which ours has in it."""
    reference = pytest.importorskip("transformers")
    config = reference.ViTConfig(
        image_size=16, patch_size=8, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, num_labels=CLASSES, layer_norm_eps=1e-6,
    )  # fmt: skip
    theirs = reference.ViTForImageClassification(config).eval()
    spread(theirs)
    encoder = SpaceTimeViT((3, 1, 16, 16), (1, 8, 8), WIDTH, depth=2, heads=2, mlp_ratio=2.0, class_token=True)
    ours = VideoClassifier(encoder, CLASSES, pool="class_token").eval()
    state = theirs.state_dict()
    position, embedding = state["vit.embeddings.position_embeddings"], "vit.embeddings.patch_embeddings.projection"
    weights = {
        "class_token": state["vit.embeddings.cls_token"] + position[:, :1],
        "position.space": position[0, 1:],
        "position.time": torch.zeros(1, WIDTH),
        "patch_embed.weight": as_patch_weights(state[f"{embedding}.weight"][:, :, None]),
        "patch_embed.bias": state[f"{embedding}.bias"],
        "norm.weight": state["vit.layernorm.weight"],
        "norm.bias": state["vit.layernorm.bias"],
    }
    names = {part: f"attention.{part}_proj" for part in "qkv"} | {
        "attn.proj": "attention.o_proj",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for block in range(2):
        weights |= transformers_blocks(state, f"vit.layers.{block}", names, f"blocks.{block}")
    encoder.load_state_dict(weights)
    ours.head.classifier.load_state_dict(theirs.classifier.state_dict())
    image = clips(3, (3, 1, 16, 16))
    expected = theirs(image[:, :, 0]).logits
    assert expected.std() > 0.5
    same(ours(image), expected)
