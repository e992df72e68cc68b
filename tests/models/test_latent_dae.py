"""l-DAE: noise in the latent, what the network sees and predicts, and its loss."""

import pytest
import torch

from diffmae_video.diffusion import NoiseSchedule
from diffmae_video.models import LatentDAE, SpaceTimeViT
from diffmae_video.models.latent_dae import DenoisingDecoder
from diffmae_video.models.patches import patchify, unpatchify
from diffmae_video.models.tokenizer_fitting import fit_tokenizer
from diffmae_video.models.tokenizers import LinearTokenizer, PCATokenizer, PixelTokenizer

CLIP, PATCH, GRID = (3, 4, 8, 12), (2, 4, 4), (2, 2, 3)
P, D, N = 96, 10, 12


def clips(batch: int = 3, seed: int = 1, frames: int = 4) -> torch.Tensor:
    """Smooth clips, so that a few components have most of their variance."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 2, 3, 4, generator=generator) * 2 - 1
    size = (frames, *CLIP[2:])
    return torch.nn.functional.interpolate(coarse, size=size, mode="trilinear", align_corners=True)


def fitted(tokenizer):
    fit_tokenizer(tokenizer, [patchify(clips(60, seed=9), PATCH)], steps=60)
    return tokenizer


def build(tokenizer=None, schedule="linear_sigma", width=32, class_token=False, depth=2, **options) -> LatentDAE:
    torch.manual_seed(0)
    tokenizer = fitted(PCATokenizer(P, D)) if tokenizer is None else tokenizer
    held = tokenizer if options.get("input") == "latent" else None
    encoder = SpaceTimeViT(
        CLIP, PATCH, width=width, depth=2, heads=2, time_conditioning=True, tokenizer=held, class_token=class_token
    )
    values = tokenizer.latent_dim if options.get("output") == "latent" else tokenizer.patch_values
    decoder = DenoisingDecoder(width, depth, 2, 4.0, values)
    return LatentDAE(encoder, decoder, tokenizer, NoiseSchedule(schedule), **options)


def randomised(model: LatentDAE) -> LatentDAE:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("label_embed"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def generators(batch: int = 3, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(batch)]


class Recorder(torch.nn.Module):
    """In the place of the patch embedding: keeps what it is given."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, x):
        self.seen.append(x)
        return self.inner(x)


# ------------------------------------------------------------------------------------------------------- what it sees


def test_the_network_sees_noisy_latents_turned_back_into_patches():
    model = build()
    model.encoder.patch_embed = recorder = Recorder(model.encoder.patch_embed)
    t, noise = torch.tensor([0, 500, 999]), torch.randn(3, N, D)
    model(clips(), t=t, noise=noise)
    (seen,) = recorder.seen
    z0 = model.tokenizer.encode(patchify(clips(), PATCH))
    sigma = torch.linspace(0, 2**0.5, 1000)[t].reshape(3, 1, 1)
    torch.testing.assert_close(seen, model.tokenizer.decode(z0 + sigma * noise), atol=1e-5, rtol=1e-4)
    # Noise lies in the tokenizer's d directions alone: the others have what the mean patch has there.
    beyond = model.tokenizer.coordinates(seen - model.tokenizer.mean)[..., D:]
    torch.testing.assert_close(beyond, torch.zeros_like(beyond), atol=1e-4, rtol=0)


def test_latent_input_embeds_the_noisy_latents_themselves():
    model = randomised(build(input="latent"))
    z_t = torch.randn(3, N, D)
    t = torch.tensor([3, 4, 5])
    embed = model.encoder.patch_embed
    tokens = z_t @ embed.weight.T + embed.bias
    condition = model.encoder.condition(t)
    expected = model.decoder(model.encoder.run(model.encoder.place(tokens), condition=condition)[0], condition)
    torch.testing.assert_close(model.denoise(z_t, t), expected)


def test_encode_takes_the_clean_clip_itself():
    """Not what the tokenizer keeps of it, no noise, no decoder."""
    model = randomised(build()).eval()
    torch.testing.assert_close(model.encode(clips()), model.encoder(clips()))
    assert model.encode(clips()).shape == (3, N, 32)
    assert torch.equal(model.encode(clips()), model.encode(clips()))
    kept = unpatchify(model.tokenizer.decode(model.tokenizer.encode(patchify(clips(), PATCH))), GRID, PATCH)
    assert not torch.allclose(model.encode(clips()), model.encode(kept), atol=1e-3)


def test_class_token_is_not_predicted():
    model = build(class_token=True)
    assert model(clips()).pred.shape == (3, N, P) and model.encode(clips()).shape == (3, N, 32)


# --------------------------------------------------------------------------------------------------------------- loss


def manual_loss(model: LatentDAE, residual: torch.Tensor, weight: float, t: torch.Tensor) -> torch.Tensor:
    """METHODS: lambda_t * mean_i w_i r_i^2 with r in the components' basis."""
    r = residual @ model.tokenizer.basis
    w = torch.where(torch.arange(P) < D, 1.0, weight)
    sigma = torch.linspace(0, 2**0.5, 1000, dtype=torch.float64)[t].float()
    return (w * r**2).mean(dim=(1, 2)) / (1 + sigma**2)


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_loss_of_image_output(weight):
    model = randomised(build(residual_weight=weight))
    t = torch.tensor([0, 300, 999])
    output = model(clips(), t=t, generator=generators())
    expected = manual_loss(model, patchify(clips(), PATCH) - output.pred, weight, t)
    torch.testing.assert_close(output.per_clip_loss, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(output.loss, expected.mean(), rtol=1e-4, atol=1e-6)
    assert output.mask.shape == (3, N) and output.mask.all() and output.mask.dtype == torch.bool
    assert output.pred.shape == (3, N, P) and output.places[2].tolist() == list(range(N))


def test_residual_weight_0_asks_only_for_what_the_latent_keeps():
    model = randomised(build(residual_weight=0.0))
    beyond = model.tokenizer.basis[:, -1]
    x0 = patchify(clips(), PATCH)
    assert model._weighted_residual(torch.ones_like(x0) * beyond).max() < 1e-10
    assert model._weighted_residual(torch.ones_like(x0) * model.tokenizer.basis[:, 0]).max() > 0.9


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
@pytest.mark.parametrize("time_weight", [False, True])
def test_loss_of_latent_output(prediction, time_weight):
    model = randomised(build(schedule="linear", output="latent", prediction=prediction, time_weight=time_weight))
    t, noise = torch.tensor([0, 300, 900]), torch.randn(3, N, D)
    output = model(clips(), t=t, noise=noise)
    z0 = model.tokenizer.encode(patchify(clips(), PATCH))
    abar = model.schedule.abar[t].float().reshape(3, 1, 1)
    target = {"x0": z0, "eps": noise, "v": abar.sqrt() * noise - (1 - abar).sqrt() * z0}[prediction]
    expected = (target - output.pred).square().mean(dim=(1, 2))
    if time_weight:  # 1 / (1 + sigma^2) with sigma^2 = (1 - abar) / abar
        expected = expected * abar.flatten()
    torch.testing.assert_close(output.per_clip_loss, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_pictures_show_the_clean_latents_in_a_prediction(prediction):
    model = build(schedule="cosine", output="latent", prediction=prediction)
    z0, noise = torch.randn(2, 3, N, D)
    t = torch.tensor([10, 300, 600])
    z_t = model.schedule.add_noise(z0, noise, t)
    truth = {"x0": z0, "eps": noise, "v": model.schedule.velocity(z0, noise, t)}[prediction]
    torch.testing.assert_close(model._clean_latents(truth, z_t, t), z0, atol=1e-4, rtol=1e-3)


def test_autoencoders_and_image_output_are_plain_squared_error():
    model = randomised(build(fitted(LinearTokenizer(P, D)), residual_weight=1.0, time_weight=False))
    output = model(clips(), generator=generators())
    expected = (patchify(clips(), PATCH) - output.pred).square().mean(dim=(1, 2))
    torch.testing.assert_close(output.per_clip_loss, expected)


def test_ddpm_without_masking_is_one_of_the_settings():
    """Noise of variance 1 in pixels, all patches, the noise predicted, no weight: Ho et al., algorithm 1."""
    tokenizer = PixelTokenizer(P)
    fit_tokenizer(tokenizer, [patchify(clips(8), PATCH)], latent_scale="none")
    model = randomised(build(tokenizer, "linear", output="latent", prediction="eps", time_weight=False))
    model.encoder.patch_embed = recorder = Recorder(model.encoder.patch_embed)
    t, noise = torch.tensor([0, 300, 999]), torch.randn(3, N, P)
    output = model(clips(), t=t, noise=noise)
    x0 = patchify(clips(), PATCH)
    torch.testing.assert_close(recorder.seen[0], NoiseSchedule("linear").add_noise(x0, noise, t))
    torch.testing.assert_close(output.per_clip_loss, (output.pred - noise).square().mean(dim=(1, 2)))


# --------------------------------------------------------------------------------------------------------- randomness


def test_what_a_clip_gets_does_not_depend_on_its_batch():
    model = randomised(build(num_classes=4))
    labels = torch.tensor([0, 1, 2])
    whole = model(clips(), generator=generators(), labels=labels)
    for row in range(3):
        alone = model(clips()[row][None], generator=[generators()[row]], labels=labels[row][None])
        assert alone.t == whole.t[row]
        torch.testing.assert_close(alone.per_clip_loss[0], whole.per_clip_loss[row], rtol=1e-4, atol=1e-6)
    again = model(clips(), generator=generators(), labels=labels)
    assert torch.equal(again.per_clip_loss, whole.per_clip_loss)


@pytest.mark.parametrize(
    "train_range, ends", [((0.0, 1.0), (0, 999)), ((0.5, 0.5), (500, 500)), ((0.2, 0.4), (200, 400))]
)
def test_timesteps_are_drawn_from_the_range(train_range, ends):
    model = build(train_range=train_range)
    t = torch.cat([model(clips(50, seed=s)).t for s in range(12)])
    assert ends[0] <= t.min() and t.max() <= ends[1]
    if train_range != (0.5, 0.5):
        assert t.min() < ends[0] + 30 and t.max() > ends[1] - 30


def test_clips_of_fewer_frames():
    model = randomised(build())
    output = model(clips(frames=2), generator=generators())
    assert output.pred.shape == (3, 6, P) and output.loss.isfinite()
    seen, denoised = model.reconstruct(clips(frames=2), torch.tensor([1, 2, 3]))
    assert seen.shape == denoised.shape == (3, 3, 2, 8, 12)


# ------------------------------------------------------------------------------------------------------------ classes


def test_the_network_is_told_the_class():
    model = randomised(build(num_classes=4)).eval()
    z_t, t = torch.randn(3, N, D), torch.full((3,), 100)
    none, first, second = (model.denoise(z_t, t, torch.full((3,), label)) for label in (-1, 0, 1))
    assert torch.equal(none, model.denoise(z_t, t))
    assert not torch.allclose(first, second, atol=1e-5) and not torch.allclose(first, none, atol=1e-5)
    mixed = model.denoise(z_t, t, torch.tensor([-1, 0, 1]))
    torch.testing.assert_close(mixed, torch.stack((none[0], first[1], second[2])))


def test_no_class_is_the_encoder_alone():
    """A classifier's encoder knows no labels: what it computes is what "no class" was in training."""
    model = randomised(build(num_classes=4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    for step in range(3):
        optimizer.zero_grad()
        model(clips(), generator=generators(seed=step), labels=torch.tensor([0, -1, 2])).loss.backward()
        optimizer.step()
    assert not model.label_embed.weight[4].any() and model.label_embed.weight[:4].any(dim=1).all()
    assert "label_embed.weight" in model.no_weight_decay()
    assert not any("label" in name for name in model.encoder.state_dict())


def test_some_labels_are_dropped_in_training_only():
    model = build(num_classes=4, class_dropout=0.3)
    labels = torch.arange(400) % 4
    dropped = model._drop_labels(labels, 400, generators(400), torch.device("cpu"))
    share = (dropped < 0).float().mean()
    assert 0.2 < share < 0.4 and torch.equal(dropped[dropped >= 0], labels[dropped >= 0])
    model.eval()
    assert torch.equal(model._drop_labels(labels, 400, generators(400), torch.device("cpu")), labels)
    assert (model._drop_labels(None, 2, None, torch.device("cpu")) == -1).all()
    with pytest.raises(ValueError, match="one label per clip"):
        model(clips(), labels=torch.tensor([1]))


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"input": "latent", "output": "latent"},
        {"output": "latent", "prediction": "eps", "schedule": "linear"},
    ],
)
def test_it_learns(options):
    model = build(width=48, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    for step in range(60):
        loss = model(clips(8), generator=generators(8, seed=100 * step)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert all(parameter.grad is not None for parameter in model.parameters())  # none is left out: DDP would stop


def test_denoising_is_better_than_the_noisy_clip():
    model = build(width=48)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(150):
        optimizer.zero_grad()
        model(clips(8), generator=generators(8, seed=100 * step)).loss.backward()
        optimizer.step()
    seen, denoised = model.reconstruct(clips(8), torch.full((8,), 900), generators(8))
    assert (denoised - clips(8)).square().mean() < 0.6 * (seen - clips(8)).square().mean()


def test_everything_is_in_the_state_once():
    for options in ({}, {"input": "latent"}):
        model = build(**options)
        state = model.state_dict()
        assert len({value.data_ptr() for value in state.values() if value.numel()}) == len(state)
        assert sum(name.endswith("basis") for name in state) == 1
        other = build(PCATokenizer(P, D), **options)
        assert not other.tokenizer.is_fitted()
        other.load_state_dict(state)
        torch.testing.assert_close(
            other(clips(), generator=generators()).loss, model(clips(), generator=generators()).loss
        )


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "options, message",
    [
        ({"input": "pixels"}, "unknown input"),
        ({"output": "pixels"}, "unknown output"),
        ({"prediction": "x1"}, "unknown prediction"),
        ({"prediction": "eps"}, 'with output "image" the network predicts "x0"'),
        ({"prediction": "v", "output": "latent"}, "preserves the variance, not 'linear_sigma'"),
    ],
)
def test_choices_that_do_not_exist_or_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_residual_weight_needs_a_basis():
    with pytest.raises(ValueError, match="LinearTokenizer has none: set it to 1"):
        build(fitted(LinearTokenizer(P, D)))


def test_parts_that_do_not_fit():
    tokenizer = fitted(PCATokenizer(P, D))
    schedule = NoiseSchedule("linear")
    decoder = DenoisingDecoder(32, 1, 2, 4.0, P)
    plain = SpaceTimeViT(CLIP, PATCH, width=32, depth=1, heads=2)
    told = SpaceTimeViT(CLIP, PATCH, width=32, depth=1, heads=2, time_conditioning=True)
    with pytest.raises(ValueError, match="time_conditioning"):
        LatentDAE(plain, decoder, tokenizer, schedule)
    with pytest.raises(ValueError, match="holds the tokenizer if, and only if"):
        LatentDAE(told, decoder, tokenizer, schedule, input="latent")
    with pytest.raises(ValueError, match=f"expected the encoder's width 32 and {D} values"):
        LatentDAE(told, decoder, tokenizer, schedule, output="latent")


def test_inputs_that_do_not_fit():
    model = build()
    with pytest.raises(ValueError, match="normalize"):
        model((clips() * 127).to(torch.uint8))
    with pytest.raises(ValueError, match="expected clips"):
        model(clips()[..., :-1])
    with pytest.raises(ValueError, match="expected noise"):
        model(clips(), noise=torch.randn(3, N, P))
