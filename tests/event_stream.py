"""A stream of events that follows from their numbers alone, and what a store must have of it.

Clients send it in threads, each thread its own events in order, and note how many were acknowledged.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torchrec_priors.state.event import UserEvent
from torchrec_priors.state.opening import open_store

THREADS = 4
USERS = 97
# The most events of a call.
LARGEST = 64


def event_of_stream(number: int) -> UserEvent:
    """The event with this number. Some events are late, and some have equal times."""
    draw = hashlib.blake2b(f"{number}".encode(), digest_size=8).digest()
    return UserEvent(
        event_id=f"event {number}",
        user=f"user {draw[0] % USERS}",
        item=f"item {draw[1] + 256 * draw[2]}",
        time=1_700_000_000_000 + number // 8 + draw[3],
        event=(None, "view", "cart", "purchase")[draw[4] % 4],
    )


def numbers_of_thread(thread: int, total: int) -> range:
    """The numbers of the events that a thread sends."""
    return range(thread, total, THREADS)


def next_call(thread: int, total: int, acknowledged: int) -> list[UserEvent]:
    """The events of the call that a thread makes after so many of its events; empty at the end."""
    size = 1 + (acknowledged * 2_654_435_761 >> 7) % LARGEST
    numbers = numbers_of_thread(thread, total)[acknowledged : acknowledged + size]
    return [event_of_stream(number) for number in numbers]


@dataclass(frozen=True)
class Found:
    """What a store has of the stream.

    Attributes:
        once: the acknowledged events that are there once.
        lost: the acknowledged events that are not there.
        twice: the events that are there more than once, acknowledged or not.
        further: the events that are there and were not acknowledged yet.
    """

    once: int
    lost: int
    twice: int
    further: int


def check_stored(uri: str, total: int, acknowledged: list[int]) -> Found:
    """All acknowledged events are there once, and beside them at most one call of each thread.

    Args:
        uri: the store. Nobody may write to it now.
        total: the number of events of the stream.
        acknowledged: how many events of each thread were acknowledged.
    """
    sure: set[UserEvent] = set()
    possible: set[UserEvent] = set()
    for thread, stored in enumerate(acknowledged):
        numbers = numbers_of_thread(thread, total)[: stored + LARGEST]
        events = [event_of_stream(number) for number in numbers]
        sure.update(events[:stored])
        possible.update(events)

    copies = _copies(uri, total)
    # A conflict of contents would be two events with one id.
    ids = Counter(event.event_id for event in copies.elements())
    found = Found(
        once=sum(copies[event] == 1 for event in sure),
        lost=sum(event not in copies for event in sure),
        twice=sum(count > 1 for count in ids.values()),
        further=len(copies.keys() - sure),
    )
    assert (found.lost, found.twice) == (0, 0), found
    assert found.once == sum(acknowledged)
    assert copies.keys() <= possible
    return found


def _copies(uri: str, total: int) -> "Counter[UserEvent]":
    """Reads the events of all users, and how often each is there."""
    copies: Counter[UserEvent] = Counter()
    store = open_store(uri, Path())
    assert store is not None
    for number in range(USERS):
        user = f"user {number}"
        kept = store.last(user, 2 * total)
        copies.update(kept.events)
        assert len(kept.events) == store.count(user)
        times = [event.time for event in kept.events]
        assert times == sorted(times)
        assert kept.trimmed == 0
    store.close()
    return copies
