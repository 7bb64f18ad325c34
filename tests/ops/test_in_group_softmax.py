"""The fused in-group softmax equals Eq. 7 written out, forward and gradient."""

import math

import pytest
import torch
from histories import random_histories
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops import in_group_softmax, softmax_blocks
from torchrec_priors.ops.hidden_negatives import SeenItems
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.in_group_softmax import in_group_loss, in_group_loss_reference


def _case(seed, queries, negatives, shared, positives, dim, ids):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pools = [
        torch.randint(0, ids, (count,), generator=generator).sort().values
        for count in (*negatives, shared)
    ]
    shifts = torch.cat(
        [3 * normal(ids)[pool] for pool in pools]
    )  # the same for copies in a set, others in another set
    query_of = torch.randint(
        0, max(sum(queries), 1), (positives if sum(queries) else 0,), generator=generator
    )
    positive_id = torch.randint(0, ids, query_of.shape, generator=generator)
    table = normal(
        ids, dim
    )  # a positive and its copies among the negatives share one vector, as in training
    return (
        normal(sum(queries), dim),
        positive_id,
        query_of.sort().values,
        torch.cat(pools),
        shifts,
        table,
    )


def _nll(query, counts, table, positive, query_of, negatives, loss=in_group_loss):
    """(sum, [M]) of positives of the same weight."""
    weight = torch.ones(len(positive), dtype=query.dtype)
    return loss(
        query, counts, WeighedPositives(table, positive, positive, query_of, weight), negatives
    )


@settings(deadline=None, max_examples=150)
@given(
    sets=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=4),
    shared=st.integers(0, 9),
    positives=st.integers(0, 12),
    dim=st.integers(1, 5),
    ids=st.integers(1, 12),
    block=st.sampled_from([1, 7, 1 << 21]),
    heavy=st.sampled_from([1e-9, 1.0, 256.0]),
    safe=st.sampled_from([0.0, 60.0]),
    shifted=st.booleans(),
    lengths=st.lists(st.integers(1, 4), max_size=3),
    seed=st.integers(0, 999),
)
def test_equals_the_definition_forward_and_gradient(
    sets, shared, positives, dim, ids, block, heavy, safe, shifted, lengths, seed
):
    queries, negatives = [q for q, _ in sets], [n for _, n in sets]
    query, positive_id, query_of, id_n, shifts, table = _case(
        seed, queries, negatives, shared, positives, dim, ids
    )
    weight = torch.linspace(-1, 2, len(positive_id), dtype=torch.float64)
    results = []
    for loss in (in_group_loss, in_group_loss_reference):
        q, vectors = query.clone().requires_grad_(), table.clone().requires_grad_()
        pools = NegativeSets(vectors[id_n], id_n, negatives, shared, shifts if shifted else None)
        of = WeighedPositives(vectors, positive_id, positive_id, query_of, weight)
        hidden = None
        if lengths:
            id_N, offsets, _, position_P, _ = random_histories(lengths, queries, [], ids, seed)
            hidden = SeenItems(id_N, offsets, pools).hidden(position_P, queries, of)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(softmax_blocks.BLOCK, "cpu", block)
            patch.setattr(in_group_softmax, "HEAVY", heavy)
            patch.setattr(softmax_blocks, "_SAFE", safe)
            total, each = loss(q, queries, of, pools, hidden)
            (3 * total + 0 * (q.sum() + vectors.sum())).backward()
        results.append([total, each, q.grad, vectors.grad])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-8, rtol=1e-6)


def test_taking_the_whole_set_gives_the_exact_softmax():
    generator = torch.Generator().manual_seed(0)
    query, table = torch.randn(3, 4, generator=generator), torch.randn(6, 4, generator=generator)
    positive = torch.tensor([5, 0, 2])
    _, nll = _nll(
        query, [3], table, positive, torch.arange(3), NegativeSets(table, torch.arange(6), [6])
    )
    exact = torch.nn.functional.cross_entropy(query @ table.T, positive, reduction="none")
    torch.testing.assert_close(nll, exact)


def test_a_set_and_the_catalogue_weighed_in_parts_give_the_mean_of_both_sums():
    generator = torch.Generator().manual_seed(0)
    query, table = torch.randn(3, 4, generator=generator), torch.randn(6, 4, generator=generator)
    ids = torch.tensor([0, 2, 5, *range(6)])
    shifts = torch.tensor([math.log(0.7)] * 3 + [math.log(0.3)] * 6)
    positive = torch.tensor([5, 0, 2])
    _, nll = _nll(
        query, [3], table, positive, torch.arange(3), NegativeSets(table[ids], ids, [3], 6, shifts)
    )
    each = torch.exp(query @ table.T)
    denominator = 0.7 * each[:, [0, 2, 5]].sum(1) + 0.3 * each.sum(1)
    torch.testing.assert_close(nll, denominator.log() - (query * table[positive]).sum(1))


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_stays_finite_and_right_where_one_item_dominates(scale):
    query = torch.tensor([[scale, 0.0]])
    table = torch.tensor([[1.0, 0.0], [0.9, 0.0], [-1.0, 0.0]])
    shifts = torch.full((3,), math.log(4))
    pools = NegativeSets(table, torch.arange(3), [3], shifts_n=shifts)
    first = torch.tensor([0])
    total, out = _nll(query.requires_grad_(), [1], table, first, first, pools)
    pools = NegativeSets(table.double(), torch.arange(3), [3], shifts_n=shifts.double())
    _, slow = _nll(
        query.double(), [1], table.double(), first, first, pools, in_group_loss_reference
    )
    total.backward()
    assert torch.isfinite(query.grad).all()
    torch.testing.assert_close(out.double(), slow, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("shift", [0.0, 5.0, 12.0, 40.0])
def test_a_copy_that_weighs_millions_of_its_positive_takes_no_accuracy_with_it(shift):
    """What is left once it is taken out is lost in the rounding of the sum it was in."""
    generator = torch.Generator().manual_seed(0)
    query, table = torch.randn(2, 4, generator=generator), torch.randn(6, 4, generator=generator)
    ids = torch.tensor([1, 2, 3, 3, 3, 0, 3, 5])
    shifts = torch.where(ids == 3, shift, -1.0)
    positive_id, query_of = torch.tensor([3, 3, 1]), torch.tensor([0, 1, 1])
    results = []
    for loss, dtype in ((in_group_loss, torch.float32), (in_group_loss_reference, torch.float64)):
        q, vectors = (leaf.clone().to(dtype).requires_grad_() for leaf in (query, table))
        positives = WeighedPositives(
            vectors, positive_id, positive_id, query_of, torch.tensor([1, 1, 0], dtype=dtype)
        )
        total, out = loss(
            q, [2], positives, NegativeSets(vectors[ids], ids, [5], 3, shifts.to(dtype))
        )
        total.backward()
        results.append([out.double(), q.grad.double(), vectors.grad.double()])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)


def test_without_gradients_the_losses_are_the_same():
    query, positive_id, query_of, id_n, _, table = _case(0, [3, 2], [4, 5], 2, 7, 4, 9)
    pools = NegativeSets(table[id_n], id_n, [4, 5], 2)
    with torch.no_grad():
        _, alone = _nll(query.requires_grad_(), [3, 2], table, positive_id, query_of, pools)
    total, each = _nll(query, [3, 2], table, positive_id, query_of, pools)
    assert torch.equal(alone, each)
    assert total.requires_grad


@pytest.mark.parametrize("shared", [0, 3])
@pytest.mark.parametrize("safe", [0.0, 60.0])
@pytest.mark.parametrize("heavy", [1e-9, 256.0])
@pytest.mark.parametrize("spoilt", ["query", "positive", "negative"])
def test_a_nan_gives_a_nan_like_the_definition(spoilt, heavy, safe, shared, monkeypatch):
    """Or else training would go on from it; what does not see it stays as it was."""
    monkeypatch.setattr(in_group_softmax, "HEAVY", heavy)
    monkeypatch.setattr(softmax_blocks, "_SAFE", safe)
    query, positive_id, query_of, id_n, _, table = _case(3, [3, 2], [4, 5], shared, 9, 4, 6)
    vectors = table[id_n].clone()
    of = {"query": query[query_of[0]], "positive": table[positive_id[-1]], "negative": vectors[1]}
    of[spoilt][2] = math.nan
    results = []
    for loss in (in_group_loss, in_group_loss_reference):
        q = query.clone().requires_grad_()
        summed, nll = _nll(
            q,
            [3, 2],
            table,
            positive_id,
            query_of,
            NegativeSets(vectors, id_n, [4, 5], shared),
            loss,
        )
        summed.backward()
        results.append((nll, summed.detach(), q.grad))
    (nll, summed, _), (expected, expected_sum, _) = results
    assert expected_sum.isnan() and summed.isnan()  # noqa: PT018
    assert not expected.isnan().all()
    assert nll[expected.isnan()].isnan().all()
    of_copies = (
        nll.isnan() & ~expected.isnan()
    )  # a spoilt negative can be a positive's own, which is subtracted
    assert spoilt == "negative" or not of_copies.any()
    torch.testing.assert_close(nll[~of_copies], expected[~of_copies], equal_nan=True)
    assert results[0][2].isnan().any(), "and no finite gradient hides it"


def test_a_positive_far_above_all_negatives_costs_nothing():
    query, table = torch.tensor([[100.0]]), torch.tensor([[-1.0], [1.0]])
    loss, nll = _nll(
        query,
        [1],
        table,
        torch.tensor([1]),
        torch.tensor([0]),
        NegativeSets(table[:1], torch.tensor([0]), [1]),
    )
    assert loss == 0.0
    assert nll.tolist() == [0.0]
