"""Streaming group-wise retrieval equals masking, fusing and a stable sort of the whole catalogue (Eq. 3, paper 3.5)."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.heads.score import Score
from torchrec_priors.ops import best_tiles
from torchrec_priors.ops.gpu_kernel import pretended_gpu
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval import group_index, search, tile_search
from torchrec_priors.retrieval.fused_search import log_sums
from torchrec_priors.retrieval.fusion import Fusion
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.keys import encode
from torchrec_priors.retrieval.search import search_reference
from torchrec_priors.retrieval.search_types import Exclusions, Queries


@pytest.fixture(scope="module", autouse=True)
def _world_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@st.composite
def cases(draw, most_items=40):
    items = draw(st.integers(1, most_items))
    labels = [
        draw(st.sets(st.integers(0, 3), min_size=int(item == 0), max_size=3))
        for item in range(items)
    ]
    pairs = np.array(
        [(item, group) for item, groups in enumerate(labels) for group in groups], np.int64
    ).reshape(-1, 2)
    tree = PriorTree(
        [TemporalPrior(2, 4), ItemPrior("genre", list("abcd"), *pairs.T, items)], items
    )
    users = draw(st.integers(0, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    # Few distinct numbers, exact in float32, so that ties are common and both ways give the same bits.
    table = torch.randint(-2, 3, (items, 4), generator=generator).float()
    vectors = torch.randint(-2, 3, (users, len(tree.paths), 4), generator=generator).float()
    bias = torch.randint(-2, 3, (users, len(tree.paths)), generator=generator).float()
    bias[torch.rand(bias.shape, generator=generator) < 0.2] = -torch.inf
    banned = (
        draw(st.lists(st.tuples(st.integers(0, users - 1), st.integers(0, items - 1)), max_size=30))
        if users
        else []
    )
    excluded = Exclusions(
        np.array([u for u, _ in banned], np.int64), np.array([r for _, r in banned], np.int64)
    )
    allowed = draw(st.none() | st.lists(st.booleans(), min_size=items, max_size=items))
    k, tile = draw(st.integers(1, 45)), draw(st.sampled_from([1, 3, 16, 8192]))
    return tree, table, Queries(vectors, bias), excluded, allowed, k, tile


def _dense(tree, items, allowed):
    """Omega and c(i) of every path, written out."""
    eligible = torch.zeros(len(tree.paths), items, dtype=torch.bool)
    rows = tree.eligible(0, items)
    for number, path in enumerate(tree.paths):
        eligible[number, rows[path.item_set]] = True
    alternatives = eligible.sum(0).expand(eligible.shape)  # labels and segments alike
    if allowed is not None:
        eligible &= torch.tensor(allowed)
    return eligible, alternatives


def _both(case, fusion=Fusion()):
    tree, table, queries, excluded, allowed, k, tile = case
    eligible, alternatives = _dense(tree, len(table), allowed)
    index = GroupIndex(tree, Shard(table, 0))
    if allowed is not None:
        index = index.restricted(torch.tensor(allowed))
    slow = search_reference(table, eligible, queries, excluded, k, fusion, alternatives)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_index, "TILE", tile)
        fast = search.search(index, Score("dot"), queries, excluded, k, fusion)
    return fast, slow, eligible


@settings(deadline=None, max_examples=30)
@given(cases(), st.sampled_from([1, 4]), st.sampled_from([0, 16]))
def test_the_search_of_a_gpu_equals_the_definition(case, tile, more):
    """Also with so few tiles at first that lists are not exact and more are chosen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best_tiles, "TILE", tile)
        patch.setattr(tile_search, "TILE", tile)
        patch.setattr(group_index, "TILE_OF_GPU", tile)
        patch.setattr(tile_search, "_AT_LEAST", more)
        patch.setattr(tile_search, "_MORE", 0.0)
        with pretended_gpu(lambda kernel, arguments: kernel.reference(*arguments)):
            fast, slow, _ = _both(case)
    assert fast.row_Bk.tolist() == slow.row_Bk.tolist()
    assert fast.score_Bk.tolist() == slow.score_Bk.tolist()
    found = fast.row_Bk >= 0
    assert fast.path_Bk[found].tolist() == slow.path_Bk[found].tolist()


def test_the_search_of_a_gpu_finds_the_same_items_by_cosine():
    items, users = 300, 6
    tree = PriorTree([TemporalPrior(2, 4)], items)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(items, 8, generator=generator)
    queries = Queries.unbiased(torch.randn(users, 2, 8, generator=generator))
    index = GroupIndex(tree, Shard(table, 0))
    slow = search.search(index, Score("cosine"), queries, None, 9)
    with pretended_gpu(lambda kernel, arguments: kernel.reference(*arguments)):
        fast = search.search(index, Score("cosine"), queries, None, 9)
    assert fast.row_Bk.tolist() == slow.row_Bk.tolist()
    torch.testing.assert_close(fast.score_Bk, slow.score_Bk)


@settings(deadline=None, max_examples=30)
@given(cases())
def test_equals_the_definition_with_ties_broken_by_row_id(case):
    fast, slow, eligible = _both(case)
    _, table, queries, excluded, _, k, _ = case
    assert fast.row_Bk.tolist() == slow.row_Bk.tolist()
    assert fast.score_Bk.tolist() == slow.score_Bk.tolist()
    found = fast.row_Bk >= 0
    assert (eligible[fast.path_Bk[found], fast.row_Bk[found]]).all(), (
        "an item is explained by a head that may retrieve it"
    )
    for user, rows in enumerate(fast.row_Bk.tolist()):
        reachable = (eligible & ~torch.isneginf(queries.bias_BK[user])[:, None]).any(0)
        reachable[torch.from_numpy(excluded.row[excluded.user == user])] = False
        assert sum(row >= 0 for row in rows) == min(k, int(reachable.sum())), (
            "k items wherever enough may be recommended"
        )
    user = torch.nonzero(found)[:, 0]
    path = fast.path_Bk[found]
    scores = (queries.vector_BKd[user, path] * table[fast.row_Bk[found]]).sum(1) + queries.bias_BK[
        user, path
    ]
    assert scores.tolist() == fast.score_Bk[found].tolist(), (
        "the head named is the head that gave the score"
    )


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("kind", ["max", "mean", "hierarchical", "inverse_variance"])
@settings(deadline=None, max_examples=20)
@given(case=cases(most_items=12), seed=st.integers(0, 999))
def test_every_fusion_equals_its_definition(kind, calibrated, case, seed):
    tree = case[0]
    blocks = torch.tensor([path.groups[0] for path in tree.paths], dtype=torch.int64)
    variance = torch.rand(len(tree.paths), generator=torch.Generator().manual_seed(seed)) + 0.1
    fusion = Fusion(
        kind,
        calibrated,
        blocks if kind == "hierarchical" else None,
        variance if kind == "inverse_variance" else None,
    )
    fast, slow, eligible = _both(case, fusion)
    torch.testing.assert_close(fast.score_Bk, slow.score_Bk, atol=1e-6, rtol=1e-6)
    found = fast.row_Bk >= 0
    assert torch.equal(found, slow.row_Bk >= 0)
    assert (eligible[fast.path_Bk[found], fast.row_Bk[found]]).all()
    clear = (
        (slow.score_Bk.diff(dim=1).abs() > 1e-5).all(1)
        if slow.score_Bk.shape[1] > 1
        else torch.ones(len(found)) > 0
    )
    assert fast.row_Bk[clear].tolist() == slow.row_Bk[clear].tolist()


@settings(deadline=None, max_examples=20)
@given(cases())
def test_normalisers_are_the_sums_over_eligible_items_that_are_not_excluded(case):
    tree, table, queries, excluded, _, _, tile = case
    eligible, _ = _dense(tree, len(table), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_index, "TILE", tile)
        fast = search.log_normalisers(GroupIndex(tree, Shard(table, 0)), Score("dot"), queries)
        without = search.log_normalisers(
            GroupIndex(tree, Shard(table, 0)), Score("dot"), queries, excluded
        )
    score_BKV = (queries.vector_BKd @ table.T).masked_fill(~eligible, -torch.inf)
    closed_BK = torch.isneginf(queries.bias_BK)
    torch.testing.assert_close(fast, torch.logsumexp(score_BKV, 2).masked_fill(closed_BK, 0.0))
    score_BKV.transpose(1, 2)[excluded.user, excluded.row] = -torch.inf
    slow = torch.logsumexp(score_BKV, 2)
    torch.testing.assert_close(without, slow.masked_fill(closed_BK | torch.isneginf(slow), 0.0))


def test_normalisers_of_a_sample_are_estimates_whatever_the_shards():
    generator = torch.Generator().manual_seed(0)
    rows = np.arange(4000)
    tree = PriorTree(
        [ItemPrior("genre", ["large", "small"], rows, (rows < 50).astype(np.int64), len(rows))],
        len(rows),
    )
    table, vectors = (
        torch.randn(len(rows), 4, generator=generator),
        torch.randn(3, 2, 4, generator=generator) * 0.5,
    )
    index = GroupIndex(tree, Shard(table, 0)).sample(1000)
    exact = search.log_normalisers(
        GroupIndex(tree, Shard(table, 0)), Score("dot"), search.Queries.unbiased(vectors)
    )
    estimate = search.log_normalisers(index, Score("dot"), search.Queries.unbiased(vectors))
    small = next(path for path, group in enumerate(tree.paths) if group.name == "small")
    assert torch.equal(estimate[:, small], exact[:, small]), "a set of fewer rows is taken whole"
    assert 0 < (estimate - exact).abs().max() < 0.15
    halves = [
        GroupIndex(tree, Shard(table[part], part.start)).sample(1000)
        for part in (slice(0, 999), slice(999, 4000))
    ]
    sums = torch.stack(
        [
            log_sums(half, Score("dot"), vectors, vectors.new_zeros(vectors.shape[:2]))
            for half in halves
        ]
    )
    torch.testing.assert_close(torch.logsumexp(sums, 0).float(), estimate)


def test_heads_of_one_items_labels_share_their_probability_and_those_of_events_add_up():
    class Events(ItemPrior):
        exclusive = True

    item, group = np.array([0, 0, 1]), np.array([0, 1, 0])
    table, queries = torch.zeros(2, 4), Queries.unbiased(torch.zeros(1, 2, 4))
    for prior, expected in ((ItemPrior, [1.0, 1.0]), (Events, [2.0, 1.0])):
        index = GroupIndex(PriorTree([prior("p", ["a", "b"], item, group, 2)], 2), Shard(table, 0))
        found = search.search(
            index, Score("dot"), queries, None, 2, Fusion("mean", calibrated=True)
        )
        torch.testing.assert_close(found.score_Bk.exp(), torch.tensor([expected]))


def test_cosine_scores_do_not_depend_on_the_length_of_vectors():
    tree = PriorTree([], 3)
    score = Score("cosine")
    table = torch.tensor([[1.0, 0.0], [0.0, 5.0], [3.0, 3.0]])
    query = Queries.unbiased(score.queries(torch.tensor([[[0.0, 7.0]]])))
    found = search.search(GroupIndex(tree, Shard(table, 0)), score, query, None, 3)
    assert found.row_Bk.tolist() == [[1, 2, 0]]
    torch.testing.assert_close(found.score_Bk, torch.tensor([[20.0, 20.0 * 0.5**0.5, 0.0]]))


def test_keys_order_by_score_then_row():
    scores = torch.tensor([[-0.5, 3.0, 0.0, 3.0, -7.0, -torch.inf]])
    order = encode(scores, torch.arange(6)).argsort(descending=True)[0].tolist()
    assert order == [1, 3, 2, 0, 4, 5]
