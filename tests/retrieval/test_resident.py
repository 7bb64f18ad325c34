"""The kernel for requests finds what the definition finds, and a score depends on nothing else in the call."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from test_search import _dense, cases

from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.heads.score import Score
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval import resident as resident_module
from torchrec_priors.retrieval import resident_blocks
from torchrec_priors.retrieval.fusion import Fusion
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.item_filter import ItemFilter, bits_of, has_bits
from torchrec_priors.retrieval.resident import Resident
from torchrec_priors.retrieval.search import log_normalisers, search, search_reference
from torchrec_priors.retrieval.search_types import Exclusions, Queries, Repeats


@pytest.fixture(scope="module", autouse=True)
def _world_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def _resident(index, score=Score("dot"), dense=3, **options):
    """The packed index; with tiles of one block, and a chosen share from which sets have masks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident_blocks, "_TILE", 16)
        patch.setattr(resident_module, "_dense", lambda *_, **__: dense)
        packed = Resident.of(index, score, **options)
    if packed is None:
        pytest.skip("there is no C++ compiler")
    return packed


def _filter(allowed, items, *, as_deny):
    rows = np.flatnonzero(np.array(allowed) != as_deny)
    bits = bits_of(rows, items)
    return ItemFilter(deny=bits) if as_deny else ItemFilter(allow=bits)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("kind", ["max", "mean", "hierarchical", "inverse_variance"])
@settings(deadline=None, max_examples=8)
@given(
    case=cases(),
    seed=st.integers(0, 999),
    dense=st.sampled_from([1, 3, 1000]),
    as_deny=st.booleans(),
)
def test_equals_the_definition(kind, calibrated, case, seed, dense, as_deny):
    tree, table, queries, excluded, allowed, k, _ = case
    generator = torch.Generator().manual_seed(seed)
    fusion = Fusion(
        kind,
        calibrated,
        torch.tensor([path.groups[0] for path in tree.paths]) if kind == "hierarchical" else None,
        torch.rand(len(tree.paths), generator=generator) + 0.1
        if kind == "inverse_variance"
        else None,
    )
    eligible, alternatives = _dense(tree, len(table), allowed)
    slow = search_reference(table, eligible, queries, excluded, k, fusion, alternatives)

    index = GroupIndex(tree, Shard(table, 0))
    filters = None
    if allowed is not None:
        filters = [_filter(allowed, len(table), as_deny=as_deny)]
    score = Score("dot")
    packed = _resident(index, score, dense)
    for resident in (packed, None):
        fast = search(
            index, score, queries, excluded, k, fusion, resident=resident, filters=filters
        )
        torch.testing.assert_close(fast.score_Bk, slow.score_Bk, atol=1e-5, rtol=1e-6)
        found = fast.row_Bk >= 0
        assert torch.equal(found, slow.row_Bk >= 0)
        assert eligible[fast.path_Bk[found], fast.row_Bk[found]].all()
        if kind == "max":  # the numbers are exact, so that ties are decided alike
            assert fast.row_Bk.tolist() == slow.row_Bk.tolist()
            plain = search(index, score, queries, excluded, k, fusion, filters=filters)
            assert fast.path_Bk[found].tolist() == plain.path_Bk[found].tolist()


@settings(deadline=None, max_examples=8)
@given(case=cases(), dense=st.sampled_from([1, 3, 1000]), size=st.sampled_from([1.0, 400.0]))
def test_log_sums_equal_those_of_the_reference(case, dense, size):
    tree, table, queries, excluded, _, _, _ = case
    index = GroupIndex(tree, Shard(table * size, 0))
    score = Score("dot")
    packed = _resident(index, score, dense)
    for left_out in (None, excluded):
        expected = log_normalisers(index, score, queries, left_out)
        found = log_normalisers(index, score, queries, left_out, packed)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def _example(items=3_000, dim=24, users=7, seed=0):
    """Sets that are whole, dense and sparse, and real numbers, whose sums round."""
    generator = torch.Generator().manual_seed(seed)
    item = np.concatenate([np.arange(0, items, 2), np.arange(0, items, 90), np.arange(items)])
    group = np.repeat([0, 1, 2], [len(range(0, items, 2)), len(range(0, items, 90)), items])
    tree = PriorTree(
        [TemporalPrior(4, 4), ItemPrior("genre", list("abc"), item, group, items)], items
    )
    index = GroupIndex(tree, Shard(torch.randn(items, dim, generator=generator), 0))
    vectors = torch.randn(users, len(tree.paths), dim, generator=generator)
    bias = torch.randn(users, len(tree.paths), generator=generator)
    bias[1, ::3] = -torch.inf
    seen = torch.randint(items, (users * 30,), generator=generator).numpy()
    return index, Queries(vectors, bias), Exclusions.of(seen, np.full(users, 30))


@pytest.mark.parametrize("kind", ["dot", "cosine"])
def test_a_score_depends_on_the_query_and_the_item_only(kind):
    index, queries, excluded = _example()
    score = Score(kind)
    packed = Resident.of(index, score)
    if packed is None:
        pytest.skip("there is no C++ compiler")
    together = search(index, score, queries, excluded, 20, resident=packed)
    sums = packed.log_sums(queries, excluded)
    other_layout = _resident(index, score, dense=1000)
    for user in range(len(queries)):
        one = queries.of([user])
        left_out = excluded.of_users([user])
        for layout in (packed, other_layout):
            alone = search(index, score, one, left_out, 20, resident=layout)
            assert torch.equal(alone.row_Bk[0], together.row_Bk[user])
            assert torch.equal(alone.score_Bk[0], together.score_Bk[user])
            assert torch.equal(alone.path_Bk[0], together.path_Bk[user])
        assert torch.equal(packed.log_sums(one, left_out)[0], sums[user])

        # The scores that explain an item are those of the search, bit by bit.
        rows = together.row_Bk[user]
        found = packed.scores(packed.vectors(rows.numpy()), queries.vector_BKd[user])
        best = (found + queries.bias_BK[user]).gather(1, together.path_Bk[user][:, None])[:, 0]
        assert torch.equal(best, together.score_Bk[user])
    plain = search(index, score, queries, excluded, 20)
    torch.testing.assert_close(together.score_Bk, plain.score_Bk)


def test_vectors_for_scoring_may_be_wider_than_the_rows():
    class Twice(Score):
        def items(self, item_Md):
            return torch.cat([item_Md, -item_Md], 1)

    index, queries, excluded = _example(items=90)
    wide = Queries(torch.cat([queries.vector_BKd, queries.vector_BKd.flip(2)], 2), queries.bias_BK)
    score = Twice("dot")
    for as_bytes in (False, True):  # bytes are for scores of our own only
        packed = _resident(index, score, as_bytes=as_bytes)
        fast = search(index, score, wide, excluded, 20, resident=packed)
        slow = search(index, score, wide, excluded, 20)
        assert torch.equal(fast.row_Bk, slow.row_Bk)
        torch.testing.assert_close(fast.score_Bk, slow.score_Bk)
        with pytest.raises(AssertionError, match="not queries for these vectors"):
            packed.search(queries, excluded, None, 5, Fusion())


def test_each_user_has_a_filter_and_repeats_obey_it():
    index, queries, excluded = _example()
    packed = _resident(index)
    items = len(index)
    allow = np.arange(100, 140)
    deny = np.arange(0, items, 2)
    filters = [
        ItemFilter(),
        ItemFilter(allow=bits_of(allow, items)),
        ItemFilter(deny=bits_of(deny, items)),
        ItemFilter(allow=bits_of(allow, items), deny=bits_of(deny, items)),
        *[ItemFilter()] * 3,
    ]
    user_R = torch.arange(7).repeat_interleave(2)
    row_R = torch.tensor([101, 200] * 7)
    repeats = Repeats(user_R, row_R, torch.full((14,), 1e4))
    with_repeats = replace(queries, repeats=repeats)
    excluded = Exclusions(user_R.numpy(), row_R.numpy())

    score = Score("dot")
    fast = search(index, score, with_repeats, excluded, 9, resident=packed, filters=filters)
    slow = search(index, score, with_repeats, excluded, 9, filters=filters)
    assert torch.equal(fast.row_Bk, slow.row_Bk)
    torch.testing.assert_close(fast.score_Bk, slow.score_Bk)
    for user, item_filter in enumerate(filters):
        rows = fast.row_Bk[user].numpy()
        assert item_filter.allows(rows).all()
        assert {101, 200} & set(rows.tolist()) == set(
            np.array([101, 200])[item_filter.allows(np.array([101, 200]))].tolist()
        )


@settings(deadline=None, max_examples=8)
@given(case=cases(), dense=st.sampled_from([1, 3, 1000]))
def test_bytes_find_what_the_definition_finds(case, dense):
    tree, table, queries, excluded, allowed, k, _ = case
    eligible, _ = _dense(tree, len(table), allowed)
    slow = search_reference(table, eligible, queries, excluded, k)
    index = GroupIndex(tree, Shard(table, 0))
    packed = _resident(index, dense=dense, as_bytes=True)
    filters = None if allowed is None else [_filter(allowed, len(table), as_deny=False)]
    fast = search(index, Score("dot"), queries, excluded, k, resident=packed, filters=filters)
    assert fast.row_Bk.tolist() == slow.row_Bk.tolist()
    assert fast.score_Bk.tolist() == slow.score_Bk.tolist()
    found = fast.row_Bk >= 0
    plain = search(index, Score("dot"), queries, excluded, k, filters=filters)
    assert fast.path_Bk[found].tolist() == plain.path_Bk[found].tolist()


@pytest.mark.parametrize("dim", [24, 7, 6])
@pytest.mark.parametrize("kind", ["dot", "cosine"])
def test_bytes_give_the_same_bits_as_floats(kind, dim):
    index, queries, excluded = _example(dim=dim)
    score = Score(kind)
    floats = _resident(index, score)
    as_bytes = _resident(index, score, as_bytes=True)
    one = search(index, score, queries, excluded, 50, resident=floats)
    other = search(index, score, queries, excluded, 50, resident=as_bytes)
    assert torch.equal(one.row_Bk, other.row_Bk)
    assert torch.equal(one.score_Bk, other.score_Bk)
    assert torch.equal(one.path_Bk, other.path_Bk)
    for packed in (floats, as_bytes):
        for threads in (2, 5):
            divided = search(index, score, queries, excluded, 50, resident=packed, threads=threads)
            assert torch.equal(one.row_Bk, divided.row_Bk)
            assert torch.equal(one.score_Bk, divided.score_Bk)
            assert torch.equal(one.path_Bk, divided.path_Bk)
    rows = one.row_Bk[0].numpy()
    assert torch.equal(floats.vectors(rows), as_bytes.vectors(rows))
    assert as_bytes.nbytes < 0.6 * floats.nbytes


@given(st.sets(st.integers(0, 199)), st.integers(200, 300))
def test_bits(rows, items):
    words = bits_of(np.array(sorted(rows), np.int64), items)
    assert set(np.flatnonzero(has_bits(words, np.arange(items))).tolist()) == rows


def test_without_a_compiler_there_is_no_kernel(monkeypatch):
    index, _, _ = _example(items=60)
    monkeypatch.setattr(resident_module, "load_native", lambda _: None)
    assert Resident.of(index, Score("dot")) is None
