"""Max fusion chunk by chunk: what brute force finds, to the last bit the same whoever else is in the batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.heads.score import Score
from torchrec_priors.ops import work_queue
from torchrec_priors.ops.single_thread import is_own
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.process import join
from torchrec_priors.retrieval import max_search, search
from torchrec_priors.retrieval.best_items import BestItems, pairs
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.int8_search import Quantised
from torchrec_priors.retrieval.keys import NOTHING
from torchrec_priors.retrieval.search_types import Exclusions, Queries

ITEMS, DIM = 3_000, 16


@pytest.fixture(scope="module", autouse=True)
def ranks():
    with join() as joined:
        yield joined


@pytest.fixture(scope="module")
def tree():
    """Two segments of time x three overlapping groups of 2,700, 600 and 2 items; most items have a head."""
    random = np.random.default_rng(0)
    member = np.zeros((ITEMS, 3), bool)
    for group, size in enumerate((2_700, 600, 2)):
        member[random.choice(ITEMS, size, replace=False), group] = True
    return PriorTree(
        [TemporalPrior(2, 4), ItemPrior("genre", list("abc"), *np.nonzero(member), ITEMS)], ITEMS
    )


def _asked(tree, users, seed, whole_numbers):
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        if whole_numbers:  # exact products, and many ties
            return torch.randint(-2, 3, shape, generator=generator).float()
        return torch.randn(*shape, generator=generator)

    bias = numbers(users, len(tree.paths))
    bias[torch.rand(bias.shape, generator=generator) < 0.2] = -torch.inf
    return numbers(ITEMS, DIM), Queries(numbers(users, len(tree.paths), DIM), bias)


def _eligible(tree):
    eligible = torch.zeros(len(tree.paths), ITEMS, dtype=torch.bool)
    for path, number in enumerate(tree.item_set_K):
        eligible[path, torch.from_numpy(tree.eligible(0, ITEMS)[number])] = True
    return eligible


def _brute_force(table, eligible, queries, excluded, k):
    """All scores at once; of equal ones the smaller path, then the smaller row."""
    score = torch.where(
        eligible, queries.vector_BKd @ table.T + queries.bias_BK[..., None], -torch.inf
    )
    best = score.amax(1)
    last = score.shape[1] - 1
    path = last - ((score == best[:, None]) * torch.arange(last, -1, -1)[:, None]).amax(1)
    best[torch.from_numpy(excluded.user), torch.from_numpy(excluded.row)] = -torch.inf
    order = torch.argsort(best, dim=1, descending=True, stable=True)[:, :k]
    found = best.gather(1, order)
    return order.masked_fill(torch.isneginf(found), -1), found, path.gather(1, order)


def _excluded(users, seed):
    random = np.random.default_rng(seed)
    return Exclusions.of(random.integers(0, ITEMS, users * 40), np.full(users, 40))


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 70), st.sampled_from([1, 7, 200, 2_900]), st.integers(0, 99))
def test_finds_what_brute_force_finds_ties_and_all(tree, users, k, seed):
    table, queries = _asked(tree, users, seed, whole_numbers=True)
    excluded = _excluded(users, seed)
    found = search.search(GroupIndex(tree, Shard(table, 0)), Score("dot"), queries, excluded, k)
    row, score, path = _brute_force(table, _eligible(tree), queries, excluded, k)
    assert torch.equal(found.row_Bk, row)
    assert torch.equal(found.score_Bk, score)
    assert torch.equal(found.path_Bk[row >= 0], path[row >= 0])


def test_a_user_gets_the_same_bits_alone_in_a_batch_and_with_products_of_one_shape(
    tree, monkeypatch
):
    table, queries = _asked(tree, 70, 0, whole_numbers=False)
    index, excluded = GroupIndex(tree, Shard(table, 0)), _excluded(70, 0)
    whole = search.search(index, Score("dot"), queries, excluded, 50)
    for user in (0, 17, 69):
        alone = Queries(queries.vector_BKd[user : user + 1], queries.bias_BK[user : user + 1])
        mine = excluded.user == user
        own = Exclusions(excluded.user[mine] * 0, excluded.row[mine])
        found = search.search(index, Score("dot"), alone, own, 50)
        for name in ("row_Bk", "score_Bk", "path_Bk"):
            assert torch.equal(getattr(found, name)[0], getattr(whole, name)[user])
    monkeypatch.setattr(max_search, "_agree", lambda *_: False)
    one_shape = search.search(index, Score("dot"), queries, excluded, 50)
    assert torch.equal(one_shape.row_Bk, whole.row_Bk)
    assert torch.equal(one_shape.score_Bk, whole.score_Bk)


@settings(deadline=None, max_examples=12)
@given(
    st.integers(1, 70),
    st.sampled_from([1, 7, 200, 2_900]),
    st.integers(0, 99),
    st.sampled_from(["dot", "cosine"]),
)
def test_bytes_find_what_float32_finds(tree, users, k, seed, kind):
    table, queries = _asked(tree, users, seed, whole_numbers=False)
    table *= (
        torch.rand(ITEMS, 1, generator=torch.Generator().manual_seed(seed)) ** 3
    )  # lengths of any size
    score, queries = Score(kind), Queries.unbiased(queries.vector_BKd)
    excluded, index = _excluded(users, seed), GroupIndex(tree, Shard(table, 0))
    found = search.search(index, score, queries, excluded, k, quantised=Quantised.of(table, score))
    expected = search.search(index, score, queries, excluded, k)
    finite = expected.row_Bk >= 0
    assert torch.equal(found.row_Bk >= 0, finite)
    assert torch.allclose(found.score_Bk[finite], expected.score_Bk[finite], rtol=1e-4, atol=1e-5)
    apart = expected.score_Bk.diff(dim=1).abs() > 1e-4
    clear = finite & F.pad(apart, (1, 0), value=True) & F.pad(apart, (0, 1), value=True)
    assert torch.equal(found.row_Bk[clear], expected.row_Bk[clear])
    assert clear.float().mean() > 0.5 or k > 200


@pytest.fixture
def set_threads():
    """Sets the number of threads; all of them get work, however little there is."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_queue, "_ENOUGH", 1.0)
        yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("whole_numbers", [False, True])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_the_number_of_threads_changes_no_bit(tree, set_threads, as_bytes, whole_numbers):
    """Also with ties of items and of paths, and whichever thread offers an item first."""
    table, queries = _asked(tree, 70, 3, whole_numbers)
    score, excluded = Score("dot"), _excluded(70, 3)
    if as_bytes:
        queries = Queries.unbiased(queries.vector_BKd)
    quantised = Quantised.of(table, score) if as_bytes else None
    index = GroupIndex(tree, Shard(table, 0))

    found = []
    for threads in (1, 2, 3, 3):
        set_threads(threads)
        found.append(search.search(index, score, queries, excluded, 50, quantised=quantised))
        assert torch.get_num_threads() == threads
    if whole_numbers:
        row, best, path = _brute_force(table, _eligible(tree), queries, excluded, 50)
        assert torch.equal(found[0].row_Bk, row)
        assert torch.equal(found[0].score_Bk, best)
        assert torch.equal(found[0].path_Bk, path)
    for other in found[1:]:
        for name in ("row_Bk", "score_Bk", "path_Bk"):
            assert torch.equal(getattr(other, name), getattr(found[0], name))


@pytest.mark.skipif(not is_own(), reason="PyTorch has no OpenMP or MKL here")
def test_memory_of_a_thread_is_that_of_a_chunk(tree, set_threads, monkeypatch):
    """A thread holds scores of one product, whatever the number of users, sets and items."""
    table, queries = _asked(tree, 600, 0, whole_numbers=False)
    held = []
    make = max_search._Scorer.__init__

    def _made(self, *arguments):
        make(self, *arguments)
        held.append(self._scores.numel())

    monkeypatch.setattr(max_search._Scorer, "__init__", _made)
    set_threads(2)
    search.search(GroupIndex(tree, Shard(table, 0)), Score("dot"), queries, None, 5)
    assert 1 <= len(held) <= 2
    assert max(held) <= max_search._MOST_ROWS * max_search._MOST_COLUMNS


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 999), st.randoms())
def test_offers_in_any_order_give_the_same_lists(users, k, seed, shuffled):
    """Few scores, so that several paths often offer an item with the same score."""
    random = np.random.default_rng(seed)
    banned = pairs(random.integers(0, users, 4), random.integers(0, 12, 4), torch.device("cpu"))
    offers = []
    for path in range(4):
        user, row = np.nonzero(random.random((users, 12)) < 0.6)
        scores = random.integers(0, 3, len(user)).astype(np.float32)
        arrays = (user, row, scores, np.full(len(user), path))
        offers.append([torch.from_numpy(array) for array in arrays])

    results = []
    for _ in range(2):
        best = BestItems(users, k, banned, torch.device("cpu"))
        for offer in offers:
            best.offer(*offer)
        results.append(best.result())
        shuffled.shuffle(offers)
    in_order, in_any_order = results
    assert torch.equal(in_order[0], in_any_order[0])
    found = in_order[0] != NOTHING
    assert torch.equal(in_order[1][found], in_any_order[1][found])


def test_few_survive_the_bytes(tree, monkeypatch):
    table, queries = _asked(tree, 60, 0, whole_numbers=False)
    offered = []
    offer = BestItems.offer
    monkeypatch.setattr(
        BestItems, "offer", lambda self, *c: (offered.append(len(c[0])), offer(self, *c))[1]
    )
    queries = Queries.unbiased(queries.vector_BKd)
    search.search(
        GroupIndex(tree, Shard(table, 0)),
        Score("dot"),
        queries,
        None,
        5,
        quantised=Quantised.of(table, Score("dot")),
    )
    assert sum(offered) < 0.8 * 60 * (2_700 + 600 + 2)


def test_products_that_do_not_agree_are_noticed(monkeypatch):
    max_search._agree.cache_clear()
    assert max_search._agree(64, 1024, 16, 32)
    max_search._agree.cache_clear()
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: product(a, b) + 1e-6 * (len(a) > 16)
    )
    assert not max_search._agree(64, 1024, 16, 32)
    max_search._agree.cache_clear()
