"""The reverse process against an independent library, and against distributions whose score is known."""

import pytest
import torch

from diffmae_video.diffusion import NoiseSchedule, randn, sample, sampling_timesteps
from diffmae_video.diffusion.sampling import dynamic_threshold

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
    assert sampling_timesteps(SCHEDULE, 4) == [999, 749, 499, 249]
    assert sampling_timesteps(SCHEDULE, 1000) == list(range(999, -1, -1))
    assert sampling_timesteps(NoiseSchedule(steps=10), 1) == [9]
    for steps in (0, 11):
        with pytest.raises(ValueError, match="between 1 and 10"):
            sampling_timesteps(NoiseSchedule(steps=10), steps)


def test_karras_timesteps_spend_no_step_on_noise_alone():
    schedule = NoiseSchedule("linear", rho=0.6)
    times = sampling_timesteps(schedule, 10, "karras")
    assert times[0] == 999 and sorted(set(times), reverse=True) == times and times[-1] == 0
    sigmas = (1 / schedule.abar - 1).sqrt()
    low, high = sigmas[0] ** (1 / 7), 80.0 ** (1 / 7)
    wanted = torch.tensor([(high + i / 9 * (low - high)) ** 7 for i in range(10)])  # Karras et al. 2022, eq. 5
    torch.testing.assert_close(sigmas[times[1:]], wanted[1:], rtol=0.2, atol=0.03)  # as near as timesteps are
    assert sum(sigmas[t] > 80 for t in times) <= 2
    assert sum(sigmas[t] > 80 for t in sampling_timesteps(schedule, 10)) >= 6
    for steps in (1, 600, 1000):
        times = sampling_timesteps(schedule, steps, "karras")
        assert len(set(times)) == steps and times == sorted(times, reverse=True) and 0 <= times[-1] <= times[0] == 999
    with pytest.raises(ValueError, match="trailing, karras"):
        sampling_timesteps(schedule, 5, "even")


@pytest.mark.parametrize("schedule", [("linear", 1.0), ("linear", 0.6), ("cosine", 1.0), ("quadratic", 0.8)])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
@pytest.mark.parametrize("spacing", ["trailing", "karras"])
@pytest.mark.parametrize("prediction", ["x0", "v"])
def test_every_schedule_samples_the_distribution_of_the_data(schedule, sampler, spacing, prediction):
    schedule = NoiseSchedule(schedule[0], rho=schedule[1])
    generator = torch.Generator().manual_seed(0)
    x = sample(
        gaussian_denoiser(schedule, -0.2, 0.5, prediction),
        torch.randn(20000, 1, generator=generator),
        schedule,
        steps=1000 if spacing == "trailing" else 200,  # at rho < 1 most of the former are noise
        sampler=sampler,
        spacing=spacing,
        prediction=prediction,
        generator=generator,
    )
    assert x.mean().item() == pytest.approx(-0.2, abs=0.02)
    assert x.std().item() == pytest.approx(0.5, abs=0.035)


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
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
    assert reference.timesteps.tolist() == sampling_timesteps(SCHEDULE, steps)
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


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_ddpm_agrees_with_diffusers(prediction):
    diffusers = pytest.importorskip("diffusers")
    names = {"x0": "sample", "eps": "epsilon", "v": "v_prediction"}
    reference = diffusers.DDPMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type=names[prediction],
        variance_type="fixed_small",
        clip_sample=False,
    )
    reference.set_timesteps(1000)
    predict = gaussian_denoiser(SCHEDULE, 0.2, 0.5, prediction)
    x_T = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1))
    x, generator = x_T, torch.Generator().manual_seed(2)
    for t in reference.timesteps:
        output = predict(x, torch.full((4,), int(t)))
        x = reference.step(output, t, x, generator=generator).prev_sample
    ours = sample(
        predict,
        x_T,
        SCHEDULE,
        steps=1000,
        sampler="ddpm",
        prediction=prediction,
        generator=torch.Generator().manual_seed(2),
    )
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
@pytest.mark.parametrize("spacing", ["trailing", "karras"])
@pytest.mark.parametrize("steps", [1, 2, 8, 30])
def test_dpmpp_2m_agrees_with_diffusers(steps, spacing, prediction):
    diffusers = pytest.importorskip("diffusers")
    names = {"x0": "sample", "eps": "epsilon", "v": "v_prediction"}
    reference = diffusers.DPMSolverMultistepScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type=names[prediction],
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    reference.set_timesteps(timesteps=sampling_timesteps(SCHEDULE, steps, spacing))
    predict = gaussian_denoiser(SCHEDULE, 0.2, 0.5, prediction)
    x_T = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1))
    x = x_T
    for t in reference.timesteps:
        x = reference.step(predict(x, torch.full((4,), int(t))), t, x).prev_sample
    ours = sample(predict, x_T, SCHEDULE, steps=steps, sampler="dpmpp_2m", spacing=spacing, prediction=prediction)
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


def test_the_second_order_solver_is_nearer_to_the_exact_solution_at_equal_steps():
    """For Gaussian data the noise-free chain has a closed form: it scales noise to data, mean and deviation."""
    mean, std = 0.3, 0.4
    x_T = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    abar = SCHEDULE.abar[-1].item()
    exact = mean + std * (x_T - abar**0.5 * mean) / (abar * std**2 + 1 - abar) ** 0.5
    predict = gaussian_denoiser(SCHEDULE, mean, std, "x0")
    errors = {
        sampler: (sample(predict, x_T, SCHEDULE, steps=20, sampler=sampler, spacing="karras") - exact).abs().mean()
        for sampler in ("ddim", "dpmpp_2m")
    }
    assert errors["dpmpp_2m"] < 0.5 * errors["ddim"]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
def test_known_values_keep_their_place_in_the_chain(sampler):
    """With what is known put back into x_0, it ends exact, and on the way has the noise of the forward process."""
    known = torch.full((6000, 1), 0.7)
    seen = {}

    def constrain(x0):
        return torch.cat([known, x0[:, 1:]], dim=1)

    generator = torch.Generator().manual_seed(0)
    x = sample(
        gaussian_denoiser(SCHEDULE, 0.0, 0.5, "x0"),
        torch.randn(6000, 3, generator=generator),
        SCHEDULE,
        steps=250,
        sampler=sampler,
        constrain=constrain,
        generator=generator,
        on_step=lambda t, x_t, x0: seen.update({t: x_t[:, 0]}),
    )
    assert torch.equal(x[:, :1], known) and x[:, 1:].std().item() == pytest.approx(0.5, abs=0.03)
    for t in (799, 399, 99):  # among the 250
        abar = SCHEDULE.abar[t].item()
        assert seen[t].mean().item() == pytest.approx(abar**0.5 * 0.7, abs=0.03)
        assert seen[t].std().item() == pytest.approx((1 - abar) ** 0.5, abs=0.03)


def test_dynamic_threshold_scales_rows_that_stand_out():
    x0 = torch.linspace(-1, 1, 101).repeat(2, 1)
    x0[0] *= 4
    result = dynamic_threshold(x0, 0.9, 1.0)
    limit = x0[0].abs().sort().values[90]  # 91st of 101: 90 % are below or equal
    torch.testing.assert_close(result[0], x0[0].clamp(-limit, limit) / limit)
    assert torch.equal(result[1], x0[1]), "a row inside the range stays"
    ended = sample(lambda x, t: x0, torch.randn(2, 101), SCHEDULE, steps=3, clamp=(-1, 1), threshold=0.9)
    torch.testing.assert_close(ended, result)
    for bad in ({"threshold": 0.9}, {"threshold": 0.9, "clamp": (0, 1)}, {"threshold": 0.0, "clamp": (-1, 1)}):
        with pytest.raises(ValueError, match="threshold"):
            sample(lambda x, t: x, torch.randn(1, 2), SCHEDULE, **bad)


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
    x_T = torch.randn(5000, 1, generator=torch.Generator().manual_seed(0))
    x = sample(predict, x_T, schedule, steps=1000, prediction=prediction, clamp=(-3, 3))
    # The smaller rho, the fewer of the steps are not noise alone: the spread comes out somewhat low.
    assert torch.isfinite(x).all() and x.std().item() == pytest.approx(0.4, abs=0.07)


def test_number_of_network_calls_is_the_number_of_steps():
    calls = []
    sample(lambda x, t: calls.append(t[0].item()) or x * 0, torch.randn(1, 2), SCHEDULE, steps=13)
    assert calls == sampling_timesteps(SCHEDULE, 13)


def test_clamp_bounds_the_result():
    x = sample(lambda x, t: x * 0 + 5, torch.randn(2, 3), SCHEDULE, steps=3, clamp=(-1, 1))
    assert x.max() == 1


def test_generators_per_row_make_rows_independent_of_the_batch():
    both = randn((2, 4), [torch.Generator().manual_seed(s) for s in (5, 6)])
    alone = randn((1, 4), [torch.Generator().manual_seed(6)])
    assert torch.equal(both[1:], alone)
    with pytest.raises(ValueError, match="1 generators for a batch of 2"):
        randn((2, 4), [torch.Generator()])


@pytest.mark.parametrize("bad", [{"sampler": "euler"}, {"prediction": "x1"}, {"spacing": "even"}])
def test_unknown_names_are_refused(bad):
    with pytest.raises(ValueError, match="choose one of"):
        sample(lambda x, t: x, torch.randn(1, 2), SCHEDULE, **bad)
