"""The reverse process: from noise to data with any network that was trained to denoise."""

from __future__ import annotations

from collections.abc import Callable

import torch

from diffmae_video.diffusion.randomness import Generators, randn
from diffmae_video.diffusion.schedule import NoiseSchedule

SAMPLERS = ("ddim", "ddpm")


def sampling_timesteps(schedule_steps: int, steps: int) -> list[int]:
    """``steps`` timesteps, evenly spaced from T - 1 downwards ("trailing": the first is always pure noise).

    Raises:
        ValueError: ``steps`` outside [1, schedule_steps].
    """
    if not 1 <= steps <= schedule_steps:
        raise ValueError(f"sampling takes between 1 and {schedule_steps} steps (the schedule's length), got {steps}")
    return [round(schedule_steps * (steps - i) / steps) - 1 for i in range(steps)]


def split_prediction(
    output: torch.Tensor, x_t: torch.Tensor, abar: float, prediction: str, clamp: tuple[float, float] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The clean data and the noise (x_0, eps) that a network's output implies at the noise level ``abar``.

    Shapes are those of ``x_t``. ``clamp`` bounds x_0; eps is then the noise that goes with the bounded x_0, so that
    the pair always explains ``x_t``.
    """
    signal, noise = abar**0.5, (1 - abar) ** 0.5
    if prediction == "x0":
        x0 = output
    elif prediction == "eps":
        x0 = (x_t - noise * output) / max(signal, 1e-8)
    elif prediction == "v":
        x0 = signal * x_t - noise * output
    else:
        raise ValueError(f"unknown prediction {prediction!r}: choose one of x0, eps, v")
    if clamp is not None:
        x0 = x0.clamp(*clamp)
    return x0, (x_t - signal * x0) / max(noise, 1e-8)


@torch.no_grad()
def sample(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x_T: torch.Tensor,
    schedule: NoiseSchedule,
    steps: int = 50,
    sampler: str = "ddim",
    prediction: str = "x0",
    eta: float = 0.0,
    clamp: tuple[float, float] | None = None,
    generator: Generators = None,
    on_step: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Runs the reverse chain from ``x_T`` and returns the final x_0, same shape.

    Every step, with s the next timestep (DDIM, Song et al. 2021, eq. 12 and 16; abar = 1 after the last step):

        sigma = eta * sqrt((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s))
        x_s = sqrt(abar_s) * x_0 + sqrt(1 - abar_s - sigma^2) * eps + sigma * z,    z ~ N(0, I)

    ``sampler="ddpm"`` is the case eta = 1, which equals the posterior of Ho et al. 2020 (eq. 7) for any subset of
    timesteps. Everything is written in x_0 and eps, never dividing by sqrt(abar) for x_0 and v predictions, so that
    schedules whose abar underflows float32 (rho < 1) sample safely.

    Args:
        predict: maps (x_t, t) to the network's output; x_t (B, ...) float32, t (B,) int64, output like x_t.
        x_T: (B, ...) noise to start from, N(0, I).
        steps: number of network calls, 1 to ``schedule.steps``.
        sampler: ``"ddim"`` (noise added between steps is scaled by ``eta``, 0 = deterministic) or ``"ddpm"``.
        prediction: what ``predict`` returns: ``"x0"``, ``"eps"`` or ``"v"``.
        clamp: (low, high) bounds of x_0 at every step, or None.
        generator: noise source of the steps: None, one, or one per row of the batch.
        on_step: called with (t, x_t, x_0) after every network call.

    Raises:
        ValueError: unknown sampler or prediction, or an impossible number of steps.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    eta = 1.0 if sampler == "ddpm" else eta
    timesteps = sampling_timesteps(schedule.steps, steps)
    abar = schedule.abar.tolist()
    x_t = x_T
    for t, s in zip(timesteps, [*timesteps[1:], None], strict=True):
        output = predict(x_t, torch.full((x_t.shape[0],), t, dtype=torch.int64, device=x_t.device)).float()
        x0, eps = split_prediction(output, x_t, abar[t], prediction, clamp)
        if on_step is not None:
            on_step(t, x_t, x0)
        if s is not None:
            sigma = eta * ((1 - abar[s]) / (1 - abar[t]) * (1 - abar[t] / abar[s])) ** 0.5
            x_t = abar[s] ** 0.5 * x0 + max(1 - abar[s] - sigma**2, 0.0) ** 0.5 * eps
            if sigma > 0:
                x_t = x_t + sigma * randn(x_t.shape, generator, x_t.device)
    return x0
