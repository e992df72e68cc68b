"""Noise schedules and samplers: plain functions over tensors, no network inside."""

from diffmae_video.diffusion.randomness import Generators, rand, randint, randn
from diffmae_video.diffusion.sampling import SAMPLERS, SPACINGS, sample, sampling_timesteps
from diffmae_video.diffusion.schedule import SCHEDULES, NoiseSchedule

__all__ = [
    "SAMPLERS",
    "SCHEDULES",
    "SPACINGS",
    "Generators",
    "NoiseSchedule",
    "rand",
    "randint",
    "randn",
    "sample",
    "sampling_timesteps",
]
