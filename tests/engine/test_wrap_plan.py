"""What ``wrap`` does to a model in one process, and the state that wrappers share; the rest: test_wrapped_runs.py."""

import copy

import pytest
import torch
from engine_fakes import FakeModel, make_trainer
from torch import distributed, nn
from wrapped_runs import KINDS, Classify, build

from diffmae_video.engine import stepping
from diffmae_video.engine.ema import ExponentialMovingAverage
from diffmae_video.engine.full_state import (
    full_average_state,
    full_model_state,
    full_optimizer_state,
    load_full_model_state,
    load_full_optimizer_state,
    whole_model,
)
from diffmae_video.engine.optimizer import make_optimizer, parameter_groups
from diffmae_video.engine.sharding import clip, norms, total_norm
from diffmae_video.engine.world import World
from diffmae_video.engine.wrapping import WrapPlan, transformer_blocks, unwrap, without_sum, wrap

CPU = torch.device("cpu")
RECOGNITION = ("finetune", "attentive", "linear")


def loss_of(model, kind="DiffMAE", batch=4):
    clips = torch.linspace(-1, 1, batch * 96).sin().reshape(batch, 3, 2, 4, 4)
    torch.manual_seed(1)
    if kind in RECOGNITION:
        return nn.functional.cross_entropy(model(clips), torch.arange(batch) % 3)
    return model(clips, generator=[torch.Generator().manual_seed(i) for i in range(batch)]).loss


def kept_values(model) -> int:
    """Numbers that a forward pass keeps for the backward pass, parameters left out."""
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(model).backward()
    return sum(kept.values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_parameter_has_a_gradient(kind):
    """DDP waits for all of them."""
    model = build(kind)
    loss_of(model, kind).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize(
    ("kind", "compiled"),
    [("DiffMAE", "none"), ("LatentDAE", "none"), ("attentive", "none"), ("DiffMAE", "blocks"), ("LatentDAE", "blocks")],
)
def test_recomputed_and_compiled_is_the_same_computation(kind, compiled):
    overrides = "MODEL.ENCODER.DROP_PATH 0.5 MODEL.ENCODER.DEPTH 2"
    plain, plan = build(kind, overrides), WrapPlan("full", compile=compiled, compile_backend="aot_eager")
    wrapped = wrap(build(kind, overrides), plan, CPU, World())
    losses = [loss_of(model.train(), kind) for model in (plain, wrapped)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for loss in losses:
        loss.backward()
    gradients = [{name: p.grad for name, p in model.named_parameters()} for model in (plain, wrapped)]
    assert list(gradients[0]) == list(gradients[1])
    for name, expected in gradients[0].items():
        if expected is not None:
            torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-6, msg=name)


def test_inductor_computes_the_same():
    plain = build("finetune", "MODEL.ENCODER.DEPTH 1")
    wrapped = wrap(build("finetune", "MODEL.ENCODER.DEPTH 1"), WrapPlan(compile="blocks"), CPU, World())
    for model in (plain, wrapped):
        loss_of(model, "finetune").backward()
    for ours, theirs in zip(wrapped.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_names_do_not_change():
    plan = WrapPlan("full", compile="blocks", compile_backend="aot_eager")
    wrapped, plain = wrap(build("DiffMAE"), plan, CPU, World()), build("DiffMAE")
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in wrapped.named_modules()] == [name for name, _ in plain.named_modules()]
    assert unwrap(wrapped) is wrapped
    plain.load_state_dict(wrapped.state_dict())


def test_recomputing_keeps_less():
    plans = [WrapPlan(), WrapPlan("selective", checkpoint_every=2), WrapPlan("full")]
    none, selective, full = (kept_values(wrap(build("DiffMAE"), plan, CPU, World())) for plan in plans)
    assert full < 0.5 * none and full < selective < none


def test_which_blocks_are_recomputed():
    for plan, expected in [
        (WrapPlan("full"), [0, 1, 2, 3, 4]),
        (WrapPlan("selective", checkpoint_every=2), [0, 2, 4]),
        (WrapPlan("selective", checkpoint_every=3), [0, 3]),
        (WrapPlan(), []),
    ]:
        blocks = transformer_blocks(wrap(build("DiffMAE"), plan, CPU, World()))  # 3 of the encoder, 2 of the decoder
        assert [i for i, block in enumerate(blocks) if "forward" in vars(block)] == expected


def test_evaluation_recomputes_nothing(monkeypatch):
    from diffmae_video.engine import wrapping

    model = wrap(build("DiffMAE"), WrapPlan("full"), CPU, World())
    monkeypatch.setattr(wrapping, "checkpoint", None)
    with torch.no_grad():
        loss_of(model)


def test_a_copy_of_a_recomputed_model_has_its_own_blocks():
    model = wrap(build("DiffMAE"), WrapPlan("full"), CPU, World())
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert loss_of(other).item() == pytest.approx(loss_of(build("DiffMAE")).item())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_checkpointing": "half"}, "unknown activation_checkpointing 'half': choose one of none, full"),
        ({"compile": "model"}, "unknown compile 'model'"),
        ({"parallel": "dp"}, "unknown parallel 'dp'"),
        ({"fsdp_precision": "fp16"}, "unknown fsdp_precision 'fp16'"),
        ({"checkpoint_every": 0}, "at least 1"),
    ],
)
def test_wrong_plans(options, message):
    with pytest.raises(ValueError, match=message):
        WrapPlan(**options)


def test_a_model_without_blocks():
    for plan in (WrapPlan("full"), WrapPlan(compile="blocks")):
        with pytest.raises(ValueError, match="FakeModel has no transformer blocks"):
            wrap(FakeModel(), plan, CPU, World())


def test_the_log_says_what_is_unusual():
    assert WrapPlan().describe(8) == WrapPlan(parallel="fsdp").describe(1) == []
    plan = WrapPlan("selective", 3, compile="blocks", parallel="fsdp", fsdp_precision="bf16", cpu_offload=True)
    recomputed, compiled, sharded = plan.describe(8)
    assert "one block in 3" in recomputed and "inductor" in compiled
    assert "FSDP over 8 processes, whole blocks in bf16" in sharded


# --------------------------------------------------------------------------------------------- gradients and state


def test_norm_and_clipping_are_those_of_torch():
    tensors = [torch.linspace(-3, 4, 60).reshape(5, 12), torch.tensor([3.0, 4.0])]
    assert torch.equal(total_norm(tensors), torch.nn.utils.get_total_norm(tensors))
    assert norms(tensors, like=tensors)[1] == 5 and total_norm([]) == 0
    for largest in (0.5, 1e3):
        ours, parameters = [t.clone() for t in tensors], [nn.Parameter(t.clone()) for t in tensors]
        for parameter, tensor in zip(parameters, tensors, strict=True):
            parameter.grad = tensor.clone()
        clip(ours, largest, total_norm(ours))
        torch.nn.utils.clip_grad_norm_(parameters, largest)
        assert all(torch.equal(a, p.grad) for a, p in zip(ours, parameters, strict=True))
    clip([], 1.0, torch.zeros(()))


def test_ddp_sums_gradients_once_a_step(tmp_path, monkeypatch):
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(FakeModel())
        with without_sum(model):
            assert not model.require_backward_grad_sync
        assert model.require_backward_grad_sync
    finally:
        distributed.destroy_process_group()
    calls = []
    monkeypatch.setattr(stepping, "without_sum", lambda model: calls.append(model) or without_sum(model))
    make_trainer(tmp_path, steps=2, videos_per_step=6, accumulation=3).run()
    assert len(calls) == 2 * 2  # all micro-batches but the last one


def test_state_of_a_whole_model_is_its_own():
    model = build("DiffMAE")
    average = ExponentialMovingAverage(model, 0.9)
    state = full_model_state(model)
    assert list(state) == list(model.state_dict())
    assert all(value.data_ptr() == model.state_dict()[name].data_ptr() for name, value in state.items())
    averages = full_average_state(average, state)["ema"]
    assert averages["pixel_mean"] is state["pixel_mean"]  # written once
    assert averages["encoder.norm.weight"] is not state["encoder.norm.weight"]


@pytest.mark.parametrize("change", [lambda s: s.pop("encoder.norm.bias"), lambda s: s.update(more=torch.zeros(1))])
def test_states_load_strictly(change):
    model = build("DiffMAE")
    state = dict(full_model_state(model))
    change(state)
    with pytest.raises(RuntimeError, match="Missing key|Unexpected key"):
        load_full_model_state(model, state)


def test_optimizer_state_of_other_groups_is_refused():
    optimizers = [make_optimizer("adamw", parameter_groups(build(kind), 0.05)) for kind in ("DiffMAE", "finetune")]
    with pytest.raises(ValueError, match="size"):
        load_full_optimizer_state(optimizers[0], full_optimizer_state(optimizers[1]))


def test_evaluations_see_the_average_and_other_processes_nothing():
    model = build("DiffMAE")
    average = ExponentialMovingAverage(model, 0.9)
    with torch.no_grad():
        model.encoder.norm.bias.fill_(7)
    with whole_model(model, average, CPU, first=True) as seen:
        assert seen is model and seen.encoder.norm.bias[0] == 0
    with whole_model(model, average, CPU, first=False) as seen:
        assert seen is None and model.encoder.norm.bias[0] == 7
    with whole_model(model, None, CPU, first=True) as seen:
        assert seen.encoder.norm.bias[0] == 7


def test_a_recomputed_run_equals_a_plain_one_with_the_same_drop_path(tmp_path):
    """Through the trainer: random numbers after a recomputed block go on as if it had run once."""
    losses = []
    for name, plan in (("plain", WrapPlan()), ("recomputed", WrapPlan("full"))):
        model = wrap(build("finetune", "MODEL.ENCODER.DROP_PATH 0.5"), plan, CPU, World())
        trainer = make_trainer(tmp_path / name, model=model, task=Classify(), steps=3)
        trainer.run()
        losses.append({n: v.clone() for n, v in trainer.model.state_dict().items()})
    assert all(torch.equal(losses[1][name], value) for name, value in losses[0].items())
