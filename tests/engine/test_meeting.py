"""Processes that start again find each other, and nothing of those before them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from diffmae_video.engine.meeting import own_place


@pytest.fixture
def store():
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))


def meet(store, ranks, size=3, timeout=5):
    """Every rank of ``ranks`` in a thread, with a connection of its own; rank -> its place."""
    with ThreadPoolExecutor(len(ranks)) as pool:
        calls = {rank: pool.submit(own_place, store.clone(), rank, size, timeout) for rank in ranks}
        return {rank: call.result() for rank, call in calls.items()}


def test_all_get_the_same_place_and_every_start_another(store):
    for start in range(3):
        places = meet(store, range(3))
        assert not places[0].check(["address"])
        places[0].set("address", f"of start {start}")
        assert [place.get("address") for place in places.values()] == [f"of start {start}".encode()] * 3


@pytest.mark.parametrize("before", [[1], [1, 2]], ids=["one", "two"])
def test_a_start_that_did_not_complete_misleads_nobody(store, before):
    """Some had said hello, and were gone before the first one came; the others come again, under other names."""
    with pytest.raises(RuntimeError):
        meet(store, before, timeout=0.2)
    places = meet(store, range(3))
    places[2].set("address", "new")
    assert places[0].get("address") == places[1].get("address") == b"new"


def test_those_who_do_not_come_are_named(store):
    meet(store, range(3))  # an earlier start, whose words are still there
    with pytest.raises(RuntimeError, match=r"^rank 2 did not come within 0.5 s"), ThreadPoolExecutor(1) as pool:
        pool.submit(own_place, store.clone(), 1, 3, 2)
        own_place(store, 0, 3, 0.5)
