"""Streaming group-wise retrieval equals masking, max and a stable sort over the whole catalogue (Eq. 3, paper 3.5)."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.embedding.table import Shard
from torchrec_priors.heads.score import Score
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval import group_index, search
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.search import Exclusions, search_reference


@pytest.fixture(scope="module", autouse=True)
def _world_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@st.composite
def cases(draw):
    items = draw(st.integers(1, 40))
    labels = [draw(st.sets(st.integers(0, 3), min_size=1, max_size=3)) for _ in range(items)]
    pairs = np.array([(item, group) for item, groups in enumerate(labels) for group in groups]).T
    tree = PriorTree([TemporalPrior(2, 4), ItemPrior("genre", list("abcd"), *pairs, items)], items)
    users = draw(st.integers(0, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    # Few distinct numbers, exact in float32, so that ties are common and both ways give the same bits.
    table = torch.randint(-2, 3, (items, 4), generator=generator).float()
    queries = torch.randint(-2, 3, (users, len(tree.paths), 4), generator=generator).float()
    banned = (
        draw(st.lists(st.tuples(st.integers(0, users - 1), st.integers(0, items - 1)), max_size=30)) if users else []
    )
    allowed = draw(st.none() | st.lists(st.booleans(), min_size=items, max_size=items))
    closed = torch.rand(users, len(tree.paths), generator=generator) < draw(st.sampled_from([0.3, 0.9]))
    bias = draw(st.sampled_from([None, torch.zeros(closed.shape).masked_fill(closed, -torch.inf)]))
    return (
        tree,
        table,
        queries,
        banned,
        allowed,
        bias,
        draw(st.integers(1, 45)),
        draw(st.sampled_from([1, 3, 16, 8192])),
    )


@settings(deadline=None, max_examples=30)
@given(cases())
def test_equals_the_definition_with_ties_broken_by_row_id(case):
    tree, table, queries, banned, allowed, bias, k, tile = case
    excluded = Exclusions(np.array([u for u, _ in banned], np.int64), np.array([r for _, r in banned], np.int64))
    eligible = torch.zeros(len(tree.paths), len(table), dtype=torch.bool)
    rows = tree.eligible(0, len(table))
    for number, path in enumerate(tree.paths):
        eligible[number, rows[path.item_set]] = True
    index = GroupIndex(tree, Shard(table, 0))
    if allowed is not None:
        eligible &= torch.tensor(allowed)
        index = index.restricted(torch.tensor(allowed))
    slow = search_reference(table, eligible, queries, excluded, k, bias)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_index, "TILE", tile)
        fast = search.search(index, Score("dot"), queries, excluded, k, bias)
    assert fast.row_Bk.tolist() == slow.row_Bk.tolist()
    assert fast.score_Bk.tolist() == slow.score_Bk.tolist()
    found = fast.row_Bk >= 0
    assert (eligible[fast.path_Bk[found], fast.row_Bk[found]]).all(), (
        "an item is explained by a head that may retrieve it"
    )
    for user, rows in enumerate(fast.row_Bk.tolist()):
        open_to = eligible if bias is None else eligible & (bias[user] == 0)[:, None]
        left = open_to.any(0).sum() - sum(bool(open_to[:, r].any()) for r in {r for u, r in banned if u == user})
        assert sum(row >= 0 for row in rows) == min(k, left), "k items wherever enough may be recommended"
    user = torch.nonzero(found)[:, 0]
    assert bias is None or not bias[user, fast.path_Bk[found]].any(), "by a path that is closed to the user"
    scores = (queries[user, fast.path_Bk[found]] * table[fast.row_Bk[found]]).sum(1)
    assert scores.tolist() == fast.score_Bk[found].tolist(), "the head named is the head that gave the score"


def test_cosine_scores_do_not_depend_on_the_length_of_vectors():
    tree = PriorTree([], 3)
    score = Score("cosine")
    table = torch.tensor([[1.0, 0.0], [0.0, 5.0], [3.0, 3.0]])
    query = score.queries(torch.tensor([[[0.0, 7.0]]]))
    found = search.search(GroupIndex(tree, Shard(table, 0)), score, query, None, 3)
    assert found.row_Bk.tolist() == [[1, 2, 0]]
    torch.testing.assert_close(found.score_Bk, torch.tensor([[20.0, 20.0 * 0.5**0.5, 0.0]]))


def test_keys_order_by_score_then_row():
    scores = torch.tensor([[-0.5, 3.0, 0.0, 3.0, -7.0, -torch.inf]])
    order = search._encode(scores, 0).argsort(descending=True)[0].tolist()
    assert order == [1, 3, 2, 0, 4, 5]
