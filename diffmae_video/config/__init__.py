"""Configuration: every key declared once in ``defaults``, read from YAML files and overrides, checked, frozen."""

from diffmae_video.config.defaults import get_cfg
from diffmae_video.config.errors import ConfigError
from diffmae_video.config.loading import dump, from_dict, from_yaml, load_config
from diffmae_video.config.masks import MaskRange, mask_mix, trained_ratio
from diffmae_video.config.mix import is_mix
from diffmae_video.config.sizes import ENCODER_SIZES, resolve_encoder
from diffmae_video.config.tasks import AUTOENCODER_TASKS
from diffmae_video.config.validation import validate

__all__ = [
    "AUTOENCODER_TASKS",
    "ENCODER_SIZES",
    "ConfigError",
    "MaskRange",
    "dump",
    "from_dict",
    "from_yaml",
    "get_cfg",
    "is_mix",
    "load_config",
    "mask_mix",
    "resolve_encoder",
    "trained_ratio",
    "validate",
]
