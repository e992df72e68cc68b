"""The forward process against published values and an independent library."""

import pytest
import torch

from diffmae_video.diffusion import NoiseSchedule, draw_timesteps, sample

# abar at the (1-based) steps 100, 250, 500, 1000 of the linear schedule, float64.
LINEAR_ABAR = {
    1.0: (0.897, 0.524, 0.0786, 4.0e-5),
    0.8: (0.660, 0.126, 8.0e-4, 1.7e-11),
    0.6: (0.200, 1.1e-3, 1.4e-9, 9e-28),
}


@pytest.mark.parametrize("rho", LINEAR_ABAR)
def test_linear_schedule_has_the_tabulated_values(rho):
    abar = NoiseSchedule("linear", steps=1000, rho=rho).abar
    assert abar.dtype == torch.float64
    got = [abar[step - 1].item() for step in (100, 250, 500, 1000)]
    assert got == pytest.approx(LINEAR_ABAR[rho], rel=0.05)


@pytest.mark.parametrize("steps", [50, 400, 1000])
@pytest.mark.parametrize(
    ("name", "theirs"), [("linear", "linear"), ("quadratic", "scaled_linear"), ("cosine", "squaredcos_cap_v2")]
)
def test_schedules_agree_with_diffusers(name, theirs, steps):
    diffusers = pytest.importorskip("diffusers")
    scale = 1000 / steps
    reference = diffusers.DDPMScheduler(
        num_train_timesteps=steps, beta_schedule=theirs, beta_start=1e-4 * scale, beta_end=0.02 * scale
    )
    torch.testing.assert_close(NoiseSchedule(name, steps).abar.float(), reference.alphas_cumprod, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 10, 100, 4000])
@pytest.mark.parametrize("rho", [1.0, 0.6])
@pytest.mark.parametrize("name", ["linear", "cosine", "quadratic", "linear_gamma"])
def test_any_length_decreases_and_ends_in_noise(name, steps, rho):
    abar = NoiseSchedule(name, steps, rho).abar
    assert len(abar) == steps
    assert torch.isfinite(abar).all() and (abar > 0).all() and (abar.diff() < 0).all()
    assert abar[-1] < 2e-3


def test_smaller_rho_is_more_noise():
    assert (NoiseSchedule(rho=0.8).abar < NoiseSchedule(rho=1.0).abar).all()


def test_add_noise_is_the_closed_form_of_the_chain():
    schedule = NoiseSchedule("linear", steps=1000, rho=0.8)
    x0, eps = torch.randn(3, 5, 7), torch.randn(3, 5, 7)
    t = torch.tensor([0, 400, 999])
    x_t = schedule.add_noise(x0, eps, t)
    for row, step in enumerate(t.tolist()):
        abar = torch.prod(1 - schedule.beta[: step + 1])
        expected = abar.sqrt() * x0[row].double() + (1 - abar).sqrt() * eps[row].double()
        torch.testing.assert_close(x_t[row].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("arguments", [("sigmoid", 10, 1.0), ("linear", 0, 1.0), ("linear", 10, 0.0)])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError):
        NoiseSchedule(*arguments)


# ------------------------------------------------------------------------------------------------- schedules of l-DAE


def test_linear_gamma_is_a_straight_line():
    abar = NoiseSchedule("linear_gamma", 1000).abar
    torch.testing.assert_close(abar[:-1], 1 - torch.arange(1, 1000, dtype=torch.float64) / 1000)
    assert 0 < abar[-1] < 1e-5
    half = NoiseSchedule("linear_gamma", 50).abar
    torch.testing.assert_close(half[:-1], abar[19:-1:20])  # as much noise at the same share of the steps


def test_linear_sigma_adds_noise_to_the_whole_signal():
    schedule = NoiseSchedule("linear_sigma", 1000)
    x0, eps = torch.randn(3, 5, 7), torch.randn(3, 5, 7)
    t = torch.tensor([0, 400, 999])
    x_t = schedule.add_noise(x0, eps, t)
    sigma = torch.linspace(0, 2**0.5, 1000)[t].reshape(3, 1, 1)
    torch.testing.assert_close(x_t, x0 + sigma * eps)
    assert torch.equal(x_t[0], x0[0])
    torch.testing.assert_close(schedule.abar[t], 1 / (1 + sigma.flatten().double() ** 2), rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.cumprod(1 - schedule.beta, 0), schedule.abar)


def test_what_preserves_the_variance():
    t = torch.arange(0, 1000, 37)
    for name in ("linear", "cosine", "quadratic", "linear_gamma", "linear_sigma"):
        schedule = NoiseSchedule(name)
        signal, noise = schedule.scales(t, torch.zeros(len(t)))
        total = signal.square() + noise.square()
        assert schedule.preserves_variance == torch.allclose(total, torch.ones_like(total), atol=1e-5)


def test_what_needs_a_preserved_variance_refuses():
    schedule = NoiseSchedule("linear_sigma")
    x, t = torch.randn(1, 4), torch.tensor([3])
    with pytest.raises(ValueError, match="velocity"):
        schedule.velocity(x, x, t)
    with pytest.raises(ValueError, match="samplers' steps"):
        sample(lambda x, t: x, x, schedule, steps=2)
    with pytest.raises(ValueError, match="no"):
        NoiseSchedule("linear_sigma", rho=0.6)


# ---------------------------------------------------------------------------------------------- timesteps of a batch


@pytest.mark.parametrize(
    "train_range, first, last", [((0, 1), 0, 999), ((0.25, 0.75), 250, 749), ((1, 1), 999, 999), ((0.3, 0.3), 300, 300)]
)
def test_timesteps_are_uniform_over_the_range(train_range, first, last):
    t = draw_timesteps(1000, train_range, 20000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64 and (t.min(), t.max()) == (first, last)
    assert t.double().mean() == pytest.approx((first + last) / 2, abs=6)


def test_timesteps_are_per_clip():
    batch = draw_timesteps(1000, (0, 1), 3, [torch.Generator().manual_seed(s) for s in (1, 2, 3)])
    alone = draw_timesteps(1000, (0, 1), 1, [torch.Generator().manual_seed(2)])
    assert batch[1] == alone[0] and len(set(batch.tolist())) == 3


@pytest.mark.parametrize("train_range", [(0.5, 0.4), (-0.1, 1.0), (0.0, 1.1)])
def test_a_range_that_is_none(train_range):
    with pytest.raises(ValueError, match="0 <= lo <= hi <= 1"):
        draw_timesteps(1000, train_range, 2)
