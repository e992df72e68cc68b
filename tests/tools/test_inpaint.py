"""tools/inpaint.py on real files with a real, untrained, tiny model."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffmae_video.build import build_model
from diffmae_video.config import dump, load_config
from diffmae_video.data import read_frames, video_info
from diffmae_video.data.writing import write_video
from diffmae_video.engine.checkpoint import save_checkpoint
from diffmae_video.visualize import HIDDEN_GREY

ROOT = Path(__file__).parents[2]
TINY = [
    "DATA.NUM_FRAMES", "4", "DATA.CROP_SIZE", "32", "MODEL.PATCH_SIZE", "[2, 8, 8]",
    "MODEL.ENCODER.WIDTH", "24", "MODEL.ENCODER.DEPTH", "1", "MODEL.ENCODER.HEADS", "2",
    "MODEL.DECODER.WIDTH", "24", "MODEL.DECODER.DEPTH", "1", "MODEL.DECODER.HEADS", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("inpaint_tool", ROOT / "tools" / "inpaint.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(ROOT / "tools"))  # as for a script that is run
    spec.loader.exec_module(module)
    sys.path.remove(str(ROOT / "tools"))
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def run(tool, monkeypatch, capsys):
    """Runs the tool with a tiny model of random weights; returns (exit code, stdout, stderr)."""
    cfg = load_config([], TINY)
    model = build_model(cfg).eval()
    model.cfg = cfg
    torch.manual_seed(0)
    for parameter in model.parameters():  # initial weights predict a constant; these answer to the input
        torch.nn.init.normal_(parameter, std=0.1)
    monkeypatch.setattr(tool, "load_model", lambda path, device="cpu": model)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = tool.main(["--weights", "any", "--steps", "2", "--device", "cpu", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def written(tool, monkeypatch):
    """What the tool hands to the encoder: file name -> frames."""
    frames = {}
    monkeypatch.setattr(tool, "write_video", lambda path, video, fps: frames.update({Path(path).name: video}))
    return frames


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A 6 frame video, 64 x 48, smooth and moving."""
    y, x = np.mgrid[:48, :64]
    frames = [np.stack([x * 3 + 4 * t, y * 5, 255 - x - y + t], axis=-1) for t in range(6)]
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", np.clip(frames, 0, 255).astype(np.uint8), fps=10)


def test_side_by_side_video_and_sheet(run, clip, tmp_path):
    output, sheet = tmp_path / "new" / "out.mp4", tmp_path / "out.png"
    code, printed, error = run("--input", clip, "--mask", "tube", "--output", output, "--sheet", sheet)
    assert (code, error) == (0, "")
    info = video_info(output)
    assert info.frames == 6 and info.fps == 10
    assert info.width > 3 * 64 * 5 and info.height > 256  # three panels, enlarged
    first = read_frames(output, [0])[0]
    panel = first.shape[1] // 3
    grey = (abs(first.astype(int) - HIDDEN_GREY) < 6).all(-1)
    assert grey[:, :panel].mean() > 0.4 and grey[:, 2 * panel :].mean() < 0.1  # masked | ... | original
    assert Image.open(sheet).width > 6 * 128
    lines = printed.splitlines()
    for title in ("inpainted", "mean colour", "nearest visible patch"):
        (line,) = [line for line in lines if line.startswith(f"  {title} ")]
        assert 1 < float(line.split()[-1]) < 60
    assert f"wrote {output} (masked input | inpainted | original)" in lines
    assert f"wrote {sheet}" in lines


def test_psnr_lines_are_those_of_the_written_pixels(run, clip, tmp_path, written):
    code, printed, _ = run("--input", clip, "--box", "16,16,40,40", "--output", tmp_path / "o.mp4", "--only-result")
    assert code == 0
    original = read_frames(clip, range(6)).astype(float)
    error = (written["o.mp4"].astype(float) - original)[:, 16:40, 16:40]
    (line,) = [line for line in printed.splitlines() if line.startswith("  inpainted ")]
    assert float(line.split()[-1]) == pytest.approx(10 * np.log10(255**2 / (error**2).mean()), abs=0.006)


@pytest.mark.parametrize("fit", ["resize", "native"])
@pytest.mark.parametrize(
    "mask",
    [
        ["--mask", "tube"],
        ["--mask", "random"],
        ["--mask", "frame"],
        ["--mask", "block"],
        ["--mask", "center"],
        ["--box", "10,5,31,30"],
        ["--box", "0.3,0.3,0.31,0.9"],
    ],
)
def test_only_result_has_the_size_of_the_input_and_its_pixels_outside_the_mask(
    run, tool, clip, tmp_path, written, monkeypatch, mask, fit
):
    seen = {}
    real = tool.inpaint_video

    def spy(model, frames, hidden, **options):
        seen.update(frames=frames, mask=hidden)
        return real(model, frames, hidden, **options)

    monkeypatch.setattr(tool, "inpaint_video", spy)
    code, _, error = run(
        "--input", clip, *mask, "--output", tmp_path / "o.mp4", "--only-result", "--fit", fit, "--ratio", 0.15
    )
    assert (code, error) == (0, "")
    result, original = written["o.mp4"], read_frames(clip, range(6))
    assert result.shape == (6, 48, 64, 3)
    assert np.array_equal(seen["frames"], original)
    assert np.array_equal(result[~seen["mask"]], original[~seen["mask"]])
    assert not np.array_equal(result[seen["mask"]], original[seen["mask"]])


@pytest.mark.parametrize("mask", [["--mask", "tube", "--ratio", 0.5], ["--box", "10,5,31,30"]])
def test_pixels_under_the_mask_never_influence_the_result(run, tool, clip, tmp_path, written, monkeypatch, mask):
    """The same file name decodes to the same visible pixels and to quite other hidden ones."""
    assert run("--input", clip, *mask, "--output", tmp_path / "a.mp4", "--only-result")[0] == 0
    original = read_frames(clip, range(6))
    hidden = {}
    real = tool.read_mask
    monkeypatch.setattr(tool, "read_mask", lambda *a, **k: hidden.setdefault("mask", real(*a, **k)))
    assert run("--input", clip, *mask, "--output", tmp_path / "again.mp4", "--only-result")[0] == 0
    changed = original.copy()
    changed[hidden["mask"]] = np.random.default_rng(0).integers(0, 256, (int(hidden["mask"].sum()), 3))
    monkeypatch.setattr(tool, "read_frames", lambda path, indices: changed[list(indices)])
    assert run("--input", clip, *mask, "--output", tmp_path / "b.mp4", "--only-result")[0] == 0
    assert np.array_equal(written["a.mp4"], written["again.mp4"])
    assert np.array_equal(written["a.mp4"], written["b.mp4"])


def test_a_mask_without_a_whole_patch_is_filled_and_reported(run, clip, tmp_path, written):
    code, printed, error = run(
        "--input", clip, "--mask", "every-second-frame", "--output", tmp_path / "o.mp4", "--only-result"
    )
    assert (code, error) == (0, "") and "nearest visible patch" in printed
    assert np.array_equal(written["o.mp4"][::2], read_frames(clip, range(0, 6, 2)))


def test_options_of_masks_and_of_sampling_are_used(run, tool, clip, tmp_path, monkeypatch):
    seen = {}

    def inpaint_video(model, frames, mask, **options):
        seen.update(options, mask=mask)
        return frames

    monkeypatch.setattr(tool, "inpaint_video", inpaint_video)
    arguments = ["--box", "16,16,24,24", "--grow", 2, "--invert", "--feather", 3, "--eta", 0.5, "--spacing", "karras"]
    arguments += ["--threshold", 0.99, "--no-impute", "--overlap", "none"]
    arguments += ["--sampler", "dpmpp_2m", "--fit", "native", "--precision", "bf16"]
    assert run("--input", clip, *arguments, "--output", tmp_path / "o.mp4")[0] == 0
    expected = {"steps": 2, "sampler": "dpmpp_2m", "spacing": "karras", "eta": 0.5, "threshold": 0.99, "impute": False}
    assert seen == seen | expected | {"feather": 3, "fit": "native", "seed": 0, "overlap": "none"}
    assert not seen["mask"][:, 18:22, 18:22].any() and seen["mask"][:, 17, 17:20].all()  # inverted, then grown


def test_visible_pixels_do_influence_the_result(run, tool, clip, tmp_path, written, monkeypatch):
    box = ["--box", "16,16,32,32"]
    assert run("--input", clip, *box, "--output", tmp_path / "a.mp4", "--only-result")[0] == 0
    changed = read_frames(clip, range(6)).copy()
    changed[:, :12] = 255 - changed[:, :12]
    monkeypatch.setattr(tool, "read_frames", lambda path, indices: changed[list(indices)])
    assert run("--input", clip, *box, "--output", tmp_path / "b.mp4", "--only-result")[0] == 0
    assert not np.array_equal(written["a.mp4"][:, 16:32, 16:32], written["b.mp4"][:, 16:32, 16:32])


def test_samples_are_different_seeds(run, tool, clip, tmp_path, monkeypatch):
    panels = {}
    monkeypatch.setattr(tool, "side_by_side", lambda videos: panels.update(videos) or videos["original"])
    code, printed, _ = run(
        "--input", clip, "--mask", "center", "--samples", 2, "--seed", 5, "--baselines", "--output", tmp_path / "o.gif"
    )
    assert code == 0
    assert list(panels) == [
        "masked input",
        "inpainted, seed 5",
        "inpainted, seed 6",
        "mean colour",
        "nearest visible patch",
        "original",
    ]
    assert not np.array_equal(panels["inpainted, seed 5"], panels["inpainted, seed 6"])
    assert Image.open(tmp_path / "o.gif").n_frames == 6
    assert printed.count("inpainted, seed") >= 2


def test_start_number_and_stride_choose_frames_and_their_masks(run, tool, clip, tmp_path, written):
    masks = tmp_path / "masks"
    masks.mkdir()
    for i in range(6):
        pixels = np.zeros((48, 64), np.uint8)
        pixels[8 * i : 8 * i + 8] = 255
        Image.fromarray(pixels).save(masks / f"{i:03d}.png")
    code, _, error = run(
        "--input",
        clip,
        "--mask",
        masks,
        "--start-frame",
        1,
        "--stride",
        2,
        "--num-frames",
        2,
        "--only-result",
        "--output",
        tmp_path / "o.mp4",
    )
    assert (code, error) == (0, "")
    original, result = read_frames(clip, [1, 3]), written["o.mp4"]
    for frame, index in enumerate((1, 3)):
        changed = (result[frame] != original[frame]).any(axis=(1, 2))
        assert changed[8 * index : 8 * index + 8].all()
        assert not changed[: 8 * index].any() and not changed[8 * index + 8 :].any()


def test_image_in_image_out(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    mask = np.zeros((80, 104, 4), np.uint8)
    mask[20:40, 20:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")  # twice the size: scaled
    code, _, error = run(
        "--input",
        tmp_path / "in.png",
        "--mask",
        tmp_path / "mask.png",
        "--only-result",
        "--output",
        tmp_path / "out.png",
    )
    assert (code, error) == (0, "")
    result = np.asarray(Image.open(tmp_path / "out.png"))
    changed = (result != pixels).any(-1)
    assert result.shape == pixels.shape
    assert changed[10:20, 10:30].mean() > 0.9
    changed[10:20, 10:30] = False
    assert not changed.any()


def test_folder_of_frames_and_sheet_out(run, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (64, 48), (80 * i, 0, 0)).save(folder / f"{i}.png")
    code, printed, error = run("--input", folder, "--mask", "center", "--output", tmp_path / "sheet.png")
    assert (code, error) == (0, "")
    assert "3 frames of 64x48" in printed
    assert Image.open(tmp_path / "sheet.png").height > 3 * 128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mask", "tubes"], "expected a strategy"),
        (["--mask", "tube", "--ratio", "1.5"], "ratio 1.5"),
        (["--box", "0,0,900,9"], "the size of the input"),
        (["--mask", "tube", "--input", "missing.mp4"], "missing.mp4: there is no such file"),
        (["--mask", "tube", "--output", "out.avi"], "ends in .mp4, .gif, .png"),
        (["--mask", "tube", "--sheet", "sheet.jpg"], "ends in .png"),
        (["--mask", "tube", "--start-frame", "6"], "frames 0 to 5"),
        (["--mask", "tube", "--num-frames", "0"], "--num-frames 0: expected at least 1"),
        (["--mask", "tube", "--samples", "2", "--only-result"], "leave one of them out"),
        (["--mask", "tube", "--output", "out.png", "--only-result"], "--num-frames 1"),
        (["--mask", "tube", "--device", "tpu"], "expected auto, cpu, cuda"),
    ],
)
def test_errors_of_the_user_are_one_line(run, clip, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, printed, error = run("--input", clip, "--output", "out.mp4", *arguments)
    assert code == 2
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert list(tmp_path.iterdir()) == []


def test_the_input_is_not_overwritten_and_damaged_files_are_named(run, clip, tmp_path):
    code, _, error = run("--input", clip, "--mask", "tube", "--output", clip)
    assert code == 2 and "is the input itself" in error
    (tmp_path / "bad.mp4").write_bytes(clip.read_bytes()[:200])
    code, _, error = run("--input", tmp_path / "bad.mp4", "--mask", "tube", "--output", tmp_path / "o.mp4")
    assert code == 2 and error.count("\n") == 1 and "bad.mp4" in error


def command_line(weights: Path, clip: Path, output: Path) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        ROOT / "tools" / "inpaint.py",
        "--weights",
        weights,
        "--input",
        clip,
        "--mask",
        "center",
        "--steps",
        2,
        "--output",
        output,
        "--device",
        "cpu",
    ]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


def test_command_line_with_a_checkpoint_file(clip, tmp_path):
    cfg = load_config([], TINY)
    state = {"format": 1, "model": build_model(cfg).state_dict(), "optimizer": {}, "progress": {}, "config": dump(cfg)}
    save_checkpoint(tmp_path / "weights.pt", state)
    done = command_line(tmp_path / "weights.pt", clip, tmp_path / "o.mp4")
    assert (done.returncode, done.stderr) == (0, "")
    assert video_info(tmp_path / "o.mp4").frames == 6


def test_command_line_without_a_checkpoint(clip, tmp_path):
    done = command_line(tmp_path / "none", clip, tmp_path / "o.mp4")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "none" in done.stderr
