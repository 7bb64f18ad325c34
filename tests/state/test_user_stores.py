"""What all stores of users' events have in common: they behave like a plain list in memory, and survive a restart."""

import dataclasses
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_server import RedisServer

from torchrec_priors.errors import UserError
from torchrec_priors.state.event import UserEvent
from torchrec_priors.state.opening import open_store
from torchrec_priors.state.store import Appended, EventConflictError, Kept, UserStore

MOST = 6
ALL = 1000
NUMBERS = itertools.count()


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def reopen(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], UserStore]]:
    """`reopen()`: the store, opened once more; it keeps at most MOST events of a user."""
    folder = tmp_path_factory.mktemp(request.param)
    uri = None
    server = None
    if request.param == "redis":
        server = RedisServer(folder)
        server.start()
        uri = server.uri

    opened: list[UserStore] = []

    def reopen() -> UserStore:
        store = open_store(uri, folder, most=MOST)
        assert store is not None
        opened.append(store)
        return store

    yield reopen

    for store in opened:
        store.close()
    if server is not None:
        server.close()


@pytest.fixture(scope="module")
def store(reopen: Callable[[], UserStore]) -> UserStore:
    return reopen()


@pytest.fixture
def user() -> str:
    """A user of this test alone."""
    return f"user {next(NUMBERS)} ü}}:{{"


def click(user: str, event_id: str, time: int = 1, item: str = "50") -> UserEvent:
    return UserEvent(event_id, user, item, time, "click")


def ids(kept: Kept) -> list[str]:
    return [event.event_id for event in kept.events]


@dataclass
class PlainUser:
    """The obvious implementation, of one user."""

    kept: list[tuple[int, int, UserEvent]] = field(default_factory=list)
    arrivals: int = 0
    version: int = 0
    trimmed: int = 0
    forgotten: bool = False


class PlainStore:
    """The obvious implementation."""

    def __init__(self) -> None:
        self.users: dict[str, PlainUser] = {}

    def append(self, events: list[UserEvent]) -> Appended | None:
        """None for a conflict."""
        known = {
            (name, event.event_id): event
            for name, user in self.users.items()
            for _, _, event in user.kept
        }
        new: list[UserEvent] = []
        for event in events:
            same = known.setdefault((event.user, event.event_id), event)
            if same != event:
                return None
            if same is event:
                new.append(event)

        trimmed = 0
        for name in {event.user for event in new}:
            user = self.users.setdefault(name, PlainUser())
            for event in new:
                if event.user == name:
                    user.arrivals += 1
                    user.kept.append((event.time, user.arrivals, event))
            user.kept.sort(key=lambda entry: entry[:2])
            excess = max(0, len(user.kept) - MOST)
            del user.kept[:excess]
            user.trimmed += excess
            user.version += 1
            trimmed += excess
        return Appended(len(new), len(events) - len(new), trimmed)

    def forget(self, name: str) -> bool:
        user = self.users.setdefault(name, PlainUser())
        if user.forgotten and not user.kept:
            return False
        user.kept.clear()
        user.trimmed = 0
        user.forgotten = True
        user.version += 1
        return True

    def last(self, name: str, count: int) -> Kept:
        user = self.users.get(name, PlainUser())
        events = tuple(event for _, _, event in user.kept[max(0, len(user.kept) - count) :])
        return Kept(events, user.version, user.forgotten, user.trimmed)


USERS = st.sampled_from(["ann", "bob"])
EVENTS = st.builds(
    UserEvent,
    event_id=st.sampled_from([f"id {number}" for number in range(12)]),
    user=USERS,
    item=st.sampled_from(["50", "ü\n\0'"]),
    time=st.sampled_from([0, 5, 6, 7, 2**53]),
    event=st.sampled_from([None, "click"]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(EVENTS, max_size=9)),
        st.tuples(st.just("append"), st.lists(EVENTS, min_size=1, max_size=1)),
        st.tuples(st.just("forget"), USERS),
    ),
    max_size=10,
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS, count=st.integers(0, MOST + 2))
def test_a_store_behaves_like_lists_in_memory(
    store: UserStore, steps: list[tuple[str, list[UserEvent] | str]], count: int
) -> None:
    plain = PlainStore()
    names = {name: f"{name} {next(NUMBERS)}" for name in ("ann", "bob")}
    for _, value in steps:
        if isinstance(value, str):
            assert store.forget(names[value]) == plain.forget(names[value])
            continue

        # The same event twice must be equal, not the same object.
        events = [dataclasses.replace(event, user=names[event.user]) for event in value]
        expected = plain.append(events)
        if expected is None:
            with pytest.raises(EventConflictError):
                store.append(events)
        else:
            assert store.append(events) == expected

        users = list(names.values())
        assert store.last_many(users, count) == [plain.last(name, count) for name in users]
        for name in users:
            assert store.count(name) == len(plain.last(name, ALL).events)


def test_an_event_appended_again_changes_nothing(store: UserStore, user: str) -> None:
    events = [click(user, "a", 2), click(user, "b", 1)]
    assert store.append(events) == Appended(2, 0)
    before = store.last(user, ALL)
    assert store.append([*events, events[0]]) == Appended(0, 3)
    assert store.last(user, ALL) == before


def test_an_event_repeated_in_a_call_is_stored_once(store: UserStore, user: str) -> None:
    assert store.append([click(user, "a"), click(user, "a")]) == Appended(1, 1)
    assert store.count(user) == 1


def test_events_are_in_the_order_of_time_and_then_of_arrival(store: UserStore, user: str) -> None:
    store.append([click(user, "z", 7), click(user, "late", 9), click(user, "a", 7)])
    store.append([click(user, "early", 3), click(user, "k", 7)])
    assert ids(store.last(user, ALL)) == ["early", "z", "a", "k", "late"]
    assert ids(store.last(user, 2)) == ["k", "late"]
    assert ids(store.last(user, 0)) == []


def test_an_event_id_belongs_to_its_user(store: UserStore, user: str) -> None:
    assert store.append([click(user, "a"), click(f"{user}'s friend", "a", 5)]) == Appended(2, 0)


@pytest.mark.parametrize(
    "other", [{"item": "51"}, {"time": 2}, {"event": None}, {"event": "buy"}], ids=str
)
def test_an_event_id_used_for_another_event_is_named_and_nothing_is_stored(
    store: UserStore, user: str, other: dict[str, str | int | None]
) -> None:
    first = click(user, "the id")
    store.append([first])
    before = store.last(user, ALL)
    changed = dataclasses.replace(first, **other)
    new = click(f"{user}'s friend", "new")
    with pytest.raises(EventConflictError, match="'the id' of user 'user") as found:
        store.append([new, changed])
    assert (found.value.event_id, found.value.user) == ("the id", user)
    assert store.last(user, ALL) == before
    assert store.last(new.user, ALL) == Kept()


def test_two_events_of_a_call_with_one_id_are_a_conflict(store: UserStore, user: str) -> None:
    with pytest.raises(EventConflictError):
        store.append([click(user, "a"), click(user, "a", item="51")])
    assert store.count(user) == 0


def test_each_change_of_a_user_increases_the_version_of_this_user_only(
    store: UserStore, user: str
) -> None:
    versions = [store.last(user, 1).version]
    for number in range(3):
        store.append([click(user, f"{number}"), click(user, f"{number} too")])
        versions.append(store.last(user, 0).version)
    store.forget(user)
    versions.append(store.last(user, 1).version)
    store.append([click(f"{user}'s friend", "a")])
    assert versions == sorted(set(versions))
    assert versions[0] == 0
    assert store.last(user, 1).version == versions[-1]


def test_the_oldest_events_are_trimmed_and_counted(store: UserStore, user: str) -> None:
    assert store.append([click(user, f"{time}", time) for time in range(MOST)]).trimmed == 0
    assert store.append([click(user, "x", 100), click(user, "y", 101)]) == Appended(2, 0, 2)
    kept = store.last(user, ALL)
    assert ids(kept) == [*(f"{time}" for time in range(2, MOST)), "x", "y"]
    assert kept.trimmed == 2
    assert store.count(user) == MOST
    # An event that is older than all others goes at once.
    assert store.append([click(user, "old", 0)]) == Appended(1, 0, 1)
    assert ids(store.last(user, ALL)) == ids(kept)
    # More than there is room for, in one call.
    many = [click(user, f"many {time}", 200 + time) for time in range(2 * MOST)]
    assert store.append(many) == Appended(2 * MOST, 0, 2 * MOST)
    assert list(store.last(user, ALL).events) == many[MOST:]


def test_a_forgotten_user_has_no_events_and_stays_forgotten(
    reopen: Callable[[], UserStore], store: UserStore, user: str
) -> None:
    store.append([click(user, "a"), click(user, "b")])
    assert not store.last(user, ALL).forgotten
    assert store.forget(user)
    forgotten = store.last(user, ALL)
    assert (forgotten.events, forgotten.forgotten) == ((), True)
    assert store.count(user) == 0

    # Forgetting again changes nothing.
    assert not store.forget(user)
    assert store.last(user, ALL) == forgotten

    # New events, also with former ids, are kept, and the user's base history stays forgotten.
    assert store.append([click(user, "a", 5)]) == Appended(1, 0)
    kept = reopen().last(user, ALL)
    assert (ids(kept), kept.forgotten) == (["a"], True)
    assert kept.version > forgotten.version
    assert store.forget(user)


def test_a_user_without_events_can_be_forgotten(store: UserStore, user: str) -> None:
    assert store.forget(user)
    assert store.last(user, ALL) == Kept(version=1, forgotten=True)


def test_what_was_stored_is_there_after_a_restart(
    reopen: Callable[[], UserStore], user: str
) -> None:
    first = reopen()
    first.append([click(user, f"{time}", time) for time in range(MOST + 1)])
    before = first.last(user, ALL)
    first.close()
    second = reopen()
    assert second.last(user, ALL) == before
    assert second.append([click(user, "3", 3)]) == Appended(0, 1)


def test_threads_append_at_the_same_time(store: UserStore, user: str) -> None:
    """Eight threads send the same events in other orders, as clients do that repeat calls."""
    users = [f"{user} {number}" for number in range(8)]
    events = [click(name, f"{number}", number) for name in users for number in range(MOST)]
    start = threading.Barrier(8)

    def send(thread: int) -> Counter[str]:
        start.wait()
        found: Counter[str] = Counter()
        for nth in range(0, len(events), 3):
            at = (nth + thread * 6) % len(events)
            appended = store.append(events[at : at + 3])
            found.update(accepted=appended.accepted, duplicates=appended.duplicates)
            # Readers see whole calls.
            assert store.count(events[at].user) >= 3
        return found

    with ThreadPoolExecutor(8) as threads:
        found = sum(threads.map(send, range(8)), Counter())
    assert found == {"accepted": len(events), "duplicates": 7 * len(events)}
    for kept in store.last_many(users, ALL):
        assert ids(kept) == [f"{number}" for number in range(MOST)]
        assert kept.version == MOST // 3


def test_threads_that_claim_an_event_id_have_one_winner(store: UserStore, user: str) -> None:
    start = threading.Barrier(6)

    def claim(thread: int) -> bool:
        start.wait()
        try:
            store.append([click(user, "one", item=str(thread))])
        except EventConflictError:
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        won = list(threads.map(claim, range(6)))
    assert sum(won) == 1
    assert store.last(user, 1).events[0].item == str(won.index(True))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"event_id": ""}, "event_id ''"),
        ({"item": "x" * 1001}, "item 'xxx"),
        ({"user": "\ud800"}, "user '.ud800': it is not valid Unicode"),
        ({"event": ""}, "event ''"),
        ({"time": -1}, "time '-1'"),
        ({"time": 2**53 + 1}, "time '9007199254740993'"),
        ({"time": 1.5}, "time '1.5'"),
        ({"time": True}, "time 'True'"),
        ({"item": 50}, "item '50' is not a string"),
    ],
    ids=str,
)
def test_events_that_no_store_can_keep_are_rejected(
    store: UserStore, user: str, wrong: dict[str, str | int], message: str
) -> None:
    good = click(user, "a")
    with pytest.raises(UserError, match=message):
        store.append([good, dataclasses.replace(good, **wrong)])
    assert store.count(user) == 0


def test_ids_that_no_user_can_have_are_rejected(store: UserStore) -> None:
    for call in (store.count, store.forget, lambda user: store.last(user, 1)):
        with pytest.raises(UserError, match="user"):
            call("\udfff")


def test_nothing_costs_nothing(store: UserStore) -> None:
    assert store.append([]) == Appended(0, 0)
    assert store.last_many([], 5) == []
    store.check()
