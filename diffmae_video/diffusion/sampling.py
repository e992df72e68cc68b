"""The reverse process: from noise to data with any network that was trained to denoise.

Everything is written in x_0 and eps, never dividing by sqrt(abar) for x_0 and v predictions, so that schedules whose
abar underflows float32 (rho < 1) sample safely.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from diffmae_video.diffusion.randomness import Generators, randn
from diffmae_video.diffusion.schedule import NoiseSchedule

SAMPLERS = ("ddim", "ddpm", "dpmpp_2m")
SPACINGS = ("trailing", "karras")
KARRAS_RHO, KARRAS_SIGMA_MAX = 7.0, 80.0  # Karras et al. 2022, table 1


def sampling_timesteps(schedule: NoiseSchedule, steps: int, spacing: str = "trailing") -> list[int]:
    """``steps`` different timesteps from T - 1 downwards; the first is always pure noise.

    Args:
        spacing: ``"trailing"``: evenly spaced in t. ``"karras"``: evenly spaced in sigma^(1/7) with sigma =
            noise / signal, from at most 80 down to the schedule's smallest (Karras et al. 2022, eq. 5), so that no step
            but the first is spent where x_t is noise alone, which at rho < 1 most of the schedule is.

    Raises:
        ValueError: ``steps`` outside [1, T], or an unknown spacing.
    """
    if not 1 <= steps <= schedule.steps:
        raise ValueError(f"sampling takes between 1 and {schedule.steps} steps (the schedule's length), got {steps}")
    if spacing not in SPACINGS:
        raise ValueError(f"unknown spacing {spacing!r}: choose one of {', '.join(SPACINGS)}")
    if spacing == "trailing":
        return [round(schedule.steps * (steps - i) / steps) - 1 for i in range(steps)]
    sigmas = (1 / schedule.abar.clamp(min=1e-300) - 1).sqrt()  # rising with t
    high, low = sigmas[-1].clamp(max=KARRAS_SIGMA_MAX) ** (1 / KARRAS_RHO), sigmas[0] ** (1 / KARRAS_RHO)
    wanted = torch.lerp(high, low, torch.linspace(0, 1, steps, dtype=torch.float64)) ** KARRAS_RHO
    places = torch.searchsorted(sigmas, wanted * (1 - 1e-9)).tolist()  # rounding must not pass an equal one over
    places[0] = schedule.steps - 1
    # Where the schedule is coarser than the steps, neighbours fall on one timestep: they move apart.
    for i in range(1, steps):
        places[i] = min(places[i], places[i - 1] - 1)
    return [max(place, steps - 1 - i) for i, place in enumerate(places)]


def predicted_x0(
    output: torch.Tensor, x_t: torch.Tensor, abar: float, prediction: str, clamp: tuple[float, float] | None = None
) -> torch.Tensor:
    """The clean data x_0 that a network's output implies at the noise level ``abar``; shapes are those of ``x_t``.

    ``prediction`` is what the output means: ``"x0"``, ``"eps"`` or ``"v"``; ``clamp`` bounds the result.
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
    return x0 if clamp is None else x0.clamp(*clamp)


def dynamic_threshold(x0: torch.Tensor, percentile: float, bound: float) -> torch.Tensor:
    """Scales every row of x_0 (B, ...) down until ``percentile`` of its values are inside [-bound, bound].

    Values that are outside then are clamped (Imagen, Saharia et al. 2022, section 2.3). Rows that are inside already
    are only clamped.
    """
    magnitude = x0.flatten(1).abs()
    rank = max(math.ceil(percentile * magnitude.shape[1]), 1)
    limit = magnitude.kthvalue(rank, dim=1).values.clamp(min=bound).reshape(-1, *[1] * (x0.dim() - 1))
    return x0.clamp(-limit, limit) * (bound / limit)


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
    *,
    spacing: str = "trailing",
    threshold: float | None = None,
    constrain: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Runs the reverse chain from ``x_T`` and returns the final x_0, same shape.

    Args:
        predict: maps (x_t, t) to the network's output; x_t (B, ...) float32, t (B,) int64, output like x_t.
        x_T: (B, ...) noise to start from, N(0, I).
        steps: number of network calls, 1 to ``schedule.steps``.
        sampler: ``"ddim"`` (noise added between steps is scaled by ``eta``, 0 = deterministic), ``"ddpm"`` (the same
            with ``eta`` = 1) or ``"dpmpp_2m"`` (deterministic, second order: fewer steps for the same chain).
        prediction: what ``predict`` returns: ``"x0"``, ``"eps"`` or ``"v"``.
        clamp: (low, high) bounds of x_0 at every step, or None.
        generator: noise source of the steps: None, one, or one per row of the batch.
        on_step: called with (t, x_t, x_0) after every network call.
        spacing: which timesteps are taken, see :func:`sampling_timesteps`.
        threshold: share of the values, such as 0.995, that :func:`dynamic_threshold` brings inside ``clamp`` (then
            symmetric) in place of clamping all; None = off.
        constrain: applied to every x_0 after that. Where parts of x_0 are known, putting them back here makes the
            chain agree with them ("replacement" or "imputation").

    Raises:
        ValueError: unknown sampler, spacing or prediction, an impossible number of steps, a threshold without
            symmetric bounds, or a schedule that does not preserve the variance.
    """
    if not schedule.preserves_variance:
        raise ValueError(f"the samplers' steps hold where signal^2 + noise^2 = 1, not for schedule {schedule.name!r}")
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    if threshold is not None and not (0 < threshold <= 1 and clamp is not None and clamp[0] == -clamp[1]):
        raise ValueError(f"a threshold is in (0, 1] and needs bounds (-b, b), got {threshold} and bounds {clamp}")
    eta = 1.0 if sampler == "ddpm" else eta
    timesteps = sampling_timesteps(schedule, steps, spacing)
    abar = schedule.abar.tolist()
    x_t, earlier = x_T, None
    for t, s in zip(timesteps, [*timesteps[1:], None], strict=True):
        output = predict(x_t, torch.full((x_t.shape[0],), t, dtype=torch.int64, device=x_t.device)).float()
        x0 = predicted_x0(output, x_t, abar[t], prediction, clamp if threshold is None else None)
        if threshold is not None:
            x0 = dynamic_threshold(x0, threshold, clamp[1])
        if constrain is not None:
            x0 = constrain(x0)
        if on_step is not None:
            on_step(t, x_t, x0)
        if s is None:
            break
        if sampler == "dpmpp_2m":
            before = None if earlier is None else (earlier[0], abar[earlier[1]])
            x_t, earlier = dpmpp_2m_step(x_t, x0, abar[t], abar[s], before), (x0, t)
        else:
            x_t = ddim_step(x_t, x0, abar[t], abar[s], eta, generator)
    return x0


def ddim_step(
    x_t: torch.Tensor, x0: torch.Tensor, abar_t: float, abar_s: float, eta: float, generator: Generators
) -> torch.Tensor:
    """x_s from x_t and the estimate of x_0 (DDIM, Song et al. 2021, eq. 12 and 16)::

        sigma = eta * sqrt((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s))
        x_s = sqrt(abar_s) * x_0 + sqrt(1 - abar_s - sigma^2) * eps + sigma * z,    z ~ N(0, I)

    eps is the noise that goes with x_0 in x_t. With eta = 1 it is the posterior of Ho et al. 2020 (eq. 7) for any
    subset of timesteps.
    """
    eps = (x_t - abar_t**0.5 * x0) / max((1 - abar_t) ** 0.5, 1e-8)
    sigma = eta * ((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)) ** 0.5
    x_s = abar_s**0.5 * x0 + max(1 - abar_s - sigma**2, 0.0) ** 0.5 * eps
    return x_s + sigma * randn(x_s.shape, generator, x_s.device) if sigma > 0 else x_s


def dpmpp_2m_step(
    x_t: torch.Tensor, x0: torch.Tensor, abar_t: float, abar_s: float, earlier: tuple[torch.Tensor, float] | None
) -> torch.Tensor:
    """x_s by DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), from the estimates of x_0 here and one step earlier::

        D = x_0 + (x_0 - x_0_earlier) * h / (2 h_earlier),    h = lambda_s - lambda_t,    lambda = log(signal / noise)
        x_s = noise_s / noise_t * x_t - signal_s * (exp(-h) - 1) * D

    ``earlier``: that estimate and its abar; None makes the step first order, which is DDIM's with eta = 0.
    """
    h = _half_log_snr(abar_s) - _half_log_snr(abar_t)
    if earlier is not None:
        h_earlier = _half_log_snr(abar_t) - _half_log_snr(earlier[1])
        x0 = x0 + (x0 - earlier[0]) * (h / (2 * h_earlier))
    return ((1 - abar_s) / (1 - abar_t)) ** 0.5 * x_t - abar_s**0.5 * math.expm1(-h) * x0


def _half_log_snr(abar: float) -> float:
    """log(signal / noise); bounded where abar is below float64's reach."""
    return 0.5 * (math.log(max(abar, 1e-300)) - math.log1p(-abar))
