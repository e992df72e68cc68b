"""Rules of MODEL.LDAE, and of what LatentDAE does not read."""

from __future__ import annotations

import pytest

from diffmae_video.config import ConfigError, load_config
from diffmae_video.config.latent import ORTHONORMAL, TOKENIZERS

LDAE = ["MODEL.NAME", "LatentDAE"]
IMAGE_1 = ["MODEL.LDAE.RESIDUAL_WEIGHT", 1.0]
VAE = ["MODEL.LDAE.TOKENIZER", "conv_vae", "MODEL.LDAE.VAE_PATH", "/a/vae", *IMAGE_1]
LATENT = ["MODEL.LDAE.OUTPUT", "latent"]


def refused(*overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config((), overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    "overrides, parts",
    [
        # other models
        (["MODEL.LDAE.LATENT_DIM", 16], ["MODEL.LDAE.LATENT_DIM is 16", "MODEL.NAME is 'DiffMAE'", "leave it out"]),
        (["MODEL.NAME", "MAE", "MODEL.LDAE.CLASS_CONDITIONING", True], ["CLASS_CONDITIONING", "'MAE'"]),
        (["TASK", "linear", "MODEL.NUM_CLASSES", 5, "MODEL.LDAE.INPUT", "latent"], ["MODEL.LDAE.INPUT", "'DiffMAE'"]),
        (["DIFFUSION.SCHEDULE", "linear_sigma"], ["'linear_sigma'", "DiffMAE", "linear_gamma"]),
        # what it does not read
        ([*LDAE, "MASK.RATIO", 0.5], ["MASK.RATIO is 0.5", "does not read it: leave it out (the default is 0.9)"]),
        ([*LDAE, "MASK.MIX.STRATEGIES", ["tube", "random"]], ["MASK.MIX.STRATEGIES"]),
        ([*LDAE, "MODEL.DECODER.WIDTH", 256], ["MODEL.DECODER.WIDTH is 256"]),
        ([*LDAE, "MODEL.DECODER.TYPE", "joint"], ["MODEL.DECODER.TYPE is 'joint'"]),
        ([*LDAE, "MODEL.INPUT_SCALING", "signal"], ["MODEL.INPUT_SCALING"]),
        ([*LDAE, "MODEL.TARGET", "normalized"], ["MODEL.TARGET is 'normalized'"]),
        ([*LDAE, "TRAIN.VISUALIZE_STEPS", 5], ["TRAIN.VISUALIZE_STEPS"]),
        ([*LDAE, "TASK", "inpaint_eval"], ["'inpaint_eval'", "LatentDAE hides nothing"]),
        # tokenizers
        ([*LDAE, "MODEL.PATCH_SIZE", [1, 2, 2]], ["LATENT_DIM = 32 is more than the 12 values of a patch 1 x 2 x 2"]),
        ([*LDAE, *IMAGE_1, "MODEL.LDAE.TOKENIZER", "conv_vae"], ["VAE_PATH is empty"]),
        ([*LDAE, "MODEL.LDAE.VAE_PATH", "/a/vae"], ["VAE_PATH is '/a/vae', but only conv_vae read it, not 'pca'"]),
        ([*LDAE, *VAE, "MODEL.LDAE.LATENT_DIM", 16], ["LATENT_DIM is 16", "pca and patch_ae and patch_vae"]),
        ([*LDAE, "MODEL.LDAE.TOKENIZER", "pixel", "MODEL.LDAE.LATENT_DIM", 16], ["LATENT_DIM is 16", "not 'pixel'"]),
        ([*LDAE, "MODEL.LDAE.FIT_STEPS", 5], ["MODEL.LDAE.FIT_STEPS is 5", "not 'pca'"]),
        ([*LDAE, "MODEL.LDAE.TOKENIZER", "patch_ae", *IMAGE_1, "MODEL.LDAE.KL_WEIGHT", 1.0], ["KL_WEIGHT is 1.0"]),
        ([*LDAE, *VAE, "DATA.MEAN", [0.4, 0.4, 0.4]], ["DATA.MEAN", "[-1, 1]", "0.5"]),
        # prediction and loss
        ([*LDAE, "MODEL.PREDICTION", "eps"], ["MODEL.PREDICTION 'eps'", "MODEL.LDAE.OUTPUT is 'image'"]),
        (
            [*LDAE, *LATENT, "MODEL.PREDICTION", "v", "DIFFUSION.SCHEDULE", "linear_sigma"],
            ["MODEL.PREDICTION 'v'", "signal^2 + noise^2 = 1"],
        ),
        ([*LDAE, "MODEL.LDAE.TOKENIZER", "patch_vae"], ["RESIDUAL_WEIGHT = 0.1", "'patch_vae' has none: set it to 1"]),
        ([*LDAE, "DIFFUSION.SCHEDULE", "linear_sigma", "DIFFUSION.RHO", 0.6], ["DIFFUSION.RHO = 0.6", "linear_sigma"]),
        # timesteps
        ([*LDAE, "MODEL.LDAE.PROBE_TIMESTEP", 1000], ["PROBE_TIMESTEP = 1000", "0 to 999"]),
        (
            [*LDAE, "MODEL.ENCODER.WIDTH", 27, "MODEL.ENCODER.HEADS", 3],
            ["MODEL.ENCODER.WIDTH = 27 must be even"],
        ),
        # classes
        ([*LDAE, "MODEL.LDAE.CLASS_CONDITIONING", True], ["MODEL.NUM_CLASSES"]),
        ([*LDAE, "MODEL.NUM_CLASSES", 10], ["MODEL.NUM_CLASSES is 10", "which has no labels"]),
        ([*LDAE, "MODEL.LDAE.CLASS_DROPOUT", 0.3], ["CLASS_DROPOUT is 0.3", "CLASS_CONDITIONING is False"]),
        (
            [*LDAE, "MODEL.LDAE.CLASS_CONDITIONING", True, "MODEL.NUM_CLASSES", 9, "DATA.MIX.PATHS", ["/a", "/b"]],
            ["DATA.MIX share no class numbers"],
        ),
    ],
)
def test_refused(overrides, parts):
    message = refused(*overrides)
    for part in parts:
        assert part in message, message
    assert "problems" not in message, "one mistake, one sentence"


@pytest.mark.parametrize(
    "overrides",
    [
        LDAE,
        [*LDAE, "DIFFUSION.SCHEDULE", "linear_sigma", "MODEL.LDAE.RESIDUAL_WEIGHT", 0.0],
        [*LDAE, "MODEL.DECODER.DEPTH", 30, "TRAIN.VISUALIZE_PERIOD", 5, "DATA.MEAN", [0.4, 0.4, 0.4]],
        [*LDAE, "DATA.CROP_SIZE", 16, "DATA.NUM_FRAMES", 2],  # one token: too few to mask, enough to denoise
        [*LDAE, *LATENT, "MODEL.PREDICTION", "v", "DIFFUSION.RHO", 0.8],
        [*LDAE, *LATENT, "MODEL.PREDICTION", "eps", "DIFFUSION.SCHEDULE", "linear_sigma"],
        [*LDAE, *VAE],
        [*LDAE, "MODEL.LDAE.CLASS_CONDITIONING", True, "MODEL.LDAE.CLASS_DROPOUT", 0.2, "MODEL.NUM_CLASSES", 9],
        ["DIFFUSION.SCHEDULE", "linear_gamma"],
        # a classifier takes the configuration of the pre-training that it starts from
        [*LDAE, "TASK", "linear", "MODEL.NUM_CLASSES", 9, "MODEL.LDAE.INPUT", "latent", "MODEL.LDAE.LATENT_DIM", 16],
    ],
)
def test_allowed(overrides):
    load_config((), overrides)


def test_names_agree_with_the_code():
    from diffmae_video.build.latent import build_tokenizer
    from diffmae_video.config import validation
    from diffmae_video.config.latent import _UNSCALED
    from diffmae_video.diffusion import UNSCALED
    from diffmae_video.models.latent_dae import SPACES
    from diffmae_video.models.tokenizers import LATENT_SCALES

    assert set(validation.CHOICES["MODEL.LDAE.LATENT_SCALE"]) == set(LATENT_SCALES)
    assert set(validation.CHOICES["MODEL.LDAE.INPUT"]) == set(SPACES) == set(validation.CHOICES["MODEL.LDAE.OUTPUT"])
    assert _UNSCALED == UNSCALED
    for name in set(TOKENIZERS) - {"conv_vae"}:
        weight = IMAGE_1 if name not in ORTHONORMAL else []
        tokenizer = build_tokenizer(load_config((), [*LDAE, "MODEL.LDAE.TOKENIZER", name, *weight]))
        assert tokenizer.orthonormal == (name in ORTHONORMAL)
