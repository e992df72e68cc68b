"""tools/extract_features.py on real files with a real, untrained, tiny model."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from diffmae_video import load_model
from diffmae_video.build import build_model
from diffmae_video.config import dump, from_yaml, load_config
from diffmae_video.data import read_manifest
from diffmae_video.engine.checkpoint import save_checkpoint
from diffmae_video.features import FeatureOptions, encode_video, nearest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "extract_features.py"
TINY = [
    "DATA.NUM_FRAMES", "4", "DATA.SAMPLING_RATE", "3", "DATA.CROP_SIZE", "32", "MODEL.PATCH_SIZE", "[2, 8, 8]",
    "MODEL.ENCODER.WIDTH", "24", "MODEL.ENCODER.DEPTH", "2", "MODEL.ENCODER.HEADS", "2",
    "MODEL.DECODER.WIDTH", "24", "MODEL.DECODER.DEPTH", "1", "MODEL.DECODER.HEADS", "2",
]  # fmt: skip


def make_checkpoint(path: Path, *overrides: str, seed: int = 0) -> Path:
    cfg = load_config([], [*TINY, *overrides])
    model = build_model(cfg)
    torch.manual_seed(seed)
    for parameter in model.parameters():  # initial weights hardly answer to the input
        torch.nn.init.normal_(parameter, std=0.2)
    state = {"format": 1, "config": dump(cfg), "model": model.state_dict(), "optimizer": {}, "progress": {}, "rng": {}}
    save_checkpoint(path, state)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pt")


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOL.parent))  # as for any script
    spec = importlib.util.spec_from_file_location("extract_features_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(TOOL.parent))


@pytest.fixture
def run(tool, weights, capsys):
    """Runs the tool; returns (exit code, stdout, stderr)."""

    def call(*arguments: object, weights: Path = weights) -> tuple[int, str, str]:
        code = tool.main(["--weights", str(weights), "--device", "cpu", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def mixed(sample_videos, numbered_videos, damaged_videos, images, tmp_path) -> Path:
    """A folder with 4 short videos, a longer one, an image, and two damaged videos; a list of them with labels."""
    folder = tmp_path / "mixed"
    (folder / "below").mkdir(parents=True)
    for number in range(4):
        shutil.copy(sample_videos / f"clip_{number}.mp4", folder)
    shutil.copy(numbered_videos["vp9"], folder / "below" / "long.webm")
    shutil.copy(images["png"], folder / "picture.png")
    shutil.copy(damaged_videos["cut_short.mp4"], folder / "below" / "damaged.mp4")
    shutil.copy(damaged_videos["empty.mp4"], folder / "empty.mp4")
    names = ["clip_1.mp4", "below/long.webm", "empty.mp4", "clip_0.mp4", "below/damaged.mp4", "picture.png"]
    (folder / "list.csv").write_text("".join(f"{name},{label}\n" for label, name in enumerate(names)))
    return folder


def content(path: Path) -> dict:
    """What an .npz or .safetensors holds, in one form."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            found = {name: file[name] for name in file}
        found["metadata"] = json.loads(str(found["metadata"]))
        return found | {"paths": found["paths"].tolist(), "unreadable": found["unreadable"].tolist()}
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()} | {  # noqa: SIM118 - it is no dictionary
            name: json.loads(text) for name, text in file.metadata().items()
        }


# ------------------------------------------------------------------------------------------------------------- output


def test_folder_of_videos(run, mixed, weights, tmp_path):
    output = tmp_path / "new" / "features.npz"
    code, printed, error = run("--input", mixed, "--format", "folder", "--output", output)
    assert code == 0
    found = content(output)
    readable = [entry.path for entry in read_manifest(mixed, format="folder") if not entry.path.endswith("ed.mp4")]
    readable.remove(str(mixed / "empty.mp4"))
    assert found["paths"] == readable and len(readable) == 6
    assert found["features"].shape == (6, 24) and found["features"].dtype == np.float32
    assert found["labels"].tolist() == [-1] * 6 and found["starts"].tolist() == [0] * 6
    model = load_model(weights)
    for path, row in zip(found["paths"], found["features"], strict=True):
        expected = encode_video(model, path, FeatureOptions(sampling_rate=3)).features.mean(0)
        np.testing.assert_array_equal(row, expected)
    assert [path for path, _ in found["unreadable"]] == [str(mixed / "below/damaged.mp4"), str(mixed / "empty.mp4")]
    assert all(reason for _, reason in found["unreadable"])
    for path, reason in found["unreadable"]:
        assert f"unreadable: {path}: {reason}" in error
    assert "2 of 8 videos are unreadable and left out" in printed
    assert f"wrote {output}: features (6, 24) float32" in printed
    assert from_yaml(found["metadata"]["config"]).DATA.NUM_FRAMES == 4
    assert found["metadata"]["recipe"]["layer"] == -1 and found["metadata"]["weights"] == str(weights)


def test_list_with_labels_keeps_its_order(run, mixed, tmp_path):
    code, _, _ = run("--input", mixed / "list.csv", "--output", tmp_path / "f.npz")
    assert code == 0
    found = content(tmp_path / "f.npz")
    assert [os.path.basename(path) for path in found["paths"]] == [
        "clip_1.mp4",
        "long.webm",
        "clip_0.mp4",
        "picture.png",
    ]
    assert found["labels"].tolist() == [0, 1, 3, 5]


def test_split_of_a_folder(run, sample_videos, tmp_path):
    for split, count in (("train", 6), ("val", 2)):
        assert run("--input", sample_videos, "--split", split, "--output", tmp_path / f"{split}.npz")[0] == 0
        found = content(tmp_path / f"{split}.npz")
        assert found["labels"].tolist() == [number % 2 for number in range(count)]
    code, _, error = run("--input", sample_videos, "--split", "test", "--output", tmp_path / "test.npz")
    assert code == 2 and error.startswith("error: ") and "test.csv" in error


def test_one_row_per_window(run, numbered_videos, weights, tmp_path):
    path = numbered_videos["h264"]
    assert run("--input", path, "--output", tmp_path / "f.npz", "--views", "each", "--window-stride", 7)[0] == 0
    found = content(tmp_path / "f.npz")
    assert found["starts"].tolist() == [*range(0, 80, 7), 80]
    np.testing.assert_allclose(found["seconds"], found["starts"] / 25)
    assert found["paths"] == [str(path)] * 13 and found["labels"].tolist() == [-1] * 13
    options = FeatureOptions(sampling_rate=3, window_stride=7)
    np.testing.assert_array_equal(found["features"], encode_video(load_model(weights), path, options).features)


def test_image(run, images, tmp_path):
    assert run("--input", images["jpg"], "--output", tmp_path / "f.npz")[0] == 0
    assert content(tmp_path / "f.npz")["features"].shape == (1, 24)


@pytest.mark.parametrize("options", [[], ["--views", "each"], ["--output-type", "dense", "--dtype", "float16"]])
def test_npz_and_safetensors_hold_the_same(run, mixed, tmp_path, options):
    for name in ("f.npz", "f.safetensors"):
        assert run("--input", mixed / "list.csv", "--output", tmp_path / name, *options)[0] == 0
    first, second = content(tmp_path / "f.npz"), content(tmp_path / "f.safetensors")
    assert set(first) == set(second)
    for name, value in first.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == second[name].dtype
            np.testing.assert_array_equal(value, second[name])
        else:
            assert value == second[name]
    if "dense" in options:
        assert first["features"].shape[1:] == (2, 4, 4, 24) and first["features"].dtype == np.float16


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_folder_with_a_file_per_video(run, mixed, weights, tmp_path, kind):
    output = tmp_path / "dense"
    arguments = ("--input", mixed / "list.csv", "--output", f"{output}/", "--output-type", "dense", "--file-type", kind)
    code, printed, _ = run(*arguments)
    assert code == 0 and "wrote 4 files" in printed
    index = json.loads((output / "features.json").read_text())
    assert [(video["name"], video["label"]) for video in index["videos"]] == [
        ("clip_1.mp4", 0), ("below/long.webm", 1), ("clip_0.mp4", 3), ("picture.png", 5),
    ]  # fmt: skip
    assert [os.path.basename(path) for path, _ in index["unreadable"]] == ["empty.mp4", "damaged.mp4"]
    files = sorted(str(path.relative_to(output)) for path in output.rglob(f"*.{kind}"))
    assert files == sorted(video["file"] for video in index["videos"])
    file = output / "below" / f"long.webm.{kind}"
    if kind == "npz":
        found = dict(np.load(file))
    else:
        with safe_open(file, "np") as opened:
            found = {name: opened.get_tensor(name) for name in ("features", "starts", "seconds")}
    options = FeatureOptions(sampling_rate=3, output="dense")
    np.testing.assert_array_equal(
        found["features"], encode_video(load_model(weights), mixed / "below/long.webm", options).features
    )
    assert found["starts"].tolist() == [*range(0, 80, 10), 80] and found["features"].shape == (9, 2, 4, 4, 24)
    assert "4 of 6 videos were done by an earlier call" in run(*arguments)[1]
    assert run(*arguments, "--layer", "-2")[0] == 2
    assert run(*arguments, "--layer", "-2", "--restart")[0] == 0
    assert json.loads((output / "features.json").read_text())["recipe"]["layer"] == -2


def test_the_clip_itself_is_found_first(run, sample_videos, tmp_path):
    assert run("--input", sample_videos, "--format", "folder", "--output", tmp_path / "f.npz")[0] == 0
    found = content(tmp_path / "f.npz")
    for center in (False, True):
        rows, _ = nearest(found["features"], found["features"], 3, center)
        assert rows[:, 0].tolist() == list(range(8))


# ------------------------------------------------------------------------------------------------------ going on again


def kill_after(videos: int, *arguments: object) -> int:
    """Runs the tool in a process that is killed while it encodes its (``videos`` + 1)-th video; its exit code."""
    code = (
        "import os, signal, sys, runpy\n"
        "from diffmae_video import features\n"
        "real, count = features.encode_video, 0\n"
        "def encode(*arguments):\n"
        "    global count\n"
        "    found, count = real(*arguments), count + 1\n"
        f"    if count > {videos}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return found\n"
        "features.encode_video = encode\n"
        f"sys.path.insert(0, {str(TOOL.parent)!r})\n"
        f"runpy.run_path({str(TOOL)!r}, run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).returncode


@pytest.mark.parametrize("name", ["f.npz", "f.safetensors", "folder/"])
def test_a_killed_call_is_gone_on_with_and_ends_the_same(run, sample_videos, weights, tmp_path, name):
    arguments = ("--input", sample_videos, "--views", "each")
    killed, undisturbed = f"{tmp_path}/killed_{name}", f"{tmp_path}/undisturbed_{name}"
    after = int(np.random.default_rng(len(name)).integers(1, 6))
    started = ("--weights", weights, "--device", "cpu", *arguments, "--output", killed)
    assert kill_after(after, *started) == -signal.SIGKILL
    assert not Path(killed).is_file()
    code, printed, _ = run(*arguments, "--output", killed)
    assert code == 0 and f"{after} of 6 videos were done by an earlier call" in printed
    assert run(*arguments, "--output", undisturbed)[0] == 0
    if name.endswith("/"):
        files = [
            {p.relative_to(f): p.read_bytes() for p in Path(f).rglob("*") if p.is_file()} for f in (killed, undisturbed)
        ]
        assert files[0] == files[1] and len(files[0]) == 8
    else:
        assert Path(killed).read_bytes() == Path(undisturbed).read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(Path(p).name for p in (killed, undisturbed))


def interrupted_run(run, tool, monkeypatch, videos: int, *arguments: object) -> None:
    real, count = tool.encode_video, 0

    def encode(*values):
        nonlocal count
        count += 1
        if count > videos:
            raise KeyboardInterrupt
        return real(*values)

    with monkeypatch.context() as patch:
        patch.setattr(tool, "encode_video", encode)
        code, _, error = run(*arguments)
    assert code == 130 and "the same command goes on" in error


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--layer", "-2"], "layer was -1 and is now -2"),
        (["--sampling-rate", "2"], "sampling_rate was 3 and is now 2"),
        (["--views", "each"], "views was mean and is now each"),
        (["--dtype", "float16"], "dtype was float32 and is now float16"),
        (["--fit", "stretch"], "fit was crop and is now stretch"),
        (["--size", "48"], "size was 32 and is now 48"),
    ],
)
def test_going_on_with_other_options_is_refused(run, tool, sample_videos, tmp_path, monkeypatch, changed, named):
    arguments = ("--input", sample_videos, "--output", tmp_path / "f.npz")
    interrupted_run(run, tool, monkeypatch, 2, *arguments)
    code, _, error = run(*arguments, *changed)
    assert code == 2 and named in error and "--restart" in error and error.count("\n") == 1
    code, printed, _ = run(*arguments, *changed, "--restart")
    assert code == 0 and "earlier call" not in printed and not (tmp_path / "f.npz.parts").exists()


def test_going_on_with_other_weights_is_refused(run, tool, sample_videos, tmp_path, monkeypatch, weights):
    arguments = ("--input", sample_videos, "--output", tmp_path / "f.npz")
    interrupted_run(run, tool, monkeypatch, 2, *arguments)
    code, _, error = run(*arguments, weights=make_checkpoint(tmp_path / "other.pt", seed=1))
    assert code == 2 and "weights was" in error
    shutil.copy(weights, tmp_path / "moved.pt")
    assert "2 of 6 videos were done" in run(*arguments, weights=tmp_path / "moved.pt")[1]


def test_a_finished_file_is_neither_made_again_nor_overwritten(run, sample_videos, tmp_path):
    arguments = ("--input", sample_videos, "--output", tmp_path / "f.npz")
    run(*arguments)
    before = (tmp_path / "f.npz").read_bytes()
    assert "complete already" in run(*arguments)[1]
    for other, words in ((["--layer", "-2"], "layer was -1"), (["--split", "val"], "another list of videos")):
        code, _, error = run(*arguments, *other)
        assert code == 2 and words in error and "--restart" in error
        assert (tmp_path / "f.npz").read_bytes() == before
    assert run(*arguments, "--split", "val", "--restart")[0] == 0
    assert len(content(tmp_path / "f.npz")["paths"]) == 2
    (tmp_path / "notes.npz").write_text("mine")
    code, _, error = run("--input", sample_videos, "--output", tmp_path / "notes.npz")
    assert code == 2 and "not a whole file of features" in error and (tmp_path / "notes.npz").read_text() == "mine"


def test_what_was_unreadable_is_tried_again_and_what_has_changed_made_anew(run, mixed, sample_videos, tmp_path):
    arguments = ("--input", mixed / "list.csv", "--output", tmp_path / "f.npz")
    assert run(*arguments)[0] == 0
    for damaged in ("empty.mp4", "below/damaged.mp4"):
        shutil.copy(sample_videos / "clip_2.mp4", mixed / damaged)
    shutil.copy(sample_videos / "clip_3.mp4", mixed / "clip_1.mp4")
    code, printed, _ = run(*arguments)
    assert code == 0 and "3 of 6 videos were done by an earlier call" in printed and "left out" not in printed
    found = content(tmp_path / "f.npz")
    assert found["labels"].tolist() == list(range(6)) and found["unreadable"] == []
    assert run(*arguments[:2], "--output", tmp_path / "anew.npz")[0] == 0
    assert (tmp_path / "anew.npz").read_bytes() == (tmp_path / "f.npz").read_bytes()
    assert not (tmp_path / "f.npz.parts").exists()


# -------------------------------------------------------------------------------------------------------------- errors


def test_strict_and_missing_files(run, mixed, tmp_path):
    (mixed / "gone.csv").write_text("clip_0.mp4 0\nnever_there.mp4 1\n")
    code, _, error = run("--input", mixed / "gone.csv", "--output", tmp_path / "f.npz", "--strict")
    assert code == 3 and "never_there.mp4: No such file" in error
    found = content(tmp_path / "f.npz")
    assert found["labels"].tolist() == [0] and found["unreadable"][0][0].endswith("never_there.mp4")


def test_a_video_that_is_listed_twice(run, mixed, tmp_path):
    lines = ("clip_0.mp4 0\n", "./clip_0.mp4 1\n", "empty.mp4 2\n", "./empty.mp4 3\n")
    (mixed / "twice.csv").write_text("".join(lines))
    for kind in ("mean", "each"):
        output = tmp_path / f"{kind}.npz"
        assert run("--input", mixed / "twice.csv", "--output", output, "--views", kind)[0] == 0
        found = content(output)
        half = len(found["labels"]) // 2
        assert found["labels"].tolist() == [0] * half + [1] * half and len(found["unreadable"]) == 2
        np.testing.assert_array_equal(found["features"][:half], found["features"][half:])


def test_nothing_readable(run, mixed, tmp_path):
    code, printed, _ = run("--input", mixed / "empty.mp4", "--output", tmp_path / "f.npz", "--output-type", "dense")
    assert code == 0 and "1 of 1 videos are unreadable" in printed
    assert content(tmp_path / "f.npz")["features"].shape == (0, 2, 4, 4, 24)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "f.csv"], ".npz or .safetensors, or in / for a folder"),
        (["--output", "f.npz", "--views", "mean", "--output-type", "dense"], "have no mean"),
        (["--output", "f.npz", "--layer", "-3"], "this encoder has 2 blocks"),
        (["--output", "f.npz", "--layer", "0"], "-1 is the last block"),
        (["--output", "f.npz", "--size", "30"], "does not divide"),
        (["--output", "f.npz", "--batch-size", "0"], "at least 1"),
        (["--output", "f.npz", "--window-stride", "0"], "at least 1"),
        (["--output", "f.npz", "--input", "nowhere"], "no such file or folder"),
        (["--output", "f.npz", "--weights", "nowhere.pt"], "nowhere.pt"),
        (["--output", "f.npz", "--device", "tpu"], "tpu"),
    ],
)
def test_errors_are_one_line(run, sample_videos, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, error = run("--input", sample_videos, *arguments)
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert not (tmp_path / "f.npz").exists()


def test_another_size(run, tool, sample_videos, weights, tmp_path):
    model = load_model(weights)
    clip = model.normalize(torch.randint(256, (1, 3, 4, 32, 32), dtype=torch.uint8))
    with torch.no_grad():
        torch.testing.assert_close(tool.at_size(model, 32).encode(clip), model.encode(clip))
    arguments = ("--input", sample_videos, "--size", 48, "--output-type", "dense")
    assert run(*arguments, "--output", tmp_path / "f.npz")[0] == 0
    assert content(tmp_path / "f.npz")["features"].shape[1:] == (2, 6, 6, 24)


def test_a_model_of_segments_sees_the_whole_video_once(run, numbered_videos, tmp_path):
    weights = make_checkpoint(tmp_path / "segments.pt", "DATA.SAMPLING", "segment")
    arguments = ("--input", numbered_videos["h264"], "--views", "each")
    for options, rows in (([], 1), (["--sampling", "dense"], 9), (["--sampling-rate", 2], 13)):
        output = tmp_path / f"{rows}.npz"
        assert run(*arguments, *options, "--output", output, weights=weights)[0] == 0
        assert len(content(output)["starts"]) == rows


def test_command_line(sample_videos, weights, tmp_path):
    command = [sys.executable, str(TOOL), "--weights", str(weights), "--input", str(sample_videos / "clip_0.mp4")]
    done = subprocess.run([*command, "--output", "f.npz"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert content(tmp_path / "f.npz")["features"].shape == (1, 24)
