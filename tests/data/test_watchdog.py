"""A decoder that never comes back is cut off, one that crashes is survived, and neither leaves anything behind."""

from __future__ import annotations

import gc
import operator
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch

from diffmae_video.data import DrawSampler, Entry, UnreadableVideo, make_loader, read_frames, video_info, watchdog
from diffmae_video.data.dataset import ClipDataset
from diffmae_video.data.watchdog import HelperDied

# Python code that hangs for the files with "hang" in their name, in the place of decord.
FAKE_DECORD = """
import re, time
class logging:
    QUIET = 0
    set_level = staticmethod(lambda level: None)
DECORDError = RuntimeError
cpu = lambda number: None
def VideoReader(path, **options):
    path = path.rpartition("/")[2]
    if "sleep" in path:
        time.sleep(1000)
    if "spin" in path:
        re.match("(a+)+$", "a" * 64 + "b")
    if "crash" in path:
        import os
        os.abort()
    raise RuntimeError("not here")
"""
FAKE_LIMIT = "class DECORDLimitReachedError(RuntimeError): pass"


@pytest.fixture(autouse=True)
def end_helper():
    yield
    watchdog.close()


def helper_id() -> int:
    return watchdog.run(os.getpid, timeout=30)


def is_running(process: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(process: int, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(process)


def test_results_and_errors_come_back():
    assert watchdog.run(operator.add, 2, 3, timeout=30) == 5
    with pytest.raises(ZeroDivisionError):
        watchdog.run(operator.truediv, 1, 0, timeout=30)
    assert helper_id() == helper_id() != os.getpid()


def test_a_helper_that_somebody_kills_is_no_fault_of_the_function():
    """The system kills processes when memory runs out, idle ones too. What is killed every time is reported."""
    for _ in range(2):
        killed = helper_id()
        os.kill(killed, signal.SIGKILL)
        assert helper_id() != killed
    with pytest.raises(HelperDied, match="SIGKILL"):
        watchdog.run(signal.raise_signal, signal.SIGKILL, timeout=30)
    assert watchdog.run(operator.add, 2, 3, timeout=30) == 5


def test_arrays_stay_what_they_were():
    """Their memory is not used again while somebody holds them, and is while nobody does."""
    held = [watchdog.run(np.full, (50, 64, 96, 3), value, np.uint8, timeout=30) for value in range(5)]
    for value, array in enumerate(held):
        assert array.dtype == np.uint8 and array.flags.writeable and (array == value).all()
    view = torch.from_numpy(held[0])[3, 5]
    del held, array
    gc.collect()
    assert (watchdog.run(np.full, (50, 64, 96, 3), 9, np.uint8, timeout=30) == 9).all()
    assert (view == 0).all()  # of the first result, the only one in shared memory
    del view
    places = {watchdog.run(np.full, (60, 64, 96, 3), 9, np.uint8, timeout=30).ctypes.data for _ in range(5)}
    assert len(places) == 1


def test_arrays_outlive_the_helper():
    array = watchdog.run(np.arange, 1000, timeout=30)
    watchdog.close()
    assert array.sum() == 499500


def test_large_results_give_memory_back(monkeypatch):
    for size in (200 << 20, 1 << 20):
        assert watchdog.run(np.zeros, size, np.uint8, timeout=60).nbytes == size
    held = os.stat(f"/proc/{os.getpid()}/fd/{watchdog._local.helper._memory}").st_size
    assert held <= watchdog.KEPT_BYTES


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (time.sleep, (1000,)),  # waits in C, without the interpreter's lock
        (re.match, ("(a+)+$", "a" * 64 + "b")),  # computes in C, with the lock: no signal handler, no thread can run
        ("a pipe that nobody writes to", ()),  # waits in the kernel
    ],
    ids=["sleep", "spin", "pipe"],
)
def test_what_hangs_is_cut_off(function, arguments, tmp_path):
    if isinstance(function, str):
        os.mkfifo(tmp_path / "pipe")
        function, arguments = open, (str(tmp_path / "pipe"),)
    helper = helper_id()
    start = time.monotonic()
    with pytest.raises(HelperDied, match=r"took longer than 0\.4 s and was cut off"):
        watchdog.run(function, *arguments, timeout=0.4)
    assert 0.4 <= time.monotonic() - start < 3
    assert wait_until_gone(helper)
    assert watchdog.run(operator.add, 2, 3, timeout=30) == 5, "a new helper takes over"


def test_a_crash_is_survived():
    with pytest.raises(HelperDied, match="crashed the decoding process .SIGSEGV."):
        watchdog.run(signal.raise_signal, signal.SIGSEGV, timeout=30)
    with pytest.raises(HelperDied, match="exit code 7"):
        watchdog.run(os._exit, 7, timeout=30)
    assert watchdog.run(operator.add, 2, 3, timeout=30) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_schedulers_signal_to_all_processes_does_not_end_it(number):
    """SLURM sends it to every process of a job before the end; the run still finishes its step, with the same clips."""
    process = helper_id()
    os.kill(process, number)
    assert helper_id() == process


def test_a_helper_that_does_not_start():
    with pytest.raises(RuntimeError, match="does not start"):
        watchdog.run(operator.add, 2, 3, timeout=30, setup=os.abort)


def test_an_interrupted_call_does_not_answer_the_next_one():
    class Stop(BaseException):
        pass

    def stop(*_):
        raise Stop

    helper = helper_id()
    old = signal.signal(signal.SIGUSR1, stop)
    try:
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(Stop):
            watchdog.run(time.sleep, 1000, timeout=1000)
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert wait_until_gone(helper)
    assert watchdog.run(operator.add, 2, 3, timeout=30) == 5


def test_a_thread_has_its_own_helper_and_takes_it_along():
    found = []
    thread = threading.Thread(target=lambda: found.append(helper_id()))
    thread.start()
    thread.join()
    assert found[0] != helper_id()
    gc.collect()
    assert wait_until_gone(found[0])


def test_a_forked_child_starts_its_own():
    helper = helper_id()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(helper_id()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        its_own = int(file.read())
    os.waitpid(child, 0)
    assert its_own != helper and wait_until_gone(its_own)
    assert helper_id() == helper


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "hanging"])
def test_the_helper_ends_with_a_killed_owner(busy):
    """Also while it hangs, where it cannot see its pipe close: then a moment after the time limit."""
    code = f"""
        import os, sys, time
        from diffmae_video.data import watchdog
        print(watchdog.run(os.getpid, timeout=30), flush=True)
        watchdog.run(time.sleep, 1000, timeout=0.5) if {busy} else time.sleep(1000)
    """
    owner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    helper = int(owner.stdout.readline())
    assert is_running(helper)
    if busy:
        time.sleep(0.2)
    owner.kill()
    owner.communicate()
    assert wait_until_gone(helper, 0.5 + watchdog.ALARM_DELAY + 3)


def test_frames_are_the_same(numbered_videos, numbers_of, damaged_videos, tmp_path):
    path = numbered_videos["h264"]
    for backend in ("auto", "decord", "pyav"):
        frames = read_frames(path, [50, 3, 3, 89], backend, timeout=60)
        assert numbers_of(frames) == [50, 3, 3, 89]
        assert np.array_equal(frames, read_frames(path, [50, 3, 3, 89], backend))
    assert video_info(path, timeout=60) == video_info(path)
    with pytest.raises(UnreadableVideo) as caught:
        read_frames(damaged_videos["cut_short.mp4"], [0], timeout=60)
    assert caught.value.path == str(damaged_videos["cut_short.mp4"]) and "truncated" in caught.value.reason
    with pytest.raises(FileNotFoundError, match="no such video"):
        video_info(tmp_path / "gone.mp4", timeout=60)
    with pytest.raises(IndexError, match="frame 90"):
        read_frames(path, [90], timeout=60)
    with pytest.raises(ValueError, match="timeout"):
        read_frames(path, [0], timeout=-1)


def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
    for name in ("pipe.mp4", "pipe.jpg"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UnreadableVideo, match="pipe, socket or device"):
            read_frames(tmp_path / name, [0])


@pytest.fixture
def hanging_decord(tmp_path, monkeypatch):
    package = tmp_path / "fake" / "decord"
    (package / "_ffi").mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE_DECORD)
    (package / "_ffi" / "__init__.py").write_text("")
    (package / "_ffi" / "base.py").write_text(FAKE_LIMIT)
    monkeypatch.syspath_prepend(str(tmp_path / "fake"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_goes_on_when_decoders_hang_and_crash(hanging_decord, numbered_videos, tmp_path, num_workers):
    """Every hanging file is reported and replaced; every other one is drawn; no process is left."""
    entries = []
    for name in ("good_0", "sleep", "good_1", "spin", "crash", "good_2"):
        path = tmp_path / f"{name}.webm"
        path.write_bytes(numbered_videos["vp9"].read_bytes())
        entries.append(Entry(str(path), 0))
    dataset = ClipDataset(entries, 4, 2, crop_size=32, decoder="auto", decode_timeout=0.6, seed=3)
    loader = make_loader(dataset, DrawSampler(len(entries), 3, seed=3), num_workers)
    batches = iter(loader)
    taken = [next(batches) for _ in range(2)]
    failures = {os.path.basename(path): message for batch in taken for path, message in batch.failures}
    assert set(failures) == {"sleep.webm", "spin.webm", "crash.webm"}
    assert "cut off" in failures["sleep.webm"] and "cut off" in failures["spin.webm"]
    assert "SIGABRT" in failures["crash.webm"]
    drawn = {os.path.basename(path) for batch in taken for path in batch.paths}
    assert drawn == {"good_0.webm", "good_1.webm", "good_2.webm"}
    workers = [worker.pid for worker in getattr(batches, "workers", [])]
    helpers = children_of([os.getpid(), *workers]) - set(workers)
    assert helpers
    batches = loader = None
    watchdog.close()
    gc.collect()
    assert all(wait_until_gone(process) for process in (*workers, *helpers))


def children_of(parents: list[int]) -> set[int]:
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) in parents and fields[0] != "Z":
                found.add(int(name))
    return found
