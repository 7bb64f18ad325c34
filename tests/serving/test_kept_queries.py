"""Answers from kept queries equal computed ones to the last bit; memory is bounded, and hits are counted."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import habits
import numpy as np
import pytest
import tiny
import torch
from serving.conftest import SETTINGS

from torchrec_priors import Event, Levers, Request, UserContext, load_run
from torchrec_priors.config import parse
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.users import History
from torchrec_priors.retrieval.search_types import Queries
from torchrec_priors.serving.kept_queries import KeptQueries, key_of
from torchrec_priors.serving.known_users import KnownUser

MUCH = 1 << 24


@pytest.fixture(scope="module")
def groups_run(trained):
    """A run with heads for groups of users, and calibrated scores."""
    priors = {"tree": ["temporal:2", "gender", "genre"], "composition": "additive"}
    evaluation = {"calibrated": True, "fusion": "hierarchical"}
    return trained(
        parse(tiny.merged(SETTINGS, priors=priors, evaluation=evaluation, loss={"gate": 1.0}))
    )


@pytest.fixture(scope="module")
def repeats_run(tmp_path_factory):
    """A run with a repeat head, which recommends items of the history."""
    config = tiny.config(
        model={"horizon": 2},
        priors={"tree": ["category"]},
        negatives={"seen": False},
        loss={"gate": 1.0},
        repeats={"weight": 1.0},
        training={"steps": 2},
        evaluation={"filter_seen": False},
    )
    run = tmp_path_factory.mktemp("repeats") / "run"
    tiny.train(config, habits.prepared(tmp_path_factory.mktemp("shop")), run)
    return run


def _random_requests(loaded, rng, count):
    """Requests of a few users, so that many of them come again with other levers, lists and k."""
    items = loaded.catalogue.ids.to_pylist()
    events = loaded.data.manifest.events
    groups = sorted({head.split(" / ")[0] for head in loaded.heads})

    def some_items(most):
        return rng.choice(items, rng.integers(0, most + 1)).tolist()

    def event(item):
        time = int(rng.integers(880_000_000_000, 890_000_000_000))
        return Event(item, time, str(rng.choice(events)) if events else None)

    def context():
        user = [5, 6, 7, 8, "nobody", None][rng.integers(6)]
        session = [[], [items[3]], [event(items[3])], some_items(3)][rng.integers(4)]
        history = [None, None, items[:4], [event(item) for item in items[:4]]][rng.integers(4)]
        gender = [{}, {}, {"gender": "F"}, {"gender": ["M", "F"]}][rng.integers(4)]
        return UserContext(user, history, session, gender)

    def levers():
        name = str(rng.choice(groups))
        return [
            Levers(),
            Levers(),
            Levers(only=[name]),
            Levers(mute=[name]),
            Levers(boost={name: 2.5}),
            Levers(at_least={name: 0.4}),
        ][rng.integers(6)]

    contexts = [context() for _ in range(count // 3)]
    return [
        Request(
            contexts[rng.integers(len(contexts))],
            int(rng.integers(1, 12)),
            levers(),
            deny=None if rng.random() < 0.5 else some_items(20),
            explain=bool(rng.random() < 0.8),
        )
        for _ in range(count)
    ]


def _same(one, other):
    """Whether two outcomes are equal, to the last bit."""
    if isinstance(one, UserError) or isinstance(other, UserError):
        return str(one) == str(other)
    return one == other


@pytest.mark.parametrize("which", ["run", "groups_run", "repeats_run"])
def test_answers_from_kept_queries_are_the_same_to_the_last_bit(request, which):
    with load_run(request.getfixturevalue(which)) as loaded:
        for seed in range(2):
            rng = np.random.default_rng(seed)
            requests = _random_requests(loaded, rng, 45)
            loaded.keep_queries(0)
            computed = loaded.answer(requests)
            assert sum(not isinstance(one, UserError) for one in computed) > 15

            # The second limit keeps some users only, so that they are dropped and computed again.
            for limit in (MUCH, 12_000):
                loaded.keep_queries(limit)
                first = 0
                while first < len(requests):
                    size = int(rng.choice([1, 1, 5, 16]))
                    answers = loaded.answer(requests[first : first + size])
                    for outcome, same in zip(answers, computed[first:], strict=False):
                        assert _same(outcome, same)
                    first += size
                assert loaded.kept_queries.nbytes <= limit
        assert loaded.kept_queries.hits > 30
        assert loaded.kept_queries.misses > 30


def test_threads_share_what_is_kept(run):
    with load_run(run) as loaded:
        requests = _random_requests(loaded, np.random.default_rng(7), 30)
        computed = loaded.answer(requests)
        loaded.keep_queries(20_000)
        with ThreadPoolExecutor(4) as pool:
            for answers in pool.map(loaded.answer, [requests] * 4):
                assert all(map(_same, answers, computed))
        kept = loaded.kept_queries
        assert len(kept) > 0
        assert kept.nbytes <= 20_000


def test_nothing_is_kept_until_it_is_asked_for(run):
    with load_run(run) as loaded:
        loaded.recommend(user=9)
        kept = loaded.kept_queries
        assert (len(kept), kept.hits, kept.misses) == (0, 0, 0)
        loaded.keep_queries(MUCH)
        loaded.recommend(user=9)
        loaded.recommend(user=9, k=3, only=["Comedy"])
        loaded.recommend(user=9, session=[5])
        assert (len(kept), kept.hits, kept.misses) == (2, 1, 2)
        loaded.keep_queries(0)
        assert (len(kept), kept.nbytes) == (0, 0)
        with pytest.raises(UserError, match="give 0 or more"):
            loaded.keep_queries(-1)


def test_the_users_asked_for_longest_ago_are_dropped():
    one = Queries(torch.zeros(1, 3, 8), torch.zeros(1, 3))
    kept = KeptQueries(MUCH)
    kept.keep(b"a", one)
    kept.set_limit(3 * kept.nbytes)
    kept.keep(b"b", one)
    kept.keep(b"c", one)
    kept.find([b"a"])
    kept.keep(b"d", one)
    assert kept.find([b"a", b"b", b"c", b"d"]).keys() == {b"a", b"c", b"d"}
    assert (kept.hits, kept.misses) == (4, 1)
    kept.keep(b"e", Queries(torch.zeros(1, 300, 800), torch.zeros(1, 300)))
    assert len(kept) == 0, "a user who takes more than the limit is not kept"
    assert kept.nbytes == 0


def test_users_with_different_queries_have_different_keys():
    items = np.array([1, 2, 3])
    user = KnownUser(History(items, {"timestamps": items}, 4), {0: (1,)})
    others = [
        replace(user, groups={}),
        replace(user, groups={0: (1, 2)}),
        replace(user, groups={1: (1,)}),
        replace(user, history=History(items, {"timestamps": items}, 5)),
        replace(user, history=History(items, {"events": items}, 4)),
        replace(user, history=History(items, {}, 4)),
        replace(user, history=History(items[::-1], {"timestamps": items}, 4)),
        replace(user, history=History(items, {"timestamps": items + 1}, 4)),
        replace(user, history=History(items[:2], {"timestamps": items[:2]}, 4)),
    ]
    keys = {key_of(one) for one in [user, *others]}
    assert len(keys) == 1 + len(others)
    same = KnownUser(History(items.copy(), {"timestamps": items.copy()}, 4), {0: (1,)})
    assert key_of(same) == key_of(user)
