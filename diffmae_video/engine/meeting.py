"""A place in the store for one start of a run's processes.

torchrun starts the processes again when one has failed (``--max-restarts``), and gives the new ones the store of the
old ones: their addresses, and all that they have said, still stand there. Who reads them first would try to reach the
dead. Every start therefore agrees on a name of its own, under which nothing stands yet.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch.distributed import PrefixStore, Store

PAUSE_SECONDS = 0.02


def own_place(store: Store, rank: int, size: int, timeout: float) -> PrefixStore:
    """All processes of one start call this, and get the same, new part of ``store``.

    Every process but the first says hello under a name that it has just made up, and waits for an answer to that name:
    so it cannot take an old answer for its own. The first one answers every hello with the name of the place, old ones
    too, and goes on when all have confirmed that place.

    Args:
        store: where they meet.
        rank, size: of this process, and how many there are.
        timeout: seconds to wait for the others.

    Raises:
        RuntimeError: some have not come; names them.
    """
    own = uuid.uuid4().hex
    if rank:
        store.set(f"meeting/hello/{rank}", own)
        answer = f"meeting/answer/{own}"
        store.wait([answer], timedelta(seconds=timeout))
        place = store.get(answer).decode()
        store.set(f"meeting/{place}/{rank}", "here")
        return PrefixStore(place, store)
    missing, deadline = list(range(1, size)), time.monotonic() + timeout
    while missing := [other for other in missing if not _has_come(store, other, own)]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"rank {', '.join(map(str, missing))} did not come within {timeout:g} s")
        time.sleep(PAUSE_SECONDS)
    return PrefixStore(own, store)


def _has_come(store: Store, rank: int, place: str) -> bool:
    """Answers the newest hello of a process; whether it has confirmed the place."""
    hello = f"meeting/hello/{rank}"
    if store.check([hello]):
        store.set(f"meeting/answer/{store.get(hello).decode()}", place)
    return store.check([f"meeting/{place}/{rank}"])
