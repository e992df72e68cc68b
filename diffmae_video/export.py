"""An encoder as a graph that runs without this project: torch.export's ``encoder.pt2`` and ONNX's ``encoder.onnx``.

Pixels go in as decoders give them, uint8; normalisation is part of the graph. What is written is read back and
compared with the model before it is called done.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from diffmae_video.engine.errors import RunError
from diffmae_video.models import VideoClassifier
from diffmae_video.models.encoder_model import EncoderModel

PROGRAM_FILE = "encoder.pt2"
ONNX_FILE = "encoder.onnx"
INPUT = "pixels"
OUTPUTS = ("tokens", "pooled", "logits")
OPSET = 20  # the first with an operator for GELU
# A protobuf message ends at 2 GiB; what comes near has its weights in a file beside it.
LARGEST_FILE = 2**31 - 2**26
# Largest difference from the model of values up to 1 in size, and in proportion of larger ones: float32 keeps 7 digits.
TOLERANCE = 1e-4
BATCHES = (1, 3)  # neither is the batch that is traced

Outputs = tuple[torch.Tensor, ...]


class ExportError(RunError):
    """An encoder that cannot be exported, or an exported graph that does not compute what the model does."""


class EncoderGraph(nn.Module):
    """What is exported of a model: pixels uint8 (B, C, T, H, W) -> tokens, pooled, and of a classifier logits.

    ========== ================== ==========================================================
    ``tokens`` float32 (B, N, D)  ``model.encode``: patch tokens by time, row, column
    ``pooled`` float32 (B, D)     their mean, as ``tools/extract_features.py`` pools
    ``logits`` float32 (B, K)     class scores before softmax
    ========== ================== ==========================================================

    Args:
        model: what ``load_model`` returns, on the CPU; of its parts only what these outputs need is kept.
        frames: T; None = the model's. 1 = images: a frame is repeated to the pt frames of a patch.

    Raises:
        ValueError: a model in training mode, or a number of frames that it cannot take.
    """

    def __init__(self, model: nn.Module, frames: int | None = None):
        super().__init__()
        if model.training:
            raise ValueError("the model is in training mode, with dropout: call model.eval() first")
        channels, longest, height, width = model.clip_shape
        frames, patch = longest if frames is None else frames, model.patch_size[0]
        if frames != 1 and (frames % patch or not 0 < frames <= longest):
            raise ValueError(f"{frames} frames: expected 1 (images), or a multiple of {patch} up to {longest}")
        self.shape = (channels, frames, height, width)
        self.model = model if isinstance(model, VideoClassifier) else EncoderModel.of(model)
        self.eval()

    def forward(self, pixels: torch.Tensor) -> Outputs:
        clip = self.model.normalize(pixels)
        if not isinstance(self.model, VideoClassifier):
            tokens = self.model.encode(clip)
            return tokens, tokens.mean(dim=1)
        tokens, has_class_token = self.model.tokens(clip), self.model.encoder.class_token is not None
        patches = tokens[:, int(has_class_token) :]
        return patches, patches.mean(dim=1), self.model.head(tokens, has_class_token)

    def example(self, batch: int) -> torch.Tensor:
        """Random pixels, the same ones for the same batch."""
        generator = torch.Generator().manual_seed(batch)
        return torch.randint(256, (batch, *self.shape), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def write_program(graph: EncoderGraph, path: Path) -> None:
    """Writes the graph for ``torch.export.load(path).module()``; any number of clips at a time.

    Raises:
        ExportError: torch cannot trace this encoder, or write the file.
    """
    shapes = {INPUT: {0: torch.export.Dim("batch", min=1)}}
    example = graph.example(2)
    graph(example)  # a tokenizer reads from a tensor whether it was fitted, at its first call; that cannot be traced
    with _exporting("torch.export"):
        program = torch.export.export(graph, (example,), dynamic_shapes=shapes)
        for node in program.graph.nodes:  # lines of source code with the folders of this machine
            node.meta.pop("stack_trace", None)
        torch.export.save(program, path)


def read_program(path: Path) -> Callable[[torch.Tensor], Outputs]:
    """What the file of :func:`write_program` computes. Files of strangers can run code when they are loaded."""
    return torch.export.load(path).module()


@torch.no_grad()
def write_onnx(graph: EncoderGraph, path: Path) -> None:
    """Writes the graph for any ONNX runtime; any number of clips at a time.

    Above 2 GiB the weights are in a second file, ``encoder.onnx.data``, which belongs beside it.

    Raises:
        ExportError: torch cannot trace this encoder, or ONNX has no operator for what it does.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    check_onnx()
    example = graph.example(2)
    names = list(OUTPUTS[: len(graph(example))])  # and see write_program
    with _exporting("ONNX"):
        program = torch.onnx.export(
            graph,
            (example,),
            input_names=[INPUT],
            output_names=names,
            dynamic_shapes={INPUT: {0: "batch"}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    _drop_traces(program)
    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    program.save(path, external_data=size > LARGEST_FILE)


def read_onnx(path: Path) -> Callable[[torch.Tensor], Outputs]:
    """What the file of :func:`write_onnx` computes, by onnxruntime on the CPU."""
    check_onnx()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda pixels: tuple(map(torch.from_numpy, session.run(None, {INPUT: pixels.numpy()})))


def check_onnx() -> None:
    """Raises ImportError, naming the extra, where a package for ONNX is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "ONNX needs the packages onnx, onnxscript and onnxruntime: pip install -c constraints.txt -e '.[onnx]' "
            f"({error})"
        ) from error


@torch.no_grad()
def differences(graph: EncoderGraph, exported: Callable[[torch.Tensor], Outputs]) -> dict[int, dict[str, float]]:
    """Largest absolute difference of every output from the model's, at batch sizes 1 and 3.

    Returns:
        Batch -> output -> difference.

    Raises:
        ExportError: another number of outputs, other shapes, or a difference above ``TOLERANCE``.
    """
    found: dict[int, dict[str, float]] = {}
    for batch in BATCHES:
        pixels = graph.example(batch)
        expected, got = graph(pixels), exported(pixels)
        if [tuple(value.shape) for value in expected] != [tuple(value.shape) for value in got]:
            raise ExportError(f"the exported graph gives other shapes than the model for {batch} clips")
        names = OUTPUTS[: len(expected)]
        found[batch] = {}
        for name, ours, theirs in zip(names, expected, got, strict=True):
            found[batch][name] = difference = (ours - theirs).abs().max().item()
            allowed = TOLERANCE * max(1.0, ours.abs().max().item())
            if not difference <= allowed:  # NaN is no small difference
                raise ExportError(
                    f"the exported graph differs from the model by {difference:.1e} in {name} of {batch} clips, above "
                    f"{allowed:.1e}; it was not written"
                )
    return found


def _drop_traces(program: torch.onnx.ONNXProgram) -> None:
    """Notes for debugging, among them lines of source code with the folders of this machine."""
    graph = program.model.graph
    graph.metadata_props.clear()
    for node in graph:
        node.metadata_props.clear()


@contextmanager
def _exporting(form: str) -> Iterator[None]:
    """Without what exporters say about themselves: absent torchvision operators, deprecations inside torch.

    Raises:
        ExportError: for whatever they fail on; their messages are pages long, and begin with what it was.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RuntimeError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(f"this encoder cannot be exported to {form}: {reason}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
