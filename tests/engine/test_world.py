"""Which process this is, and what it knows of the others."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch import distributed, nn

from diffmae_video.engine import world as module
from diffmae_video.engine.errors import PeerGone, RunError
from diffmae_video.engine.world import Peers, World, is_connection_error, joined, world_from_environment

TORCHRUN = {"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


def test_the_environment_says_which_process_this_is():
    assert world_from_environment({}) == World(0, 1, 0) and world_from_environment({}).is_first
    assert world_from_environment({"MASTER_ADDR": "left over from another program"}) == World()
    assert world_from_environment(TORCHRUN) == World(rank=2, size=4, local_rank=0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"MASTER_PORT": None}, "but not MASTER_PORT: start the processes with torchrun"),
        ({"WORLD_SIZE": "four"}, "are whole numbers"),
        ({"RANK": "4"}, "RANK is 4, but there are 4 processes"),
    ],
)
def test_half_an_environment_is_refused(change, message):
    environment = {name: value for name, value in (TORCHRUN | change).items() if value is not None}
    with pytest.raises(RunError, match=message):
        world_from_environment(environment)


def test_one_process_forms_no_group_and_waits_for_nobody():
    with joined(World(), torch.device("cpu"), 1) as peers:
        assert not distributed.is_initialized()
        peers.wait_for("anything")
        peers.share(nn.Linear(2, 2))


def test_an_address_where_nobody_is_ends_in_an_error_that_names_it(monkeypatch):
    for name, value in (TORCHRUN | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}).items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(RunError, match=r"rank 2 of 4 could not join the others at 127.0.0.1:9 within 1 s"),
        joined(World(2, 4, 0), torch.device("cpu"), 1),
    ):
        pass


# ------------------------------------------------------------------------------------------------------ signs of life


@pytest.fixture
def store(monkeypatch):
    """A store on the loopback interface; signs of life come quickly."""
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.2)
    return distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def peers_of(store, rank: int, size: int = 2) -> Peers:
    return Peers(World(rank, size, rank), store)


def test_the_others_wait_until_the_first_one_says_so_every_time(store):
    first, second = peers_of(store, 0), peers_of(store, 1)
    order = []

    def wait() -> None:
        for number in range(2):
            second.wait_for("checkpoint")
            order.append(f"waited {number}")

    thread = threading.Thread(target=wait)
    thread.start()
    for number in range(2):
        time.sleep(0.1)
        order.append(f"said {number}")
        first.wait_for("checkpoint")
        while len(order) < 2 * (number + 1):
            time.sleep(0.01)
    thread.join()
    assert order == ["said 0", "waited 0", "said 1", "waited 1"]


def test_the_first_process_goes_last_but_does_not_wait_for_ever(store, monkeypatch):
    """The store may be its own: gone with it, while another one still asks whether it has saved."""
    first, second = peers_of(store, 0), peers_of(store, 1)
    order = []
    thread = threading.Thread(target=lambda: (first.part(), order.append("first")))
    thread.start()
    time.sleep(0.2)
    order.append("second")
    second.part()
    thread.join()
    assert order == ["second", "first"]
    monkeypatch.setattr(module, "PART_SECONDS", 0.1)
    peers_of(store, 0, size=3).part()


def test_waiting_ends_with_the_process_that_is_waited_for(store):
    first, second = peers_of(store, 0), peers_of(store, 1)
    first.close()  # no more signs of life
    with pytest.raises(PeerGone, match=r"rank 0 \(.*process \d+\) of 2 has gone: no sign of life"):
        second.wait_for("a checkpoint that never comes")


def test_a_failed_sum_is_explained_by_who_is_silent(store):
    first, second, third = (peers_of(store, rank, 3) for rank in range(3))
    third.close()
    gone = first.explain(RuntimeError("gloo: Connection closed by peer"))
    assert "rank 2 (" in str(gone) and "rank 1" not in str(gone) and "newest checkpoint" in str(gone)
    second.close()
    assert "rank 1 (" in str(first.explain(RuntimeError("gloo"))) and "have gone" in str(
        first.explain(RuntimeError("gloo"))
    )


def test_a_failed_sum_while_all_live_says_that_one_is_stuck(store):
    first, _ = peers_of(store, 0), peers_of(store, 1)
    assert "all 2 still run" in str(first.explain(RuntimeError("Timed out waiting 600000ms")))


def test_an_error_of_another_process_is_passed_on_at_once(store):
    first, second, third = (peers_of(store, rank, 3) for rank in range(3))
    third.leave(ValueError("Traceback of a worker:\n  of several lines\nValueError: what it was"))
    for peers in (first, second):
        gone = str(peers.explain(RuntimeError("gloo: Connection closed by peer")))
        assert "rank 2 (" in gone and "has ended (ValueError: ValueError: what it was)" in gone and "rank 1" not in gone


def test_a_first_process_that_ended_with_an_error_is_not_waited_for(store, monkeypatch):
    monkeypatch.setattr(module, "SILENT_BEATS", 10_000)  # only what it said counts
    first, second = peers_of(store, 0), peers_of(store, 1)
    first.leave(OSError("no space left"))
    with pytest.raises(PeerGone, match=r"rank 0 \(.*has ended \(OSError: no space left\)"):
        second.wait_for("a checkpoint that never comes")


class SilentStore:
    """What a store on a machine that is cut off is like: nothing ever comes back."""

    def __init__(self):
        self.silent = False

    def clone(self):
        return self

    def set(self, *_):
        self._answer()

    def add(self, *_):
        self._answer()
        return 1

    def check(self, _):
        self._answer()
        return False

    def _answer(self):
        if self.silent:
            time.sleep(1000)


def test_a_store_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    monkeypatch.setenv("MASTER_ADDR", "the-first-machine")
    store = SilentStore()
    peers = Peers(World(1, 2, 0), store)
    store.silent = True
    started = time.monotonic()
    peers.leave(ValueError())
    for ask in (lambda: peers.wait_for("a checkpoint"), lambda: raise_(peers.explain(RuntimeError("gloo timed out")))):
        with pytest.raises(PeerGone, match="rank 1 .*is the-first-machine down, or the network cut"):
            ask()
    assert time.monotonic() - started < 30


def raise_(error: Exception) -> None:
    raise error


def test_which_errors_are_of_other_processes():
    assert is_connection_error(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
    assert is_connection_error(distributed.DistNetworkError("no route"))
    assert not is_connection_error(RuntimeError("CUDA out of memory"))
    assert not is_connection_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
