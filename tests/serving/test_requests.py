"""Requests of all kinds in one batch: each is answered as alone, in any thread, and says what it skipped."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import tiny
from serving.conftest import SETTINGS

from torchrec_priors import Event, Levers, Request, UserContext, load_run
from torchrec_priors.config import parse
from torchrec_priors.errors import UserError
from torchrec_priors.retrieval import resident
from torchrec_priors.serving.request import LateError


@pytest.fixture(scope="module")
def loaded(run):
    with load_run(run) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def groups_run(trained):
    """A run with heads for groups of users, and calibrated scores."""
    priors = {"tree": ["temporal:2", "gender", "genre"], "composition": "additive"}
    evaluation = {"calibrated": True, "fusion": "hierarchical"}
    return trained(
        parse(tiny.merged(SETTINGS, priors=priors, evaluation=evaluation, loss={"gate": 1.0}))
    )


def _requests(loaded):
    """Requests that differ in everything that a request may say."""
    denied = loaded.item_list(range(1, 60))
    return [
        Request(UserContext(user=9)),
        Request(UserContext(user="10", session=[5, Event(7, time=890_000_000_000)]), k=3),
        Request(UserContext(user=11), levers=Levers(only=["Comedy"]), deny=denied),
        Request(UserContext(history=[5, 50, 7]), k=40, levers=Levers(boost={"Drama": 3.0})),
        Request(UserContext(history=[5, "x", 7]), deny=[50, "y"]),
        Request(
            UserContext(history=[Event(5, 880_000_000_000, "4 stars"), Event(50, event="z")]),
            deny=denied,
        ),
        Request(UserContext(user=9), k=20, levers=Levers(at_least={"Drama": 0.5, "War": 0.2})),
        Request(UserContext(user=12), k=6, levers=Levers(at_least={"Comedy": 0.5}), deny=denied),
        Request(UserContext(), k=8),
        Request(UserContext(user="nobody", groups={"gender": "F"}), allow=range(1, 40)),
        Request(UserContext(history=[]), levers=Levers(only=["Drama"], at_least={"Drama": 1.0})),
        Request(UserContext(user=13), levers=Levers(only=["Comdy"])),
        Request(UserContext(user=13), k=151),
        Request(UserContext(user=4711), strict=True),
        Request(UserContext(history="50")),
    ]


def _same(one, other):
    """Whether two outcomes are equal, to the last bit."""
    if isinstance(one, UserError):
        return str(one) == str(other)
    return one == other


@pytest.mark.parametrize("which", ["run", "groups_run"])
def test_an_answer_does_not_depend_on_the_batch_or_the_threads(request, which):
    with load_run(request.getfixturevalue(which)) as loaded:
        requests = _requests(loaded)
        alone = [loaded.answer([one])[0] for one in requests]
        assert sum(isinstance(one, UserError) for one in alone) == 4
        for threads in (1, 3):
            loaded.path.threads = threads
            together = loaded.answer(requests * 2)
            for number, outcome in enumerate(together):
                assert _same(outcome, alone[number % len(alone)]), requests[number % len(alone)]

        with ThreadPoolExecutor(3) as pool:
            orders = [np.random.default_rng(seed).permutation(len(requests)) for seed in range(3)]
            for order, outcomes in zip(
                orders,
                pool.map(lambda order: loaded.answer([requests[i] for i in order]), orders),
                strict=True,
            ):
                for number, outcome in zip(order, outcomes, strict=True):
                    assert _same(outcome, alone[number])


@pytest.mark.parametrize("which", ["run", "groups_run"])
def test_the_kernel_and_the_plain_search_give_the_same_answers(request, which, monkeypatch):
    folder = request.getfixturevalue(which)
    with load_run(folder) as fast:
        if not fast.finder.is_local:
            pytest.skip("there is no C++ compiler")
        requests = _requests(fast)
        of_kernel = fast.answer(requests)
    monkeypatch.setattr(resident, "load_native", lambda _: None)
    with load_run(folder) as plain:
        assert plain.finder.resident is None
        of_operations = plain.answer(_requests(plain))

    for request_, one, other in zip(requests, of_kernel, of_operations, strict=True):
        if isinstance(one, UserError):
            assert str(one) == str(other)
            continue
        assert (one.source, one.skipped, one.short) == (other.source, other.skipped, other.short)
        assert [item.item_id for item in one] == [item.item_id for item in other], request_
        for item, same in zip(one, other, strict=True):
            assert item.score == pytest.approx(same.score, abs=1e-4)
            assert item.head_scores == pytest.approx(same.head_scores, abs=1e-4)


def test_a_history_that_is_given_with_times_and_events_is_that_of_the_user(loaded):
    stored = loaded.find_user("9")
    names = loaded.data.manifest.events
    events = [
        Event(loaded.catalogue.item_id(row), int(time_), names[code])
        for row, time_, code in zip(
            stored.items, stored.columns["timestamps"], stored.columns["events"], strict=True
        )
    ]
    whole = loaded.recommend(user=9, k=20)
    assert loaded.recommend(history=events, k=20) == whole
    assert loaded.recommend(user=9, history=events, k=20) == whole
    assert loaded.recommend(history=events[:-4], session=events[-4:], k=20) == whole
    assert loaded.recommend(history=[event.item for event in events], k=20) != whole, (
        "times and events change nothing"
    )
    more = [
        Event(5, events[-1].time + 1_000, names[0]),
        Event(50, events[-1].time + 2_000, names[0]),
    ]
    on_top = loaded.recommend(user=9, session=more, k=20)
    assert on_top == loaded.recommend(history=[*events, *more], k=20)
    assert on_top != whole
    assert not {5, 50} & {item.item_id for item in on_top}


def test_a_time_that_is_unknown_is_that_of_the_item_before(loaded):
    time_ = 880_000_000_000
    known = [Event(5, time_), Event(50, time_), Event(7, time_ + 9_000)]
    partly = [Event(5), Event(50, time_), Event(7, time_ + 9_000)]
    assert loaded.recommend(partly) == loaded.recommend(known)
    assert loaded.recommend([*known, Event(8)]) == loaded.recommend(
        [*known, Event(8, time_ + 9_000)]
    )


def test_what_is_unknown_is_skipped_and_counted(loaded):
    context = UserContext(
        history=["x", 5, Event(50, event="z"), 4711],
        session=["y", 7],
        groups={"gender": "F", "segment": ["a", "b"]},
    )
    answer = loaded.answer([Request(context, allow=["q", *range(20, 90)], deny=["r", "s", 21])])[0]
    assert answer.skipped.counts() == {"items": 3, "events": 1, "groups": 3, "allow": 1, "deny": 2}
    assert (
        answer
        == loaded.answer(
            [Request(UserContext(history=[5, 50, 7]), allow=range(20, 90), deny=[21])]
        )[0].items
    )
    assert all(20 <= item.item_id < 90 and item.item_id != 21 for item in answer)
    assert not loaded.recommend([5, 50]).skipped


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"context": UserContext(user="u")}, "no user 'u'"),
        ({"context": UserContext(history=[5, "x"])}, "no item 'x'"),
        ({"context": UserContext(history=[5], session=["x"])}, "no item 'x'"),
        ({"context": UserContext(history=[Event(5, event="5 star")])}, "did you mean '5 stars'"),
        ({"context": UserContext(history=[5], groups={"gender": "x"})}, "groups: 'gender'"),
        ({"context": UserContext()}, "history is empty"),
        ({"context": UserContext(user=9), "deny": ["x", 5]}, "deny: 1 of 2 items are not in"),
    ],
)
def test_a_strict_request_is_rejected(loaded, wrong, says):
    (error,) = loaded.answer([Request(**wrong, strict=True)])
    assert isinstance(error, UserError)
    assert says in str(error)


def test_a_request_after_its_deadline_is_not_answered(loaded):
    now = time.monotonic()
    requests = [
        Request(UserContext(user=9), deadline=now - 1),
        Request(UserContext(user=9), deadline=now + 60),
        Request(UserContext(user=9)),
    ]
    late, *others = loaded.answer(requests)
    assert isinstance(late, LateError)
    assert others == [loaded.recommend(user=9)] * 2


def test_given_groups_open_the_heads_of_these_groups(groups_run, small_raw):
    woman = next(
        line.split("|")[0]
        for line in (small_raw / "u.user").read_text().splitlines()[5:]
        if line.split("|")[2] == "F"
    )
    with load_run(groups_run) as loaded:
        history = [loaded.catalogue.item_id(row) for row in loaded.find_user(woman).items.tolist()]
        of_her = loaded.recommend(user=woman, history=history)
        assert loaded.recommend(history, groups={"gender": "F"}) == of_her
        assert loaded.recommend(user=woman, history=history, groups={"gender": "x"}) == of_her.items
        of_him = loaded.recommend(user=woman, history=history, groups={"gender": "M"})
        both = loaded.recommend(history, groups={"gender": ["F", "M"]})
        for answer, groups in ((of_her, {"F"}), (of_him, {"M"}), (both, {"F", "M"})):
            found = {head for item in answer for head in item.head_scores} & {"F", "M"}
            assert found == groups
        # Without groups, the heads of all groups are used, but nobody is told "like you".
        unknown = loaded.recommend(history)
        assert [replace(item, reason="") for item in both] == [
            replace(item, reason="") for item in unknown
        ]
        assert {item.reason for item in both} != {item.reason for item in unknown}


def test_calls_that_run_are_waited_for_when_a_run_is_closed(run):
    loaded = load_run(run)
    requests = [Request(UserContext(user=user)) for user in range(6, 26)]
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(loaded.answer, requests) for _ in range(4)]
        running[0].result()
        loaded.close()
        done = []
        for future in running:
            with suppress(RuntimeError):  # it had not begun
                done.append(future.result())
    assert done
    assert all(outcomes == done[0] for outcomes in done)
    with pytest.raises(RuntimeError, match="closed"):
        loaded.answer(requests)


def test_posted_events_that_the_data_set_already_has_count_once(loaded):
    """After the log with the posted events was prepared again, they are in both places."""
    history = loaded.data.find_user("9", ["timestamps"])
    ids = loaded.catalogue.item_ids(history.items[-3:].tolist())
    times = history.columns["timestamps"][-3:].tolist()
    known = [Event(item, time) for item, time in zip(ids, times, strict=True)]
    later = Event(ids[0], times[-1] + 1)

    plain = loaded.recommended(Request(UserContext(user=9)))
    again = loaded.recommended(Request(UserContext(user=9, posted=known)))
    assert _same(plain, again)
    assert not again.skipped

    as_session = loaded.recommended(Request(UserContext(user=9, session=[later])))
    posted = loaded.recommended(Request(UserContext(user=9, posted=[*known, later])))
    assert _same(as_session, posted)
    assert not _same(plain, posted)
