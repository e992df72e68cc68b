"""Faults of the disk that a run writes to: it is full, or another run has the folder."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

from fault_data import may_mount
from fault_processes import Ground
from fault_runs import Run, differences, newest_step, read_log


def full_disk(ground: Ground) -> Iterator[dict]:
    """The disk fills up in the middle, and has room again later (root); the run goes on without, or stops."""
    if not may_mount():
        print("    full_disk: left out, it needs root and mount namespaces")
        return
    # A disk of 8 MB, filled after step 8 and, in the first of two runs, emptied again after step 16.
    for mode in ("continue", "stop"):
        folder = ground.folder / f"full_disk_{mode}"
        folder.mkdir(parents=True)
        script = f'mount -t tmpfs -o size=8m tmpfs {folder} && cp {folder}.yaml {folder}/tiny.yaml && exec "$@"'
        run = Run(folder, ground.data, 2, overrides=("TRAIN.ON_FULL_DISK", mode), faults="slow:0:1:0.15",
                  before=("unshare", "--mount", "sh", "-c", script, "sh"))  # fmt: skip
        folder.with_suffix(".yaml").write_text((folder / "tiny.yaml").read_text())
        run.start()
        run.wait_for_step(8)
        inside = f"/proc/{run.main_of(0)}/root{folder}"
        fill(f"{inside}/other")
        at, message = time.monotonic(), []
        if mode == "continue":
            run.wait_for_step(16)
            os.unlink(f"{inside}/other")
            run.wait_for_step(22)
            saved = len(run.lines_with("NOT saved"))
            message = [f"{saved} checkpoints not saved", *run.lines_with("NOT saved")[:1]]
        code = run.wait()
        yield {
            "fault": f"disk full from step 8 on, TRAIN.ON_FULL_DISK {mode}",
            "ended after": time.monotonic() - at,
            "exit code": code,
            "left behind": len(run.left_behind()),
            "message": message or run.lines_with("error:"),
            **({"differs": told_otherwise(run, ground)} if mode == "continue" else {}),
        }


def told_otherwise(run: Run, ground: Ground) -> str:
    """What differs in the losses that the output tells: the disk, with log and checkpoints, is gone with the run."""
    expected = (ground.undisturbed() / "output.txt").read_text()
    losses = [re.findall(r"grad norm (.*) \| lr", text) for text in (run.output, expected)]
    return "" if losses[0] == losses[1] else "losses"


def fill(path: str) -> None:
    """A file as large as the disk has room for."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def same_folder(ground: Ground) -> Iterator[dict]:
    """A second run on the output folder of one that is going on, and one on that of a run that was killed."""
    folder = ground.folder / "same_folder"
    first = Run(folder, ground.data, 2, faults="slow:0:1:0.2").start()
    first.wait_for_step(4)
    second = Run(ground.folder / "same_folder_second", ground.data, 2, overrides=("OUTPUT_DIR", folder / "run")).start()
    at = time.monotonic()
    code = second.wait()
    yield {
        "fault": "a second run with the same OUTPUT_DIR",
        "ended after": time.monotonic() - at,
        "exit code": code,
        "left behind": len(second.left_behind()),
        "message": second.lines_with("error:"),
    }
    os.kill(first.main_of(0), signal.SIGKILL)
    first.end()
    repeated = first.last_step - newest_step(folder)
    again = Run(folder, ground.data, 2).start()
    code = again.wait()
    yield {
        "fault": "the first one killed, and started again",
        "exit code": code,
        "left behind": len(again.left_behind()),
        "steps repeated": repeated,
        "message": [f"log.jsonl has {len(read_log(folder / 'run'))} lines"],
        "differs": differences(folder, ground.undisturbed()),
    }
