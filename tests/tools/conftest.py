"""What the tests of the page share: its modules, tiny models, and files that a visitor could upload."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import av
import numpy as np
import pytest
import torch
from PIL import Image

from diffmae_video.build import build_model
from diffmae_video.config import dump, load_config
from diffmae_video.data.writing import write_video
from diffmae_video.engine.checkpoint import save_checkpoint

TOOLS = Path(__file__).parents[2] / "tools"
MODULES = ("serve_demo", "page_actions", "page_input", "page_job", "page_mask")
TINY = [
    "DATA.NUM_FRAMES", "4", "DATA.SAMPLING_RATE", "1", "DATA.CROP_SIZE", "32", "MODEL.PATCH_SIZE", "[2, 8, 8]",
    "MODEL.ENCODER.WIDTH", "24", "MODEL.ENCODER.DEPTH", "1", "MODEL.ENCODER.HEADS", "2",
    "MODEL.DECODER.WIDTH", "24", "MODEL.DECODER.DEPTH", "1", "MODEL.DECODER.HEADS", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def page() -> Iterator[SimpleNamespace]:
    """The modules of the page by name, imported as the tool imports them."""
    before = set(sys.modules)
    sys.path.insert(0, str(TOOLS))
    with patch.dict(os.environ):  # the tool sets what Gradio reads
        yield SimpleNamespace(**{name: __import__(name) for name in MODULES})
    sys.path.remove(str(TOOLS))
    for name in set(sys.modules) - before:
        if str(TOOLS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., torch.nn.Module]:
    """``tiny_model(name, *overrides)``: a model with random weights, its configuration the attribute ``cfg``."""
    return build_tiny_model


def build_tiny_model(name: str = "DiffMAE", *overrides: str) -> torch.nn.Module:
    cfg = load_config([], [*TINY, "MODEL.NAME", name, *overrides])
    model = build_model(cfg).eval()
    model.cfg = cfg
    torch.manual_seed(0)
    for parameter in model.parameters():  # initial weights predict a constant; these answer to the input
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="session")
def save() -> Callable[[Path, torch.nn.Module], Path]:
    """``save(path, model)``: writes a checkpoint."""
    return save_model


def save_model(path: Path, model: torch.nn.Module) -> Path:
    parts = {"optimizer": {}, "progress": {}, "config": dump(model.cfg)}
    save_checkpoint(path, {"format": 1, "model": model.state_dict(), **parts})
    return path


@pytest.fixture(scope="module")
def uploads(tmp_path_factory) -> Path:
    """A folder with a 6 frame video of 64 x 48, an image, and what calls itself one of the two."""
    folder = tmp_path_factory.mktemp("files")
    y, x = np.mgrid[:48, :64]
    frames = [np.stack([x * 3 + 4 * t, y * 5, 255 - x - y + t], axis=-1) for t in range(6)]
    clip = write_video(folder / "clip.mp4", np.clip(frames, 0, 255).astype(np.uint8), fps=10)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    content = clip.read_bytes()
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    (folder / "cut.mp4").write_bytes(content[: len(content) // 3])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "playlist.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n")
    (folder / "concat.mp4").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    with av.open(str(folder / "nothing.mp4"), "w") as container:
        container.add_stream("libx264", rate=25)
    (folder / "text.png").write_text("this is no picture")
    (folder / "cut.png").write_bytes((folder / "picture.png").read_bytes()[:1000])
    (folder / "large.png").write_bytes(png_header(9000, 9000))
    (folder / "bomb.png").write_bytes(png_header(200_000, 200_000))
    Image.fromarray(pixels).save(folder / "vector.png", format="EPS")
    (folder / "notes.txt").write_text("notes")
    return folder


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG that says it is so large; a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
