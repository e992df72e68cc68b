"""What every task of a SLURM job runs: ``tools/run_net.py`` as a child process, until it ends or is asked to.

submitit pickles a ``TrainingJob`` when it is submitted and calls it in every task of the job (``srun`` starts them).
The child is told its place in the run by torchrun's environment variables.

Who is told that a job has to stop, as SLURM 22.05 and submitit 1.5.4 do it:

- SLURM sends a signal to every process of every task: to this one, to the child, and to the child's data loaders.
- USR2 (before the time limit, or a preemption where the cluster is set up so): submitit's handler calls
  ``checkpoint()`` in the first task, then has the job queued again and ends. In the other tasks it does nothing.
- TERM (``scontrol requeue``, ``scancel``, a preemption where the cluster is set up so): submitit does nothing.
  ``_after_stop`` asks SLURM whether it is ending the job by itself, and if not, has it queued again.

Everything here can be interrupted by a signal handler that comes to the same place, so nothing takes a lock.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import submitit
from submitit.helpers import DelayedSubmission

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # USR2 is submitit's
# Exit codes of a run that was asked to stop, did, and can go on.
STOPPED = {128 + number for number in (*FORWARDED, signal.SIGUSR2)}
POLL_SECONDS = 0.2
SETTLE_SECONDS = 1.0  # for SLURM to note that a job is ending, and for submitit's handler to be first
LINGER_SECONDS = 120.0  # that the other tasks wait for the first one, which decides what becomes of the job
# Below the ports that Linux gives to outgoing connections (from 32768), above those that need rights.
FIRST_PORT, PORTS = 20000, 12000


@dataclass
class TrainingJob:
    """A run as one task of a job.

    Calling it runs ``command`` to its end. It returns if the exit code is 0 and raises ``SystemExit`` with the code
    otherwise, so that SLURM sees it: 128 + the signal's number for a child that was killed by one.

    Attributes:
        command: program and arguments, the same in all tasks.
        folder: working directory of the command.
        requeue: whether a job that is stopped before its end is queued again.
        patience: seconds that a run which is asked to stop has to save its state before the job is queued again
            without; it then goes on from its last checkpoint.
    """

    command: tuple[str, ...]
    folder: str
    requeue: bool
    patience: float
    _child: subprocess.Popen | None = field(default=None, init=False, repr=False, compare=False)
    _ending: bool = field(default=False, init=False, repr=False, compare=False)  # SIGTERM was received

    def __call__(self) -> None:
        job = submitit.JobEnvironment()
        with self._forwarding():
            environment = os.environ | process_environment(job)
            self._child = subprocess.Popen(self.command, cwd=self.folder, env=environment)
            code = self._wait(float("inf"))
            if code in STOPPED and job.cluster == "slurm":
                self._after_stop(job)
        # It stays a zombie until this process ends, so that a handler may still ask for it.
        self._child.returncode = code
        if code:
            hint = ", perhaps for lack of memory (--memory-gb)" if code == 128 + signal.SIGKILL else ""
            _say(f"rank {job.global_rank}: the run ended with exit code {code}{hint}")
            raise SystemExit(code)

    def checkpoint(self) -> DelayedSubmission | None:
        """Has the run save its state and end; gives what submitit queues again, None if nothing should be.

        submitit calls it in the first task, from a signal handler. One process that is asked to stop is enough: all
        of a run stop after the same step.
        """
        if self._child is not None and self._code() is None:
            self._child.send_signal(signal.SIGTERM)
            if self._wait(self.patience) is None:
                _say(f"the run has not ended within {self.patience:g} s: it will go on from its last checkpoint")
        return DelayedSubmission(replace(self)) if self.requeue else None

    # -------------------------------------------------------------------------------------------------- the child

    def _code(self) -> int | None:
        """Exit code of the child, None while it runs; asking changes nothing, so it can be asked anywhere."""
        ended = os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status

    def _wait(self, seconds: float) -> int | None:
        deadline = time.monotonic() + seconds
        while self._code() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return self._code()

    @contextlib.contextmanager
    def _forwarding(self) -> Iterator[None]:
        """Inside this context the child gets the signals that this process gets. It takes one for many."""

        def forward(number: int, _: object) -> None:
            self._ending |= number == signal.SIGTERM
            if self._child is not None and self._code() is None:
                self._child.send_signal(number)

        previous = {number: signal.signal(number, forward) for number in FORWARDED}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    # ------------------------------------------------------------------------------------------------------ SLURM

    def _after_stop(self, job: submitit.JobEnvironment) -> None:
        """The run was asked to stop, and has. The first task has the job queued again unless SLURM is ending it.

        The others wait for that: one that ended would take the first one with it. Its end then ends them.
        """
        if job.global_rank:
            self._ending = False
            deadline = time.monotonic() + LINGER_SECONDS
            while not self._ending and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            return
        time.sleep(SETTLE_SECONDS)
        state = _slurm("squeue", "--noheader", "--jobs", job.job_id, "--format", "%T")
        if state != "RUNNING":
            _say(f"the run has stopped; SLURM says that the job is {state or 'gone'}")
        elif self.requeue:
            _say("the run has stopped and SLURM did not end the job: it is queued again and will go on from here")
            _slurm("scontrol", "requeue", job.job_id)
        else:
            _say("the run has stopped; the job was submitted with --no-requeue, so that it ends here")


def process_environment(job: submitit.JobEnvironment) -> dict[str, str]:
    """torchrun's variables for this task of ``job``.

    The store listens on the first task's machine, at a port that follows from the job's number: jobs that share a
    machine have different ones unless their numbers differ by a multiple of ``PORTS``.
    """
    number = int("".join(re.findall(r"\d", job.raw_job_id)) or 0)
    environment = {
        "RANK": str(job.global_rank),
        "LOCAL_RANK": str(job.local_rank),
        "WORLD_SIZE": str(job.num_tasks),
        "LOCAL_WORLD_SIZE": str(job.num_tasks // job.num_nodes),
        "MASTER_ADDR": job.hostnames[0] if job.num_nodes > 1 else "127.0.0.1",
        "MASTER_PORT": str(FIRST_PORT + number % PORTS),
    }
    # As many threads as the task has cores: on a node without core binding, torch would take all of them in every task.
    if "OMP_NUM_THREADS" not in os.environ and "SLURM_CPUS_PER_TASK" in os.environ:
        environment["OMP_NUM_THREADS"] = os.environ["SLURM_CPUS_PER_TASK"]
    return environment


def _slurm(*command: str) -> str:
    """What a SLURM command prints; "" where it fails, which is said."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        _say(f"{command[0]}: {error}")
        return ""
    if result.returncode:
        _say(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout.strip()


def _say(text: str) -> None:
    """A line of the log, written at once: a print() that a signal handler interrupts cannot be entered again."""
    os.write(1, f"submit.py: {text}\n".encode())
