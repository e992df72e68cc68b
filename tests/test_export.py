"""An encoder through torch.export and ONNX: the files compute what the model does, for any number of clips."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from diffmae_video import export
from diffmae_video.build import build_model
from diffmae_video.config import load_config
from diffmae_video.export import (
    EncoderGraph,
    ExportError,
    differences,
    read_onnx,
    read_program,
    write_onnx,
    write_program,
)

TINY = [
    "DATA.NUM_FRAMES", "4", "DATA.CROP_SIZE", "16", "MODEL.PATCH_SIZE", "[2, 8, 8]",
    "DATA.MEAN", "[0.4, 0.45, 0.5]", "DATA.STD", "[0.2, 0.25, 0.3]", "MODEL.TARGET", "normalized", "MASK.RATIO", "0.5",
    "MODEL.ENCODER.WIDTH", "24", "MODEL.ENCODER.DEPTH", "1", "MODEL.ENCODER.HEADS", "2",
    "MODEL.DECODER.WIDTH", "24", "MODEL.DECODER.DEPTH", "1", "MODEL.DECODER.HEADS", "2",
]  # fmt: skip
PACKAGE = export.__file__.removesuffix("export.py").encode()  # a folder of this machine, not for others to read
CLASSES = ["MODEL.NUM_CLASSES", "5"]
MODELS = {
    "pretrain": [],
    "class token": ["MODEL.ENCODER.CLASS_TOKEN", "True", "MODEL.ENCODER.POSITION", "sincos"],
    "image": ["DATA.NUM_FRAMES", "1", "MODEL.PATCH_SIZE", "[1, 8, 8]"],
    "finetune": ["TASK", "finetune", "MODEL.ENCODER.DROP_PATH", "0.2", "MODEL.HEAD.DROPOUT", "0.3", *CLASSES],
    "finetune, class token": [
        *("TASK", "finetune", "MODEL.ENCODER.CLASS_TOKEN", "True", "MODEL.HEAD.POOL", "class_token"),
        *CLASSES,
    ],
    "linear": ["TASK", "linear", *CLASSES],
    "attentive": ["TASK", "attentive", *CLASSES],
}
IN_ONNX = ("pretrain", "image", "finetune, class token", "attentive")  # seconds each


def make_model(*overrides: str) -> nn.Module:
    model = build_model(load_config([], [*TINY, *overrides])).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():  # initial weights hardly answer to the input
        nn.init.normal_(parameter, std=0.2)
    return model


def pixels_of(graph: EncoderGraph, batch: int) -> torch.Tensor:
    return torch.randint(256, (batch, *graph.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(99))


@pytest.mark.parametrize("overrides", MODELS.values(), ids=list(MODELS))
def test_outputs_of_the_graph_are_those_of_the_model(overrides):
    model = make_model(*overrides)
    graph = EncoderGraph(model)
    pixels = pixels_of(graph, 2)
    with torch.no_grad():
        found = graph(pixels)
        clip = model.normalize(pixels)
        tokens = model.encode(clip)
        expected = [tokens, tokens.mean(dim=1)]
        if "TASK" in overrides:
            expected.append(model(clip))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert tokens.std() > 0.1


@pytest.mark.parametrize("overrides", MODELS.values(), ids=list(MODELS))
def test_program_gives_the_same_at_any_batch_size(overrides, tmp_path):
    graph = EncoderGraph(make_model(*overrides))
    write_program(graph, tmp_path / "encoder.pt2")
    assert PACKAGE not in (tmp_path / "encoder.pt2").read_bytes()
    exported = read_program(tmp_path / "encoder.pt2")
    for batch in (1, 3, 7):
        pixels = pixels_of(graph, batch)
        for ours, theirs in zip(graph(pixels), exported(pixels), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert set(differences(graph, exported)) == {1, 3}


def test_an_encoder_with_a_timestep_and_a_tokenizer_inside(tmp_path):
    settings = ["MODEL.NAME", "LatentDAE", "MODEL.LDAE.INPUT", "latent", "MODEL.LDAE.OUTPUT", "latent"]
    settings += ["MODEL.LDAE.LATENT_DIM", "8", "MODEL.LDAE.PROBE_TIMESTEP", "30", "DATA.NUM_FRAMES", "4"]
    settings += ["DATA.CROP_SIZE", "16", "MODEL.PATCH_SIZE", "[2, 8, 8]", "MODEL.DECODER.DEPTH", "1"]
    settings += ["MODEL.ENCODER.WIDTH", "24", "MODEL.ENCODER.DEPTH", "1", "MODEL.ENCODER.HEADS", "2"]
    model = build_model(load_config([], settings)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.encoder.patch_embed.tokenizer.fitted.fill_(True)
    fresh = EncoderGraph(model)
    write_program(fresh, tmp_path / "encoder.pt2")
    exported, pixels = read_program(tmp_path / "encoder.pt2"), pixels_of(fresh, 3)
    torch.testing.assert_close(exported(pixels)[0], model.encode(model.normalize(pixels)), rtol=0, atol=1e-5)


def test_what_cannot_be_traced_is_one_line(tmp_path):
    class Undecided(nn.Module):
        def forward(self, clip):
            return clip if clip.sum() > 0 else -clip

    graph = EncoderGraph(make_model())
    graph.model.encoder.norm = Undecided()
    with pytest.raises(ExportError, match="cannot be exported to torch.export: ") as error:
        write_program(graph, tmp_path / "encoder.pt2")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", IN_ONNX)
def test_onnx_gives_the_same_at_any_batch_size(kind, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    graph = EncoderGraph(make_model(*MODELS[kind]))
    write_onnx(graph, tmp_path / "encoder.onnx")
    assert PACKAGE not in (tmp_path / "encoder.onnx").read_bytes()
    session = runtime.InferenceSession(str(tmp_path / "encoder.onnx"), providers=["CPUExecutionProvider"])
    (entry,), outputs = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.type, entry.shape) == ("pixels", "tensor(uint8)", ["batch", *graph.shape])
    assert [output.name for output in outputs] == ["tokens", "pooled", "logits"][: len(graph(graph.example(1)))]
    assert all(output.shape[0] == "batch" for output in outputs)
    for batch in (1, 3, 7):
        pixels = pixels_of(graph, batch)
        found = session.run(None, {"pixels": pixels.numpy()})
        for ours, theirs in zip(graph(pixels), found, strict=True):
            torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1e-4)
    assert max(max(values.values()) for values in differences(graph, read_onnx(tmp_path / "encoder.onnx")).values()) > 0


def test_a_frame_of_a_video_model(tmp_path):
    model = make_model()
    graph = EncoderGraph(model, frames=1)
    write_program(graph, tmp_path / "encoder.pt2")
    image = torch.randint(256, (3, 3, 1, 16, 16), dtype=torch.uint8)
    tokens, _ = read_program(tmp_path / "encoder.pt2")(image)
    torch.testing.assert_close(tokens, model.encode(model.normalize(image)), rtol=0, atol=1e-5)
    assert EncoderGraph(model, frames=2).shape == (3, 2, 16, 16)
    for frames in (0, 3, 6, -2):
        with pytest.raises(ValueError, match="a multiple of 2 up to 4"):
            EncoderGraph(model, frames)


def test_only_what_the_outputs_need_is_in_the_graph():
    model = make_model()
    names = set(EncoderGraph(model).state_dict())
    assert names == {f"model.{name}" for name in model.state_dict() if name.startswith(("encoder.", "pixel_"))}


def test_weights_beside_an_onnx_file_that_would_be_too_large(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(export, "LARGEST_FILE", 1000)
    graph = EncoderGraph(make_model())
    write_onnx(graph, tmp_path / "encoder.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.onnx", "encoder.onnx.data"]
    differences(graph, read_onnx(tmp_path / "encoder.onnx"))


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_a_graph_that_differs_is_refused(wrong):
    graph = EncoderGraph(make_model())

    def exported(pixels):
        tokens, pooled = graph(pixels)
        return tokens, pooled + wrong if len(pixels) == 3 else pooled  # at one of the batch sizes only

    with pytest.raises(ExportError, match="in pooled of 3 clips"):
        differences(graph, exported)
    with pytest.raises(ExportError, match="other shapes"):
        differences(graph, lambda pixels: graph(pixels)[:1])


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="eval"):
        EncoderGraph(make_model("TASK", "finetune", *CLASSES).train())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    for call in (lambda: write_onnx(EncoderGraph(make_model()), tmp_path / "e.onnx"), lambda: read_onnx(tmp_path)):
        with pytest.raises(ImportError, match=r"\[onnx\]"):
            call()
