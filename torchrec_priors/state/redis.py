"""A store of users' events in Redis or Valkey: for services on several machines.

All keys begin with `torchrec_priors:1:`, where 1 is the format. Stores of different data sets need
different database numbers. Events are as durable as the server makes them: a warning is logged
unless it has `appendonly yes` and `appendfsync always`.
"""

import json
import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TypeVar
from urllib.parse import urlsplit

from torchrec_priors.errors import UserError
from torchrec_priors.state.event import UserEvent, check_events, check_user
from torchrec_priors.state.redis_scripts import APPEND, FORGET, LAST
from torchrec_priors.state.store import (
    MOST,
    Appended,
    EventConflictError,
    Kept,
    StoreGoneError,
)

try:
    import redis
    from redis.backoff import ExponentialBackoff
    from redis.retry import Retry
except ImportError as error:
    raise UserError(
        "stores in Redis need an extra: pip install 'torchrec-priors[redis]'"
    ) from error

_log = logging.getLogger(__name__)

T = TypeVar("T")

_PREFIX = "torchrec_priors:1:"
# A call is tried three times, so it takes at most about two seconds. Repeating it is safe, because
# events have ids. A URI can set another `socket_timeout`.
_TIMEOUT_S = 0.6
_RETRIES = 2
# After a failure, calls fail at once for so many seconds. Otherwise every request would wait for a
# server that does not answer.
_REST_S = 0.5
# Settings of the server that keep what it has acknowledged, and why.
_DURABLE = {
    "appendonly": ("yes", "a restart of the server loses events"),
    "appendfsync": ("always", "a crash of the server's machine loses the last second of events"),
    "maxmemory-policy": (
        "noeviction",
        "a full server deletes events, and forgets who is forgotten",
    ),
}


class RedisStore:
    """Implements `UserStore`."""

    def __init__(self, uri: str, *, most: int = MOST) -> None:
        """Connects to the server. If it does not answer, a warning is logged.

        Args:
            uri: `redis://`, `rediss://` or `unix://`, as redis-py reads it.
            most: the number of events that a user keeps.

        Raises:
            UserError: the URI is wrong, or the server rejects the user or the password.
        """
        assert most > 0
        self._most = most
        self._name = _public(uri)
        self._rest_until = 0.0
        self._is_inspected = False
        try:
            self._client = redis.Redis.from_url(
                uri,
                decode_responses=True,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), _RETRIES),
                retry_on_error=[redis.ConnectionError, redis.TimeoutError],
            )
            self._append = self._client.register_script(APPEND)
            self._last = self._client.register_script(LAST)
            self._forget = self._client.register_script(FORGET)
            self.check()
        except StoreGoneError as gone:
            if isinstance(gone.__cause__, redis.AuthenticationError):
                raise UserError(f"{gone}: give the right user and password in the URI") from gone
            _log.warning("%s; it is tried again with every call", gone)
        except (TypeError, ValueError) as error:
            raise UserError(f"store '{self._name}': {error}: correct the URI") from error

    def append(self, events: Sequence[UserEvent]) -> Appended:
        """Implements `UserStore.append`.

        If a connection breaks, the call is repeated. What the first attempt stored then counts as
        duplicates.
        """
        check_events(events)
        if not events:
            return Appended(0, 0)

        users: dict[str, int] = {}
        arguments: list[str | int] = [self._most]
        for event in events:
            user = users.setdefault(event.user, len(users))
            arguments += [user, event.event_id, event.time, _content(event)]

        found = self._call(lambda: self._append(keys=_keys(users), args=arguments))
        if found[0] == -1:
            conflict = events[found[1]]
            raise EventConflictError(conflict.event_id, conflict.user)
        return Appended(*found)

    def last(self, user: str, count: int) -> Kept:
        """Implements `UserStore.last`."""
        return self.last_many([user], count)[0]

    def last_many(self, users: Sequence[str], count: int) -> list[Kept]:
        """Implements `UserStore.last_many`, in one round trip."""
        for user in users:
            check_user(user)
        if not users:
            return []
        found = self._call(lambda: self._last(keys=_keys(users), args=[count]))
        return [_kept(user, answer) for user, answer in zip(users, found, strict=True)]

    def count(self, user: str) -> int:
        """Implements `UserStore.count`."""
        check_user(user)
        order = _keys([user])[2]
        return self._call(lambda: int(self._client.zcard(order)))

    def forget(self, user: str) -> bool:
        """Implements `UserStore.forget`. The server's log has the events until it is rewritten."""
        check_user(user)
        return self._call(lambda: self._forget(keys=_keys([user])) == 1)

    def check(self) -> None:
        """Implements `UserStore.check`, by a write."""
        self._call(lambda: self._client.set(f"{_PREFIX}check", "1"))

    def close(self) -> None:
        """Implements `UserStore.close`."""
        self._client.close()

    def _call(self, function: Callable[[], T]) -> T:
        """Returns what `function` returns, with errors of Redis as StoreGoneErrors."""
        if monotonic() < self._rest_until:
            raise StoreGoneError(f"store '{self._name}' did not answer just now: try again")
        try:
            result = function()
            if not self._is_inspected:
                self._inspect()
        except (redis.ConnectionError, redis.TimeoutError) as error:
            self._rest_until = monotonic() + _REST_S
            # The server may come back with other settings.
            self._is_inspected = False
            raise self._gone(error) from error
        except redis.ResponseError as error:
            raise self._gone(error) from error
        return result

    def _gone(self, error: Exception) -> StoreGoneError:
        text = " ".join(str(error).split())[:200]
        return StoreGoneError(f"store '{self._name}' cannot be used now: {text}")

    def _inspect(self) -> None:
        """Logs a warning for each setting of the server that can lose events."""
        self._is_inspected = True
        try:
            settings = self._client.config_get(*_DURABLE)
        except redis.ResponseError:
            _log.warning(
                "store '%s' does not show its settings: see that it has %s",
                self._name,
                ", ".join(f"{name} {wanted}" for name, (wanted, _) in _DURABLE.items()),
            )
            return

        for name, (wanted, otherwise) in _DURABLE.items():
            if settings.get(name, wanted) != wanted:
                _log.warning(
                    "store '%s' has %s %s, so %s: set it to %s",
                    self._name,
                    name,
                    settings[name],
                    otherwise,
                    wanted,
                )


def _keys(users: Sequence[str] | dict[str, int]) -> list[str]:
    """Returns the keys of users, as the scripts expect them."""
    return [
        f"{_PREFIX}{{{user}}}:{part}" for user in users for part in ("meta", "contents", "order")
    ]


def _content(event: UserEvent) -> str:
    """Returns the text that is compared to find conflicts, and from which events are read."""
    values = [event.event_id, event.item, event.time, event.event]
    return json.dumps(values, separators=(",", ":"))


def _kept(user: str, answer: Sequence[str]) -> Kept:
    """Returns what a script has answered about a user."""
    version, forgotten, trimmed, text = answer
    events = tuple(
        UserEvent(event_id, user, item, time, event)
        for event_id, item, time, event in json.loads(text)
    )
    return Kept(events, int(version), forgotten == "1", int(trimmed))


def _public(uri: str) -> str:
    """Returns a URI without its user, password and options.

    >>> _public("redis://:secret@host:6379/0?socket_timeout=2")
    'redis://host:6379/0'
    """
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
