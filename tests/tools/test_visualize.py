"""tools/visualize.py on real files with real, untrained, tiny models."""

from __future__ import annotations

import importlib.util
import re
import shlex
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
from diffmae_video.diffusion import SPACINGS, NoiseSchedule
from diffmae_video.engine.checkpoint import save_checkpoint

TOOL = Path(__file__).parents[2] / "tools" / "visualize.py"
TINY = [
    "DATA.NUM_FRAMES", "4", "DATA.CROP_SIZE", "32", "MODEL.PATCH_SIZE", "[2, 8, 8]",
    "MODEL.ENCODER.WIDTH", "24", "MODEL.ENCODER.DEPTH", "2", "MODEL.ENCODER.HEADS", "2",
    "MODEL.DECODER.WIDTH", "24", "MODEL.DECODER.DEPTH", "1", "MODEL.DECODER.HEADS", "2",
]  # fmt: skip


def checkpoint(path: Path, name: str) -> Path:
    cfg = load_config([], [*TINY, "MODEL.NAME", name])
    model = build_model(cfg)
    torch.manual_seed(0)
    for parameter in model.parameters():  # initial weights predict a constant; these answer to the input
        torch.nn.init.normal_(parameter, std=0.1)
    save_checkpoint(
        path, {"format": 1, "model": model.state_dict(), "optimizer": {}, "progress": {}, "config": dump(cfg)}
    )
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    return {name: checkpoint(folder / f"{name.lower()}.pt", name) for name in ("DiffMAE", "MAE")}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A 7 frame video, 64 x 48, smooth and moving."""
    y, x = np.mgrid[:48, :64]
    frames = [np.stack([x * 3 + 4 * t, y * 5, 255 - x - y + t], axis=-1) for t in range(7)]
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", np.clip(frames, 0, 255).astype(np.uint8), fps=10)


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOL.parent))  # as for any script
    spec = importlib.util.spec_from_file_location("visualize_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(TOOL.parent))
    for name in ("inpaint", "visualize_options"):
        sys.modules.pop(name, None)


@pytest.fixture
def run(tool, weights, clip, capsys):
    """Runs a subcommand on the clip, with DiffMAE unless weights are given; returns (exit code, stdout, stderr)."""

    def call(picture: str, *arguments: object) -> tuple[int, str, str]:
        given = [str(argument) for argument in arguments]
        defaults = {"--weights": weights["DiffMAE"], "--input": clip, "--device": "cpu"}
        if picture not in ("features", "schedules"):
            defaults |= {"--steps": 3} | ({} if "--box" in given else {"--mask": "tube"})
        for name, value in {} if picture == "schedules" else defaults.items():
            given += [] if name in given else [name, str(value)]
        code = tool.main([picture, *given])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def calls(tool, monkeypatch):
    """What the functions that make pictures are called with: name -> arguments of the last call."""
    found = {}

    def watch(name):
        real = getattr(tool, name)
        monkeypatch.setattr(tool, name, lambda *arguments: found.update({name: arguments}) or real(*arguments))

    for name in ("trajectory_strip", "comparison_sheet", "seed_grid", "feature_sheet", "feature_maps", "side_by_side"):
        watch(name)
    return found


@pytest.mark.parametrize("picture", ["trajectory", "seeds", "features"])
def test_a_picture_and_a_video_of_one_model(run, tmp_path, picture):
    code, printed, error = run(picture, "--output", tmp_path / "new" / "o.png")
    assert (code, error) == (0, "") and printed.splitlines()[-1] == f"wrote {tmp_path / 'new' / 'o.png'}"
    with Image.open(tmp_path / "new" / "o.png") as image:
        assert image.width > 2 * 128 and image.height > 2 * 128
    code, _, error = run(picture, "--output", tmp_path / "o.mp4")
    assert (code, error) == (0, "")
    info = video_info(tmp_path / "o.mp4")
    assert info.fps == 10 and info.height > 190
    assert info.frames == (3 * 8 if picture == "trajectory" else 7)  # 7 frames are worked on as 8


def test_trajectory_shows_the_chosen_steps_and_frame(run, calls, tmp_path):
    assert run("trajectory", "--steps", 9, "--shown", 3, "--frame", 2, "--output", tmp_path / "o.png")[0] == 0
    trajectory, frame = calls["trajectory_strip"]
    assert [step.t for step in trajectory.steps] == [999, 555, 110] and frame == 2
    assert trajectory.steps[0].noisy.shape[1:3] == (32, 40)  # the working size of 48 x 64
    assert run("trajectory", "--steps", 3, "--spacing", SPACINGS[-1], "--output", tmp_path / "o.png")[0] == 0
    assert calls["trajectory_strip"][0].steps[1].t != 666


def test_trajectory_ends_with_what_inpainting_returns(run, tool, calls, tmp_path, monkeypatch):
    results, real = [], tool.inpaint_video
    monkeypatch.setattr(
        tool, "inpaint_video", lambda *arguments, **options: results.append(real(*arguments, **options)) or results[-1]
    )
    assert run("trajectory", "--fit", "native", "--output", tmp_path / "o.png")[0] == 0
    last = calls["trajectory_strip"][0].steps[-1].clean
    assert results[0].shape == (7, 48, 64, 3) and np.array_equal(last[:7], results[0])


def test_models_are_compared_on_one_mask(run, weights, clip, calls, tmp_path):
    both = ("--weights", weights["MAE"], weights["DiffMAE"])
    options = ("--samples", 2, "--seed", 3, "--columns", 4, "--size", 48)
    assert run("compare", *both, *options, "--output", tmp_path / "o.png")[0] == 0
    frames, mask, results, columns, numbers, _ = calls["comparison_sheet"]
    assert list(results) == ["MAE", "DiffMAE, seed 3", "DiffMAE, seed 4"]
    assert np.array_equal(frames, read_frames(clip, range(7))) and columns == 4 and list(numbers) == list(range(7))
    for result in results.values():
        assert np.array_equal(result[~mask], frames[~mask]) and not np.array_equal(result[mask], frames[mask])
    assert 4 * 64 < Image.open(tmp_path / "o.png").width < 4 * 128, "frames of 64 x 48 were enlarged"
    assert not np.array_equal(results["DiffMAE, seed 3"], results["DiffMAE, seed 4"])
    assert run("compare", *both, "--box", "8,8,40,30", "--output", tmp_path / "o.mp4")[0] == 0
    assert list(calls["side_by_side"][0]) == ["masked input", "MAE", "DiffMAE", "original"]
    assert video_info(tmp_path / "o.mp4").width > 4 * 256


def test_models_of_one_name_are_told_apart(run, weights, calls, tmp_path):
    other = checkpoint(tmp_path / "other.pt", "DiffMAE")
    both = ("--weights", weights["DiffMAE"], other)
    assert run("compare", *both, "--output", tmp_path / "o.png")[0] == 0
    assert list(calls["comparison_sheet"][2]) == ["DiffMAE diffmae", "DiffMAE other"]
    assert run("compare", *both, "--titles", "before", "after", "--output", tmp_path / "o.png")[0] == 0
    assert list(calls["comparison_sheet"][2]) == ["before", "after"]
    code, _, error = run("compare", "--weights", other, other, "--output", tmp_path / "o.png")
    assert code == 2 and "--titles" in error


def test_seeds_are_those_asked_for_and_visible_pixels_do_not_deviate(run, calls, tmp_path):
    code, printed, _ = run("seeds", "--samples", 3, "--seed", 5, "--stride", 2, "--output", tmp_path / "o.png")
    assert code == 0
    results, frames, mask, _, numbers, _ = calls["seed_grid"]
    assert list(results) == [5, 6, 7] and list(numbers) == [0, 2, 4, 6] and len(frames) == 4
    deviation = np.sqrt(np.stack(list(results.values())).astype(float).var(axis=0).mean(-1))
    assert deviation[~mask].max() == 0
    assert f"inside the mask: {deviation[mask].mean():.1f} of 255" in printed


def test_features_cover_the_whole_video_in_overlapping_clips(run, tool, weights, clip, calls, tmp_path):
    assert run("features", "--layer", -2, "--fit", "stretch", "--output", tmp_path / "o.png")[0] == 0
    tokens, grid, frames, each, *_ = calls["feature_sheet"]
    assert grid == (4, 4, 4) and each == 2 and frames.shape == (7, 48, 64, 3)
    model = tool.load_model(weights["DiffMAE"])
    whole = tool.Box(0, 0, 48, 64)
    video = tool.crop_and_resize(torch.from_numpy(frames), whole, 32)[:, [0, 1, 2, 3, 4, 5, 6, 6]]
    options = tool.FeatureOptions(sampling_rate=1, output="dense", layer=-2)
    clips = [tool.encode_clips(model, video[None, :, start : start + 4], options)[0] for start in (0, 2, 4)]
    assert torch.allclose(tokens[0], clips[0][0], atol=1e-5)
    assert torch.allclose(tokens[1], (clips[0][1] + clips[1][0]) / 2, atol=1e-5)
    assert torch.allclose(tokens[2], (clips[1][1] + clips[2][0]) / 2, atol=1e-5)
    assert torch.allclose(tokens[3], clips[2][1], atol=1e-5)


def test_features_of_the_central_square_and_of_an_image(run, calls, tmp_path):
    assert run("features", "--fit", "crop", "--num-frames", 2, "--output", tmp_path / "o.mp4")[0] == 0
    tokens, grid, frames, _ = calls["feature_maps"]
    assert frames.shape == (2, 48, 48, 3) and grid == (1, 4, 4)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)).save(tmp_path / "in.png")
    assert run("features", "--input", tmp_path / "in.png", "--output", tmp_path / "o.png")[0] == 0
    assert len(calls["feature_sheet"][2]) == 1


def test_schedules_need_no_weights(run, tool, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    curves, real = {}, tool.schedule_curves
    monkeypatch.setattr(tool, "schedule_curves", lambda given: curves.update(given) or real(given))
    arguments = ("--schedule", "linear", "cosine", "--rho", 1, 0.6, "--steps", 50, "--output", tmp_path / "o.png")
    code, _, error = run("schedules", *arguments)
    assert (code, error) == (0, "")
    assert list(curves) == ["linear, rho 1", "linear, rho 0.6", "cosine, rho 1", "cosine, rho 0.6"]
    assert np.array_equal(curves["cosine, rho 0.6"], NoiseSchedule("cosine", 50, 0.6).abar.numpy())
    assert Image.open(tmp_path / "o.png").width > 800


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trajectory", "--output", "o.gif"], "ends in .png or .mp4"),
        (["schedules", "--output", "o.mp4"], "ends in .png"),
        (["schedules", "--output", "o.png", "--rho", "-1"], "rho > 0"),
        (["trajectory", "--output", "o.png", "--input", "missing.mp4"], "missing.mp4: there is no such file"),
        (["trajectory", "--output", "o.png", "--shown", "1"], "--shown 1: expected at least 2"),
        (["trajectory", "--output", "o.png", "--frame", "99"], "frames 0 to 7"),
        (["trajectory", "--output", "o.png", "--weights", "MAE"], "no trajectory"),
        (["seeds", "--output", "o.png", "--weights", "MAE"], "same result for every seed"),
        (["seeds", "--output", "o.png", "--samples", "1"], "--samples 1: expected at least 2"),
        (["features", "--output", "o.png", "--columns", "0"], "--columns 0: expected at least 1"),
        (["compare", "--output", "o.png", "--weights", "MAE"], "at least two --weights"),
        (["compare", "--output", "o.png", "--weights", "MAE", "MAE", "--titles", "a"], "expected 2"),
        (["features", "--output", "o.png", "--layer", "-7"], "layer -7"),
        (["features", "--output", "o.png", "--start-frame", "7"], "frames 0 to 6"),
    ],
)
def test_errors_of_the_user_are_one_line(run, weights, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    picture, *arguments = (str(weights.get(argument, argument)) for argument in arguments)
    code, _, error = run(picture, *arguments)
    assert code == 2
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert list(tmp_path.iterdir()) == []


def test_the_input_is_not_overwritten(run, clip):
    before = clip.read_bytes()
    code, _, error = run("features", "--output", clip)
    assert code == 2 and "is the input itself" in error and clip.read_bytes() == before


def test_as_a_person_types_it(weights, clip, tmp_path):
    command = [sys.executable, TOOL, "features", "--weights", weights["MAE"], "--input", clip, "--device", "cpu"]
    done = subprocess.run([*map(str, command), "--output", tmp_path / "o.mp4"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert video_info(tmp_path / "o.mp4").frames == 7


def test_commands_of_the_page_are_accepted(tool):
    page = (TOOL.parents[1] / "docs" / "pictures.md").read_text()
    assert all((TOOL.parents[1] / "docs" / name).is_file() for name in re.findall(r"\]\((pictures/.*?)\)", page))
    commands = re.findall(r"^python tools/visualize\.py (.*)$", page.replace("\\\n", " "), re.MULTILINE)
    parsed = [tool.parse(shlex.split(command), "") for command in commands]
    for options in parsed:
        if options.picture != "schedules":
            options.input = TOOL  # any file that is there
        tool.check(options)
    assert sorted(options.picture for options in parsed) == sorted(tool.MAKERS)
