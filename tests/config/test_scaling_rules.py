"""Rules of activation checkpointing, compilation and FSDP."""

import pytest

from diffmae_video.build.training import build_wrap_plan
from diffmae_video.config import ConfigError, load_config
from diffmae_video.engine.wrapping import WrapPlan


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("TRAIN.ACTIVATION_CHECKPOINTING half", "TRAIN.ACTIVATION_CHECKPOINTING is 'half': choose one of none, full"),
        ("TRAIN.COMPILE model", "choose one of none, blocks"),
        ("DISTRIBUTED.PARALLEL dp", "choose one of ddp, fsdp"),
        ("TRAIN.ACTIVATION_CHECKPOINT_EVERY 3", 'it belongs to "selective"'),
        ("TRAIN.ACTIVATION_CHECKPOINTING selective TRAIN.ACTIVATION_CHECKPOINT_EVERY 1", r"must be in \[2, inf\)"),
        ("DISTRIBUTED.FSDP_PRECISION bf16", "DISTRIBUTED.PARALLEL is 'ddp'"),
        ("DISTRIBUTED.FSDP_CPU_OFFLOAD True", "DISTRIBUTED.PARALLEL is 'ddp'"),
        ("DISTRIBUTED.PARALLEL fsdp DISTRIBUTED.FSDP_PRECISION bf16 TRAIN.PRECISION fp32", "set both to the same"),
        ("TASK linear TRAIN.ACTIVATION_CHECKPOINTING full", "no block of the linear probe"),
        ("TASK attentive TRAIN.ACTIVATION_CHECKPOINTING full", "no block of the attentive probe"),
        ("TASK knn TRAIN.ACTIVATION_CHECKPOINTING full", "trains nothing"),
        ("TASK test TRAIN.COMPILE blocks", "trains nothing"),
    ],
)
def test_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config((), overrides.split())


@pytest.mark.parametrize(
    "overrides",
    [
        "TASK attentive MODEL.HEAD.PROBE_DEPTH 2 TRAIN.ACTIVATION_CHECKPOINTING full",
        "TASK linear TRAIN.COMPILE blocks DISTRIBUTED.PARALLEL fsdp",
        "TASK finetune TRAIN.ACTIVATION_CHECKPOINTING selective TRAIN.ACTIVATION_CHECKPOINT_EVERY 3",
    ],
)
def test_accepted(overrides):
    load_config((), overrides.split())


def test_the_plan_of_a_config():
    assert build_wrap_plan(load_config((), [])) == WrapPlan()
    cfg = load_config(
        (),
        "TRAIN.ACTIVATION_CHECKPOINTING selective TRAIN.ACTIVATION_CHECKPOINT_EVERY 3 TRAIN.COMPILE blocks "
        "DISTRIBUTED.PARALLEL fsdp DISTRIBUTED.FSDP_PRECISION bf16 DISTRIBUTED.FSDP_CPU_OFFLOAD True".split(),
    )
    assert build_wrap_plan(cfg) == WrapPlan("selective", 3, "blocks", "inductor", "fsdp", "bf16", True)
