"""A process that appends its part of a stream of events, in threads, and repeats what was not acknowledged.

Its threads write a line for each acknowledged call: the thread, and how many of its events are stored. The stream
follows from the numbers of its events alone, so the test can compute what must be there.
"""

import hashlib
import os
import sys
import threading
import time
from pathlib import Path

from torchrec_priors.state.event import UserEvent
from torchrec_priors.state.opening import open_store
from torchrec_priors.state.store import StoreGoneError, UserStore

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
    return range(thread, total, THREADS)


def send(store: UserStore, thread: int, total: int, stored: int) -> None:
    """Sends the events of a thread that are not acknowledged yet, as a client with retries does."""
    numbers = numbers_of_thread(thread, total)
    while stored < len(numbers):
        size = 1 + (stored * 2_654_435_761 >> 7) % LARGEST
        events = [event_of_stream(number) for number in numbers[stored : stored + size]]
        until = time.monotonic() + 600
        while True:
            try:
                appended = store.append(events)
                break
            except StoreGoneError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        assert appended.accepted + appended.duplicates == len(events)
        stored += len(events)
        os.write(1, f"{thread} {stored}\n".encode())


def main() -> None:
    uri, total, *acknowledged = sys.argv[1:]
    store = open_store(uri, Path())
    assert store is not None
    threads = [
        threading.Thread(target=send, args=(store, thread, int(total), int(stored)))
        for thread, stored in enumerate(acknowledged)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()


if __name__ == "__main__":
    main()
