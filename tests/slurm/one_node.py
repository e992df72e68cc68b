"""A real SLURM of one node, for tests: its daemons as children of this process, in a folder of their own.

Nothing of the machine's configuration is read or changed, the ports are free ones, and there is neither systemd nor a
control group: what starts is ``munged``, ``slurmctld`` and ``slurmd``, as root, and what ends is the same. Accounting
(``sacct``) would need a database and is left out.

    python tests/slurm/one_node.py       starts one, prints how to use it, and stops it on Ctrl-C
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "squeue", "scontrol", "scancel")
ENDED = {"CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "PREEMPTED", "TIMEOUT"}
WAIT_SECONDS = 300.0  # for a job: the machines that test are busy
START_SECONDS = 60.0  # until a daemon answers, on a busy machine
CPUS = 4  # that the node claims to have, however many there are
REQUEUE_DELAY = 5  # seconds until a requeued job may start: the life of a credential; SLURM takes no less
KILL_WAIT = 15  # seconds between SIGTERM and SIGKILL; SLURM's default is 30

# Jobs are counted from a number of this cluster's own: a run's port follows from it, and there may be two clusters.
# Jobs in "high" take the node from those in "main", which then have GRACE seconds and are queued again. They are told
# by SIGTERM: SLURM's default, where submitit expects "preempt_send_user_signal".
GRACE = 30
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire={requeue_delay}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
FirstJobId={node_port}
KillWait={kill_wait}
MinJobAge=3600
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,requeue_delay=0
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=high Nodes={host} MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str:
    """Why no SLURM can be started here; "" = it can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"SLURM is not installed ({', '.join(absent)}): apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 else "a SLURM for tests is started as root"


class OneNode:
    """A running cluster: ``environment`` has what its commands need."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        self.environment["SLURM_CONF"] = str(folder / "slurm.conf")

    def run(self, *command: str) -> str:
        """What a command prints.

        Raises:
            RuntimeError: it fails.
        """
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}: {result.stdout}{result.stderr}")
        return result.stdout.strip()

    def state(self, job: str) -> str:
        """State of a job, such as "PENDING", "RUNNING", "COMPLETED" or "FAILED"."""
        return self.run("squeue", "--noheader", "--states", "all", "--jobs", job, "--format", "%T")

    def field(self, job: str, name: str) -> str:
        """A field of ``scontrol show job``."""
        return self.run("scontrol", "show", "job", job).split(f"{name}=")[1].split()[0]

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
        """Raises TimeoutError, with what the jobs look like, if it takes longer."""
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                jobs = self.run("squeue", "--states", "all", "--format", "%i %j %T %r")
                raise TimeoutError(f"{what}: not within {seconds:g} s\n{jobs}")
            time.sleep(0.1)

    def wait_for_state(self, job: str, state: str) -> None:
        """Raises RuntimeError, with the end of its log, if the job ends in another one."""

        def reached() -> bool:
            now = self.state(job)
            if now != state and now in ENDED:
                log = Path(self.field(job, "StdOut"))
                end = log.read_text()[-3000:] if log.exists() else "no log"
                raise RuntimeError(f"job {job} is {now}, not {state}:\n{end}")
            return now == state

        self.wait(f"job {job} {state}", reached)


@contextlib.contextmanager
def one_node() -> Iterator[OneNode]:
    """A cluster that lives inside this context. Its jobs and daemons end with it, whatever happens in between.

    Raises:
        RuntimeError: a daemon ended or did not answer; with the end of its log.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster, daemons = OneNode(folder), []
    try:
        _configure(folder)
        _start(cluster, daemons)
        yield cluster
    finally:
        _stop(cluster, daemons)
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path) -> None:
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o755)
    folder.chmod(0o755)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        ports = {"controller_port": first.getsockname()[1], "node_port": second.getsockname()[1]}
    host = socket.gethostname().split(".")[0]
    values = {"host": host, "folder": folder, "cpus": CPUS, "grace": GRACE, "kill_wait": KILL_WAIT}
    values["requeue_delay"] = REQUEUE_DELAY
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**values, **ports))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")


def _start(cluster: OneNode, daemons: list[subprocess.Popen]) -> None:
    munge = cluster.folder / "munge"
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    options = [f"--{option}={munge / name}" for option, name in files.items()]
    _daemon(cluster, daemons, ["munged", "--foreground", "--force", "--num-threads=2", *options])
    _answers(cluster, daemons, lambda: (munge / "socket").exists())
    _daemon(cluster, daemons, ["slurmctld", "-D", "-i"])
    _answers(cluster, daemons, lambda: "is UP" in cluster.run("scontrol", "ping"))
    _daemon(cluster, daemons, ["slurmd", "-D"])
    _answers(cluster, daemons, lambda: cluster.run("sinfo", "--noheader", "--partition=main", "--format=%t") == "idle")


def _daemon(cluster: OneNode, daemons: list[subprocess.Popen], command: list[str]) -> None:
    with (cluster.folder / f"{command[0]}.out").open("w") as output:
        # A session of its own: Ctrl-C on the terminal of the tests would end it before its jobs.
        options = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, "start_new_session": True}
        daemons.append(subprocess.Popen(command, env=cluster.environment, preexec_fn=_end_with_parent, **options))


def _end_with_parent() -> None:
    """Of a daemon, before it runs: ended when the tests are killed, so that none is left behind."""
    parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGTERM)


def _answers(cluster: OneNode, daemons: list[subprocess.Popen], ready: Callable[[], bool]) -> None:
    newest, deadline = daemons[-1], time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(RuntimeError):  # it does not answer yet
            if ready():
                return
        if newest.poll() is not None or time.monotonic() > deadline:
            log = (cluster.folder / f"{newest.args[0]}.out").read_text()[-2000:]
            raise RuntimeError(f"{newest.args[0]} ended or does not answer:\n{log}")
        time.sleep(0.1)


def _stop(cluster: OneNode, daemons: list[subprocess.Popen]) -> None:
    """Ends all jobs, then the daemons, the last one first."""
    if len(daemons) == 3:
        with contextlib.suppress(RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            jobs = cluster.run("squeue", "--noheader", "--format", "%A").split()
            if jobs:
                cluster.run("scancel", "--signal=KILL", "--full", *jobs)
                cluster.run("scancel", *jobs)
            cluster.wait("no jobs", lambda: not cluster.run("squeue", "--noheader"), 30)
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


if __name__ == "__main__":
    if missing():
        sys.exit(missing())
    with one_node() as running, contextlib.suppress(KeyboardInterrupt):
        print(f"export SLURM_CONF={running.environment['SLURM_CONF']}\nCtrl-C stops it", flush=True)
        signal.pause()
