"""Processes on this machine that end together."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffmae_video.engine.launch import launch

LAUNCHER = """
import sys
from diffmae_video.engine.launch import launch
from diffmae_video.engine import configure_logging
configure_logging()
sys.exit(launch([sys.executable, "-c", sys.argv[1]], 3, grace=float(sys.argv[2])))
"""
SIGN = "import os, pathlib; pathlib.Path(os.environ['SIGNS'], os.environ['RANK']).write_text(str(os.getpid()));"
SLEEP = f"import time; {SIGN} time.sleep(60)"


def start(script: str, folder: Path, grace: float = 5) -> subprocess.Popen:
    environment = os.environ | {"SIGNS": str(folder)}
    command = [sys.executable, "-c", LAUNCHER, script, str(grace)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def pids(folder: Path) -> list[int]:
    """Of the three processes, once all have started."""
    deadline = time.monotonic() + 60
    while not all((folder / str(rank)).is_file() and (folder / str(rank)).read_text() for rank in range(3)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [int((folder / str(rank)).read_text()) for rank in range(3)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"


def test_every_process_gets_torchruns_environment(tmp_path, monkeypatch):
    script = (
        "import os, pathlib; e = os.environ;"
        f"pathlib.Path({str(tmp_path)!r}, e['RANK']).write_text(' '.join(e[n] for n in"
        " ('LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR')))"
    )
    assert launch([sys.executable, "-c", script], 2) == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["0 2 127.0.0.1", "1 2 127.0.0.1"]


def test_one_that_is_killed_is_named_and_the_others_are_stopped(tmp_path):
    launcher = start(SLEEP, tmp_path)
    children = pids(tmp_path)
    os.kill(children[1], signal.SIGKILL)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + signal.SIGKILL
    assert f"rank 1 of 3 (process {children[1]}) was killed by SIGKILL" in output
    assert not any(map(is_alive, children))


def test_one_that_does_not_stop_is_killed(tmp_path):
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
    launcher = start(stubborn, tmp_path, grace=0.5)
    children = pids(tmp_path)
    os.kill(children[0], signal.SIGKILL)
    launcher.communicate(timeout=60)
    assert not any(map(is_alive, children))


def test_an_error_of_one_is_the_exit_code_of_all(tmp_path):
    script = f"import sys, time; {SIGN} sys.exit(7) if os.environ['RANK'] == '2' else time.sleep(60)"
    launcher = start(script, tmp_path)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 7 and "rank 2 of 3" in output and "ended with exit code 7" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_goes_to_all_and_the_slowest_may_finish(tmp_path, number):
    """Rank 0 takes longer than the grace that a failure would give it: it is saving."""
    script = (
        "import signal, sys, time, os\n"
        "def stop(number, _):\n"
        "    time.sleep(1.5 * (os.environ['RANK'] == '0')); print('saved', flush=True); sys.exit(128 + number)\n"
        f"signal.signal({int(number)}, stop)\n{SLEEP}"
    )
    launcher = start(script, tmp_path, grace=0.1)
    pids(tmp_path)
    launcher.send_signal(number)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + number and output.count("saved") == 3
    assert "stopping the others" not in output


def test_nothing_is_left_behind_when_the_launcher_is_killed(tmp_path):
    launcher = start(SLEEP, tmp_path)
    children = pids(tmp_path)
    launcher.kill()
    launcher.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while any(map(is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, children))


def test_the_meeting_point_is_on_the_loopback_interface(monkeypatch):
    hosts, module = [], importlib.import_module("diffmae_video.engine.launch")
    real = module.TCPStore
    monkeypatch.setattr(module, "TCPStore", lambda host, *a, **k: hosts.append(host) or real(host, *a, **k))
    assert launch([sys.executable, "-c", ""], 1) == 0
    assert hosts == ["127.0.0.1"]
