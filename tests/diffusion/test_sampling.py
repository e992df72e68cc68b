"""The reverse process against an independent library, and against distributions whose score is known."""

import pytest
import torch

from diffmae_video.diffusion import NoiseSchedule, randn, sample, sampling_timesteps

SCHEDULE = NoiseSchedule("linear", steps=1000)


def gaussian_denoiser(schedule, mean, std, prediction):
    """The optimal network for data ~ N(mean, std^2): E[x_0 | x_t] in closed form."""

    def predict(x_t, t):
        abar = schedule.abar[t].reshape(-1, *[1] * (x_t.dim() - 1))
        signal, noise = abar.sqrt(), (1 - abar).sqrt()
        x0 = mean + std**2 * signal / (abar * std**2 + 1 - abar) * (x_t - signal * mean)
        eps = (x_t - signal * x0) / noise
        return {"x0": x0, "eps": eps, "v": signal * eps - noise * x0}[prediction].float()

    return predict


def test_timesteps_start_in_noise_and_cover_the_schedule():
    assert sampling_timesteps(1000, 4) == [999, 749, 499, 249]
    assert sampling_timesteps(1000, 1000) == list(range(999, -1, -1))
    assert sampling_timesteps(10, 1) == [9]
    for steps in (0, 11):
        with pytest.raises(ValueError, match="between 1 and 10"):
            sampling_timesteps(10, steps)


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_samples_have_the_distribution_of_the_data(sampler, prediction):
    generator = torch.Generator().manual_seed(0)
    x = sample(
        gaussian_denoiser(SCHEDULE, 0.5, 0.3, prediction),
        torch.randn(20000, 1, generator=generator),
        SCHEDULE,
        steps=250,
        sampler=sampler,
        prediction=prediction,
        generator=generator,
    )
    assert x.mean().item() == pytest.approx(0.5, abs=0.02)
    assert x.std().item() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_ddim_agrees_with_diffusers(prediction, steps):
    diffusers = pytest.importorskip("diffusers")
    names = {"x0": "sample", "eps": "epsilon", "v": "v_prediction"}
    reference = diffusers.DDIMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type=names[prediction],
        clip_sample=False,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )
    reference.set_timesteps(steps)
    assert reference.timesteps.tolist() == sampling_timesteps(1000, steps)
    predict = gaussian_denoiser(SCHEDULE, 0.2, 0.5, prediction)
    x_T = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1))
    x = x_T
    for i, t in enumerate(reference.timesteps):
        output = predict(x, torch.full((4,), int(t)))
        # `step` derives the previous timestep from a stride; with our uneven rounding it is told explicitly.
        reference.num_inference_steps = steps
        previous = reference.timesteps[i + 1] if i + 1 < steps else -1
        reference.config.num_train_timesteps = int(t - previous) * steps
        x = reference.step(output, t, x).prev_sample
    ours = sample(predict, x_T, SCHEDULE, steps=steps, prediction=prediction)
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-4)


def test_ddpm_step_is_the_posterior_of_ho_et_al():
    """One step t -> s of the sampler against eq. 7 written out, the noise being the same."""
    schedule = NoiseSchedule("linear", steps=10)
    x_T = torch.randn(2, 6)
    x0 = torch.randn(2, 6).clamp(-1, 1)
    seen = []
    sample(
        lambda x_t, t: x0,
        x_T,
        schedule,
        steps=10,
        sampler="ddpm",
        generator=torch.Generator().manual_seed(3),
        on_step=lambda t, x_t, _: seen.append(x_t),
    )
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(3))
    abar_t, abar_s, beta = schedule.abar[9], schedule.abar[8], schedule.beta[9]
    mean = abar_s.sqrt() * beta / (1 - abar_t) * x0 + (1 - beta).sqrt() * (1 - abar_s) / (1 - abar_t) * x_T
    variance = (1 - abar_s) / (1 - abar_t) * beta
    torch.testing.assert_close(seen[1], (mean + variance.sqrt() * z).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", ["x0", "v"])
@pytest.mark.parametrize("rho", [0.6, 0.4])
def test_schedules_below_float32_sample_finite_values(rho, prediction):
    schedule = NoiseSchedule("linear", rho=rho)
    predict = gaussian_denoiser(schedule, 0.0, 0.4, prediction)
    x = sample(predict, torch.randn(5000, 1), schedule, steps=1000, prediction=prediction, clamp=(-3, 3))
    assert torch.isfinite(x).all() and x.std().item() == pytest.approx(0.4, abs=0.05)


def test_number_of_network_calls_is_the_number_of_steps():
    calls = []
    sample(lambda x, t: calls.append(t[0].item()) or x * 0, torch.randn(1, 2), SCHEDULE, steps=13)
    assert calls == sampling_timesteps(1000, 13)


def test_clamp_bounds_the_result():
    x = sample(lambda x, t: x * 0 + 5, torch.randn(2, 3), SCHEDULE, steps=3, clamp=(-1, 1))
    assert x.max() == 1


def test_generators_per_row_make_rows_independent_of_the_batch():
    both = randn((2, 4), [torch.Generator().manual_seed(s) for s in (5, 6)])
    alone = randn((1, 4), [torch.Generator().manual_seed(6)])
    assert torch.equal(both[1:], alone)
    with pytest.raises(ValueError, match="1 generators for a batch of 2"):
        randn((2, 4), [torch.Generator()])


@pytest.mark.parametrize("bad", [{"sampler": "euler"}, {"prediction": "x1"}])
def test_unknown_names_are_refused(bad):
    with pytest.raises(ValueError, match="choose one of"):
        sample(lambda x, t: x, torch.randn(1, 2), SCHEDULE, **bad)
