"""One run per output folder, and a lock that no dead run keeps."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffmae_video.engine.errors import FolderInUse, RunError
from diffmae_video.engine.lock import LOCK, lock_folder

HOLD = """
import os, sys, time
from diffmae_video.engine.lock import lock_folder
lock_folder(sys.argv[1])
children = [os.fork() for _ in range(int(sys.argv[2]))]
if 0 in children:  # as a worker of a loader does, it outlives the run by some time
    os.close(1)
    time.sleep(60)
print(*children, "has it", flush=True)
time.sleep(60)
"""


class Holder:
    """Another process that has the lock; ``workers``: children that it has forked since."""

    def __init__(self, folder: Path, workers: int = 0):
        command = [sys.executable, "-c", HOLD, str(folder), str(workers)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        *children, self.answer = self.process.stdout.readline().rpartition("has it")[0].split() + ["has it"]
        self.children = [int(child) for child in children]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self):
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def holder(tmp_path):
    made = []

    def make(workers: int = 0) -> Holder:
        made.append(Holder(tmp_path / "run", workers))
        return made[-1]

    yield make
    for other in made:
        other.end()


def test_a_second_process_is_refused_and_told_who_has_it(tmp_path, holder):
    other = holder()
    with pytest.raises(FolderInUse) as error:
        lock_folder(tmp_path / "run")
    message = str(error.value)
    assert f"process {other.process.pid} on {os.uname().nodename}, since 20" in message
    assert str(tmp_path / "run") in message and "give this one another OUTPUT_DIR" in message and "\n" not in message
    assert isinstance(error.value, RunError)


def test_a_killed_one_leaves_the_folder_free(tmp_path, holder):
    other = holder()
    other.kill()
    assert (tmp_path / "run" / LOCK).read_text()  # the file is still there
    lock_folder(tmp_path / "run")
    assert f"process {os.getpid()} on" in (tmp_path / "run" / LOCK).read_text()


def test_children_that_outlive_it_do_not_hold_the_lock(tmp_path, holder):
    """A lock of flock belongs to all copies of its descriptor: those of a loader's workers too, if they had them."""
    other = holder(workers=2)
    with pytest.raises(FolderInUse):
        lock_folder(tmp_path / "run")
    other.kill()
    deadline = time.monotonic() + 30
    while True:  # a child that has just been forked gives its copy up as soon as it gets to run
        try:
            lock_folder(tmp_path / "run")
            break
        except FolderInUse:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert all(Path(f"/proc/{pid}").exists() for pid in other.children)


def test_a_process_can_take_its_own_folder_again(tmp_path, holder):
    lock_folder(tmp_path / "mine")
    lock_folder(tmp_path / "mine" / ".." / "mine")
    lock_folder(tmp_path / "another")


def test_a_file_system_without_locks_is_said_and_used(tmp_path, caplog, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock_folder(tmp_path / "run")
    assert "has no locks" in caplog.text and "no other run has this OUTPUT_DIR" in caplog.text


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        lock_folder(tmp_path / "file" / "run")

    def fail(descriptor, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output"):
        lock_folder(tmp_path / "run")


@pytest.fixture
def command(sample_videos):
    """run_net.py on the sample videos, into a folder."""
    settings = (
        f"DATA.PATH_TO_DATA_DIR {sample_videos} DATA.NUM_FRAMES 2 DATA.SAMPLING_RATE 2 DATA.CROP_SIZE 16 DEVICE cpu "
        "MODEL.PATCH_SIZE [2,8,8] MASK.STRATEGY random MASK.RATIO 0.5 MODEL.ENCODER.WIDTH 24 MODEL.ENCODER.DEPTH 1 "
        "MODEL.ENCODER.HEADS 2 MODEL.DECODER.WIDTH 24 MODEL.DECODER.DEPTH 1 MODEL.DECODER.HEADS 2 SOLVER.BATCH_SIZE 2 "
        "SOLVER.MAX_STEPS 3 TRAIN.PRECISION fp32 DATA_LOADER.NUM_WORKERS 0 DATA.DECODE_TIMEOUT 0 "
        "TRAIN.TENSORBOARD False TRAIN.PEAK_TFLOPS 1"
    ).split()
    tool = Path(__file__).parents[2] / "tools" / "run_net.py"
    base = Path(__file__).parents[2] / "configs" / "demo" / "pretrain.yaml"

    def run(folder: Path) -> subprocess.CompletedProcess:
        overrides = [*settings, "OUTPUT_DIR", str(folder)]
        return subprocess.run(
            [sys.executable, str(tool), "--cfg", str(base), *overrides], capture_output=True, text=True, timeout=120
        )

    return run


def test_run_net_refuses_a_folder_in_use_and_goes_on_after_a_kill(tmp_path, holder, command):
    other = holder()
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir()
    half = checkpoints / ".step_00000002.pt.tmp"
    half.write_bytes(b"being written by the other run")
    refused = command(tmp_path / "run")
    assert refused.returncode == 2 and refused.stderr.count("\n") <= 2, refused.stderr
    assert f"another run has the output folder {tmp_path}/run: process {other.process.pid} on" in refused.stderr
    assert half.exists() and not (tmp_path / "run" / "log.jsonl").exists()  # nothing of the other run was touched
    other.kill()
    done = command(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert (checkpoints / "step_00000003.pt").exists() and not half.exists()
