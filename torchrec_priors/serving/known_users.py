"""Turns what requests say about their users into histories of row ids.

The ids of all requests are looked up together. What is unknown is skipped and counted, or rejected
if the request is strict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from torchrec_priors.errors import UserError, nearest, shown
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.users import COLUMN_TYPES, History
from torchrec_priors.priors.prior import is_of_users
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.serving.catalogue import Catalogue, texts
from torchrec_priors.serving.stored_users import TIMES, StoredUsers
from torchrec_priors.serving.user_context import Event, Skipped, UserContext, events_of

EVENTS = "events"

_NOTHING = Skipped()


@dataclass(frozen=True)
class KnownUser:
    """A user in the terms of the model.

    Attributes:
        history: the history, with the columns that all its items have.
        groups: the numbers of the groups that were given, by the index of the level of users.
        skipped: what was skipped.
    """

    history: History
    groups: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    skipped: Skipped = field(default_factory=Skipped)


class KnownUsers:
    """Finds out what is known about users. Any thread may call it."""

    def __init__(
        self,
        data: PreparedData,
        catalogue: Catalogue,
        stored: StoredUsers,
        tree: PriorTree,
        columns: Sequence[str],
    ) -> None:
        """
        Args:
            data: the data set.
            catalogue: its items.
            stored: its users.
            tree: the prior tree, which has the groups of users.
            columns: the columns that the encoder reads in addition to the items.
        """
        self._data = data
        self._catalogue = catalogue
        self._stored = stored
        self._tree = tree
        self._columns = tuple(columns)
        self._codes = {name: code for code, name in enumerate(data.manifest.events)}
        self._levels: dict[str, int] = {
            str(level.name): number
            for number, level in enumerate(tree.levels)
            if is_of_users(level)
        }
        self._usual_event = _most_frequent_event(data)

    def find(
        self, contexts: Sequence[UserContext], strict: Sequence[bool]
    ) -> list[KnownUser | UserError]:
        """Finds the users of some requests.

        Args:
            contexts: what the requests say.
            strict: for each request, whether it is rejected if something is unknown.

        Returns:
            For each request the user, or the error with which it is rejected.
        """
        numbers = self._numbers(contexts)
        given: list[list[Event]] = []
        errors: dict[int, UserError] = {}
        for request, context in enumerate(contexts):
            try:
                given.append(_given(context))
            except UserError as error:
                given.append([])
                errors[request] = error
        place = self._places([event for events in given for event in events])
        bounds = np.cumsum([0, *map(len, given)])

        found: list[KnownUser | UserError] = []
        for request, context in enumerate(contexts):
            if request in errors:
                found.append(errors[request])
                continue
            places = place[bounds[request] : bounds[request + 1]]
            try:
                user = self._user(context, numbers[request], given[request], places)
                if strict[request]:
                    self._check(context, user, given[request], places)
                found.append(user)
            except UserError as error:
                found.append(error)
        return found

    def _numbers(self, contexts: Sequence[UserContext]) -> list[int]:
        """Returns the number of each user in file order; -1 if unknown or not given."""
        numbers = [-1] * len(contexts)
        with_user = [row for row, context in enumerate(contexts) if context.user is not None]
        if with_user:
            ids = texts([contexts[row].user for row in with_user])  # type: ignore[misc]
            for row, number in zip(with_user, self._stored.numbers(ids).tolist(), strict=True):
                numbers[row] = number
        return numbers

    def _places(self, events: list[Event]) -> np.ndarray:
        """Returns the row id of each event's item; -1 for unknown items."""
        if not events:
            return np.zeros(0, np.int64)
        return self._catalogue.find(texts([event.item for event in events]))

    def _user(
        self, context: UserContext, number: int, given: list[Event], place_N: np.ndarray
    ) -> KnownUser:
        """Returns the user of a request.

        Args:
            context: what the request says.
            number: the user's number in the data set, or -1.
            given: the events of the request.
            place_N: the row ids of their items; -1 for unknown items.
        """
        stored = History(np.zeros(0, np.int64))
        if number >= 0 and context.history is None:
            stored = self._stored.history(number)
        if not given and not context.groups:
            return self._only_stored(context, number, stored)

        unknown = int((place_N < 0).sum())
        if context.posted and len(stored.items):
            place_N = _without_stored(context, stored, given, place_N)
        kept = np.flatnonzero(place_N >= 0).tolist()
        events = [given[index] for index in kept]
        unknown_events = sum(
            event.event is not None and event.event not in self._codes for event in events
        )
        columns = {}
        for name in self._columns:
            values = self._column(name, stored, events)
            if values is not None:
                columns[name] = values

        groups, unknown_groups = self._groups(context)
        skipped = Skipped(
            users=int(context.user is not None and number < 0),
            items=unknown,
            events=unknown_events,
            groups=unknown_groups,
        )
        history = History(np.concatenate([stored.items, place_N[kept]]), columns, number)
        return KnownUser(history, groups, skipped)

    def _only_stored(self, context: UserContext, number: int, stored: History) -> KnownUser:
        """Returns the user of a request that gives neither events nor groups, as most do."""
        columns = {
            name: stored.columns[name]
            for name in self._columns
            if len(stored.columns.get(name, ()))
        }
        is_unknown = context.user is not None and number < 0
        skipped = Skipped(users=1) if is_unknown else _NOTHING
        return KnownUser(History(stored.items, columns, number), {}, skipped)

    def _column(self, name: str, stored: History, events: list[Event]) -> np.ndarray | None:
        """Returns a column of a history; None if it is known of no item.

        A time that is unknown is that of the item before, or else of the first known one. An event
        that is unknown is the most frequent one of the data set.
        """
        known: list[int | None] = [self._value(name, event) for event in events]
        before = stored.columns.get(name)
        if before is None:
            before = np.zeros(0, COLUMN_TYPES[name])
            if len(stored.items):
                return None
        if not len(before) and all(value is None for value in known):
            return None

        values: list[int] = []
        last = int(before[-1]) if len(before) else None
        first = next((value for value in known if value is not None), None)
        for value in known:
            if value is None and name == EVENTS:
                value = self._usual_event
            elif value is None:
                value = last if last is not None else first
            assert value is not None
            last = value
            values.append(value)
        return np.concatenate([before, np.array(values, np.int64)])

    def _value(self, name: str, event: Event) -> int | None:
        """Returns the number that a column has for an event; None if it is unknown."""
        if name == TIMES:
            return event.time
        return None if event.event is None else self._codes.get(event.event)

    def _groups(self, context: UserContext) -> tuple[dict[int, tuple[int, ...]], int]:
        """Returns the numbers of the given groups by level, and how many are unknown."""
        groups: dict[int, tuple[int, ...]] = {}
        unknown = 0
        for prior, names in context.groups.items():
            listed = [names] if isinstance(names, str) else list(names)
            level = self._levels.get(prior)
            known: list[int] = []
            if level is not None:
                of_level = self._tree.group_names[level]
                known = [of_level.index(name) for name in listed if name in of_level]
            unknown += len(listed) - len(known)
            if level is not None and known:
                groups[level] = tuple(known)
        return groups, unknown

    def _check(
        self, context: UserContext, user: KnownUser, given: list[Event], place_N: np.ndarray
    ) -> None:
        """Raises UserError if anything was skipped, or if there is no history."""
        name = self._data.manifest.name
        if user.skipped.users:
            raise self._data.unknown_user(str(context.user))
        if user.skipped.items:
            item = shown(str(given[int(np.argmin(place_N))].item))
            raise UserError(f"the history: data set '{name}' has no item {item}")
        if user.skipped.events:
            wrong = next(
                event.event
                for event in given
                if event.event is not None and event.event not in self._codes
            )
            raise UserError(
                f"the history: data set '{name}' has no event {shown(wrong)}: "
                f"{nearest(wrong, list(self._codes))}"
            )
        if user.skipped.groups:
            raise UserError(
                f"groups: {shown(', '.join(context.groups))}: no head is for one of these groups "
                f"of users (priors of users: {', '.join(self._levels) or 'none'})"
            )
        if not len(user.history.items):
            raise UserError("the history is empty: give item ids, oldest first")


def _given(context: UserContext) -> list[Event]:
    """Returns the events that a request gives.

    Raises:
        UserError: a history is a single text.
    """
    for entries in (context.history, context.session):
        if isinstance(entries, str):
            raise UserError(f"'{entries}' is one id: give a list of ids")
    return [
        *events_of(context.history or ()),
        *context.posted,
        *events_of(context.session),
    ]


def _without_stored(
    context: UserContext, stored: History, given: list[Event], place_N: np.ndarray
) -> np.ndarray:
    """Marks the posted events that the data set already has, by -1 as their item.

    Args:
        context: what the request says.
        stored: the history that the data set has.
        given: the events of the request.
        place_N: the row ids of their items.
    """
    times = stored.columns.get(TIMES)
    if times is None:
        return place_N
    known = set(zip(stored.items.tolist(), times.tolist(), strict=True))
    first = len(context.history or ())
    kept_N = place_N.copy()
    for index in range(first, first + len(context.posted)):
        if (int(place_N[index]), given[index].time) in known:
            kept_N[index] = -1
    return kept_N


def _most_frequent_event(data: PreparedData) -> int:
    """Returns the code of the event with most training interactions."""
    for info in data.manifest.priors:
        if info.kind == "event" and len(info.sizes) == len(data.manifest.events):
            event, group = data.prior_pairs(info.name, "event")
            if len(event) == len(info.sizes):
                return int(event[int(np.argmax(np.array(info.sizes)[group]))])
    return 0
