"""Which heads a name stands for, against the names written out; what is said of names of no head or of several."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from random_trees import cases

from torchrec_priors.errors import UserError
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.serving.head_names import HeadNames


def _labels(name, groups, of_item):
    pairs = np.array([(item, group) for item, found in enumerate(of_item) for group in found])
    return ItemPrior(name, groups, *pairs.T, len(of_item))


@settings(deadline=None, max_examples=60)
@given(cases())
def test_every_name_of_a_tree(case):
    names, paths = HeadNames(case.tree), case.tree.paths
    used = {pair for path in paths for pair in zip(path.levels, path.groups, strict=True)}
    everywhere = [
        case.tree.levels[level].groups[group] for level, group in used
    ]  # names that heads go through
    for path in paths:
        if everywhere.count(path.name) < 2:
            found = names.find(path.name, "only").path_K
            assert [paths[number] for number in torch.nonzero(found)[:, 0].tolist()] == [path]
        called = [
            case.tree.levels[level].groups[group]
            for level, group in zip(path.levels, path.groups, strict=True)
        ]
        for depth in range(2, len(called) + 1):
            beginning = " / ".join(called[:depth])
            expected = [
                other.levels == path.levels and other.groups[:depth] == path.groups[:depth]
                for other in paths
            ]
            assert names.find(beginning, "only").path_K.tolist() == expected
        for level, group in zip(path.levels, path.groups, strict=True):
            expected = [
                (level, group) in zip(other.levels, other.groups, strict=True) for other in paths
            ]
            prior = case.tree.levels[level]
            called = prior.groups[group]
            for name in (called, f"{prior.name}: {called}"):
                if everywhere.count(name) > 1:
                    with pytest.raises(UserError, match="several priors"):
                        names.find(name, "only")
                    continue
                found = names.find(name, "only")
                assert found.path_K.tolist() == expected
                assert found.restricts_items == prior.restricts_items


@pytest.fixture
def shop():
    """Groups of one name in two priors, of names with slashes, and without items."""
    kinds = _labels("kind", ["toys", "other", "arts / crafts", "none"], [[0], [1], [2], [0, 1]])
    colours = _labels("colour", ["red", "other"], [[0], [1], [0], [1]])
    return PriorTree([TemporalPrior(2, 8), kinds, colours], 4)


def _named(tree, name):
    path_K = HeadNames(tree).find(name, "only").path_K
    return [path.name for path, found in zip(tree.paths, path_K.tolist(), strict=True) if found]


def test_a_path_comes_before_a_group_and_names_may_hold_slashes(shop):
    assert set(_named(shop, "arts / crafts")) == {
        f"{term} / arts / crafts / red" for term in shop.levels[0].groups
    }
    assert _named(shop, "long-term / arts / crafts") == ["long-term / arts / crafts / red"]
    assert set(_named(shop, "colour: other")) == {
        path.name for path in shop.paths if path.name.endswith("other")
    }


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("other", "'other' is a group of several priors: write 'kind: other' or 'colour: other'"),
        ("toy", "no head is named 'toy': did you mean 'toys'?"),
        ("Toys", "did you mean 'toys'?"),
        ("short-term / toys / rad", "did you mean 'short-term / toys / red'?"),
        ("none", "'none' has no head, as nothing is in it: name another"),
        ("kind: none", "'kind: none' has no head, as nothing is in it"),
        ("short-term / none", "'short-term / none' has no head, as nothing is in it"),
        ("toys / none", "no head is named 'toys / none'"),
        ("nones", "no head is named 'nones': valid"),
        (
            "zzz",
            "valid: temporal: short-term, long-term; kind: toys, other, arts / crafts; colour: red, other",
        ),
        ("toys / red", "-term / toys / red'?"),
        ("", "no head is named ''"),
    ],
)
def test_mistakes(shop, name, says):
    with pytest.raises(UserError) as caught:
        HeadNames(shop).find(name, "only")
    assert str(caught.value).startswith("only: ")
    assert says in str(caught.value)


def test_groups_of_one_name_in_an_additive_tree_and_a_tree_without_levels(shop):
    additive = PriorTree(list(shop.levels), 4, "additive")
    assert _named(additive, "colour: other") == ["colour: other"]
    assert {len(_named(additive, path.name)) for path in additive.paths} == {1}
    whole = PriorTree([], 4)
    assert _named(whole, "all") == ["all"]
    with pytest.raises(UserError, match="valid: all"):
        HeadNames(whole).find("Comedy", "mute")
