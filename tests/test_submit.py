"""``slurm/submit.py`` without a SLURM; ``tests/slurm/`` runs it on one."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest
import submitit

from diffmae_video.config import load_config

SLURM = Path(__file__).parents[1] / "slurm"
MODULES = ("submit", "job_plan", "submission", "job_status", "training_job")
TINY = """
OUTPUT_DIR: runs/tiny
DATA: {PATH_TO_DATA_DIR: data, NUM_FRAMES: 4, CROP_SIZE: 32, REPEATED_SAMPLING: 2}
DATA_LOADER: {NUM_WORKERS: 3}
MODEL:
  PATCH_SIZE: [2, 8, 8]
  ENCODER: {WIDTH: 24, DEPTH: 2, HEADS: 2}
  DECODER: {WIDTH: 24, DEPTH: 1, HEADS: 2}
SOLVER: {BATCH_SIZE: 32}
"""
# A child that obeys run_net.py's contract: it says when it is ready, saves on a signal, and ends with 128 + its number.
OBEDIENT = """
import pathlib, signal, sys, time
def stop(number, frame):
    time.sleep(0.2)
    pathlib.Path("saved").write_text(str(number))
    sys.exit(128 + number)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, stop)
pathlib.Path("ready").touch()
time.sleep(60)
"""
STUBBORN = (
    "import pathlib, signal, time; signal.signal(15, signal.SIG_IGN); pathlib.Path('ready').touch(); time.sleep(60)"
)


@pytest.fixture(scope="module")
def tools() -> Iterator[SimpleNamespace]:
    sys.path.insert(0, str(SLURM))
    try:
        yield SimpleNamespace(**{name: __import__(name) for name in MODULES})
    finally:
        sys.path.remove(str(SLURM))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with a configuration per task."""
    monkeypatch.chdir(tmp_path)
    for task in ("pretrain", "finetune", "test", "inpaint_eval"):
        text = TINY.replace("runs/tiny", f"runs/{task}") + f"TASK: {task}\n"
        (tmp_path / f"{task}.yaml").write_text(text)
    return tmp_path


def planned(tools, *words: str):
    return tools.submit.plan(tools.submit.parse_arguments(words))


# ------------------------------------------------------------------------------------------------------------ planning


def test_overrides_belong_to_the_file_before_them(tools, folder):
    words = (
        "--cfg",
        "pretrain.yaml",
        "SEED",
        "3",
        "--chain",
        "finetune.yaml",
        "SEED",
        "4",
        "test.yaml",
        "--nodes",
        "2",
    )
    (first,), (second,), (third,) = planned(tools, *words)
    assert [run.cfg.SEED for run in (first, second, third)] == [3, 4, 0]
    assert [run.name for run in (first, second, third)] == ["pretrain", "pretrain-finetune", "pretrain-test"]


def test_a_chain_hands_weights_on_unless_told_otherwise(tools, folder):
    size = ("--nodes", "2", "--gpus-per-node", "4")
    jobs = planned(tools, "--cfg", "pretrain.yaml", "--chain", "finetune.yaml", "test.yaml", *size)
    assert [run.cfg.MODEL.WEIGHTS for (run,) in jobs] == ["", "runs/pretrain", "runs/finetune"]
    assert [run.resources.processes for (run,) in jobs] == [8, 8, 8]
    alone = planned(tools, "--cfg", "pretrain.yaml", "--chain", "inpaint_eval.yaml", *size)[1][0]
    assert (alone.resources.nodes, alone.resources.gpus_per_node) == (1, 1) and "one process" in alone.notes[1]
    told = planned(tools, "--cfg", "pretrain.yaml", "--chain", "finetune.yaml", "MODEL.WEIGHTS", "mine.pt")[1][0]
    assert told.cfg.MODEL.WEIGHTS == "mine.pt" and "mine.pt: as its configuration says" in told.notes[0]


def test_a_sweep_is_every_combination_in_its_own_folder(tools, folder):
    sweeps = ("--sweep", "SEED", "1", "2", "--sweep", "MODEL.PATCH_SIZE", "[2, 8, 8]", "[4,8,8]")
    (runs,) = planned(tools, "--cfg", "pretrain.yaml", *sweeps)
    assert [(run.cfg.SEED, run.cfg.MODEL.PATCH_SIZE[0]) for run in runs] == [(1, 2), (1, 4), (2, 2), (2, 4)]
    assert len({run.cfg.OUTPUT_DIR for run in runs}) == 4
    assert runs[0].cfg.OUTPUT_DIR == "runs/pretrain/SEED_1_PATCH_SIZE_-2-8-8-"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--cfg pretrain.yaml --nodes 3 --gpus-per-node 4", "BATCH_SIZE = 32 clips cannot be shared evenly by 12 proc"),
        ("--cfg pretrain.yaml --tasks-per-node 5", "set it to a multiple of 10"),
        ("--cfg pretrain.yaml NUM_GPUS 2", "SLURM starts the processes"),
        ("--cfg pretrain.yaml DEVICE cuda", "the job has no GPUs: give --gpus-per-node"),
        ("--cfg pretrain.yaml DEVICE cpu --gpus-per-node 2", "asks for 2 GPUs per node"),
        ("--cfg inpaint_eval.yaml --nodes 2 --gpus-per-node 1", "runs in one process, not in 2"),
        ("--cfg pretrain.yaml --chain pretrain.yaml", "have the same OUTPUT_DIR runs/pretrain"),
        ("--cfg pretrain.yaml --sweep OUTPUT_DIR a ./a", "have the same OUTPUT_DIR"),
        ("--cfg pretrain.yaml --sweep SEED", "expected a KEY and its values"),
        ("--cfg pretrain.yaml --sweep SEED 1 2 --chain test.yaml", "cannot be combined"),
        ("--cfg pretrain.yaml --chain SEED 3", "expected a .yaml file first"),
        ("--cfg SEED 3", "expected a .yaml file"),
        ("--cfg pretrain.yaml SEEED 3", "SEED"),
        ("--cfg absent.yaml", "no such configuration file"),
    ],
)
def test_what_cannot_work_is_not_submitted(tools, folder, monkeypatch, capsys, words, message):
    monkeypatch.setattr(sys, "argv", ["submit.py", *words.split()])
    before = set(folder.rglob("*"))
    assert tools.submit.main() == 2
    assert message in capsys.readouterr().err and set(folder.rglob("*")) == before


def test_a_test_may_write_beside_what_it_measures(tools, folder):
    assert len(planned(tools, "--cfg", "finetune.yaml", "--chain", "test.yaml", "OUTPUT_DIR", "runs/finetune")) == 2


# ------------------------------------------------------------------------------------------------------ what is handed


def test_dry_run_shows_all_and_writes_nothing(tools, folder, monkeypatch, capsys):
    options = (
        "--nodes 2 --gpus-per-node 8 --partition P --account A --qos Q --constraint C --exclude bad --comment why "
        "--memory-gb 200 --timeout-min 4320 --signal-delay 300 --sbatch reservation=r --dry-run --chain test.yaml"
    ).split()
    words = ["submit.py", "--cfg", "pretrain.yaml", *options, "--setup", "module load cuda"]
    monkeypatch.setattr(sys, "argv", words)
    before = set(folder.rglob("*"))
    assert tools.submit.main() == 0 and set(folder.rglob("*")) == before
    shown = capsys.readouterr().out
    for option in (
        "nodes=2 ntasks-per-node=8 gpus-per-node=8 partition=P account=A qos=Q constraint=C exclude=bad comment=why "
        "mem=200GB time=4320 signal=USR2@300 reservation=r cpus-per-task=4 kill-on-invalid-dep=yes"
    ).split():
        assert f"#SBATCH --{option}\n" in shown, option
    assert "#SBATCH --requeue\n" in shown and "\nmodule load cuda\n" in shown and "afterok:<JOB BEFORE>" in shown
    assert "srun" in shown and "--cpus-per-task=4 --kill-on-bad-exit=1 --wait=0" in shown
    assert shown.count("tools/run_net.py --cfg") == 2 and "it is not copied" in shown


def test_dry_run_of_a_sweep_is_one_array(tools, folder, monkeypatch, capsys):
    words = "--cfg pretrain.yaml --sweep SEED 1 2 3 --parallel 2 --no-requeue --cpus-per-task 9 --dry-run".split()
    monkeypatch.setattr(sys, "argv", ["submit.py", *words])
    assert tools.submit.main() == 0
    shown = capsys.readouterr().out
    assert "#SBATCH --array=0-2%2\n" in shown and shown.count("#!/bin/bash") == 1 and "config_2.yaml" in shown
    assert "#SBATCH --no-requeue\n" in shown and "#SBATCH --cpus-per-task=9\n" in shown


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def fakes(folder, monkeypatch) -> Path:
    """A folder in front of PATH for stand-ins of SLURM's commands (``fake``): sbatch says that it took job 12."""
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    fake(folder, "sbatch", 'cp "$1" sbatch.sh; env > sbatch.env; echo "Submitted batch job 12"')
    return folder


def test_the_job_runs_a_copy_of_the_configuration(tools, fakes, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # submitted from a shell on a node
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setattr(sys, "argv", ["submit.py", "--cfg", "pretrain.yaml", "SEED", "5", "--timeout-min", "30"])
    assert tools.submit.main() == 0
    (line,) = (fakes / "runs/pretrain/slurm/jobs.jsonl").read_text().splitlines()
    job = json.loads(line)
    assert (job["job"], job["name"]) == ("12", "pretrain")
    where = Path(job["folder"])
    assert load_config([where / "config.yaml"]) == load_config(["pretrain.yaml"], ["SEED", 5])
    shown = capsys.readouterr().out
    assert "scancel 12" in shown and f"{where}/12_0_log.out" in shown
    environment = (fakes / "sbatch.env").read_text()
    assert "SLURM_JOB_ID" not in environment and "SLURM_CONF=/etc/slurm.conf" in environment
    assert os.environ["SLURM_JOB_ID"] == "7"

    # A task has no more than the pickle: the class comes with it, and is pickled again when the job is requeued.
    code = (
        "import pickle, sys, cloudpickle\n"
        "job = pickle.load(open(sys.argv[1], 'rb')).function\n"
        "again = pickle.loads(cloudpickle.dumps(job.checkpoint())).function\n"
        "assert again == job and again is not job, again\n"
        "print(*again.command[2:], again.folder, again.requeue, again.patience)"
    )
    pickled = str(where / "12_submitted.pkl")
    result = subprocess.run([sys.executable, "-c", code, pickled], cwd="/", capture_output=True, text=True)
    run_net = SLURM.parent / "tools" / "run_net.py"
    assert result.stdout == f"{run_net} --cfg {where}/config.yaml {fakes} True 100\n", result.stderr


def test_what_slurm_refuses_is_one_line(tools, fakes, monkeypatch, capsys):
    fake(fakes, "sbatch", "echo 'invalid partition specified: P' >&2; exit 1")
    monkeypatch.setattr(sys, "argv", ["submit.py", "--cfg", "pretrain.yaml", "--partition", "P"])
    assert tools.submit.main() == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: SLURM did not take the job pretrain: invalid partition specified: P"
    assert not (fakes / "runs/pretrain/slurm/jobs.jsonl").exists()


# --------------------------------------------------------------------------------------------------------- in the task


def environment_of(**values: int | str) -> SimpleNamespace:
    """submitit's view of a task."""
    task = {"cluster": "slurm", "job_id": "12_3", "raw_job_id": "15", "global_rank": 0, "local_rank": 0}
    return SimpleNamespace(**task | {"num_tasks": 1, "num_nodes": 1, "hostnames": ["a"]} | values)


def test_a_process_is_told_its_place(tools, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    task = environment_of(global_rank=5, local_rank=1, num_tasks=8, num_nodes=2, hostnames=["n3", "n4"])
    assert tools.training_job.process_environment(task) == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "n3",
        "MASTER_PORT": "20015",
        "OMP_NUM_THREADS": "6",
    }
    ports = {
        tools.training_job.process_environment(environment_of(raw_job_id=str(job)))["MASTER_PORT"]
        for job in range(9_999_000, 9_999_000 + tools.training_job.PORTS)
    }
    assert len(ports) == tools.training_job.PORTS and min(ports) == "20000" and max(ports) == "31999"


@pytest.fixture
def job(tools, folder, monkeypatch):
    """Makes a job of a Python program, whose task is rank 0 of 1 on SLURM unless told otherwise."""

    def make(code: str, requeue: bool = True, patience: float = 20.0, **values: int | str):
        monkeypatch.setattr(tools.training_job.submitit, "JobEnvironment", lambda: environment_of(**values))
        monkeypatch.setattr(tools.training_job, "SETTLE_SECONDS", 0.0)
        return tools.training_job.TrainingJob((sys.executable, "-c", code), str(folder), requeue, patience)

    return make


def when(path: Path, action) -> threading.Thread:
    """Does ``action`` in a thread as soon as ``path`` is there."""

    def wait() -> None:
        while not path.exists():
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(2)", 2), ("os.kill(os.getpid(), 9)", 137)])
def test_a_failure_is_the_tasks_own(job, capfd, ending, code):
    with pytest.raises(SystemExit) as stop:
        job(f"import os, sys; print('from the child', flush=True); {ending}")()
    assert stop.value.code == code
    said = capfd.readouterr().out
    assert "from the child" in said and f"exit code {code}" in said and ("--memory-gb" in said) == (code == 137)


def test_success_is_the_tasks_own(job):
    job("import os; assert os.environ['WORLD_SIZE'] == '1'")()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(("state", "requeue"), [("RUNNING", True), ("RUNNING", False), ("COMPLETING", True)])
def test_a_stop_that_slurm_does_not_mean_as_the_end_queues_the_job_again(job, fakes, number, state, requeue):
    fake(fakes, "squeue", f'echo "squeue $*" >> asked; echo {state}')
    fake(fakes, "scontrol", 'echo "scontrol $*" >> asked')
    before = signal.getsignal(number)
    when(fakes / "ready", lambda: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as stop:
        job(OBEDIENT, requeue)()
    assert stop.value.code == 128 + number and (fakes / "saved").read_text() == str(int(number))
    asked = (fakes / "asked").read_text()
    assert "--jobs 12_3" in asked and ("scontrol requeue 12_3" in asked) == (state == "RUNNING" and requeue)
    assert signal.getsignal(number) is before


def test_other_tasks_wait_for_the_first_one(job, fakes):
    """One that ended would have SLURM end the first one, while that has the job queued again."""
    fake(fakes, "squeue", "touch asked")
    (fakes / "saved").unlink(missing_ok=True)
    started = when(fakes / "ready", lambda: os.kill(os.getpid(), signal.SIGTERM))
    when(fakes / "saved", lambda: (time.sleep(1), os.kill(os.getpid(), signal.SIGTERM)))
    begun = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        job(OBEDIENT, global_rank=1, num_tasks=2)()
    started.join()
    assert stop.value.code == 143 and time.monotonic() - begun > 1 and not (fakes / "asked").exists()


@pytest.mark.parametrize("requeue", [True, False])
def test_checkpoint_has_the_run_save_and_gives_the_same_job(job, folder, requeue):
    running, given = job(OBEDIENT, requeue, cluster="local"), []
    # From a handler, as submitit calls it: in the midst of the task's own waiting.
    previous = signal.signal(signal.SIGUSR2, lambda *_: given.append(running.checkpoint()))
    try:
        when(folder / "ready", lambda: os.kill(os.getpid(), signal.SIGUSR2))
        with pytest.raises(SystemExit) as stop:
            running()
    finally:
        signal.signal(signal.SIGUSR2, previous)
    assert stop.value.code == 143 and (folder / "saved").read_text() == "15"
    (again,) = given
    if not requeue:
        assert again is None
        return
    assert isinstance(again, submitit.helpers.DelayedSubmission) and again.function == running
    assert pickle.loads(cloudpickle.dumps(again)).function == running


def test_checkpoint_waits_no_longer_than_its_patience(job, folder, capfd):
    running = job(STUBBORN, patience=0.5, cluster="local")
    outcome = []

    def checkpoint(*_) -> None:
        outcome.append(running.checkpoint())
        running._child.kill()

    previous = signal.signal(signal.SIGUSR2, checkpoint)
    try:
        when(folder / "ready", lambda: os.kill(os.getpid(), signal.SIGUSR2))
        with pytest.raises(SystemExit):
            running()
    finally:
        signal.signal(signal.SIGUSR2, previous)
    assert outcome[0].function == running and "from its last checkpoint" in capfd.readouterr().out


def test_submitits_own_executor_runs_it(tools, folder):
    """Pickled, sent to another process, called there: with the local executor in the place of SLURM."""
    import submission  # noqa: F401 - its import makes the job's class travel with the pickle

    code = "import os; open('place', 'a').write(os.environ['RANK'] + os.environ['WORLD_SIZE'] + '\\n')"
    run = tools.training_job.TrainingJob((sys.executable, "-c", code), str(folder), True, 5.0)
    executor = submitit.LocalExecutor(folder / "logs")
    executor.update_parameters(tasks_per_node=2, timeout_min=2)
    executor.submit(run).results()
    assert sorted((folder / "place").read_text().split()) == ["02", "12"]


# ------------------------------------------------------------------------------------------------------ status and logs


@pytest.fixture
def submitted(fakes) -> Path:
    """A run with two jobs of which the logs are there."""
    run = fakes / "runs" / "mine"
    (run / "slurm" / "one").mkdir(parents=True)
    lines = [{"job": job, "name": "mine", "folder": str(run / "slurm" / "one")} for job in ("12", "34_1")]
    (run / "slurm" / "jobs.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for rank in (0, 1):
        (run / "slurm" / "one" / f"34_1_{rank}_log.out").write_text(f"log of {rank}\n")
    return run


def test_status_asks_the_accounts_and_then_the_queue(tools, submitted, fakes, monkeypatch, capsys):
    (submitted / "log.jsonl").write_text(json.dumps({"step": 7, "clips": 56, "epoch": 1.5, "loss": 0.25}) + "\n")
    fake(fakes, "sacct", 'case "$*" in *"-j 12 "*) echo "12|mine|TIMEOUT|0:0|01:00|n1";; esac')
    fake(fakes, "squeue", 'case "$*" in *"-j 34_1 "*) echo "34_1|mine|PENDING||0:00|(Priority)";; *) exit 1;; esac')
    monkeypatch.setattr(sys, "argv", ["submit.py", "status", "runs/mine"])
    assert tools.submit.main() == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1] == ["12", "mine", "TIMEOUT", "0:0", "01:00", "n1"] and rows[2][:3] == ["34_1", "mine", "PENDING"]
    assert rows[3] == "runs/mine: step 7, 56 clips, epoch 1.5, loss 0.2500".split()


def test_status_says_what_unknown_means(tools, submitted, fakes, monkeypatch, capsys):
    fake(fakes, "sacct", "echo 'accounting storage is disabled' >&2; exit 1")
    fake(fakes, "squeue", "echo 'Invalid job id specified' >&2; exit 1")
    monkeypatch.setattr(sys, "argv", ["submit.py", "status", "12"])
    assert tools.submit.main() == 0
    assert "UNKNOWN" in (shown := capsys.readouterr().out) and "has forgotten it" in shown


@pytest.mark.parametrize(("words", "text"), [("runs/mine", "log of 0"), ("34_1 --rank 1", "log of 1")])
def test_logs_are_found_by_run_and_by_job(tools, submitted, fakes, monkeypatch, capfd, words, text):
    fake(fakes, "scontrol", "exit 1")  # SLURM has forgotten the job
    monkeypatch.setattr(sys, "argv", ["submit.py", "logs", *words.split()])
    assert tools.submit.main() == 0 and capfd.readouterr().out == f"{text}\n"


def test_logs_ask_slurm_for_a_job_from_elsewhere(tools, fakes, monkeypatch, capfd):
    (fakes / "5_2_log.out").write_text("another's\n")
    fake(fakes, "scontrol", f'echo "   StdErr=x"; echo "   StdOut={fakes}/5_0_log.out"')
    monkeypatch.setattr(sys, "argv", ["submit.py", "logs", "5", "--rank", "2"])
    assert tools.submit.main() == 0 and capfd.readouterr().out == "another's\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("status runs/absent", "neither the number of a job nor"),
        ("logs runs/absent", "neither the number of a job nor"),
        ("logs 99", "give its OUTPUT_DIR instead"),
        ("logs runs/mine --rank 7", "has not started, or has fewer processes"),
    ],
)
def test_what_is_not_known_is_said(tools, submitted, fakes, monkeypatch, capsys, words, message):
    fake(fakes, "scontrol", "exit 1")
    monkeypatch.setattr(sys, "argv", ["submit.py", *words.split()])
    assert tools.submit.main() == 2 and message in capsys.readouterr().err
