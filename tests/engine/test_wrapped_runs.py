"""Equal results: whatever is wrapped around a model and in however many processes it is trained, it learns the same."""

import pytest
import torch
from engine_fakes import log_lines
from wrapped_runs import STEPS, build, together

from diffmae_video.engine.checkpoint import load_checkpoint

FSDP, DDP, FULL = {"parallel": "fsdp"}, {"parallel": "ddp"}, {"activation_checkpointing": "full"}
SELECTIVE = {"activation_checkpointing": "selective", "compile": "blocks", "compile_backend": "aot_eager"}
DROPPED = {"overrides": "MODEL.ENCODER.DROP_PATH 0.5"}
LATENT, FINETUNE = {"kind": "LatentDAE"}, {"kind": "finetune", "layer_decay": 0.7}
ATTENTIVE, MAE = {"kind": "attentive"}, {"kind": "MAE", "optimizer": "sgd"}
LINEAR = {"kind": "linear", "optimizer": "lars", "accumulation": 1}
BF16 = {"precision": "bf16"}

# processes: name of a run: arguments of wrapped_runs.train
JOBS = {
    1: {
        "alone": {},
        "dropped": DROPPED,
        "dropped, recomputed": {**DROPPED, "plan": FULL},
        "latent": LATENT,
        "finetune": FINETUNE,
        "attentive": ATTENTIVE,
        "MAE": MAE,
    },
    2: {
        "ddp 2": {"plan": {**DDP, **FULL}},
        "fsdp 2": {"plan": FSDP},
        "fsdp 2, everything": {"plan": {**FSDP, **SELECTIVE, "cpu_offload": True}},
        "fsdp 2, latent": {**LATENT, "plan": {**FSDP, **FULL}},
        "fsdp 2, finetune": {**FINETUNE, "plan": FSDP},
        "fsdp 2, attentive": {**ATTENTIVE, "plan": {**FSDP, **FULL}},
        "fsdp 2, MAE": {**MAE, "plan": FSDP},
        "ddp 2, linear": {**LINEAR, "plan": DDP},
        "fsdp 2, linear": {**LINEAR, "plan": FSDP},
        "ddp 2, bf16": {**BF16, "plan": DDP},
        "fsdp 2, bf16": {**BF16, "plan": {**FSDP, "fsdp_precision": "bf16", **FULL}},
    },
    4: {"ddp 4": {"plan": DDP, "accumulation": 1}, "fsdp 4": {"plan": FSDP, "accumulation": 1}},
}


def numbers(folder, name="log.jsonl"):
    """The lines of a log without texts and times."""
    return [
        {key: value for key, value in line.items() if isinstance(value, (int, float)) and "seconds" not in key}
        for line in log_lines(folder, name)
    ]


def learned(name, value):
    """Without the bias of keys: attention does not depend on it, and AdamW makes steps of the rounding errors that are
    its gradient."""
    if name.endswith("qkv.bias"):
        return torch.cat([value.chunk(3)[0], value.chunk(3)[2]])
    return value.chunk(2)[1] if name.endswith("kv.bias") else value


def assert_equal_runs(ours, theirs, tolerance=1e-4):
    """The same log (loss, gradient norm and so on of every step), evaluations and last checkpoint."""
    for name in ("log.jsonl", "evaluations.jsonl"):
        for line, expected in zip(numbers(ours, name), numbers(theirs, name), strict=True):
            assert line == pytest.approx(expected, rel=tolerance, abs=0.01 * tolerance), (ours, line["step"])
    states = [load_checkpoint(folder / "checkpoints" / f"step_{STEPS:08d}.pt") for folder in (ours, theirs)]
    assert states[0].keys() == states[1].keys()
    for key in ("model", "ema"):
        assert list(states[0][key]) == list(states[1][key])  # the same names in the same order
        for name, value in states[1][key].items():
            got, expected = learned(name, states[0][key][name]), learned(name, value)
            torch.testing.assert_close(
                got, expected, rtol=10 * tolerance, atol=2 * tolerance, msg=lambda text, n=name: f"{n}: {text}"
            )
    moments = [state["optimizer"]["state"] for state in states]
    assert moments[0].keys() == moments[1].keys()
    for number, entry in moments[1].items():
        assert entry.keys() == moments[0][number].keys()
        for key, value in entry.items():
            torch.testing.assert_close(moments[0][number][key], value, rtol=100 * tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of finished runs by name, those of one number of processes run by the same ones."""
    root = tmp_path_factory.mktemp("runs")
    for size, named in JOBS.items():
        together([{"folder": str(root / name), **job} for name, job in named.items()], size, root / f"meeting {size}")
    return root


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("ddp 2", "alone"),
        ("fsdp 2", "alone"),
        ("fsdp 2, everything", "alone"),
        ("ddp 4", "alone"),
        ("fsdp 4", "alone"),
        ("dropped, recomputed", "dropped"),
        ("fsdp 2, latent", "latent"),
        ("fsdp 2, finetune", "finetune"),
        ("fsdp 2, attentive", "attentive"),
        ("fsdp 2, MAE", "MAE"),
        ("fsdp 2, linear", "ddp 2, linear"),  # in one process its norm sees twice as many clips
    ],
)
def test_same_run(runs, name, same_as):
    assert_equal_runs(runs / name, runs / same_as)


def test_half_precision(runs):
    """Blocks whose weights are bfloat16 learn what autocast makes of float32 ones; their norms differ a bit."""
    losses = [[line["loss"] for line in numbers(runs / name)] for name in ("fsdp 2, bf16", "ddp 2, bf16", "ddp 2")]
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)
    assert losses[0] != losses[2]
    state = load_checkpoint(runs / "fsdp 2, bf16" / "checkpoints" / f"step_{STEPS:08d}.pt")
    assert all(value.dtype == torch.float32 for value in state["model"].values())


def test_the_runs_learn(runs):
    for name, kind in (("alone", "DiffMAE"), ("latent", "LatentDAE"), ("fsdp 2, linear", "linear")):
        state = load_checkpoint(runs / name / "checkpoints" / f"step_{STEPS:08d}.pt")
        moved = [
            n for n, p in build(kind).named_parameters() if p.requires_grad and not torch.equal(state["model"][n], p)
        ]
        assert moved and state["progress"]["step"] == STEPS


def test_goes_on_in_any_number_of_processes_under_any_wrapper(runs, tmp_path):
    stages = [(2, {**DDP, **FULL}, 1), (1, {}, 2), (2, FSDP, 3), (2, DDP, STEPS)]
    for stage, (size, plan, until) in enumerate(stages):
        job = {"folder": str(tmp_path / "run"), "plan": plan, "until": until, "checkpoint_period": 1}
        together([job], size, tmp_path / f"meeting {stage}")
    ours, alone = numbers(tmp_path / "run"), numbers(runs / "alone")
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    for line, expected in zip(ours, alone, strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert line["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
