"""Tiles divided among threads: the same bits of lists and normalisers as with one thread."""

import numpy as np
import pytest
import torch

from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.heads.score import Score
from torchrec_priors.ops import work_queue
from torchrec_priors.ops.single_thread import is_own
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.process import join
from torchrec_priors.retrieval import fused_search, group_index, search
from torchrec_priors.retrieval.fusion import Fusion
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.search_types import Exclusions, Queries

ITEMS, DIM, USERS = 200, 8, 20

pytestmark = pytest.mark.skipif(not is_own(), reason="PyTorch has no OpenMP or MKL here")


@pytest.fixture
def set_threads(monkeypatch):
    """Sets the number of threads, which get work, however little there is. A tile has 16 items."""
    monkeypatch.setattr(group_index, "TILE", 16)
    monkeypatch.setattr(work_queue, "_ENOUGH", 1.0)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def asked():
    """An index of items in several groups, and the queries of users: small numbers, many ties."""
    random = np.random.default_rng(0)
    item, group = np.nonzero(random.random((ITEMS, 3)) < 0.5)
    tree = PriorTree([TemporalPrior(2, 4), ItemPrior("p", list("abc"), item, group, ITEMS)], ITEMS)
    generator = torch.Generator().manual_seed(0)
    table_Vd = torch.randint(-2, 3, (ITEMS, DIM), generator=generator) / 2
    vector_BKd = torch.randint(-2, 3, (USERS, len(tree.paths), DIM), generator=generator) / 3
    bias_BK = torch.randn(USERS, len(tree.paths), generator=generator)
    bias_BK[torch.rand(bias_BK.shape, generator=generator) < 0.2] = -torch.inf
    excluded = Exclusions.of(random.integers(0, ITEMS, USERS * 9), np.full(USERS, 9))
    return GroupIndex(tree, Shard(table_Vd, 0)), Queries(vector_BKd, bias_BK), excluded


@pytest.mark.parametrize("calibrated", [False, True])
def test_the_number_of_threads_changes_no_bit(asked, set_threads, calibrated, monkeypatch):
    index, queries, excluded = asked
    used = []
    search_tile = fused_search._Searcher.search

    def _search(self, tile):
        used.append(torch.get_num_threads())
        search_tile(self, tile)

    monkeypatch.setattr(fused_search._Searcher, "search", _search)
    found = []
    sums = []
    with join():
        for threads in (1, 2, 3, 3):
            set_threads(threads)
            fusion = Fusion("mean", calibrated)
            found.append(search.search(index, Score("dot"), queries, excluded, 30, fusion))
            sums.append(search.log_normalisers(index, Score("dot"), queries, excluded))
            assert torch.get_num_threads() == threads
    assert set(used) == {1}
    for lists, sums_BK in zip(found[1:], sums[1:], strict=True):
        assert torch.equal(sums_BK, sums[0])
        for name in ("row_Bk", "score_Bk", "path_Bk"):
            assert torch.equal(getattr(lists, name), getattr(found[0], name))


def test_sums_of_tiles_are_added_in_their_order():
    """Whichever thread is done first: additions in another order have other bits."""
    generator = torch.Generator().manual_seed(0)
    path_Bp = torch.zeros(5, 1, dtype=torch.int64)
    parts = [
        [(path_Bp, torch.randn(5, 1, generator=generator, dtype=torch.float64))] for _ in range(40)
    ]
    totals = []
    for order in (list(range(40)), list(range(39, -1, -1)), [*range(1, 40, 2), *range(0, 40, 2)]):
        total_BK = torch.full((5, 1), -torch.inf, dtype=torch.float64)
        sums = fused_search._Sums(total_BK)
        for place in order:
            sums.add(place, parts[place])
        totals.append(total_BK)
    assert torch.equal(totals[1], totals[0])
    assert torch.equal(totals[2], totals[0])
    expected = torch.cat([sum_Bp for ((_, sum_Bp),) in parts], 1).logsumexp(1, keepdim=True)
    torch.testing.assert_close(totals[0], expected)


def test_few_tiles_are_searched_with_all_threads_in_each_operation(asked, set_threads, monkeypatch):
    index, queries, excluded = asked
    monkeypatch.setattr(group_index, "TILE", 1 << 13)
    used = []
    scores = fused_search._scores
    monkeypatch.setattr(
        fused_search, "_scores", lambda *a: (used.append(torch.get_num_threads()), scores(*a))[1]
    )
    set_threads(2)
    with join():
        search.search(index, Score("dot"), queries, excluded, 5, Fusion("mean"))
    assert set(used) == {2}
