"""The interface of stores of users' events, and their errors.

All stores keep the same rules:

- When `append` returns, its events are durable. A call is stored as a whole or not at all.
- An event is identified by its user and its event id. Appending it again changes nothing.
- The events of a user are in the order of their times. Events of equal times are in the order in
  which they arrived.
- A user keeps at most `most` events. If there are more, the oldest are trimmed and counted. Event
  ids are remembered as long as their events: a trimmed or forgotten event can be appended again.
- Every change of a user increases the user's version, also over `forget` and restarts.
- All methods may be called from any thread. They wait for a disk or a network, so do not call them
  on an event loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torchrec_priors.errors import OutsideError, UserError, shown
from torchrec_priors.state.event import UserEvent

# By default, the number of events that a user keeps.
MOST = 10_000


class StoreGoneError(OutsideError):
    """The store cannot be read or written now, such as with a full disk or without a connection.

    The call may be repeated later: events that were stored nevertheless are then duplicates.
    """


class EventConflictError(UserError):
    """An event id is used again, for an event with other content.

    Attributes:
        event_id: the id of the event.
        user: the user of both events.
    """

    def __init__(self, event_id: str, user: str) -> None:
        super().__init__(
            f"event id {shown(event_id)} of user {shown(user)} was used before for another event: "
            "give each event an id of its own"
        )
        self.event_id = event_id
        self.user = user


@dataclass(frozen=True, slots=True)
class Appended:
    """What a call of `append` did. `accepted` and `duplicates` together count all events.

    Attributes:
        accepted: the number of events that are new.
        duplicates: the number of events that were stored before, or are repeated in the call.
        trimmed: the number of events that had to make room, including new events that are older
            than all events that their user keeps.
    """

    accepted: int
    duplicates: int
    trimmed: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """What a store keeps of a user. A user without events has version 0.

    Attributes:
        events: the newest events, oldest first.
        version: a number that grows with each change of the user.
        forgotten: whether the user was forgotten. The history that the data set has of the user
            must then not be used any more; the events are those since then.
        trimmed: how many events of the user were trimmed since the user was last forgotten.
    """

    events: tuple[UserEvent, ...] = ()
    version: int = 0
    forgotten: bool = False
    trimmed: int = 0


class UserStore(Protocol):
    """A store of users' events. `torchrec_priors.state.opening.open_store` opens one.

    Every method raises StoreGoneError if the store cannot be used now, and UserError for ids, names
    and times that `torchrec_priors.state.event` rejects.
    """

    def append(self, events: Sequence[UserEvent]) -> Appended:
        """Stores events of any users, all or none, and returns when they are durable.

        Raises:
            EventConflictError: an event id belongs to another event of the same user. Nothing of
                the call is stored.
        """

    def last(self, user: str, count: int) -> Kept:
        """Returns the newest `count` events of a user, oldest first, and the user's version."""

    def last_many(self, users: Sequence[str], count: int) -> list[Kept]:
        """Returns what `last` returns for each of these users, in their order."""

    def count(self, user: str) -> int:
        """Returns how many events of a user are kept."""

    def forget(self, user: str) -> bool:
        """Deletes all events of a user, and remembers that the user was forgotten.

        From then on, `Kept.forgotten` is True for the user, also after new events. Only the user's
        id, the version and this fact remain.

        Returns:
            Whether this changed anything: False if the user was forgotten before and has no events.
        """

    def check(self) -> None:
        """Raises StoreGoneError if the store cannot be written now."""

    def close(self) -> None:
        """Closes the store. Appends that were called before are finished first."""
