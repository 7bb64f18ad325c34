"""A client that posts the stream of events to a service, and repeats each call until it is answered."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict

from event_stream import THREADS, next_call

from torchrec_priors.state.event import UserEvent

# A call that was not answered is repeated for so many seconds: a busy machine starts slowly.
_PATIENCE_S = 600
# The first and the longest pause before a call is repeated; pauses double.
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
# Calls that a service which is there may refuse.
_REFUSALS = (429, 503)


def post_events(
    connection: http.client.HTTPConnection, events: Sequence[UserEvent]
) -> tuple[int, str | None, dict]:
    """Posts events; returns the status, the header Retry-After and the body."""
    body = json.dumps({"events": [asdict(event) for event in events]})
    connection.request("POST", "/v1/events", body)
    response = connection.getresponse()
    return response.status, response.getheader("Retry-After"), json.loads(response.read())


class StreamingClient:
    """Posts the events of a stream in threads, each on a connection that it keeps.

    Attributes:
        acknowledged: how many events of each thread were acknowledged.
        counts: `calls` that were made, `answered` with 200, refused as `429` and `503`, and `broken`
            by the end of a connection; `duplicates` are events that a call before had stored.
        reasons: the messages of the refusals, and how often each came.
    """

    def __init__(self, port: int, total: int) -> None:
        self._port = port
        self._total = total
        self._changed = threading.Condition()
        self._holds = False
        self._ends = False
        self._error: BaseException | None = None
        self.acknowledged = [0] * THREADS
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def wait_for(self, events: int) -> None:
        """Waits until so many events were acknowledged."""
        with self._changed:
            self._changed.wait_for(self._has(lambda: sum(self.acknowledged) >= events))
            self._raise()

    def wait_for_refusals(self, count: int) -> None:
        """Waits until the service has refused so many further calls."""
        with self._changed:
            before = self._refused()
            self._changed.wait_for(self._has(lambda: self._refused() >= before + count))
            self._raise()

    def hold(self, holds: bool) -> None:
        """Lets threads wait before their next call, or continue."""
        with self._changed:
            self._holds = holds
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the threads. They do not repeat their calls any more."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _has(self, is_so: Callable[[], bool]) -> Callable[[], bool]:
        """The condition, or that a thread has failed: then nothing more comes."""
        return lambda: self._error is not None or is_so()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _refused(self) -> int:
        return sum(self.counts[str(status)] for status in _REFUSALS)

    def _run(self, thread: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            while events := next_call(thread, self._total, self.acknowledged[thread]):
                answer = self._call(connection, events)
                if answer is None:
                    return
                assert answer["accepted"] + answer["duplicates"] == len(events), answer
                with self._changed:
                    self.acknowledged[thread] += len(events)
                    self.counts["duplicates"] += answer["duplicates"]
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            connection.close()

    def _call(
        self, connection: http.client.HTTPConnection, events: Sequence[UserEvent]
    ) -> dict | None:
        """Repeats a call until it is answered; returns the answer, or None if the client ends."""
        until = time.monotonic() + _PATIENCE_S
        pause = _FIRST_PAUSE_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ends or not self._holds)
                if self._ends:
                    return None
            try:
                status, retry_after, answer = post_events(connection, events)
            except (OSError, http.client.HTTPException) as error:
                # The next request connects again.
                connection.close()
                outcome = "broken"
                seconds = pause
                failure = repr(error)
            else:
                if status == 200:
                    self._count("answered")
                    return answer
                assert status in _REFUSALS, answer
                assert retry_after is not None
                outcome = str(status)
                seconds = float(retry_after)
                failure = answer["error"]["message"]
                with self._changed:
                    self.reasons[failure] += 1
            assert time.monotonic() < until, failure
            self._count(outcome)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            with self._changed:
                self._changed.wait_for(lambda: self._ends, timeout=seconds)

    def _count(self, outcome: str) -> None:
        with self._changed:
            self.counts["calls"] += 1
            self.counts[outcome] += 1
            self._changed.notify_all()
