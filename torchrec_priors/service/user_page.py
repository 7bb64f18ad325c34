"""Shows what is known of a user, and which names of events the model does not know."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.prepared.users import History
from torchrec_priors.priors.prior import is_of_users
from torchrec_priors.service.context import State
from torchrec_priors.service.parts import Parts
from torchrec_priors.service.problem import ProblemError, unavailable
from torchrec_priors.service.shapes import PastItem, UserAnswer
from torchrec_priors.service.versions import NotReadyError, Served, Versions
from torchrec_priors.serving.catalogue import texts
from torchrec_priors.serving.run import LoadedRun
from torchrec_priors.state.event import UserEvent
from torchrec_priors.state.store import Kept

if TYPE_CHECKING:
    from torchrec_priors.state.store import UserStore


def describe_user(parts: Parts, user: str, limit: int) -> UserAnswer:
    """Shows what is known of a user.

    Args:
        parts: the parts of the service.
        user: the user's original id.
        limit: the most entries of the history, the newest ones.

    Raises:
        ProblemError: nothing is known of the user (404), or the store does not answer, and the data
            set does not know the user (503).
    """
    kept, stored, is_there = Kept(), 0, True
    if parts.store is not None:
        try:
            kept, stored = _read(parts.store, user, limit)
        except OutsideError:
            is_there = False
    with parts.versions.lease() as served:
        run = served.run
        known = _base(run, user)
        base = None if kept.forgotten else known
        if base is None and not stored and not kept.forgotten:
            if not is_there:
                raise unavailable("the store of events does not answer: try again")
            raise ProblemError(404, "nothing is known of this user", code="unknown_user")

        entries = [] if base is None else _entries_of_base(run, base, limit)
        entries = [*entries, *_entries_of_events(run, kept.events)]
        return UserAnswer(
            user=user,
            version=served.name,
            in_data_set=known is not None,
            forgotten=kept.forgotten,
            groups={} if base is None else _groups(run, base.user),
            interactions=0 if base is None else len(base.items),
            events=stored,
            state=_state(parts, is_there=is_there),
            history=entries[-limit:],
        )


def unknown_names(versions: Versions, events: Sequence[UserEvent]) -> dict[str, int]:
    """Counts items and event types of events that the model does not know.

    They are stored, as a later model may know them.

    Returns:
        The numbers that are not 0, by `items` and `events`; nothing as long as no model is loaded.
    """
    try:
        with versions.lease() as served:
            return _unknown_names(served, events)
    except NotReadyError:
        return {}


def _unknown_names(served: Served, events: Sequence[UserEvent]) -> dict[str, int]:
    run = served.run
    names = set(run.data.manifest.events)
    counts = {
        "items": int((run.catalogue.find(texts([event.item for event in events])) < 0).sum()),
        "events": sum(event.event is not None and event.event not in names for event in events),
    }
    return {name: count for name, count in counts.items() if count}


def _read(store: "UserStore", user: str, limit: int) -> tuple[Kept, int]:
    """Returns the newest events of a user, and how many there are."""
    return store.last(user, limit), store.count(user)


def _state(parts: Parts, *, is_there: bool) -> State:
    if parts.store is None:
        return "none"
    return "current" if is_there else "unavailable"


def _base(run: LoadedRun, user: str) -> History | None:
    """Returns the history that the data set has of a user, with times and events if it has them."""
    try:
        return run.data.find_user(user, ["timestamps", "events"])
    except UserError:
        return None


def _groups(run: LoadedRun, number: int) -> dict[str, list[str]]:
    """Returns the groups that the model uses of a user, by the names of their priors."""
    groups: dict[str, list[str]] = {}
    for level in run.model.tree.levels:
        if is_of_users(level):
            names: list[str] = list(level.groups)  # type: ignore[arg-type]
            _, group = level.groups_of_users(torch.tensor([number]))  # type: ignore[operator]
            groups[str(level.name)] = [names[one] for one in group.tolist()]
    return groups


def _entries_of_base(run: LoadedRun, base: History, limit: int) -> list[PastItem]:
    rows = base.items[-limit:].tolist()
    manifest = run.data.manifest
    times: list[int | None] = [None] * len(rows)
    codes: list[int | None] = [None] * len(rows)
    if manifest.has_times and "timestamps" in base.columns:
        times = base.columns["timestamps"][-limit:].tolist()
    if "events" in base.columns:
        codes = base.columns["events"][-limit:].tolist()
    return [
        PastItem(
            item_id=run.catalogue.item_id(row),
            title=run.catalogue.title(row),
            time=time,
            event=None if code is None else manifest.events[code],
            source="data_set",
        )
        for row, time, code in zip(rows, times, codes, strict=True)
    ]


def _entries_of_events(run: LoadedRun, events: Sequence[UserEvent]) -> list[PastItem]:
    if not events:
        return []
    rows = run.catalogue.find(texts([event.item for event in events])).tolist()
    return [
        PastItem(
            item_id=event.item if row < 0 else run.catalogue.item_id(row),
            title="" if row < 0 else run.catalogue.title(row),
            time=event.time,
            event=event.event,
            source="events",
        )
        for row, event in zip(rows, events, strict=True)
    ]
