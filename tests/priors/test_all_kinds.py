"""Trees of all kinds of prior, composed in all three ways, equal their definitions written with sets."""

import itertools
import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import USERS, as_tensors, cases, of_tree, targets

from torchrec_priors.errors import UserError
from torchrec_priors.priors.event import EventPrior
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.prior import Memberships
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree


def _ways(case):
    """(levels, groups) of every path that the composition knows, with items or without."""
    sizes = [range(len(level.prior.groups)) for level in case.levels]
    if case.tree.composition == "additive" and case.levels:
        return [((number,), (group,)) for number, size in enumerate(sizes) for group in size]
    return [(tuple(range(len(sizes))), groups) for groups in itertools.product(*sizes)]


def _is_of_events(case, number):
    return isinstance(case.levels[number].prior, EventPrior)


def _omega(case, levels, groups):
    sets = [case.levels[level].omega(group) for level, group in zip(levels, groups, strict=True)]
    return sorted(set(range(case.items)).intersection(*sets))


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(cases())
def test_paths_are_those_with_items_and_their_sets_are_intersections(case):
    expected = {way: omega for way in _ways(case) if (omega := _omega(case, *way))}
    rows = case.tree.eligible(0, case.items)
    assert {
        (path.levels, path.groups): rows[path.item_set].tolist() for path in case.tree.paths
    } == expected
    order = [(path.item_set, path.levels, path.groups) for path in case.tree.paths]
    assert order == sorted(order)
    assert case.tree.item_set_K == [path.item_set for path in case.tree.paths]
    assert [len(members) for members in rows] == case.tree.set_sizes.tolist()
    shared = {
        path.item_set
        for path in case.tree.paths
        if not any(_is_of_events(case, n) for n in path.levels)
    }
    assert [case.tree.set_sizes[number] for number in shared].count(case.items) <= 1, (
        "all items are one set"
    )
    if case.tree.composition == "additive":
        events = [path.item_set for path in case.tree.paths if path.item_set not in shared]
        assert len(set(events)) == len(events), "each group of events has a set of its own"


@settings(deadline=None, max_examples=100)
@given(cases(), targets)
def test_a_target_falls_into_every_set_that_needs_no_decision(case, drawn):
    chosen = of_tree(drawn, case)
    index, path = case.tree.assign(as_tensors(chosen))
    inside = np.zeros((len(chosen), case.tree.item_sets), bool)
    inside[index, np.array(case.tree.item_set_K)[path]] = True
    assert inside[:, ~case.tree.decided()].all()


def test_events_of_the_same_items_are_decided_one_by_one():
    """Were viewing and buying one set, a gate would take the one for as likely as the other."""
    seen = Memberships.from_pairs(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), 2)
    events = EventPrior(
        "event", ["view", "buy"], Memberships.from_pairs(np.arange(2), np.arange(2), 2), seen
    )
    alone = PriorTree([events], 2)
    assert (alone.set_sizes.tolist(), alone.decided().tolist()) == ([2, 2], [True, True])
    beside = PriorTree([TemporalPrior(2, 4), events], 2, "additive")
    assert beside.item_set_names == ["all", "view", "buy"]
    assert beside.decided().tolist() == [False, True, True]


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(cases(), targets)
def test_positives_are_the_targets_in_all_groups_of_a_path(case, drawn):
    chosen = of_tree(drawn, case)
    index, path = case.tree.assign(as_tensors(chosen))
    found = sorted(zip(index.tolist(), path.tolist(), strict=True))
    expected = [
        (number, k)
        for number, target in enumerate(chosen)
        for k, path in enumerate(case.tree.paths)
        if all(
            g in case.levels[n].of_target(target)
            for n, g in zip(path.levels, path.groups, strict=True)
        )
    ]
    assert found == sorted(expected)


@settings(deadline=None, max_examples=100)
@given(cases(), st.lists(st.integers(-1, USERS - 1), max_size=5))
def test_users_may_use_the_paths_of_their_own_groups(case, users):
    allowed = case.tree.paths_of_users.allowed(torch.tensor(users, dtype=torch.int64))
    if not any(level.of_user for level in case.levels):
        assert allowed is None
        return
    expected = [
        [
            user < 0
            or all(
                case.levels[n].of_user is None or g in case.levels[n].of_user(user)
                for n, g in zip(path.levels, path.groups, strict=True)
            )
            for path in case.tree.paths
        ]
        for user in users
    ]
    assert allowed.shape == (len(users), len(case.tree.paths))
    assert allowed.tolist() == expected

    # A group that no path goes through has no head that could answer.
    with_heads = [
        {path.groups[path.levels.index(n)] for path in case.tree.paths if n in path.levels}
        for n in range(len(case.levels))
    ]
    counts = [
        [
            math.prod(
                len(with_heads[n]) if user < 0 else max(1, len(set(case.levels[n].of_user(user))))
                for n in path.levels
                if case.levels[n].of_user is not None
            )
            for path in case.tree.paths
        ]
        for user in users
    ]
    assert (
        case.tree.paths_of_users.open_groups(torch.tensor(users, dtype=torch.int64)).tolist()
        == counts
    )


@settings(deadline=None, max_examples=50)
@given(cases(), st.integers(1, 4))
def test_shards_of_the_rows_give_pieces_of_the_sets(case, shards):
    bounds = [case.items * number // shards for number in range(shards + 1)]
    pieces = [case.tree.eligible(low, high) for low, high in itertools.pairwise(bounds)]
    for number, whole in enumerate(case.tree.eligible(0, case.items)):
        assert np.concatenate([piece[number] for piece in pieces]).tolist() == whole.tolist()


@settings(deadline=None, max_examples=50)
@given(cases())
def test_a_tree_needs_what_its_levels_need(case):
    kinds = {type(level.prior).__name__ for level in case.levels}
    needed = {"events": "EventPrior", "users": "UserPrior"}
    assert case.tree.needs == tuple(need for need, kind in needed.items() if kind in kinds)


def _item(name, groups, pairs, items=4):
    return ItemPrior(name, groups, *np.array(pairs).T, items)


def test_names_of_an_additive_tree_say_the_prior_where_two_levels_share_one():
    levels = [
        _item("genre", ["a", "none"], [(0, 0), (1, 1)]),
        _item("brand", ["none", "x"], [(0, 0), (1, 1)]),
    ]
    names = {path.name for path in PriorTree([TemporalPrior(2, 4), *levels], 4, "additive").paths}
    assert names == {"short-term", "long-term", "a", "x", "genre: none", "brand: none"}


def test_items_that_no_head_reaches_are_counted(caplog):
    tree = PriorTree([TemporalPrior(2, 4), _item("mine", ["a", "b"], [(0, 0), (2, 1), (2, 0)])], 4)
    tree.say_what_is_left_out()
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "2 items are in no group of prior 'mine', so no head can retrieve them"
    ]


def test_pairs_that_stand_twice_count_once():
    tree = PriorTree([_item("mine", ["a"], [(0, 0), (0, 0), (1, 0)])], 4)
    assert tree.eligible(0, 4)[0].tolist() == [0, 1]
    assert len(tree.assign(as_tensors(of_tree([], None)))[0]) == 0


def test_a_tree_without_any_item_is_refused():
    with pytest.raises(UserError, match="no item is in a group of 'mine'"):
        PriorTree([ItemPrior("mine", ["a"], np.zeros(0, np.int64), np.zeros(0, np.int64), 3)], 3)


@pytest.mark.parametrize(("levels", "items"), [(3, 10), (20, 2), (2, 70_000)])
def test_a_tree_that_is_too_large_is_refused_before_it_is_made(levels, items):
    """8e10 pairs of an item and a combination; more than 2^62 combinations; 2,500 pairs for each of many items."""
    groups = 2000 if items < 100 else 50
    rows, numbers = np.repeat(np.arange(items), groups), np.tile(np.arange(groups), items)
    level = [
        ItemPrior(f"p{n}", [str(g) for g in range(groups)], rows, numbers, items)
        for n in range(levels)
    ]
    with pytest.raises(UserError, match=r"priors.tree makes .*use fewer levels or coarser priors"):
        PriorTree(level, items)


def test_a_sparse_product_is_no_obstacle():
    """Nine levels of 100 groups have 10^18 combinations on paper; each item is in one."""
    rows = np.arange(50)
    levels = [
        ItemPrior(f"p{n}", [f"{n}.{g}" for g in range(100)], rows, (rows * 7 + n) % 100, 50)
        for n in range(9)
    ]
    tree = PriorTree(levels, 50)
    assert len(tree.paths) == 50
    assert tree.set_sizes.tolist() == [1] * 50
