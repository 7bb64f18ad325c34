"""Turns bodies into requests to the model, with the events that are stored of their users.

    history given           the history and the session of the request
    user                    the user's history in the data set, the stored events, the session
    user who was forgotten  the stored events since then, the session

Stored events are read by threads. Requests that come while the store is being read are read
together afterwards. If the store does not answer in time, requests do without it, and say so.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torchrec_priors.errors import OutsideError
from torchrec_priors.service.bodies import AskedBody, EventBody, LeversBody
from torchrec_priors.service.metrics import Metrics
from torchrec_priors.serving.catalogue import ItemId
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.request import Request
from torchrec_priors.serving.user_context import Event, UserContext

if TYPE_CHECKING:
    from torchrec_priors.state.store import Kept, UserStore

log = logging.getLogger(__name__)

State = Literal["current", "none", "unavailable"]

_READERS = 2  # threads that read the store
_MOST_USERS = 256  # that are read at once
_REST_S = 1.0  # after the store did not answer, it is not asked for this long

_NO_LEVERS = Levers()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of a client.

    Attributes:
        request: the request to the model.
        state: "current" if the stored events of the user are in it; "none" if there are none to
            use; "unavailable" if they could not be read.
        explain: whether the answer has reasons and the scores of all heads.
    """

    request: Request
    state: State
    explain: bool


class Contexts:
    """Makes requests. The event loop calls it."""

    def __init__(
        self,
        store: "UserStore | None",
        *,
        count: int,
        timeout: float,
        metrics: Metrics,
    ) -> None:
        """
        Args:
            store: the events of users; None if none are kept.
            count: the most events of a user that are used, the newest ones.
            timeout: the most seconds that a request waits for them.
            metrics: counts the requests that do without.
        """
        self._reader = None if store is None else _Reader(store, count, timeout)
        self._metrics = metrics

    async def asked(self, bodies: Sequence[AskedBody], deadline: float) -> list[Asked]:
        """Makes the requests of a call.

        Args:
            bodies: what the client sent.
            deadline: the value of `time.monotonic()` after which nobody waits for the answers.

        Raises:
            UserError: levers are invalid.
        """
        reader = self._reader
        users: list[str] = []
        if reader is not None:
            users = [str(body.user) for body in bodies if _uses_store(body)]
        if reader is None or not users:
            return [_asked(body, None, "none", deadline) for body in bodies]

        kept = await reader.read(users)
        if kept is None:
            self._metrics.state_unavailable.inc(len(users))
        asked = []
        number = 0
        for body in bodies:
            if not _uses_store(body):
                asked.append(_asked(body, None, "none", deadline))
                continue
            if kept is None:
                asked.append(_asked(body, None, "unavailable", deadline))
                continue
            asked.append(_asked(body, kept[number], "current", deadline))
            number += 1
        return asked

    def close(self) -> None:
        """Ends the threads."""
        if self._reader is not None:
            self._reader.close()


def _uses_store(body: AskedBody) -> bool:
    return body.user is not None and body.history is None


def _asked(body: AskedBody, kept: "Kept | None", state: State, deadline: float) -> Asked:
    """Makes a request."""
    user = body.user
    history = None if body.history is None else _entries(body.history)
    session = _entries(body.session)
    posted: list[Event] = []
    if kept is not None and kept.events:
        posted = [Event(event.item, event.time, event.event) for event in kept.events]
    if kept is not None and kept.forgotten:
        # What the data set has of the user must not be used: neither the history nor the groups.
        user = None
        history = []
    context = UserContext(user, history, session, body.groups, posted)
    levers = _NO_LEVERS if body.levers is None else _levers(body.levers)
    request = Request(
        context, body.k, levers, body.allow, body.deny, body.strict, deadline, body.explain
    )
    return Asked(request, state, body.explain)


def _entries(entries: Sequence[ItemId | EventBody]) -> list[ItemId | Event]:
    return [
        Event(entry.item, entry.time, entry.event) if isinstance(entry, EventBody) else entry
        for entry in entries
    ]


def _levers(body: LeversBody) -> Levers:
    return Levers(body.only, body.mute, body.boost, body.at_least)


class _Reader:
    """Reads the events of users. The event loop calls it."""

    def __init__(self, store: "UserStore", count: int, timeout: float) -> None:
        self._store = store
        self._count = count
        self._timeout = timeout
        self._pool = ThreadPoolExecutor(_READERS, "torchrec-priors-state")
        self._waiting: list[tuple[list[str], asyncio.Future[list[Kept]]]] = []
        self._reading = 0
        self._rests_until = 0.0

    async def read(self, users: list[str]) -> "list[Kept] | None":
        """Returns the events of some users; None if the store does not answer in time."""
        if time.monotonic() < self._rests_until:
            return None

        future: asyncio.Future[list[Kept]] = asyncio.get_running_loop().create_future()
        self._waiting.append((users, future))
        self._start()
        try:
            async with asyncio.timeout(self._timeout):
                return await future
        except TimeoutError:
            self._rest("it does not answer")
        except OutsideError as error:
            self._rest(str(error))
        return None

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        """Lets a thread read what waits, if one is free."""
        if self._reading >= _READERS or not self._waiting:
            return
        calls: list[tuple[list[str], asyncio.Future[list[Kept]]]] = []
        count = 0
        while self._waiting and (not calls or count + len(self._waiting[0][0]) <= _MOST_USERS):
            calls.append(self._waiting.pop(0))
            count += len(calls[-1][0])

        users = [user for of_call, _ in calls for user in of_call]
        self._reading += 1
        loop = asyncio.get_running_loop()
        read = loop.run_in_executor(self._pool, self._store.last_many, users, self._count)
        read.add_done_callback(lambda done: self._give(calls, done))

    def _give(
        self,
        calls: "list[tuple[list[str], asyncio.Future[list[Kept]]]]",
        done: "asyncio.Future[list[Kept]]",
    ) -> None:
        """Gives the events that were read to those who wait for them."""
        self._reading -= 1
        self._start()
        error = None if done.cancelled() else done.exception()
        first = 0
        for users, future in calls:
            last = first + len(users)
            if future.done():
                pass
            elif done.cancelled():
                future.cancel()
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result()[first:last])
            first = last

    def _rest(self, reason: str) -> None:
        """Lets requests do without the store for a while, so that they do not wait for it."""
        now = time.monotonic()
        if now >= self._rests_until:
            log.warning("users' events cannot be read: %s", reason)
        self._rests_until = now + _REST_S
