"""The rules of ``INPAINT``: how inpainting is measured."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

SAMPLERS = ("ddim", "ddpm", "dpmpp_2m")  # the diffusion room has them
FILLS = ("mean", "nearest_patch", "temporal", "opencv")  # the build room makes them


def check_inpaint(cfg: CfgNode) -> Iterator[str]:
    """A sentence for every rule of ``INPAINT`` that is broken."""
    if cfg.TASK != "inpaint_eval":
        return
    inpaint = cfg.INPAINT
    for key, names in (("SAMPLERS", SAMPLERS), ("FILLS", FILLS)):
        if unknown := [name for name in inpaint[key] if name not in names]:
            yield f"INPAINT.{key} names {', '.join(map(repr, unknown))}: choose from {', '.join(names)}"
    for key in ("MASKS", "SAMPLERS", "STEPS"):
        if not all(str(value).strip() for value in inpaint[key]) or not inpaint[key]:
            yield f"INPAINT.{key} is {inpaint[key]}: it needs at least one element, and no empty one"
        elif len(set(inpaint[key])) < len(inpaint[key]):
            yield f"INPAINT.{key} is {inpaint[key]}: name everything once"
    most = max(inpaint.STEPS, default=0)
    if cfg.MODEL.NAME == "DiffMAE" and most > cfg.DIFFUSION.STEPS:
        yield (
            f"INPAINT.STEPS has {most}, but there are only DIFFUSION.STEPS = {cfg.DIFFUSION.STEPS} noise levels: lower "
            "the former"
        )
    if bool(inpaint.LPIPS_BACKBONE) != bool(inpaint.LPIPS_HEADS):
        yield (
            "INPAINT.LPIPS_BACKBONE and INPAINT.LPIPS_HEADS are two files of one measure: set both, or none "
            "(docs/inpainting.md says where they come from)"
        )
    if cfg.TEST.NUM_ENSEMBLE_VIEWS > 1 or cfg.TEST.NUM_SPATIAL_CROPS > 1:
        yield (
            f"TEST.NUM_ENSEMBLE_VIEWS = {cfg.TEST.NUM_ENSEMBLE_VIEWS} and TEST.NUM_SPATIAL_CROPS = "
            f"{cfg.TEST.NUM_SPATIAL_CROPS} are for classifiers; TASK 'inpaint_eval' takes one clip of a video: set "
            "both to 1"
        )
