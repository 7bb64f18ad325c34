"""Which targets can be found at all, written with sets: not filtered, with a row, in a head's items."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import EVENTS, HORIZON, USERS, Target, cases

from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.per_user import DEPTH, Ranked
from torchrec_priors.metrics.reach import Reach
from torchrec_priors.priors.event import EventPrior
from torchrec_priors.priors.prior import Memberships
from torchrec_priors.priors.tree import PriorTree


def _rows(recommendable_I=None, has_row_I=None):
    return SimpleNamespace(recommendable_I=recommendable_I, has_row_I=has_row_I)


def _batch(seen, targets, events, items):
    """Users numbered from 0, and lists in which nothing was found."""
    lists = [[np.array(part, np.int64) for part in parts] for parts in (seen, targets, events)]
    numbers = list(range(len(seen)))
    users = Histories.of(
        pa.array(numbers, pa.int64()),
        lists[0],
        lists[1],
        2,
        users=numbers,
        target_columns={"events": lists[2]},
    )
    return users, Ranked.of(
        np.full((len(seen), DEPTH), -1), users.targets, users.target_lengths, items
    )


def _update(reach, users, ranked):
    """Adds a batch; returns which of its distinct targets can be found."""
    reachable = reach.reachable(users, ranked)
    reach.update(RankedBatch(users, ranked, reachable=reachable))
    return reachable.found_M


def _heads(case, target):
    """Numbers of the heads that a target is a positive of."""
    return {
        number
        for number, path in enumerate(case.tree.paths)
        if all(
            group in case.levels[n].of_target(target)
            for n, group in zip(path.levels, path.groups, strict=True)
        )
    }


@settings(deadline=None, max_examples=150)
@given(cases(), st.data(), st.booleans())
def test_what_can_be_found_is_what_the_definition_says(case, data, filter_seen):
    def some(least):
        return data.draw(st.lists(st.integers(0, case.items - 1), min_size=least, max_size=HORIZON))

    seen, targets = ([some(least) for _ in range(USERS)] for least in (1, 1))
    events = [[data.draw(st.integers(0, EVENTS - 1)) for _ in part] for part in targets]
    may, known = (np.array([data.draw(st.booleans()) for _ in range(case.items)]) for _ in range(2))
    reach = Reach(case.tree, _rows(may, known), HORIZON, filter_seen=filter_seen)
    users, ranked = _batch(seen, targets, events, case.items)
    found_M = _update(reach, users, ranked)

    in_a_head = set(np.concatenate(case.tree.eligible(0, case.items)).tolist())
    expected = {
        (user, item)
        for user, items in enumerate(targets)
        for item in items
        if not (filter_seen and item in seen[user])
        and may[item]
        and item in in_a_head
        and any(known[other] for other in seen[user])
    }
    pairs = list(zip(ranked.user_M.tolist(), ranked.target_M.tolist(), strict=True))
    assert {pair for pair, found in zip(pairs, found_M, strict=True) if found} == expected

    of_head, found_of_head = set(), set()
    for user, (items, kinds) in enumerate(zip(targets, events, strict=True)):
        for place, (item, event) in enumerate(zip(items, kinds, strict=True)):
            heads = _heads(case, Target(item, place + 1, event, user))
            of_head |= heads
            found_of_head |= heads if (user, item) in expected else set()
    results = reach.results()
    assert results["reachable/heads_in_vain"] == len(of_head - found_of_head)
    assert results["reachable/targets"] == len(expected)
    assert results["reachable/targets_share"] == pytest.approx(len(expected) / len(pairs))
    left_out = [results[f"reachable/{why}"] for why in ("met", "without_row", "without_head")]
    assert len(expected) + sum(left_out) == len(pairs), (
        "each target that cannot be found has one reason"
    )
    shares = [
        sum((user, item) in expected for item in set(items)) / len(set(items))
        for user, items in enumerate(targets)
    ]
    assert results["reachable/recall"] == pytest.approx(np.mean(shares)), (
        "the highest recall there is"
    )


def _events_over(items):
    """Heads for views and purchases, either of any item."""
    everything = np.repeat(np.arange(items), 2), np.tile([0, 1], items)
    event = EventPrior(
        "event",
        ["view", "buy"],
        Memberships.from_pairs(np.arange(2), np.arange(2), 2),
        Memberships.from_pairs(*everything, items),
    )
    return PriorTree([event], items)


@pytest.mark.parametrize("filter_seen", [True, False])
def test_a_head_whose_targets_were_all_met_is_named(filter_seen):
    """What is bought was viewed before: where that is filtered, the head of purchases can never score."""
    users, ranked = _batch([[0, 1], [2]], [[3, 1], [2]], [[0, 1], [1]], 5)
    reach = Reach(_events_over(5), _rows(), 2, filter_seen=filter_seen)
    _update(reach, users, ranked)
    if not filter_seen:
        assert reach.in_words() is None
        assert reach.warnings() == []
        return
    assert reach.in_words() == (
        "1 of 3 targets can be found (33.3%): 2 are items that their users had before, "
        "which lists leave out (with them: --name with-seen evaluation.filter_seen=false)"
    )
    assert reach.warnings() == [
        "most targets (2 of 3) are items that their users had before, and lists leave these out: "
        "if people come back to items here, set evaluation.filter_seen=false",
        "1 of 2 heads can find none of their targets (buy)",
    ]


def test_nothing_to_be_found_is_said():
    users, ranked = _batch([[0, 1]], [[1, 0]], [[0, 0]], 3)
    reach = Reach(_events_over(3), _rows(), 2, filter_seen=True)
    _update(reach, users, ranked)
    reach.sum_over(lambda tensor: tensor * 2)  # two ranks with the same
    assert reach.results()["reachable/met"] == 4
    assert reach.warnings() == [
        "most targets (4 of 4) are items that their users had before, and lists leave these out: "
        "if people come back to items here, set evaluation.filter_seen=false"
    ]


def test_targets_beyond_the_models_horizon_are_of_no_head():
    users, ranked = _batch([[0]], [[1, 2]], [[0, 1]], 3)
    reach = Reach(_events_over(3), _rows(np.array([True, True, False])), 1, filter_seen=True)
    assert _update(reach, users, ranked).tolist() == [True, False]
    assert reach.results()["reachable/heads_in_vain"] == 0, "the purchase is the second target"
