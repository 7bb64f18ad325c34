"""Retrieval by a user's own heads alone finds what scoring all heads and closing the others finds."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.heads.score import Score
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.priors.user import UserPrior
from torchrec_priors.retrieval import search
from torchrec_priors.retrieval.fusion import Fusion, blocks
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.open_paths import most_open, open_paths
from torchrec_priors.retrieval.search import search_reference
from torchrec_priors.retrieval.search_types import Queries

USERS, ITEMS = 9, 12


@pytest.fixture(scope="module", autouse=True)
def _world_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def _tree(random, composition, groups_a_user):
    """Segments, groups of users, labels of items, in any order."""
    user = np.repeat(np.arange(USERS), groups_a_user)
    group = np.concatenate([random.choice(5, groups_a_user, replace=False) for _ in range(USERS)])
    rows = np.concatenate([np.arange(ITEMS), random.integers(0, ITEMS, 5)])
    levels = [
        TemporalPrior(2, 4),
        UserPrior("age", list("vwxyz"), user, group, USERS),
        ItemPrior("genre", list("abc"), rows, random.integers(0, 3, len(rows)), ITEMS),
    ]
    return PriorTree([levels[number] for number in random.permutation(3)], ITEMS, composition)


@pytest.mark.parametrize("kind", ["max", "mean", "hierarchical", "inverse_variance"])
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 999),
    composition=st.sampled_from(["hierarchical", "multiplicative", "additive"]),
    groups_a_user=st.integers(1, 2),
    calibrated=st.booleans(),
    users=st.lists(st.integers(-1, USERS - 1), min_size=1, max_size=5),
)
def test_it_equals_the_definition(kind, seed, composition, groups_a_user, calibrated, users):
    random = np.random.default_rng(seed)
    tree = _tree(random, composition, groups_a_user)
    table = torch.from_numpy(random.integers(-2, 3, (ITEMS, 4))).float()
    vectors = torch.from_numpy(random.integers(-2, 3, (len(users), len(tree.paths), 4))).float()
    queries = Queries.unbiased(vectors).within(tree.paths_of_users.allowed(torch.tensor(users)))
    fusion = Fusion(
        kind,
        calibrated,
        blocks(tree) if kind == "hierarchical" else None,
        torch.from_numpy(random.random(len(tree.paths))).float() + 0.1
        if kind == "inverse_variance"
        else None,
        tree.branch_K,
    )
    eligible = torch.zeros(len(tree.paths), ITEMS, dtype=torch.bool)
    alternatives = torch.ones(len(tree.paths), ITEMS)
    index = GroupIndex(tree, Shard(table, 0))
    rows = tree.eligible(0, ITEMS)
    for number, path in enumerate(tree.paths):
        eligible[number, rows[path.item_set]] = True
        branch = 0 if tree.branch_K is None else int(tree.branch_K[number])
        alternatives[number] = index.log_alternatives_RT[branch].exp()
    slow = search_reference(table, eligible, queries, None, ITEMS, fusion, alternatives)
    fast = search.search(index, Score("dot"), queries, None, ITEMS, fusion)
    torch.testing.assert_close(fast.score_Bk, slow.score_Bk, atol=1e-5, rtol=1e-5)
    sums = torch.logsumexp((vectors @ table.T).masked_fill(~eligible, -torch.inf), 2)
    closed = torch.isneginf(queries.bias_BK)
    torch.testing.assert_close(
        search.log_normalisers(index, Score("dot"), queries), sums.masked_fill(closed, 0.0)
    )


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 999),
    composition=st.sampled_from(["hierarchical", "multiplicative", "additive"]),
    groups_a_user=st.integers(1, 3),
)
def test_no_known_user_has_more_paths_and_only_those_are_scored(seed, composition, groups_a_user):
    random = np.random.default_rng(seed)
    tree = _tree(random, composition, groups_a_user)
    index = GroupIndex(tree, Shard(torch.zeros(ITEMS, 4), 0))
    allowed = tree.paths_of_users.allowed(torch.arange(USERS))
    vectors = torch.from_numpy(random.normal(size=(USERS, len(tree.paths), 4))).float()
    bias = torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)
    for paths, most in zip(index.paths_of_set, most_open(tree), strict=True):
        assert int(allowed[:, paths].sum(1).max()) <= most <= paths.stop - paths.start
        found = open_paths(vectors, bias, paths, most)
        assert found.path_Bp.shape == (USERS, most)
        assert (found.path_Bp.diff(dim=1) > 0).all(), "ascending, none twice"
        for user in range(USERS):
            own = found.path_Bp[user]
            wanted = torch.nonzero(allowed[user, paths])[:, 0] + paths.start
            assert set(wanted.tolist()) <= set(own.tolist())
            assert torch.equal(found.vector_Bpd[user], vectors[user, own])
            assert torch.equal(found.bias_Bp[user], bias[user, own])
    unknown = open_paths(vectors[:1], torch.zeros(1, len(tree.paths)), slice(0, len(tree.paths)), 1)
    assert unknown.path_Bp.shape == (1, len(tree.paths)), "a user who is not known may use all"
