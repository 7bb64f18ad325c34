"""What an index keeps: which candidates any path may retrieve, for exactly its own item sets."""

import weakref

import numpy as np
import pytest
import torch

from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval.group_index import GroupIndex

ITEMS = 40


def _index():
    """An index of all items; an eighth of them has no group, so no path may retrieve it."""
    random = np.random.default_rng(0)
    item = np.flatnonzero(np.arange(ITEMS) % 8)
    tree = PriorTree(
        [ItemPrior("p", list("abc"), item, random.integers(0, 3, len(item)), ITEMS)], ITEMS
    )
    return GroupIndex(tree, Shard(torch.zeros(ITEMS, 4), 0))


@pytest.fixture
def index():
    return _index()


def _reached(index):
    """Computed afresh."""
    paths = index.paths_of_set[-1].stop
    return index.reach(torch.ones(paths, dtype=torch.bool))


def test_candidates_of_any_path_are_those_of_all_paths(index):
    assert index.in_a_set_C.equal(_reached(index))
    assert index.in_a_set_C.nonzero()[:, 0].tolist() == [row for row in range(ITEMS) if row % 8]


def test_they_are_computed_once_for_other_vectors_and_again_for_other_sets(index):
    first = index.in_a_set_C
    assert index.over(Shard(torch.ones(ITEMS, 4), 0)).in_a_set_C is first

    allowed = torch.arange(ITEMS) % 3 == 0
    fewer = index.restricted(allowed)
    assert fewer.in_a_set_C.equal(first & allowed)
    assert fewer.in_a_set_C.equal(_reached(fewer))
    some = index.sample(4)
    assert some.in_a_set_C.equal(_reached(some))
    assert 0 < int(some.in_a_set_C.sum()) < int(first.sum())
    assert index.in_a_set_C is first


def test_an_index_over_other_vectors_does_not_keep_the_first_ones():
    index = _index()
    rows = weakref.ref(index.shard.rows)
    other = index.over(Shard(torch.zeros(0, 4), 0))
    del index
    assert rows() is None
    assert other.log_alternatives_RT.shape == (1, ITEMS)
    assert int(other.in_a_set_C.sum()) == ITEMS - ITEMS // 8


def test_lengths_are_computed_once_for_the_same_rows_and_again_for_others(index):
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(ITEMS, 4, generator=random)
    one = index.over(Shard(rows, 0))
    assert one.norm_R.equal(torch.linalg.vector_norm(rows, dim=1))
    assert one.norm_R is one.norm_R
    assert one.restricted(torch.arange(ITEMS) % 3 == 0).norm_R is one.norm_R
    assert one.over(Shard(2 * rows, 0)).norm_R.equal(2 * one.norm_R)
    assert one.with_vectors(3 * rows).norm_R.equal(torch.linalg.vector_norm(3 * rows, dim=1))
    assert not index.norm_R.any()


def test_tiles_are_made_once_for_other_values_and_again_for_other_rows(index):
    tiled = index.tiled()
    assert index.over(Shard(torch.ones(ITEMS, 4), 0)).tiled() is tiled
    assert index.with_vectors(torch.ones(ITEMS, 2)).tiled() is not tiled
