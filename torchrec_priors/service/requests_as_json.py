"""Requests as JSON, for ranks that must make the same calls. JSON keeps every bit of a float."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from torchrec_priors.serving.catalogue import ItemId, ItemList
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.request import Request
from torchrec_priors.serving.user_context import Event, UserContext


def text_of(requests: Sequence[Request]) -> bytes:
    """Returns requests as JSON, without their deadlines, as the clocks of ranks differ.

    Lists of items must be given as ids.
    """
    return json.dumps([_values(request) for request in requests]).encode()


def requests_of(text: bytes) -> list[Request]:
    """Returns the requests that `text_of` has written."""
    return [_request(values) for values in json.loads(text)]


def _values(request: Request) -> dict[str, Any]:
    context = request.context
    levers = request.levers
    return {
        "user": context.user,
        "history": None if context.history is None else _entries(context.history),
        "session": _entries(context.session),
        "posted": _entries(context.posted),
        "groups": {
            prior: groups if isinstance(groups, str) else list(groups)
            for prior, groups in context.groups.items()
        },
        "k": request.k,
        "levers": [levers.only, levers.mute, levers.boost, levers.at_least],
        "allow": _ids(request.allow),
        "deny": _ids(request.deny),
        "strict": request.strict,
        "explain": request.explain,
    }


def _request(values: dict[str, Any]) -> Request:
    history = values["history"]
    context = UserContext(
        values["user"],
        None if history is None else _parsed(history),
        _parsed(values["session"]),
        values["groups"],
        [Event(*entry) for entry in values["posted"]],
    )
    levers = Levers(*values["levers"])
    return Request(
        context,
        values["k"],
        levers,
        values["allow"],
        values["deny"],
        values["strict"],
        explain=values["explain"],
    )


def _entries(entries: Sequence[ItemId | Event]) -> list[ItemId | list[ItemId | str | int | None]]:
    """Returns the entries of a history: an id, or a list with an item, a time and an event."""
    return [
        [entry.item, entry.time, entry.event] if isinstance(entry, Event) else entry
        for entry in entries
    ]


def _parsed(entries: list[Any]) -> list[ItemId | Event]:
    return [Event(*entry) if isinstance(entry, list) else entry for entry in entries]


def _ids(ids: Iterable[ItemId] | ItemList | None) -> list[ItemId] | None:
    assert not isinstance(ids, ItemList)
    return None if ids is None else list(ids)
