"""Rules of the keys that spread the work of training over processes, or trade time for memory."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from diffmae_video.config.defaults import get_cfg

MEASURING_TASKS = ("knn", "test", "inpaint_eval")  # which train nothing


def check_scaling(cfg: CfgNode) -> Iterator[str]:
    """Options that would do nothing, or that do not go together."""
    train, distributed, default = cfg.TRAIN, cfg.DISTRIBUTED, get_cfg()
    recomputes, every = train.ACTIVATION_CHECKPOINTING != "none", train.ACTIVATION_CHECKPOINT_EVERY
    if cfg.TASK in MEASURING_TASKS:
        for key, value in (("ACTIVATION_CHECKPOINTING", train.ACTIVATION_CHECKPOINTING), ("COMPILE", train.COMPILE)):
            if value != "none":
                yield f"TRAIN.{key} is {value!r}, but TASK {cfg.TASK!r} trains nothing: leave it out"
    elif recomputes and (cfg.TASK == "linear" or (cfg.TASK == "attentive" and cfg.MODEL.HEAD.PROBE_DEPTH == 1)):
        yield (
            f"TRAIN.ACTIVATION_CHECKPOINTING is {train.ACTIVATION_CHECKPOINTING!r}, but no block of the {cfg.TASK} "
            "probe is trained, and nothing is kept of a frozen one: leave it out"
        )
    if train.ACTIVATION_CHECKPOINTING != "selective" and every != default.TRAIN.ACTIVATION_CHECKPOINT_EVERY:
        yield (
            f"TRAIN.ACTIVATION_CHECKPOINT_EVERY is {every}, but TRAIN.ACTIVATION_CHECKPOINTING is "
            f'{train.ACTIVATION_CHECKPOINTING!r}: it belongs to "selective"'
        )
    for key in ("FSDP_PRECISION", "FSDP_CPU_OFFLOAD"):
        if distributed.PARALLEL != "fsdp" and distributed[key] != default.DISTRIBUTED[key]:
            yield (
                f"DISTRIBUTED.{key} is {distributed[key]!r}, but DISTRIBUTED.PARALLEL is {distributed.PARALLEL!r}: "
                'leave it out, or set the latter to "fsdp"'
            )
    if distributed.FSDP_PRECISION == "bf16" and train.PRECISION != "bf16":
        yield (
            f"DISTRIBUTED.FSDP_PRECISION is 'bf16', but TRAIN.PRECISION is {train.PRECISION!r}: products of float32 "
            "activations and bfloat16 weights do not exist; set both to the same"
        )
