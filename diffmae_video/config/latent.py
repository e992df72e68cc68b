"""The rules of ``MODEL.LDAE``, and what of the other keys LatentDAE does not read."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from diffmae_video.config.defaults import get_cfg
from diffmae_video.config.sizes import resolve_encoder
from diffmae_video.config.tasks import AUTOENCODER_TASKS

LATENT_DAE = "LatentDAE"
# What MODEL.LDAE.TOKENIZER may name; the build room makes them.
TOKENIZERS = ("pixel", "pca", "patch_ae", "patch_vae", "conv_vae")
# Those whose latents are the first coordinates of an orthonormal basis of all patches.
ORTHONORMAL = ("pixel", "pca")
# Keys of MODEL.LDAE that some tokenizers alone read.
_READ_BY = {
    "LATENT_DIM": ("pca", "patch_ae", "patch_vae"),
    "FIT_STEPS": ("patch_ae", "patch_vae"),
    "KL_WEIGHT": ("patch_vae",),
    "VAE_PATH": ("conv_vae",),
}
# Schedules whose signal keeps its scale; the diffusion room has them.
_UNSCALED = ("linear_sigma",)
# Keys, or whole nodes, that LatentDAE does not read: nothing is masked, and its decoder is more of the same blocks.
_UNREAD = ("MASK", "MODEL.DECODER", "MODEL.INPUT_SCALING", "MODEL.TARGET", "TRAIN.VISUALIZE_STEPS")
_READ = ("MODEL.DECODER.DEPTH",)


def is_latent_dae(cfg: CfgNode) -> bool:
    """Whether the model, or that of a classifier's encoder, is a LatentDAE."""
    return cfg.MODEL.NAME == LATENT_DAE


def check_latent(cfg: CfgNode) -> Iterator[str]:
    """A sentence for every rule that is broken."""
    pretrains = cfg.TASK in AUTOENCODER_TASKS
    if not is_latent_dae(cfg):
        yield from _check_others(cfg, pretrains)
        return
    yield from _check_tokenizer(cfg)
    yield from _check_timestep(cfg)
    if pretrains:
        yield from _check_task(cfg)
        yield from _check_prediction(cfg)
        yield from _check_classes(cfg)


def _check_others(cfg: CfgNode, pretrains: bool) -> Iterator[str]:
    """Rules for the models that are no LatentDAE."""
    for key, value, _ in _changed(cfg, "MODEL.LDAE"):
        yield f"{key} is {value!r}, but MODEL.NAME is {cfg.MODEL.NAME!r}: leave it out, or set that to {LATENT_DAE!r}"
    if pretrains and cfg.MODEL.NAME == "DiffMAE" and cfg.DIFFUSION.SCHEDULE in _UNSCALED:
        yield (
            f"DIFFUSION.SCHEDULE {cfg.DIFFUSION.SCHEDULE!r} adds noise to a signal that keeps its scale, while DiffMAE "
            "and its samplers start from noise alone: use linear, cosine, quadratic or linear_gamma"
        )


def _check_tokenizer(cfg: CfgNode) -> Iterator[str]:
    ldae, kind = cfg.MODEL.LDAE, cfg.MODEL.LDAE.TOKENIZER
    for key, value, _ in _changed(cfg, "MODEL.LDAE"):
        readers = _READ_BY.get(key.rsplit(".", 1)[-1], TOKENIZERS)
        if kind not in readers:
            yield f"{key} is {value!r}, but only {' and '.join(readers)} read it, not {kind!r}: leave it out"
    pt, ph, pw = cfg.MODEL.PATCH_SIZE
    values = pt * ph * pw * len(cfg.DATA.MEAN)
    if kind in _READ_BY["LATENT_DIM"] and ldae.LATENT_DIM > values:
        yield (
            f"MODEL.LDAE.LATENT_DIM = {ldae.LATENT_DIM} is more than the {values} values of a patch {pt} x {ph} x "
            f"{pw}: set it to at most {values}"
        )
    if kind != "conv_vae":
        return
    if not ldae.VAE_PATH.strip():
        yield "MODEL.LDAE.VAE_PATH is empty, but TOKENIZER is 'conv_vae': give the folder of an AutoencoderKL"
    if any(value != 0.5 for value in (*cfg.DATA.MEAN, *cfg.DATA.STD)):
        yield (
            f"DATA.MEAN = {cfg.DATA.MEAN} and DATA.STD = {cfg.DATA.STD}, but a convolutional VAE takes pixels in "
            "[-1, 1]: set all of them to 0.5"
        )


def _check_timestep(cfg: CfgNode) -> Iterator[str]:
    step, steps = cfg.MODEL.LDAE.PROBE_TIMESTEP, cfg.DIFFUSION.STEPS
    if step >= steps:
        yield f"MODEL.LDAE.PROBE_TIMESTEP = {step} is none of the timesteps 0 to {steps - 1} (DIFFUSION.STEPS)"
    width = resolve_encoder(cfg)[0]
    if width % 2:
        yield f"MODEL.ENCODER.WIDTH = {width} must be even: half of it embeds the timestep as sines"


def _check_task(cfg: CfgNode) -> Iterator[str]:
    if cfg.TASK == "inpaint_eval":
        yield "TASK is 'inpaint_eval', but LatentDAE hides nothing and fills nothing: use DiffMAE or MAE"
    for node in _UNREAD:
        for key, value, default in _changed(cfg, node):
            if key not in _READ:
                yield f"{key} is {value!r}, but LatentDAE does not read it: leave it out (the default is {default!r})"


def _check_prediction(cfg: CfgNode) -> Iterator[str]:
    ldae, prediction, schedule = cfg.MODEL.LDAE, cfg.MODEL.PREDICTION, cfg.DIFFUSION.SCHEDULE
    if ldae.OUTPUT == "image" and prediction != "x0":
        yield (
            f"MODEL.PREDICTION {prediction!r} is of latents, but MODEL.LDAE.OUTPUT is 'image': set the former to 'x0', "
            "or the latter to 'latent'"
        )
    if ldae.OUTPUT == "image" and ldae.TOKENIZER not in ORTHONORMAL and ldae.RESIDUAL_WEIGHT != 1:
        yield (
            f"MODEL.LDAE.RESIDUAL_WEIGHT = {ldae.RESIDUAL_WEIGHT:g} weighs what a latent leaves out, which is told "
            f"from what it keeps in an orthonormal basis of patches; {ldae.TOKENIZER!r} has none: set it to 1"
        )
    if schedule in _UNSCALED and prediction == "v":
        yield f"MODEL.PREDICTION 'v' needs signal^2 + noise^2 = 1, not DIFFUSION.SCHEDULE {schedule!r}: use 'x0'"
    if schedule in _UNSCALED and cfg.DIFFUSION.RHO != 1:
        yield f"DIFFUSION.RHO = {cfg.DIFFUSION.RHO:g} is an exponent of betas, which {schedule!r} has not: leave it out"


def _check_classes(cfg: CfgNode) -> Iterator[str]:
    conditioned, classes = cfg.MODEL.LDAE.CLASS_CONDITIONING, cfg.MODEL.NUM_CLASSES
    if conditioned and not classes:
        yield "MODEL.LDAE.CLASS_CONDITIONING is True: say how many classes there are (MODEL.NUM_CLASSES)"
    if conditioned and list(cfg.DATA.MIX.PATHS) not in ([""], []):
        yield "MODEL.LDAE.CLASS_CONDITIONING is True, but the sources of DATA.MIX share no class numbers: leave it out"
    if not conditioned:
        for key, value, _ in _changed(cfg, "MODEL.LDAE.CLASS_DROPOUT"):
            yield f"{key} is {value!r}, but MODEL.LDAE.CLASS_CONDITIONING is False: leave it out"


def _changed(cfg: CfgNode, name: str) -> Iterator[tuple[str, object, object]]:
    """(key, value, default) of a key, or of all keys of a node, that do not have their default."""
    value, default = cfg, get_cfg()
    for part in name.split("."):
        value, default = value[part], default[part]
    if not isinstance(value, CfgNode):
        if value != default:
            yield name, value, default
        return
    for key in value:
        yield from _changed(cfg, f"{name}.{key}")
