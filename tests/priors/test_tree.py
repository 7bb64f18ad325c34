"""Paths, item sets and positives of a prior tree equal their definitions (paper 3.3, Eq. 6)."""

import itertools
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.prior import Targets
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.priors.user import UserPrior

HORIZON = 4


@st.composite
def trees(draw):
    """(tree, labels of each item level, number of items); labels: item -> set of groups."""
    items = draw(st.integers(1, 12))
    levels, labels = [], []
    for number, kind in enumerate(
        draw(st.lists(st.sampled_from(["item", "temporal"]), max_size=3))
    ):
        if kind == "temporal":
            levels.append(TemporalPrior(draw(st.sampled_from([1, 2, 4])), HORIZON))
            labels.append(None)
        else:
            groups = draw(st.integers(1, 4))
            sets = [draw(st.sets(st.integers(0, groups - 1), min_size=1)) for _ in range(items)]
            pairs = [(item, group) for item, chosen in enumerate(sets) for group in sorted(chosen)]
            item, group = np.array(pairs).T
            levels.append(
                ItemPrior(f"p{number}", [f"g{i}" for i in range(groups)], item, group, items)
            )
            labels.append(sets)
    return PriorTree(levels, items), labels, items


def _groups_of(level, labels, item, offset):
    return labels[item] if labels is not None else {(offset - 1) // level.length}


@settings(deadline=None, max_examples=80)
@given(trees())
def test_paths_are_the_combinations_with_items_and_their_sets_are_intersections(case):
    tree, labels, items = case
    expected = {}
    for groups in itertools.product(*(range(len(level.groups)) for level in tree.levels)):
        omega = [
            item
            for item in range(items)
            if all(
                chosen is None or group in chosen[item]
                for group, chosen in zip(groups, labels, strict=True)
            )
        ]
        if omega:
            expected[groups] = omega
    rows = tree.eligible(0, items)
    assert {path.groups: rows[path.item_set].tolist() for path in tree.paths} == expected
    assert tree.item_set_K == sorted(tree.item_set_K)
    assert [len(members) for members in rows] == tree.set_sizes.tolist()


@settings(deadline=None, max_examples=80)
@given(trees(), st.data())
def test_positives_are_the_targets_of_each_path(case, data):
    tree, labels, items = case
    targets = data.draw(
        st.lists(st.tuples(st.integers(0, items - 1), st.integers(1, HORIZON)), max_size=10)
    )
    item = torch.tensor([item for item, _ in targets], dtype=torch.int64)
    offset = torch.tensor([offset for _, offset in targets], dtype=torch.int64)
    index, path = tree.assign(Targets(item, offset))
    found = sorted(zip(index.tolist(), [tree.paths[p].groups for p in path.tolist()], strict=True))
    expected = []
    for number, (row, distance) in enumerate(targets):
        chosen = [
            _groups_of(*level, row, distance) for level in zip(tree.levels, labels, strict=True)
        ]
        expected += [(number, groups) for groups in itertools.product(*chosen)]
    assert found == sorted(expected)


@settings(deadline=None, max_examples=30)
@given(trees(), st.integers(1, 4))
def test_shards_of_the_rows_give_pieces_of_the_sets(case, shards):
    tree, _, items = case
    bounds = [items * number // shards for number in range(shards + 1)]
    pieces = [tree.eligible(low, high) for low, high in itertools.pairwise(bounds)]
    for number, whole in enumerate(tree.eligible(0, items)):
        assert np.concatenate([piece[number] for piece in pieces]).tolist() == whole.tolist()


def test_names_read_along_the_path_and_combinations_without_items_are_logged_when_asked(caplog):
    rows = np.array([0, 1, 2])
    genre = ItemPrior("genre", ["Drama", "War", "no genre"], rows, np.array([0, 0, 1]), 3)
    length = ItemPrior("length", ["short", "long"], rows, np.array([0, 1, 1]), 3)
    with caplog.at_level(logging.INFO, logger="torchrec_priors"):
        tree = PriorTree([TemporalPrior(2, HORIZON), genre, length], 3)
        assert not caplog.records  # a tree is made by whoever serves, too
        tree.say_what_is_left_out()
    assert [path.name for path in tree.paths] == [
        f"{term} / {rest}"
        for rest in ("Drama / short", "Drama / long", "War / long")
        for term in ("short-term", "long-term")
    ]
    # Nothing is said of "no genre", which has no items: it does not exist.
    assert [record.getMessage() for record in caplog.records] == [
        "2 of the 8 combinations of groups have no items, so they get no head: "
        "short-term / War / short, long-term / War / short"
    ]


def _gender(users, group):
    return UserPrior("gender", ["M", "F", "no gender"], np.arange(users), np.array(group), users)


@pytest.mark.parametrize(
    ("composition", "names"),
    [
        ("hierarchical", ["short-term / M", "short-term / F", "long-term / M", "long-term / F"]),
        ("multiplicative", ["short-term / M", "short-term / F", "long-term / M", "long-term / F"]),
        ("additive", ["short-term", "long-term", "M", "F"]),
    ],
)
def test_a_group_without_users_has_no_head(composition, names, caplog):
    levels = [TemporalPrior(2, HORIZON), _gender(3, [0, 1, 1])]
    with caplog.at_level(logging.INFO, logger="torchrec_priors"):
        tree = PriorTree(levels, 5, composition)
        tree.say_what_is_left_out()
    assert [path.name for path in tree.paths] == names
    assert not caplog.records, "nobody is without a gender, so nothing is missing"
    everything = tree.assign(
        Targets(torch.arange(3), torch.ones(3, dtype=torch.int64), user_M=torch.arange(3))
    )
    assert set(everything[1].tolist()) <= set(range(len(names)))
    assert tree.paths_of_users.open_groups(torch.tensor([0, -1]))[:, -1].tolist() == [1, 2], (
        "an unknown user has both heads"
    )


def test_users_of_a_group_that_had_none_in_training_may_use_all_heads():
    then = PriorTree([_gender(3, [0, 1, 1])], 5)
    now = PriorTree([_gender(4, [0, 1, 1, 2])], 5, only=[path.name for path in then.paths])
    assert [path.name for path in now.paths] == ["M", "F"]
    allowed = now.paths_of_users.allowed(torch.tensor([0, 1, 3, -1]))
    assert allowed.tolist() == [[True, False], [False, True], [True, True], [True, True]]


def test_a_model_that_has_a_head_for_a_group_without_users_keeps_it():
    tree = PriorTree([_gender(3, [0, 1, 1])], 5, only=["M", "F", "no gender"])
    assert [path.name for path in tree.paths] == ["M", "F", "no gender"]


def test_no_priors_give_one_path_over_all_items():
    tree = PriorTree([], 5)
    assert [path.name for path in tree.paths] == ["all"]
    assert tree.eligible(1, 4)[0].tolist() == [1, 2, 3]
