"""Faults of data: workers and decoders that die or hang, a folder that is away, shared memory that is too small."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from fault_processes import Ground
from fault_runs import Run, differences

WORKERS = ("DATA_LOADER.NUM_WORKERS", 2)
BESIDE = ("DATA.DECODE_TIMEOUT", 30)  # decoding in a process beside every worker
SLOWLY = "slow:0:1:0.1"  # so that there is a middle to disturb
# In the place of decord, which reads no file of these runs but the one whose name says so.
HANGING_DECORD = """
import time
class logging:
    QUIET = 0
    set_level = staticmethod(lambda level: None)
DECORDError = RuntimeError
cpu = lambda number: None
def VideoReader(path, **options):
    time.sleep(1000 if "hangs" in path else 0)
    raise RuntimeError("not here")
"""


def killed_worker(ground: Ground) -> Iterator[dict]:
    """SIGKILL to loader workers."""
    for processes in (1, 2):
        folder = ground.folder / f"killed_worker_{processes}"
        run = Run(folder, ground.data, processes, overrides=WORKERS, faults=SLOWLY).start()
        victims = []
        for step in (4, 9, 14):
            run.wait_for_step(step)
            victims.append(run.workers_of(run.main_of(processes - 1))[step % 2])
            os.kill(victims[-1], signal.SIGKILL)
        yield {
            "fault": f"SIGKILL of {len(victims)} loader workers of rank {processes - 1}, {processes} processes",
            "exit code": run.wait(),
            "left behind": len(run.left_behind()),
            "message": run.lines_with("a loader worker died")[:1],
            "differs": differences(folder, ground.undisturbed(processes)),
        }


def killed_decoder(ground: Ground) -> Iterator[dict]:
    """SIGKILL to the decoding processes beside the workers."""
    folder = ground.folder / "killed_decoder"
    run = Run(folder, ground.data, 2, overrides=WORKERS + BESIDE, faults=SLOWLY).start()
    killed = 0
    for step in range(4, 23, 6):
        run.wait_for_step(step)
        for worker in run.workers_of(run.main_of(1)):
            for helper in run.helpers_of(worker):
                os.kill(helper, signal.SIGKILL)
                killed += 1
    yield {
        "fault": f"SIGKILL of {killed} decoding processes beside the workers of rank 1 of 2",
        "exit code": run.wait(),
        "left behind": len(run.left_behind()),
        "message": [f"unreadable: {run.log[-1]['unreadable']}"],
        "differs": differences(folder, ground.undisturbed()),
    }


def hanging_video(ground: Ground) -> Iterator[dict]:
    """One video of the set never comes back from its decoder."""
    videos, broken = ground.folder / "hanging_data", ground.folder / "broken_data"
    for folder in (videos, broken):
        shutil.copytree(ground.data, folder, dirs_exist_ok=True)
        write_other_codec(folder / "hangs.avi")
        with (folder / "train.csv").open("a") as lines:
            lines.write("hangs.avi 0\n")
    (broken / "hangs.avi").write_bytes(b"no video")
    place = ground.folder / "decoders"
    (place / "decord").mkdir(parents=True, exist_ok=True)
    (place / "decord" / "__init__.py").write_text(HANGING_DECORD)
    (place / "decord" / "_ffi").mkdir(exist_ok=True)
    (place / "decord" / "_ffi" / "__init__.py").write_text("")
    (place / "decord" / "_ffi" / "base.py").write_text("class DECORDLimitReachedError(RuntimeError): pass\n")
    keys = (*WORKERS, "DATA.DECODE_TIMEOUT", 2, "DATA.MAX_UNREADABLE_FRACTION", 0.9, "DISTRIBUTED.TIMEOUT", 30)
    path = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    folder = ground.folder / "hanging_video"
    run = Run(folder, videos, 2, overrides=keys, environment={"PYTHONPATH": path}).start()
    code = run.wait()
    # The same list with a file in its place that is no video: replaced by the same draws.
    same = Run(ground.folder / "broken_video", broken, 2, overrides=keys).start()
    same.wait()
    yield {
        "fault": f"a video that hangs its decoder, met {run.log[-1]['unreadable']} times, DATA.DECODE_TIMEOUT 2",
        "ended after": time.monotonic() - run.started,
        "exit code": code,
        "left behind": len(run.left_behind()),
        "message": (folder / "run" / "unreadable.txt").read_text().splitlines()[:1],
        "differs": differences(folder, ground.folder / "broken_video"),
    }


def write_other_codec(path: Path) -> None:
    """An MPEG-4 video of 24 frames: "auto" gives it to decord first."""
    frames = np.random.default_rng(0).integers(0, 255, (24, 64, 64, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def vanished_folder(ground: Ground) -> Iterator[dict]:
    """The data folder is renamed in the middle: for 8 seconds, emptied as an unmounted disk, and for good."""
    for name, workers in (("renamed", WORKERS), ("empty", WORKERS + BESIDE), ("renamed, no workers", ())):
        data = ground.folder / "away" / name.replace(", ", "_").replace(" ", "_")
        shutil.copytree(ground.data, data)
        folder = ground.folder / f"vanished_{data.name}"
        run = Run(folder, data, 2, overrides=workers, faults=SLOWLY).start()
        run.wait_for_step(6)
        data.rename(data.with_name("elsewhere"))
        if name == "empty":
            data.mkdir()
        time.sleep(8)
        if name == "empty":
            data.rmdir()
        data.with_name("elsewhere").rename(data)
        yield {
            "fault": f"data folder away for 8 s ({name})",
            "exit code": run.wait(),
            "left behind": len(run.left_behind()),
            "message": (run.lines_with("waiting for it")[:1] + run.lines_with("is back after")[:1]),
            "unreadable": run.log[-1]["unreadable"],
            "differs": differences(folder, ground.undisturbed()),
        }
    for processes in (1, 2):
        data = ground.folder / "away" / f"for_good_{processes}"
        shutil.copytree(ground.data, data)
        folder = ground.folder / f"vanished_{data.name}"
        keys = (*WORKERS, "DATA.ROOT_TIMEOUT", 5, "TRAIN.CHECKPOINT_PERIOD", 4)
        run = Run(folder, data, processes, overrides=keys, faults=SLOWLY).start()
        run.wait_for_step(6)
        data.rename(data.with_name("elsewhere"))
        at = time.monotonic()
        code = run.wait()
        ended, reached = time.monotonic() - at, run.last_step
        data.with_name("elsewhere").rename(data)
        message = run.lines_with("error:")
        again = Run(folder, data, processes, overrides=keys).start()
        again.wait()
        yield {
            "fault": f"data folder away for good, DATA.ROOT_TIMEOUT 5, {processes} processes",
            "ended after": ended,
            "exit code": code,
            "left behind": len(run.left_behind()),
            "steps repeated": reached - first_step(again),
            "message": message,
            "differs": differences(folder, ground.undisturbed(processes)),
        }


def first_step(run: Run) -> int:
    """The step from which a run went on."""
    line = next(iter(run.lines_with("starts from:")), "")
    return int(line.partition("(step ")[2].partition(",")[0] or 0)


def small_shared_memory(ground: Ground) -> Iterator[dict]:
    """/dev/shm is too small for the batches of the loader's workers (root)."""
    if not may_mount():
        print("    small_shared_memory: left out, it needs root and mount namespaces")
        return
    before = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=100k tmpfs /dev/shm && exec "$@"', "sh")
    folder = ground.folder / "small_shared_memory"
    run = Run(folder, ground.data, 1, overrides=WORKERS, before=before).start()
    code = run.wait(60)
    yield {
        "fault": "/dev/shm of 100 kB, batches of 49 kB, 2 workers that prepare 2 each",
        "ended after": time.monotonic() - run.started,
        "exit code": code,
        "left behind": len(run.left_behind()),
        "message": run.lines_with("error:"),
        "differs": ground.finish(folder, processes=1),
    }


def may_mount() -> bool:
    return (
        sys.platform == "linux"
        and not subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode
    )
