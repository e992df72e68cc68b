"""Faults of processes: killed, stopped, slow, computing what is no number."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from fault_runs import STEPS, Run, differences, newest_step

from diffmae_video.engine.checkpoint import check_file, step_files

RESTARTS = 60  # more than any scenario needs: one that needs more does not come forward


class Ground:
    """Where scenarios happen: the data, and undisturbed runs to compare with, made when first asked for."""

    def __init__(self, folder: Path, data: Path):
        self.folder, self.data = folder, data
        self._made: set[str] = set()

    def undisturbed(self, processes: int = 2, data: Path | None = None) -> Path:
        name = f"undisturbed_{processes}_{data.name if data else 'data'}"
        if name not in self._made:
            run = Run(self.folder / name, data or self.data, processes).start()
            if run.wait():
                raise RuntimeError(f"the undisturbed run failed: {run.output[-3000:]}")
            self._made.add(name)
        return self.folder / name

    def finish(self, folder: Path, data: Path | None = None, processes: int = 2, launcher: str = "num_gpus") -> str:
        """Starts a run again, without the fault, to its end; what then differs from the undisturbed one, "" = nothing.

        Returns:
            Those differences, or that it failed.
        """
        run = Run(folder, data or self.data, processes, launcher).start()
        code = run.wait()
        return f"exit code {code}: {run.output[-500:]}" if code else differences(folder, self.undisturbed(processes))


def killed_rank(ground: Ground, launchers: tuple[str, ...] = ("num_gpus", "torchrun")) -> Iterator[dict]:
    """SIGKILL to one of two ranks in the middle of the run."""
    for launcher in launchers:
        for rank in (0, 1):
            folder = ground.folder / f"killed_rank_{rank}_{launcher}"
            run = Run(folder, ground.data, 2, launcher, faults="slow:0:1:0.05").start()
            run.wait_for_step(8)
            victim = run.main_of(rank)
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            code, reached = run.wait(120), run.last_step
            ended = time.monotonic() - killed
            left = run.left_behind()
            saved = newest_step(folder)
            words = f"rank {rank} of 2" if launcher == "num_gpus" else "rank"
            yield {
                "fault": f"SIGKILL of rank {rank} of 2, {launcher}",
                "ended after": ended,
                "exit code": code,
                "left behind": len(left),
                "steps repeated": reached - saved,
                "message": (run.lines_with(words, "killed by SIGKILL") + run.lines_with(f"rank {rank}", "gone"))[:2],
                "differs": ground.finish(folder, launcher=launcher),
            }


def killed_launcher(ground: Ground) -> Iterator[dict]:
    """SIGKILL to the process that started the ranks, and has the store at which they meet."""
    folder = ground.folder / "killed_launcher"
    run = Run(folder, ground.data, 2, faults="slow:0:1:0.1").start()
    run.wait_for_step(8)
    os.kill(run.process.pid, signal.SIGKILL)
    killed = time.monotonic()
    left = run.left_behind(60)
    yield {
        "fault": "SIGKILL of the launcher of 2 processes, NUM_GPUS",
        "ended after": time.monotonic() - killed,
        "exit code": run.wait(),
        "left behind": len(left),
        "steps repeated": run.last_step - newest_step(folder),
        "message": run.lines_with("error:") + run.lines_with("Traceback"),
        "differs": ground.finish(folder),
    }


def killed_run(ground: Ground, times: int = 20, seed: int = 0) -> Iterator[dict]:
    """SIGKILL to all processes, at random moments and while they save; the same command again until all is done."""
    moments = random.Random(seed)
    folder = ground.folder / "killed_run"
    saving = repeated = kills = broken = 0
    for _ in range(RESTARTS):
        run = Run(folder, ground.data, 2, faults="slow:0:1:0.02").start()
        if kills == times:
            run.wait()
            break
        before = newest_step(folder)
        try:
            # So that all the kills fall into the run: it makes a step or two between two of them.
            run.wait_for_step(min(before + 1, STEPS - 1))
        except TimeoutError:
            break
        pids = run.pids()
        if kills % 2:
            time.sleep(moments.uniform(0, 0.15))
        else:
            wait_for_a_save(folder)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        run.end()
        kills += 1
        saving += any((folder / "run" / "checkpoints").glob(".*.tmp"))
        after, reached = newest_step(folder), run.last_step
        broken += after < before or any(not whole(path) for path in step_files(folder / "run" / "checkpoints").values())
        repeated += max(reached - after, 0)
    yield {
        "fault": f"SIGKILL of all processes, {kills} times, {saving} of them while a checkpoint was being written",
        "exit code": run.process.returncode,
        "left behind": len(run.left_behind()),
        "steps repeated": repeated,
        "good checkpoints lost or damaged": broken,
        "differs": differences(folder, ground.undisturbed()),
    }


def wait_for_a_save(folder: Path) -> None:
    """Until a checkpoint is being written, without a pause: it takes some milliseconds."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        if any(name.endswith(".tmp") for name in os.listdir(folder / "run" / "checkpoints")):
            return


def whole(path: Path) -> bool:
    try:
        check_file(path)
    except RuntimeError:
        return False
    return True


def restarted_by_torchrun(ground: Ground) -> Iterator[dict]:
    """SIGKILL to a rank where torchrun may restart the run by itself."""
    folder = ground.folder / "restarted_by_torchrun"
    run = Run(
        folder, ground.data, 2, "torchrun", faults="kill:1:9",
        environment={"FAULT_MARKS": str(folder)}, torchrun=("--standalone", "--max-restarts=2"),
    ).start()  # fmt: skip
    yield {
        "fault": "SIGKILL of rank 1 of 2, torchrun --max-restarts 2",
        "exit code": run.wait(),
        "left behind": len(run.left_behind()),
        "message": run.lines_with("starts from:")[1:2],
        "differs": differences(folder, ground.undisturbed()),
    }


def not_a_number(ground: Ground) -> Iterator[dict]:
    """One rank's loss, or only its gradient, is NaN at step 9."""
    for kind in ("nan", "nan_gradient"):
        folder = ground.folder / kind
        run = Run(folder, ground.data, 2, faults=f"{kind}:1:9").start()
        code = run.wait()
        listings = sorted(path.name for path in (folder / "run").glob("nonfinite*"))
        yield {
            "fault": f"{'loss' if kind == 'nan' else 'gradient'} of rank 1 of 2 not a number at step 9",
            "exit code": code,
            "left behind": len(run.left_behind()),
            "steps repeated": 8 - newest_step(folder),
            "message": run.lines_with("error:", "step 9"),
            "files": listings,
            "differs": ground.finish(folder),
        }


def slow_rank(ground: Ground) -> Iterator[dict]:
    """Rank 1 sleeps for 3 seconds in every step; nobody may lose patience."""
    folder = ground.folder / "slow_rank"
    run = Run(folder, ground.data, 2, faults="slow:1:1:1.5").start()  # in each of two micro-batches
    code = run.wait()
    seen = [line for line in (folder / "run" / "log.jsonl").read_text().splitlines() if '"slowest_rank": 1' in line]
    yield {
        "fault": "rank 1 of 2 sleeps 3 s in every step",
        "exit code": code,
        "ended after": time.monotonic() - run.started,
        "message": [f"log.jsonl names rank 1 as the slowest in {len(seen)} of {STEPS} lines"],
        "differs": differences(folder, ground.undisturbed()),
    }


def stopped_rank(ground: Ground, launchers: tuple[str, ...] = ("num_gpus", "torchrun")) -> Iterator[dict]:
    """A rank is stopped (SIGSTOP): for less time than the others wait, and for good."""
    for rank in (0, 1):
        folder = ground.folder / f"stopped_and_continued_{rank}"
        marks = {"FAULT_MARKS": str(folder)}
        run = Run(folder, ground.data, 2, faults=f"stop:{rank}:9", environment=marks).start()
        run.wait_for_step(8)
        time.sleep(15)
        os.kill(run.main_of(rank), signal.SIGCONT)
        yield {
            "fault": f"rank {rank} of 2 stopped for 15 s, DISTRIBUTED.TIMEOUT 60",
            "exit code": run.wait(),
            "left behind": len(run.left_behind()),
            "differs": differences(folder, ground.undisturbed()),
        }
    for launcher in launchers:
        for rank in (0, 1):
            folder = ground.folder / f"stopped_{rank}_{launcher}"
            marks = {"FAULT_MARKS": str(folder)}
            keys = ("DISTRIBUTED.TIMEOUT", 10)
            run = Run(folder, ground.data, 2, launcher, keys, f"stop:{rank}:9", marks).start()
            run.wait_for_step(8)
            stopped = time.monotonic()
            code = run.wait(150)
            yield {
                "fault": f"rank {rank} of 2 stopped for good, DISTRIBUTED.TIMEOUT 10, {launcher}",
                "ended after": time.monotonic() - stopped,
                "exit code": code,
                "left behind": len(run.left_behind()),
                "steps repeated": 8 - newest_step(folder),
                "message": run.lines_with("error:")[:2],
                "differs": ground.finish(folder, launcher=launcher),
            }
