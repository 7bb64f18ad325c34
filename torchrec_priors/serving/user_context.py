"""What a request says about its user."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torchrec_priors.serving.catalogue import ItemId


@dataclass(frozen=True)
class Event:
    """An interaction of a user with an item.

    Attributes:
        item: the original id of the item.
        time: milliseconds since 1970; None if it is unknown.
        event: the name of the event type, as in the data set; None if it is unknown.
    """

    item: ItemId
    time: int | None = None
    event: str | None = None


@dataclass(frozen=True)
class UserContext:
    """A user: a history, what came after it, and groups.

    Attributes:
        user: the original id of a user of the data set; None for a user who is not in it.
        history: the history, oldest first: original item ids, or events. None for the history that
            the data set has of the user. With a history, `user` only gives the user's groups.
        session: what the user did after the history, oldest first, such as the clicks of this
            session.
        groups: for a prior of users, the group of the user, or several groups; they replace those
            that the data set has of the user.
        posted: events that a service has stored, oldest first. They come between the history and
            the session. Those that the data set's history of the user already has, with the same
            item and time, are left out: they were in the log when the data set was made.
    """

    user: ItemId | None = None
    history: Sequence[ItemId | Event] | None = None
    session: Sequence[ItemId | Event] = ()
    groups: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    posted: Sequence[Event] = ()


@dataclass(frozen=True)
class Skipped:
    """What a request names and the data set or the model lacks. It was skipped.

    Attributes:
        users: 1 if the data set has no such user, otherwise 0.
        items: items of the history and the session.
        events: event types of the history and the session. The items were used without them.
        groups: groups, and priors that the model has no heads for.
        allow, deny: items of the lists.
    """

    users: int = 0
    items: int = 0
    events: int = 0
    groups: int = 0
    allow: int = 0
    deny: int = 0

    def counts(self) -> dict[str, int]:
        """Returns the numbers that are not 0, by name."""
        return {name: count for name, count in vars(self).items() if count}

    def __bool__(self) -> bool:
        return bool(self.counts())


def events_of(entries: Sequence[ItemId | Event]) -> Iterator[Event]:
    """Yields the entries of a history as events."""
    for entry in entries:
        yield entry if isinstance(entry, Event) else Event(entry)
