"""The forward process against published values and an independent library."""

import pytest
import torch

from diffmae_video.diffusion import NoiseSchedule

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
@pytest.mark.parametrize("name", ["linear", "cosine", "quadratic"])
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
