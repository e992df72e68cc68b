import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from diffmae_video.data import read_manifest, watchdog
from diffmae_video.data.checking import Requirements, check_file, check_files, find_duplicates
from diffmae_video.data.manifest import Entry

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "check_dataset.py"


@pytest.fixture(scope="module")
def tool():
    specification = importlib.util.spec_from_file_location("check_dataset", TOOL)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    watchdog.close()


@pytest.fixture
def dataset(sample_videos, damaged_videos, images, tmp_path) -> Path:
    """Seven files in train.csv and three in val.csv: some sound, the others each with its own fault."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(5):
        shutil.copy(sample_videos / f"clip_{number}.mp4", folder)
    shutil.copy(folder / "clip_0.mp4", folder / "copy, of 0.mp4")
    shutil.copy(folder / "clip_4.mp4", folder / "seen in val.mp4")
    shutil.copy(damaged_videos["cut_short.mp4"], folder / "cut.mp4")
    shutil.copy(images["png"], folder)
    train = ["clip_0.mp4,0", "clip_1.mp4,1", "copy, of 0.mp4,0", "cut.mp4,1", "gone.mp4,2", "seen in val.mp4,0"]
    (folder / "train.csv").write_text("\n".join([*train, "image.png,2"]))
    (folder / "val.csv").write_text("clip_2.mp4,0\nclip_3.mp4,1\nclip_4.mp4,0\n")
    return folder


def run(tool, *arguments) -> int:
    return tool.run(tool.parse_arguments([str(argument) for argument in arguments]), Console(quiet=True))


def findings(output: Path, split: str) -> dict[str, str]:
    report = json.loads((output / "report.json").read_text())
    return {Path(item["path"]).name: item["problem"] for item in report["splits"][split]["findings"]}


@pytest.mark.parametrize("decode", ["none", "ends", "full"])
def test_every_fault_is_found(tool, dataset, tmp_path, decode):
    output = tmp_path / "out"
    assert run(tool, "--data", dataset, "--decode", decode, "--output", output, "--workers", 2) == 1
    assert findings(output, "train") == {
        "copy, of 0.mp4": "duplicate",
        "cut.mp4": "unreadable",
        "gone.mp4": "missing",
        "seen in val.mp4": "duplicate",  # stays where results are measured
    }
    assert findings(output, "val") == {}
    kept = [(Path(entry.path).name, entry.label) for entry in read_manifest(output, "train")]
    assert kept == [("clip_0.mp4", 0), ("clip_1.mp4", 1), ("image.png", 2)]
    assert read_manifest(output, "val") == read_manifest(dataset, "val")
    report = json.loads((output / "report.json").read_text())
    train = report["splits"]["train"]
    assert train["labels"] == {"0": 3, "1": 2, "2": 2} and train["files"] == 7 and train["clean"] == 3
    assert train["frames"] == {"min": 1, "median": 24, "mean": 19.4, "max": 24}
    assert train["sizes"] == {"64x64": 4, "96x64": 1}
    text = (output / "report.txt").read_text()
    assert "truncated" in text and "gone.mp4: no such" in text and "same content as" in text


def test_what_a_run_asks_for(tool, dataset, tmp_path):
    output = tmp_path / "out"
    arguments = ("--data", dataset / "val.csv", "--clip", "16x2", "--crop", "65", "--output", output)
    assert run(tool, *arguments, "--drop", "short") == 1
    assert set(findings(output, "train").values()) == {"short"}  # a clip spans 31 frames; they have 24
    with pytest.raises(ValueError, match="lists no video"):
        read_manifest(output / "train.csv")
    assert run(tool, "--data", dataset / "val.csv", "--clip", "12x2", "--crop", "65", "--output", output) == 1
    assert set(findings(output, "train").values()) == {"small"}
    assert len(read_manifest(output / "train.csv")) == 3, "reported, and kept"
    assert run(tool, "--data", dataset / "val.csv", "--clip", "12x2", "--crop", "64", "--output", output) == 0


def test_the_data_of_a_configuration(tool, dataset, tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text("DATA: {NUM_FRAMES: 16, SAMPLING_RATE: 2, CROP_SIZE: 64}")
    output = tmp_path / "out"
    assert run(tool, "--output", output, "--cfg", config, "DATA.PATH_TO_DATA_DIR", dataset / "val.csv") == 1
    assert set(findings(output, "train").values()) == {"short"}


def test_what_cannot_be_checked_is_one_line(tool, tmp_path, capsys):
    assert tool.main(["--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and "nowhere" in printed and printed.count("\n") == 1
    for wrong in (["--data", "a", "--clip", "16"], ["--data", "a", "--workers", "0"], ["--cfg", "SEED", "1"], []):
        with pytest.raises(SystemExit):
            tool.parse_arguments(wrong)


def test_folders_of_frames(tool, images, tmp_path):
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            shutil.copy(
                images["png" if number else "bmp"], tmp_path / "data" / name / f"{number}.{'png' if number else 'bmp'}"
            )
    output = tmp_path / "out"
    assert run(tool, "--data", tmp_path / "data", "--format", "frames", "--output", output) == 1
    assert list(findings(output, "train").values()) == ["duplicate"]
    (entry,) = read_manifest(output / "train.csv")
    assert entry.path == str(tmp_path / "data" / "one")


def test_duplicates_are_told_from_files_of_the_same_size(tmp_path):
    contents = [bytes(300_000), bytes(150_000) + b"x" + bytes(149_999), b"y" + bytes(299_999), bytes(300_000), b"", b""]
    checks = []
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(content)
        checks.append(check_file(Entry(str(path), 0), Requirements())._replace(problem=""))
    assert find_duplicates(checks) == {3: str(tmp_path / "0.bin"), 5: str(tmp_path / "4.bin")}


def test_a_stopped_check_ends_its_threads(sample_videos):
    seen = []

    def check(entry):
        seen.append(entry)
        return check_file(entry, Requirements(), decode="none", timeout=60)

    entries = [Entry(str(sample_videos / "clip_0.mp4"), 0)] * 500
    running = check_files(entries, check, workers=2)
    next(running)
    running.close()
    assert len(seen) < 20


def test_ctrl_c_writes_what_is_known(sample_videos, tmp_path):
    lines = [f"{sample_videos}/clip_{number % 8}.mp4,0\n" for number in range(20_000)]
    (tmp_path / "list.csv").write_text("".join(lines))
    command = [sys.executable, str(TOOL), "--data", str(tmp_path / "list.csv"), "--output", str(tmp_path / "out")]
    command += ["--decode", "full"]  # milliseconds a file: the fastest machine is not done before the signal
    # A background job of a shell has Ctrl-C ignored, and so would have the tool that these tests start in it.
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["interrupted"] and 0 < report["splits"]["train"]["files"] < 20_000
    assert (tmp_path / "out" / "train.csv").exists() and "INTERRUPTED" in (tmp_path / "out" / "report.txt").read_text()
    assert os.path.isfile(tmp_path / "out" / "train.csv")
