"""An event of a user, as stores keep it, and the rules that every event must follow."""

from collections.abc import Iterable
from dataclasses import dataclass

from torchrec_priors.errors import UserError, shown

# The longest id or name, in characters.
LONGEST = 1000
# Redis keeps times as floats of 64 bits. Larger integers are not exact there.
_LATEST = 2**53


@dataclass(frozen=True, slots=True)
class UserEvent:
    """An interaction of a user with an item, which a client has reported.

    Attributes:
        event_id: the client's name of this event. A client that repeats a call uses the same names
            again, so that no event is stored twice. Names of different users do not collide.
        user: the id of the user.
        item: the id of the item.
        time: milliseconds since 1970.
        event: the name of the event type, as in the data set; None if it is unknown.
    """

    event_id: str
    user: str
    item: str
    time: int
    event: str | None = None


def check_events(events: Iterable[UserEvent]) -> None:
    """Raises UserError if a store cannot keep one of these events.

    Ids and names have 1 to `LONGEST` characters, all of which UTF-8 can express. Times are integers
    between 0 and 2^53.
    """
    for event in events:
        _check_text("event_id", event.event_id)
        _check_text("user", event.user)
        _check_text("item", event.item)
        if event.event is not None:
            _check_text("event", event.event)
        if type(event.time) is not int or not 0 <= event.time <= _LATEST:
            raise UserError(
                f"time {shown(event.time)} of event {shown(event.event_id)}: "
                "give milliseconds since 1970, as an integer from 0 to 2^53"
            )


def check_user(user: str) -> None:
    """Raises UserError if no user can have this id."""
    _check_text("user", user)


def _check_text(name: str, text: str) -> None:
    if not isinstance(text, str):
        raise UserError(f"{name} {shown(text)} is not a string: give it as a string")
    if not 0 < len(text) <= LONGEST:
        raise UserError(f"{name} {shown(text)}: give 1 to {LONGEST:,} characters")

    # JSON can contain halves of surrogate pairs, which are not characters.
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{name} {text[:40]!a}: it is not valid Unicode") from error
