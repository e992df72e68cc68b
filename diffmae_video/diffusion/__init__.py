"""Noise schedules and samplers: plain functions over tensors, no network inside."""

from diffmae_video.diffusion.randomness import Generators, rand, randint, randn
from diffmae_video.diffusion.sampling import SAMPLERS, SPACINGS, sample, sampling_timesteps
from diffmae_video.diffusion.schedule import SCHEDULES, UNSCALED, NoiseSchedule, draw_timesteps

__all__ = [
    "SAMPLERS",
    "SCHEDULES",
    "SPACINGS",
    "UNSCALED",
    "Generators",
    "NoiseSchedule",
    "draw_timesteps",
    "rand",
    "randint",
    "randn",
    "sample",
    "sampling_timesteps",
]
