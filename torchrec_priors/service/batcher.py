"""Collects the requests that wait at the same time, and lets the model answer them together."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Thread

from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.service.versions import NotReadyError, Served, Versions
from torchrec_priors.serving.request import Answer, LateError, Request
from torchrec_priors.serving.run import LoadedRun

log = logging.getLogger(__name__)

Outcome = Answer | UserError
AnswerFunction = Callable[[LoadedRun, Sequence[Request]], list[Outcome]]

_FIRST_RETRY = 1.0  # seconds to wait after a full queue, before any batch has been measured
_SHORTEST_RETRY = 0.05
# The share of the newest batch in the running mean of the seconds per request.
_NEWEST = 0.2
# The share of the longest wait after which a batch starts if no call has come.
_PAUSE = 0.25


class QueueFullError(OutsideError):
    """Too many requests wait.

    Attributes:
        retry_after_s: the seconds in which the requests that wait now will have been answered.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"too many requests: try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class EndingError(OutsideError):
    """The service ends, and takes no further requests."""


@dataclass(frozen=True)
class Batched:
    """The answers to a call, and how they came about.

    Attributes:
        outcomes: for each request the answer, or the error with which it is rejected.
        version: the version of the model that answered; None if the deadline passed before.
        queued_s: the seconds that the call waited.
        computed_s: the seconds in which its batch was answered.
        batch_size: the number of requests in the batch; 0 if the deadline passed before.
    """

    outcomes: list[Outcome]
    version: Served | None
    queued_s: float
    computed_s: float
    batch_size: int


@dataclass
class Counts:
    """What a batcher has done since its start.

    Attributes:
        batches: batches that were answered.
        requests: requests in these batches.
        late: requests whose deadline passed before an answer was there.
        dropped: requests whose client went away before they were computed.
        failed: requests that ended with an error which is not theirs.
        refused: requests that came while the queue was full.
    """

    batches: int = 0
    requests: int = 0
    late: int = 0
    dropped: int = 0
    failed: int = 0
    refused: int = 0


@dataclass(eq=False, slots=True)
class _Call:
    """Requests of one caller, which are answered in one batch."""

    requests: list[Request]
    deadline: float | None
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Batched]"
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Answers calls in batches, with one thread.

    A batch takes all calls that wait, up to `most` requests. While requests come one at a time, a
    batch starts at once. Otherwise it waits for as many calls as the previous batch had, while they
    keep coming: until none has come for a quarter of `wait`, or for `wait` in all.
    """

    def __init__(
        self,
        versions: Versions,
        *,
        most: int = 64,
        wait: float = 0.002,
        queue: int = 512,
        answer: AnswerFunction = LoadedRun.answer,
        on_batch: Callable[[int, float], None] | None = None,
        on_lost: Callable[[OutsideError], None] | None = None,
    ) -> None:
        """
        Args:
            versions: the versions of the model. Each batch has one lease.
            most: the most requests in a batch. A call with more of them is a batch of its own.
            wait: the most seconds that a batch waits for further calls.
            queue: the most requests that wait. A call with more is taken if no other waits.
            answer: answers a batch with a run.
            on_batch: is called after each batch, by the batcher's thread, with the number of
                requests and the seconds that they took.
            on_lost: is called, by the batcher's thread, if the model cannot answer any more, such
                as after other ranks were lost.
        """
        self.counts = Counts()
        self._versions = versions
        self._most = most
        self._wait = wait
        self._queue = queue
        self._answer = answer
        self._on_batch = on_batch
        self._on_lost = on_lost

        self._changed = Condition()
        self._calls: deque[_Call] = deque()
        self._waiting = 0
        self._ends = False
        self._computing = False
        self._wanted = 1  # the number of calls at which the thread is woken
        self._expected = 1  # the number of calls of the previous batch
        self._seconds_per_request: float | None = None
        self._thread = Thread(target=self._work, name="torchrec-priors-batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return self._waiting

    async def submit(self, requests: list[Request], deadline: float | None = None) -> Batched:
        """Waits for the answers to requests, all by the same version of the model.

        If the task of the caller is cancelled before their batch starts, they are dropped.

        Args:
            requests: the requests.
            deadline: the value of `time.monotonic()` at which the caller stops waiting: the
                outcomes are then `LateError`s. None for no deadline.

        Raises:
            QueueFullError: too many requests wait.
            NotReadyError: no version answers.
            EndingError: the service ends.
        """
        loop = asyncio.get_running_loop()
        call = _Call(requests, deadline, loop, loop.create_future())
        self._take(call)
        if deadline is None:
            return await call.future

        # The caller is answered in time even if the batch takes longer.
        alarm = loop.call_later(max(0.0, deadline - time.monotonic()), self._is_late, call)
        try:
            return await call.future
        finally:
            alarm.cancel()

    async def drain(self, timeout: float) -> bool:
        """Takes no further calls, and waits until those that it has are answered.

        Args:
            timeout: the most seconds to wait. Calls that still wait then get an `EndingError`.

        Returns:
            Whether all calls were answered.
        """
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        return await asyncio.to_thread(self._end, timeout)

    def _take(self, call: _Call) -> None:
        """Puts a call into the queue."""
        count = len(call.requests)
        with self._changed:
            if self._ends:
                raise EndingError("the service ends: try again in a moment")
            if self._waiting and self._waiting + count > self._queue:
                self.counts.refused += count
                raise QueueFullError(self._retry_after())
            self._calls.append(call)
            self._waiting += count
            if len(self._calls) >= self._wanted or self._waiting >= self._most:
                self._changed.notify_all()

    def _retry_after(self) -> float:
        """Returns the seconds that the queue needs for the requests that wait now."""
        if self._seconds_per_request is None:
            return _FIRST_RETRY
        return max(_SHORTEST_RETRY, self._waiting * self._seconds_per_request)

    def _end(self, timeout: float) -> bool:
        """Waits for all calls; ends those that remain. See `drain`."""
        with self._changed:
            done = self._changed.wait_for(lambda: not self._calls and not self._computing, timeout)
            remaining = list(self._calls)
            self._calls.clear()
            self._waiting = 0
            self._changed.notify_all()
        self._fail(remaining, EndingError("the service ends: try again in a moment"))
        return done

    def _work(self) -> None:
        """Answers batches until the batcher ends."""
        while True:
            calls = self._next_batch()
            if calls is None:
                return
            try:
                self._answer_batch(calls)
            finally:
                with self._changed:
                    self._computing = False
                    self._changed.notify_all()

    def _next_batch(self) -> list[_Call] | None:
        """Waits for calls, and takes those of the next batch; None if there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._ends)
            if not self._calls:
                return None

            self._wanted = self._expected
            self._await_more()
            self._wanted = 1
            calls: list[_Call] = []
            count = 0
            while self._calls and (not calls or count + len(self._calls[0].requests) <= self._most):
                call = self._calls.popleft()
                count += len(call.requests)
                calls.append(call)
            self._waiting -= count
            self._expected = max(1, len(calls))
            self._computing = bool(calls)
            return calls

    def _await_more(self) -> None:
        """Waits for the calls of a batch while they keep coming. The thread holds the lock."""
        ends = time.monotonic() + self._wait
        while not self._has_enough():
            before = len(self._calls)
            left = max(0.0, ends - time.monotonic())
            self._changed.wait_for(self._has_enough, min(left, _PAUSE * self._wait))
            if len(self._calls) == before or not left:
                return

    def _has_enough(self) -> bool:
        """Whether the next batch may start without further calls."""
        return len(self._calls) >= self._wanted or self._waiting >= self._most or self._ends

    def _answer_batch(self, calls: list[_Call]) -> None:
        """Answers the calls of a batch that are not late, and whose callers still wait."""
        started = time.monotonic()
        wanted = []
        for call in calls:
            if call.future.cancelled():
                self.counts.dropped += len(call.requests)
            elif call.deadline is not None and started >= call.deadline:
                _call_soon(call.loop, partial(self._is_late, call))
            elif not call.future.done():
                wanted.append(call)
        if wanted:
            self._answer_calls(wanted)

    def _answer_calls(self, calls: list[_Call]) -> None:
        """Answers calls together; raises errors in their callers."""
        requests = [request for call in calls for request in call.requests]
        started = time.monotonic()
        try:
            with self._versions.lease() as served:
                outcomes = self._answer(served.run, requests)
        except NotReadyError as error:
            self._fail(calls, error)
        except OutsideError as error:
            self._fail(calls, error)
            if self._on_lost is not None:
                self._on_lost(error)
        except Exception as error:
            if len(calls) > 1:
                # Perhaps one request has the error: the others are answered without it.
                for call in calls:
                    self._answer_calls([call])
                return
            log.exception("%d requests could not be answered", len(requests))
            self._fail(calls, error)
        else:
            took = time.monotonic() - started
            self._measure(len(requests), took)
            self._give(calls, outcomes, served, started, took)

    def _measure(self, count: int, took: float) -> None:
        """Notes how long a batch took."""
        self.counts.batches += 1
        self.counts.requests += count
        each = took / count if count else 0.0
        mean = self._seconds_per_request
        self._seconds_per_request = each if mean is None else mean + _NEWEST * (each - mean)
        if self._on_batch is not None:
            self._on_batch(count, took)

    def _give(
        self,
        calls: list[_Call],
        outcomes: list[Outcome],
        served: Served,
        started: float,
        took: float,
    ) -> None:
        """Gives the outcomes of a batch to its callers."""
        given: dict[asyncio.AbstractEventLoop, list[tuple[_Call, Batched]]] = {}
        first = 0
        for call in calls:
            last = first + len(call.requests)
            batched = Batched(
                outcomes[first:last], served, started - call.since, took, len(outcomes)
            )
            given.setdefault(call.loop, []).append((call, batched))
            first = last
        # One call into the event loop for all: each of them interrupts it.
        for loop, pairs in given.items():
            _call_soon(loop, partial(_resolve, pairs))

    def _fail(self, calls: list[_Call], error: Exception) -> None:
        """Raises an error in the callers."""
        for call in calls:
            self.counts.failed += len(call.requests)
            _call_soon(call.loop, partial(_reject, call, error))

    def _is_late(self, call: _Call) -> None:
        """Answers a caller whose deadline has passed. The event loop calls it."""
        if call.future.done():
            return
        self.counts.late += len(call.requests)
        late: list[Outcome] = [
            LateError("the deadline of this request has passed") for _ in call.requests
        ]
        call.future.set_result(Batched(late, None, time.monotonic() - call.since, 0.0, 0))


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Calls a function in an event loop. If the loop has ended, nobody waits any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)


def _resolve(pairs: list[tuple[_Call, Batched]]) -> None:
    for call, batched in pairs:
        if not call.future.done():
            call.future.set_result(batched)


def _reject(call: _Call, error: Exception) -> None:
    if not call.future.done():
        call.future.set_exception(error)
