"""Runs that answer without a model, for tests of what is around the model."""

import threading
import time
from types import SimpleNamespace
from typing import Any

from torchrec_priors.service.versions import Served
from torchrec_priors.serving.request import Answer, Recommendation, Request
from torchrec_priors.serving.user_context import UserContext


class StubRun:
    """Answers each request with one item: the request's user.

    Attributes:
        batches: the users of each batch that was answered.
        closed: how often it was closed.
        gate: batches wait for this event.
    """

    def __init__(self, takes: float = 0.0) -> None:
        self.takes = takes
        self.batches: list[list[Any]] = []
        self.closed = 0
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.error: Exception | None = None
        self.bad: set[Any] = set()
        self.ranks = SimpleNamespace(world=1, leads=True)

    def answer(self, requests: list[Request]) -> list[Answer]:
        assert not self.closed
        users = [request.context.user for request in requests]
        self.batches.append(users)
        self.started.set()
        assert self.gate.wait(10)
        time.sleep(self.takes)
        if self.error is not None:
            raise self.error
        if self.bad & set(users):
            raise ZeroDivisionError("a bad request")
        return [Answer([Recommendation(user, "", 0.0, "", {})]) for user in users]

    def close(self) -> None:
        self.closed += 1


def served(run: StubRun, name: str = "one") -> Served:
    """Returns a version that answers with a stub."""
    return Served(name, run, 0.0)  # type: ignore[arg-type]


def request(user: Any) -> Request:
    """Returns a request of a user."""
    return Request(UserContext(user))


def users_of(outcomes: list[Answer]) -> list[Any]:
    """Returns the users whose answers these are."""
    return [outcome.items[0].item_id for outcome in outcomes]
