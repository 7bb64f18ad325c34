"""A process that appends its part of a stream of events, in threads, and repeats what was not acknowledged.

Its threads write a line for each acknowledged call: the thread, and how many of its events are stored.
"""

import os
import sys
import threading
import time
from pathlib import Path

from event_stream import next_call

from torchrec_priors.state.opening import open_store
from torchrec_priors.state.store import StoreGoneError, UserStore


def send(store: UserStore, thread: int, total: int, stored: int) -> None:
    """Sends the events of a thread that are not acknowledged yet, as a client with retries does."""
    while events := next_call(thread, total, stored):
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
