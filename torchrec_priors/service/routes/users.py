"""What users did: POST /v1/events, and GET and DELETE /v1/users/{user}."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, TypeVar

from fastapi import FastAPI, Path, Query
from starlette.requests import Request

from torchrec_priors.service.bodies import EventsBody, read_body
from torchrec_priors.service.parts import Parts
from torchrec_priors.service.problem import ProblemError, unavailable
from torchrec_priors.service.routes.documented import errors
from torchrec_priors.service.routes.raw import RawRoute, body_of
from torchrec_priors.service.shapes import EventsAnswer, ForgottenAnswer, UserAnswer
from torchrec_priors.service.user_page import describe_user, unknown_names
from torchrec_priors.state.event import UserEvent
from torchrec_priors.state.store import EventConflictError, StoreGoneError

if TYPE_CHECKING:
    from torchrec_priors.state.store import UserStore

T = TypeVar("T")

_THREADS = 32  # calls that a store handles at the same time: their writes share a commit
_MOST_CALLS = 256  # that wait for the store
_WRITE_S = 5.0  # the most seconds of a call

User = Annotated[str, Path(min_length=1, max_length=1_000, description="Original id of the user.")]
Limit = Annotated[int, Query(ge=1, le=1_000, description="The most entries, the newest ones.")]


class Calls:
    """Calls the store of events in threads. The event loop calls it."""

    def __init__(self, store: "UserStore | None") -> None:
        """
        Args:
            store: the store; None if no events are kept.
        """
        self._store = store
        self._pool = ThreadPoolExecutor(_THREADS, "torchrec-priors-events")
        self._waiting = 0

    async def do(self, function: "Callable[[UserStore], T]") -> T:
        """Returns the result of a function of the store.

        Raises:
            ProblemError: there is no store (404), too many calls wait (429), or the store does not
                answer (503).
        """
        store = self._store
        if store is None:
            raise ProblemError(
                404, "this service keeps no events: start it with --state", code="no_store"
            )
        if self._waiting >= _MOST_CALLS:
            raise ProblemError(
                429, "too many calls wait for the store: try again", headers={"Retry-After": "1"}
            )
        self._waiting += 1
        loop = asyncio.get_running_loop()
        called = loop.run_in_executor(self._pool, function, store)
        called.add_done_callback(self._end)
        try:
            # The call is not cancelled: its thread may already have stored something.
            async with asyncio.timeout(_WRITE_S):
                return await asyncio.shield(called)
        except TimeoutError:
            raise unavailable(
                "the store of events does not answer: try again", code="store_gone"
            ) from None
        except StoreGoneError as error:
            raise unavailable(str(error), code="store_gone") from None
        except EventConflictError as error:
            raise ProblemError(409, str(error), code="event_conflict") from None

    def close(self) -> None:
        """Ends the threads, after the calls that they are at."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _end(self, called: "asyncio.Future[T]") -> None:
        self._waiting -= 1
        # If nobody waits any more, asyncio would print the error as one that nobody has seen.
        if not called.cancelled():
            called.exception()


def add(app: FastAPI, parts: Parts, calls: Calls) -> None:
    """Adds the routes to the service."""

    async def events(request: Request) -> bytes:
        """Stores events of users. They count from the next request on.

        All are stored, or none. When the response comes, they are durable. The same call may be
        repeated: an event that is already stored, by its user and event id, changes nothing.
        """
        given = [
            UserEvent(one.event_id, str(one.user), str(one.item), one.time, one.event)
            for one in read_body(EventsBody, body_of(request)).events
        ]
        appended = await calls.do(lambda store: store.append(given))
        parts.metrics.events_accepted.inc(appended.accepted)
        parts.metrics.events_duplicate.inc(appended.duplicates)
        unknown = await asyncio.to_thread(unknown_names, parts.versions, given)
        answer = EventsAnswer(
            accepted=appended.accepted,
            duplicates=appended.duplicates,
            trimmed=appended.trimmed,
            unknown=unknown,
        )
        return answer.model_dump_json().encode()

    app.router.routes.append(
        RawRoute(
            "/v1/events",
            events,
            bodies=(EventsBody,),
            response_model=EventsAnswer,
            responses=errors(404, 408, 409, 413, 422, 429, 503),
            tags=["users"],
        )
    )

    @app.get("/v1/users/{user:path}", responses=errors(404, 422, 503), tags=["users"])
    def user(user: User, limit: Limit = 50) -> UserAnswer:
        """Shows what is known of a user: the history, the posted events, the groups."""
        return describe_user(parts, user, limit)

    @app.delete(
        "/v1/users/{user:path}", responses=errors(404, 408, 413, 422, 429, 503), tags=["users"]
    )
    async def forget(user: User) -> ForgottenAnswer:
        """Forgets a user: deletes the events, and uses the history of the data set no more."""
        changed = await calls.do(lambda store: store.forget(user))
        return ForgottenAnswer(user=user, forgotten=True, changed=changed)
