"""The forward process: how much noise there is at every timestep.

    x_t = sqrt(abar_t) * x_0 + sqrt(1 - abar_t) * eps,    abar_t = prod_{s <= t} (1 - beta_s)

(Ho et al. 2020, eq. 4). DiffMAE (arXiv 2304.03283) raises every beta to a power ``rho``; below 1 that is more noise.

The schedules of l-DAE (arXiv 2401.14404) are given by other quantities: ``linear_gamma`` by abar, a straight line from
1 to 0, and ``linear_sigma`` by the noise itself, which is added to the signal at its full scale:

    x_t = x_0 + sigma_t * eps,    sigma_t a straight line from 0 to sqrt(2)
"""

from __future__ import annotations

import math

import torch

from diffmae_video.diffusion.randomness import Generators, randint

SCHEDULES = ("linear", "cosine", "quadratic", "linear_gamma", "linear_sigma")
# Those of which x_t has a signal of scale 1 and a variance that grows. They are for LatentDAE: DiffMAE and the samplers
# know x_t = sqrt(abar) * x_0 + sqrt(1 - abar) * eps alone.
UNSCALED = ("linear_sigma",)


def _rising(low: float, high: float, steps: int) -> torch.Tensor:
    # Counted down from the high end, so that a schedule of a single step is the noisy one.
    return torch.linspace(high, low, steps, dtype=torch.float64).flip(0)


def _linear(steps: int) -> torch.Tensor:
    return _rising(1e-4, 0.02, steps) * (1000 / steps)


def _quadratic(steps: int) -> torch.Tensor:
    return _rising(1e-4**0.5, 0.02**0.5, steps) ** 2 * (1000 / steps)


def _cosine(steps: int, offset: float = 0.008) -> torch.Tensor:
    """Improved DDPM (Nichol & Dhariwal 2021), eq. 17."""
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    abar = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
    return 1 - abar[1:] / abar[:-1]


def _linear_gamma(steps: int) -> torch.Tensor:
    """abar_t = 1 - (t + 1) / T; the bound on beta keeps the last one above 0."""
    abar = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    return 1 - abar[1:] / abar[:-1]


BETAS = {"linear": _linear, "cosine": _cosine, "quadratic": _quadratic, "linear_gamma": _linear_gamma}


class NoiseSchedule:
    """Noise levels of a diffusion with ``steps`` timesteps.

    Args:
        name: ``"linear"`` (beta from 1e-4 to 0.02), ``"quadratic"`` (square roots of beta evenly spaced between the
            same ends), ``"cosine"`` (improved DDPM), ``"linear_gamma"`` or ``"linear_sigma"`` (l-DAE; see above).
        steps: number of timesteps T >= 1. The linear and quadratic betas are scaled by 1000 / T, so that the total
            amount of noise does not depend on T (as in improved DDPM); at T = 1000 they are the textbook values.
        rho: exponent of every beta, > 0; 1 for ``"linear_sigma"``.

    Attributes:
        beta, abar: float64 tensors of shape (steps,) on the CPU; entry ``t`` belongs to timestep ``t`` in
            [0, steps - 1], so ``abar[0]`` is nearly 1 and ``abar[steps - 1]`` nearly 0. They are float64 because at
            rho <= 0.6 the last entries are below float32's reach. Of ``"linear_sigma"`` they are those of the same
            signal-to-noise ratio, abar = 1 / (1 + sigma^2): from 1 to 1/3.
        preserves_variance: whether signal^2 + noise^2 = 1 for the two factors in x_t; not so for ``"linear_sigma"``.

    Raises:
        ValueError: unknown name, ``steps`` < 1, ``rho`` <= 0, or another ``rho`` than 1 where there are no betas.
    """

    def __init__(self, name: str = "linear", steps: int = 1000, rho: float = 1.0):
        if name not in SCHEDULES:
            raise ValueError(f"unknown noise schedule {name!r}: choose one of {', '.join(SCHEDULES)}")
        if steps < 1 or rho <= 0:
            raise ValueError(f"a noise schedule needs steps >= 1 and rho > 0, got steps={steps}, rho={rho}")
        self.name, self.steps, self.rho = name, int(steps), float(rho)
        self.preserves_variance = name not in UNSCALED
        if self.preserves_variance:
            # 0.999 is improved DDPM's bound: a beta of 1 would erase the signal so that nothing could be inverted.
            self.beta = BETAS[name](self.steps).clamp(max=0.999) ** self.rho
            self.abar = torch.cumprod(1 - self.beta, dim=0)
            self._signal, self._noise = self.abar.sqrt(), (1 - self.abar).sqrt()
        else:
            if rho != 1:
                raise ValueError(f"rho is an exponent of betas, of which schedule {name!r} has none: set it to 1")
            self._noise = _rising(0.0, 2**0.5, self.steps)
            self._signal = torch.ones_like(self._noise)
            self.abar = 1 / (1 + self._noise.square())
            self.beta = 1 - self.abar / torch.cat([torch.ones_like(self.abar[:1]), self.abar[:-1]])
        self._scales: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}  # by device, for ``scales``

    def __repr__(self) -> str:
        return f"NoiseSchedule({self.name!r}, steps={self.steps}, rho={self.rho})"

    def scales(self, t: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The factors of x_0 and eps in x_t, float32 on ``like``'s device, shaped to broadcast over ``like``.

        They are sqrt(abar_t) and sqrt(1 - abar_t), of ``"linear_sigma"`` 1 and sigma_t.

        Args:
            t: (B,) int64 timesteps in [0, steps - 1].
            like: (B, ...) tensor that they will multiply.
        """
        if t.device not in self._scales:  # kept there: a copy at every step would wait for the device
            self._scales[t.device] = self._signal.to(t.device).float(), self._noise.to(t.device).float()
        shape = (-1, *[1] * (like.dim() - 1))
        signal, noise = self._scales[t.device]
        return signal[t].reshape(shape), noise[t].reshape(shape)

    def add_noise(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """``x_t``, same shape as ``x0`` (B, ...), for noise ``eps`` of that shape and timesteps ``t`` (B,) int64."""
        signal, noise = self.scales(t, x0)
        return signal * x0 + noise * eps

    def velocity(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """v = sqrt(abar_t) * eps - sqrt(1 - abar_t) * x_0 (Salimans & Ho 2022), same shape as ``x0``.

        Raises:
            ValueError: a schedule that does not preserve the variance.
        """
        if not self.preserves_variance:
            raise ValueError(f"velocity is defined where signal^2 + noise^2 = 1, not for schedule {self.name!r}")
        signal, noise = self.scales(t, x0)
        return signal * eps - noise * x0


def draw_timesteps(
    schedule_steps: int,
    train_range: tuple[float, float],
    batch: int,
    generator: Generators = None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Timesteps of a training batch: uniform over a part of the schedule, int64 (batch,).

    Args:
        schedule_steps: number of timesteps T of the schedule.
        train_range: (lo, hi), shares of the schedule with 0 <= lo <= hi <= 1: timesteps run from round(lo * (T - 1)) to
            round(hi * (T - 1)), both included. (0, 1) is all of them; lo = hi is a single noise level.
        batch: number of clips.
        generator: None, one, or one per clip.

    Raises:
        ValueError: a range that is none.
    """
    low, high = train_range
    if not 0 <= low <= high <= 1:
        raise ValueError(f"train_range must be (lo, hi) with 0 <= lo <= hi <= 1, got {tuple(train_range)}")
    first, last = round(low * (schedule_steps - 1)), round(high * (schedule_steps - 1))
    return first + randint(last - first + 1, (batch,), generator, device)
