"""`tools/run_net.py` with faults at exact steps, for the fault scripts; takes the same command line.

The environment variable FAULTS lists them, separated by spaces: ``kind:rank:step[:value]``. Steps count from 1 and only
the first time that this run comes there, which it knows by a file in the folder FAULT_MARKS; ``slow`` from there on.

    kill:1:7        SIGKILL before the gradient of step 7 of rank 1
    stop:1:7        SIGSTOP there: somebody else has to continue it
    slow:1:1:3      3 seconds of sleep in every micro-batch
    nan:1:7         the loss of rank 1 is NaN
    nan_gradient:1:7  the loss is a number, its gradient is not
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

import torch

from diffmae_video.engine.stepping import Stepper
from diffmae_video.engine.tasks import PretrainTask
from diffmae_video.engine.wrapping import unwrap

TOOL = Path(__file__).resolve().parents[2] / "tools" / "run_net.py"


def arm(faults: str, rank: int) -> None:
    """Puts the faults of this rank into the classes that do the work."""
    mine = [fault.split(":") for fault in faults.split() if int(fault.split(":")[1]) == rank]
    gradient, loss, now = Stepper.gradient, PretrainTask.loss, [0]

    def disturbed_gradient(self, batches, step):
        now[0] = step + 1
        for kind, _, at, *_ in mine:
            if now[0] == int(at) and kind in ("kill", "stop") and first_time(kind, at):
                os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        return gradient(self, batches, step)

    def disturbed_loss(self, model, batch, generators, shared):
        value, metrics = loss(self, model, batch, generators, shared)
        for kind, _, at, *seconds in mine:
            if kind == "slow" and now[0] >= int(at):
                time.sleep(float(seconds[0]))
            elif now[0] == int(at) and kind == "nan":
                value = value * float("nan")
            elif now[0] == int(at) and kind == "nan_gradient":
                weight = next(parameter for parameter in unwrap(model).parameters() if parameter.requires_grad)
                value = value + torch.sqrt((weight - weight.detach()).sum().square())  # 0, and its slope there: none
        return value, metrics

    Stepper.gradient, PretrainTask.loss = disturbed_gradient, disturbed_loss


def first_time(kind: str, step: str) -> bool:
    """Whether this fault has not happened in this run before."""
    mark = Path(os.environ["FAULT_MARKS"], f"{kind}_{step}_{os.environ.get('RANK', '0')}")
    if mark.exists():
        return False
    mark.touch()
    return True


def main() -> int:
    arm(os.environ["FAULTS"], int(os.environ.get("RANK", "0")))
    specification = importlib.util.spec_from_file_location("run_net", TOOL)
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    tool.__file__ = os.path.abspath(__file__)  # which it starts for every rank
    return tool.main()


if __name__ == "__main__":
    sys.exit(main())
