"""The step's benchmark at tiny sizes: what it compares is the same work, and what it says of it is right."""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffmae_video.config import load_config

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs" / "K400" / "ViT_B.yaml"
MODULES = ("benchmark_step", "step_batch", "step_peers", "step_profile", "step_report", "step_ways")
TINY = [
    "DATA.NUM_FRAMES", "8", "DATA.CROP_SIZE", "32", "MODEL.PATCH_SIZE", "[2, 8, 8]", "DEVICE", "cpu",
    "MODEL.ENCODER.WIDTH", "32", "MODEL.ENCODER.DEPTH", "2", "MODEL.ENCODER.HEADS", "2",
    "MODEL.DECODER.WIDTH", "32", "MODEL.DECODER.DEPTH", "2", "MODEL.DECODER.HEADS", "2",
]  # fmt: skip
PEER, JOINT, DEFAULT = "VideoMAE, 16 x 1", "ours, joint 16 x 1", "ours, cross_self 32 x 2"


@pytest.fixture(scope="module")
def tools() -> Iterator[SimpleNamespace]:
    """The tool's modules by name, imported as it imports them."""
    before = set(sys.modules)
    sys.path.insert(0, str(ROOT / "tools"))
    yield SimpleNamespace(**{name: __import__(name) for name in MODULES})
    sys.path.remove(str(ROOT / "tools"))
    for name in (set(sys.modules) - before) & set(MODULES):
        del sys.modules[name]


@pytest.fixture
def run(tools, tmp_path):
    """``run(**options)``: one round at tiny size; gives the report."""
    pytest.importorskip("transformers", reason="the step is compared with VideoMAE of transformers")

    def measure(**options):
        output = tmp_path / "report.json"
        fixed = {"rounds": 1, "batch": 2, "precisions": ["fp32"], "ways": [], "compiled": False}
        settings = fixed | {"optimizer_step": False, "profile": False} | options
        assert tools.benchmark_step.run(RECIPE, TINY, **settings, output=output) == 0
        return json.loads(output.read_text())

    return measure


def test_the_report(run, tools, capsys):
    report = run(precisions=["fp32", "bf16"], ways=["joint 16", "CROSS_SELF 32 x 2"])
    printed = capsys.readouterr().out
    assert {"machine", "versions", "command", "config", "peak_flops", "figures", "goals", "notes"} <= set(report)
    assert report["versions"]["torch"] and report["versions"]["transformers"]
    assert (report["config"]["visible"], report["config"]["hidden"]) == (8, 56)
    names = [PEER, JOINT, DEFAULT, f"{DEFAULT}, 50% decoded", f"{DEFAULT}, 25% decoded"]
    cases = [(figure["case"]["way"], figure["case"]["precision"]) for figure in report["figures"]]
    assert cases == [(name, precision) for precision in ("fp32", "bf16") for name in names]
    for figure in report["figures"]:
        seconds, case = figure["seconds_per_clip"], figure["case"]
        assert seconds["low"] <= seconds["median"] <= seconds["high"] and figure["batch"] == 2
        assert figure["tflops"] * 1e3 * seconds["median"] == pytest.approx(figure["gflop_per_clip"])
        assert figure["mfu"] == pytest.approx(figure["tflops"] * 1e12 / report["peak_flops"][case["precision"]])
        assert f"| {case['way']}, {case['precision']} " in printed and figure["memory_gib"] is None
        base = next(f for f in report["figures"] if f["case"] == {**case, "way": PEER})
        ratio = base["seconds_per_clip"]["median"] / seconds["median"]  # of the only round
        assert figure["times_videomae"]["median"] == pytest.approx(ratio)
    goals = [(goal["case"]["way"], goal["rival"], goal["goal"]) for goal in report["goals"][:4]]
    assert goals == list(zip(names[1:], [PEER] * 4, [1.5, 2.5, 4.0, 4.0], strict=True))
    assert all(goal["met"] == (goal["ratio"]["median"] >= goal["goal"]) for goal in report["goals"])


def test_ways_of_the_recipe(tools):
    ways = tools.step_ways.make_ways(load_config([RECIPE]))
    peers = [f"VideoMAE, {size}" for size in ("384 x 4", "512 x 4", "512 x 8")]
    joint = [f"ours, joint {size}" for size in ("384 x 4", "512 x 4", "512 x 8")]
    crosses = [
        f"ours, {kind}{share}"
        for kind in ("cross_self 512 x 8", "cross_self 512 x 4", "cross 512 x 4")
        for share in ("", ", 50% decoded", ", 25% decoded")
    ]
    assert list(ways) == [*peers, *joint, *crosses]
    assert [ways[name].rival for name in joint] == peers and ways["ours, cross_self 512 x 4"].goal is None


def test_our_counterpart_is_the_shipped_videomae(tools):
    """Of the published size; the decoder of the base recipe is another."""
    like = tools.step_ways.like_videomae(tools.step_peers.Size(384, 4, 6))
    ours, shipped = load_config([RECIPE], like), load_config([ROOT / "configs" / "VideoMAE" / "K400_ViT_B.yaml"])
    assert ours.MODEL == shipped.MODEL and ours.MASK == shipped.MASK
    assert all(ours.DATA[key] == shipped.DATA[key] for key in ("MEAN", "STD", "NUM_FRAMES", "CROP_SIZE"))


def test_ways_are_chosen_by_name(tools):
    ways = tools.step_ways.make_ways(load_config([RECIPE], TINY))
    chosen = [way.name for way in tools.step_ways.select(ways, ["joint*1", "25%"])]
    assert (
        chosen[:4] == [PEER, "VideoMAE, 32 x 1", "ours, joint 16 x 1", "ours, joint 32 x 1"]
        and f"{DEFAULT}, 25% decoded" in chosen
    )
    assert DEFAULT not in chosen and "VideoMAE, 32 x 2" not in chosen
    rivals = [way.name for way in tools.step_ways.select(ways, ["joint 32 x 2"])]
    assert rivals == [PEER, "VideoMAE, 32 x 2", "ours, joint 32 x 2"], "a goal needs what it is measured against"
    with pytest.raises(ValueError, match="no way is called like 'mae-st': choose from VideoMAE, 16 x 1; "):
        tools.step_ways.select(ways, ["joint", "mae-st"])


@pytest.fixture
def workshop(tools):
    pytest.importorskip("transformers")
    shop = tools.step_ways.Workshop(RECIPE, TINY, optimizer_step=False)
    return shop, tools.step_ways.make_ways(shop.cfg)


@pytest.mark.parametrize("size", ["16 x 1", "32 x 1", "32 x 2"])
def test_both_programs_do_the_same_work(workshop, size):
    """Besides the patch embedding: VideoMAE embeds all patches, ours the visible ones."""
    shop, ways = workshop
    peer, ours = (shop.make(ways[name], compiled=False) for name in (f"VideoMAE, {size}", f"ours, joint {size}"))
    hidden, patch_values, width = 56, 3 * 2 * 8 * 8, 32
    embedding = 2 * (2 * hidden * patch_values * width)  # forward, and gradient of the weights
    assert peer.flops_per_clip("fp32") - embedding == ours.flops_per_clip("fp32")


def test_both_programs_see_the_same_clips_and_hide_as_much(tools, workshop):
    shop, ways = workshop
    peer, ours = (shop.make(ways[name], compiled=False) for name in (PEER, JOINT))
    seen = []
    for program in (peer, ours):
        program.model.register_forward_hook(lambda _, *seen_now: seen.append(seen_now), with_kwargs=True)
        assert float(program.step(3, "fp32")) == pytest.approx(1.0, abs=0.3)  # targets have a variance of 1
        assert all(parameter.grad is None for parameter in program.model.parameters())
    (_, given, _), ((clips,), _, output) = seen
    assert given["pixel_values"].shape == (3, 8, 3, 32, 32) and clips.shape == (3, 3, 8, 32, 32)
    assert given["bool_masked_pos"].sum(dim=1).tolist() == output.mask.sum(dim=1).tolist() == [56] * 3
    pixels = torch.randint(256, (1, 3, 8, 32, 32), dtype=torch.uint8)
    theirs = tools.step_peers.normalize(pixels.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(theirs, ours.model.normalize(pixels))


def test_optimizer_steps(tools):
    pytest.importorskip("transformers")
    shop = tools.step_ways.Workshop(RECIPE, TINY, optimizer_step=True)
    ways = tools.step_ways.make_ways(shop.cfg)
    for program in (shop.make(ways[name], compiled=False) for name in (PEER, JOINT)):
        before = {name: value.clone() for name, value in program.model.state_dict().items()}
        kept = program.kept_bytes()
        program.step(2, "fp32")
        state, parameters = program.training.optimizer.state, list(program.model.parameters())
        moved = [p for p in parameters if p.requires_grad and state[p]["exp_avg"].abs().sum() > 0]
        assert len(moved) > 0.9 * len(parameters), "a whole step fills the moments"
        assert program.kept_bytes() > kept + 2 * 4 * sum(p.numel() for p in parameters)
        assert all(torch.equal(value, before[name]) for name, value in program.model.state_dict().items())


def test_what_is_compiled_runs_beside_the_rest(run, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda what, **_: compiled.append(what) or what)
    report = run(compiled=True, ways=["joint 16"])
    assert [(f["case"]["way"], f["case"]["compiled"]) for f in report["figures"]] == [
        (PEER, False), (JOINT, False), (PEER, True), (JOINT, True),
    ]  # fmt: skip
    assert len(compiled) == 1 + 2 + 1, "VideoMAE as a whole, and the three blocks of ours"
    assert not report["notes"] and [goal["case"]["compiled"] for goal in report["goals"]] == [False, True]


def test_a_graph_that_fails_is_told_and_left_out(run, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("no compiler was found\nat all")

    monkeypatch.setattr(torch, "compile", lambda what, **_: broken if callable(what) else what)
    report = run(compiled=True, ways=["joint 16"])
    notes = [f"{name}, fp32, compiled: did not run: no compiler was found" for name in (PEER, JOINT)]
    assert report["notes"] == notes and all(note in capsys.readouterr().out.splitlines() for note in notes[:1])
    assert not any(figure["case"]["compiled"] for figure in report["figures"]) and len(report["figures"]) == 2


def test_a_broken_network_is_not_measured(tools, run, monkeypatch):
    monkeypatch.setattr(tools.step_ways.Program, "step", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="VideoMAE, 16 x 1, fp32: the loss is nan"):
        run(ways=["joint 16"])


def test_wrong_choices_end_in_one_line(tools, tmp_path, monkeypatch):
    fixed = {"rounds": 1, "precisions": ["fp32"], "compiled": False, "optimizer_step": False, "profile": False}
    fixed |= {"ways": [], "output": tmp_path / "report.json"}
    with pytest.raises(ValueError, match="--batch 0 fills a GPU's memory, and this runs on cpu: give a number"):
        tools.benchmark_step.run(RECIPE, TINY, batch=0, **fixed)
    with pytest.raises(ValueError, match="is no recipe of pre-training a DiffMAE"):
        tools.benchmark_step.run(RECIPE, [*TINY, "MODEL.NAME", "MAE"], batch=2, **fixed)
    sizes = (tools.step_peers.Size(32, 1, 1),) * 2
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="pip install transformers"):
        tools.step_peers.make_videomae((3, 8, 32, 32), (2, 8, 8), sizes)
    with pytest.raises(ValueError, match="square clips of 3 channels and square patches"):
        tools.step_peers.make_videomae((3, 8, 32, 16), (2, 8, 8), sizes)


# ------------------------------------------------------------------------------------------------- the largest batch


@pytest.mark.parametrize(("room", "found"), [(0, 0), (1, 1), (2, 2), (3, 3), (5, 4), (6, 6), (7, 6), (100, 96)])
def test_largest_batch(tools, room, found):
    tried, released = [], []

    def step(size):
        tried.append(size)
        if size > room:
            raise torch.OutOfMemoryError(f"{size} clips do not fit")

    assert tools.step_batch.largest_batch(step, lambda: released.append(tried[-1])) == found
    assert released == tried and len(set(tried)) == len(tried)


def test_nothing_of_a_failed_step_is_left_when_memory_is_given_back(tools):
    held = []

    def step(size):
        activations = torch.zeros(size)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("full")

    assert tools.step_batch.largest_batch(step, lambda: held.append(held[-1]())) == 0
    assert held[-1] is None
    with pytest.raises(RuntimeError, match="something else"):
        tools.step_batch.largest_batch(lambda _: (_ for _ in ()).throw(RuntimeError("something else")), list)


def test_the_search_leaves_room(tools, monkeypatch):
    limits = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *limit: limits.append(limit))
    with pytest.raises(KeyError), tools.step_batch.margin(torch.device("cuda:1")):
        assert limits == [(0.9, 1)]
        raise KeyError
    assert limits == [(0.9, 1), (1.0, 1)], "whatever happens, the limit is lifted"
    with tools.step_batch.margin(torch.device("cpu")):
        assert len(limits) == 2


def test_batch_of_every_case_on_a_gpu(tools):
    """Each has its own; what is compiled takes the size of what is not; what never fits is told."""
    step = tools.benchmark_step
    room = {("a", "fp32"): 4, ("a", "bf16"): 7, ("b", "fp32"): 0}
    sizes, cleared = {}, []

    class Fake:
        def __init__(self, way, compiled):
            self.way, self.compiled = way, compiled

        def step(self, size, precision):
            sizes.setdefault((self.way, precision, self.compiled), []).append(size)
            if size > room[self.way, precision]:
                raise torch.OutOfMemoryError("full")
            return 1.0

        def clear(self):
            cleared.append(self.way)

    cases = [step.Case("a", "fp32", False), step.Case("a", "bf16", False), step.Case("b", "fp32", False)]
    cases.append(step.Case("a", "bf16", True))
    notes = []
    programs = {case: Fake(case.way, case.compiled) for case in cases}
    batches = step._batches(programs, 0, torch.device("cpu"), notes)
    assert batches == {cases[0]: 4, cases[1]: 6, cases[3]: 6}
    assert sizes["a", "bf16", True] == [6] and cleared.count("b") >= 2
    assert notes == ["b, fp32: not one clip fits into the memory of cpu"]


# ------------------------------------------------------------------------------------------------------ the profile


def test_profile(run, tools, capsys):
    report = run(optimizer_step=True, precisions=["bf16"], ways=["joint 16"], profile=True)
    assert report["config"]["step"] == "gradient, clipping, AdamW"
    assert [profile["case"]["way"] for profile in report["profiles"]] == [PEER, JOINT]
    for profile in report["profiles"]:
        shares = profile["shares"]
        assert list(shares) == list(tools.step_profile.GROUPS) and sum(shares.values()) > 99.9
        assert profile["attention"] == "flash, of the CPU" and profile["seconds"] > 0
        assert min(share for group, share in shares.items() if group != "random numbers") > 0, shares
    assert " attention kernel |" in capsys.readouterr().out


OF_PIXELS = "/a/diffmae_video/models/pixels.py(20): normalize"
OF_PATCHES = "/a/diffmae_video/models/patches.py(27): patchify"
OF_GATHER = "/a/diffmae_video/models/patches.py(41): gather_tokens"
OF_LOSS = "/a/diffmae_video/models/masked_autoencoder.py(199): reconstruction_loss"
OF_MODULE, OF_LINEAR = "nn.Module: VideoMAEForPreTraining_0", "nn.Module: Linear_3"


@pytest.mark.parametrize(
    ("name", "stack", "group"),
    [
        ("aten::addmm", [], "matrix products"),
        ("aten::mkldnn_convolution", [], "matrix products"),
        ("aten::convolution_backward", [], "matrix products"),
        ("aten::mm", [OF_PATCHES], "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", [], "attention"),
        ("aten::_efficient_attention_forward", [], "attention"),
        ("aten::_softmax", [], "attention"),
        ("aten::native_layer_norm_backward", [], "LayerNorm"),
        ("aten::gelu_backward", [], "GELU"),
        ("aten::mse_loss", [], "loss"),
        ("aten::mean", [OF_LOSS], "loss"),
        ("aten::_foreach_lerp_", [], "optimiser"),
        ("aten::addcdiv_", ["torch/optim/adamw.py(9): _single_tensor_adamw"], "optimiser"),
        ("aten::linalg_vector_norm", ["torch/nn/utils/clip_grad.py(40): _get_total_norm"], "optimiser"),
        ("aten::normal_", [], "random numbers"),
        ("aten::gather", [OF_GATHER], "gathers, indexing"),
        ("aten::scatter_add_", [], "gathers, indexing"),
        ("aten::_index_put_impl_", [], "gathers, indexing"),
        ("aten::copy_", [], "casts, copies"),
        ("aten::copy_", ["<built-in method reshape>", OF_PATCHES], "patchify, normalise"),
        ("aten::div", [OF_PIXELS], "patchify, normalise"),
        ("aten::div_", ["/a/tools/step_peers.py(90): normalize"], "patchify, normalise"),
        ("aten::var", ["<built-in method var>", OF_MODULE], "patchify, normalise"),
        ("aten::add", [OF_LINEAR, OF_MODULE], "elementwise"),
        ("aten::index", [OF_MODULE], "gathers, indexing"),
        ("aten::add_", [], "elementwise"),
        ("aten::empty_strided", [], "the rest"),
    ],
)
def test_groups_of_a_profile(tools, name, stack, group):
    assert tools.step_profile.group_of(SimpleNamespace(name=name, stack=stack)) == group


def test_shares_of_a_profile(tools):
    timed = [(SimpleNamespace(name=f"aten::{name}", stack=[]), s) for name, s in [("mm", 1), ("gelu", 0.5), ("bmm", 1)]]
    shares = tools.step_profile.shares(4.0, timed)
    assert {group: share for group, share in shares.items() if share} == {
        "matrix products": 50, "GELU": 12.5, "outside operations": 37.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "found"),
    [
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64>>", "flash"),
        ("void cutlass::device_kernel<flash::FlashAttnFwdSm90<...>>", "flash"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::...)", "efficient"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7", "cudnn"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "flash, of the CPU"),
        ("void at::native::softmax_warp_forward<float>", "math"),
    ],
)
def test_attention_kernels(tools, kernel, found):
    names = ["aten::_scaled_dot_product_flash_attention", "sm90_xmma_gemm_bf16bf16", kernel]
    assert tools.step_profile.attention_kernels(names) == found
