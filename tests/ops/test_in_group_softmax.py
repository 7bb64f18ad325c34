"""The fused in-group softmax equals Eq. 7 written out, forward and gradient."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops import in_group_softmax
from torchrec_priors.ops.in_group_softmax import NegativeSets, in_group_nll, in_group_nll_reference


def _case(seed, queries, negatives, positives, dim, ids):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pools = [torch.randint(0, ids, (count,), generator=generator).sort().values for count in negatives]
    id_n = torch.cat(pools)
    shifts = normal(len(negatives)).tolist()
    query_of = torch.randint(0, max(sum(queries), 1), (positives if sum(queries) else 0,), generator=generator)
    positive_id = torch.randint(0, ids, query_of.shape, generator=generator)
    table = normal(ids, dim)  # a positive and its copies among the negatives share one vector, as in training
    return normal(sum(queries), dim), positive_id, query_of, id_n, shifts, table


@settings(deadline=None, max_examples=60)
@given(
    sets=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=4),
    positives=st.integers(0, 12),
    dim=st.integers(1, 5),
    ids=st.integers(1, 12),
    block=st.sampled_from([1, 7, 1 << 21]),
    seed=st.integers(0, 999),
)
def test_equals_the_definition_forward_and_gradient(sets, positives, dim, ids, block, seed):
    queries, negatives = [q for q, _ in sets], [n for _, n in sets]
    query, positive_id, query_of, id_n, shifts, table = _case(seed, queries, negatives, positives, dim, ids)
    results = []
    for nll in (in_group_nll, in_group_nll_reference):
        q, vectors = query.clone().requires_grad_(), table.clone().requires_grad_()
        pools = NegativeSets(vectors[id_n], id_n, negatives, shifts)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(in_group_softmax, "_BLOCK", block)
            out = nll(q, queries, vectors[positive_id], positive_id, query_of, pools)
            ((out * torch.arange(1, len(out) + 1)).sum() + 0 * (q.sum() + vectors.sum())).backward()
        results.append([out, q.grad, vectors.grad])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-8, rtol=1e-6)


def test_taking_the_whole_set_gives_the_exact_softmax():
    generator = torch.Generator().manual_seed(0)
    query, table = torch.randn(3, 4, generator=generator), torch.randn(6, 4, generator=generator)
    positive = torch.tensor([5, 0, 2])
    pools = NegativeSets(table, torch.arange(6), [6], [0.0])
    nll = in_group_nll(query, [3], table[positive], positive, torch.arange(3), pools)
    exact = torch.nn.functional.cross_entropy(query @ table.T, positive, reduction="none")
    torch.testing.assert_close(nll, exact)


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_stays_finite_and_right_where_one_item_dominates(scale):
    query = torch.tensor([[scale, 0.0]])
    table = torch.tensor([[1.0, 0.0], [0.9, 0.0], [-1.0, 0.0]])
    pools = NegativeSets(table, torch.arange(3), [3], [math.log(4)])
    out = in_group_nll(query.requires_grad_(), [1], table[:1], torch.tensor([0]), torch.tensor([0]), pools)
    slow = in_group_nll_reference(query.double(), [1], table[:1].double(), torch.tensor([0]), torch.tensor([0]),
                                  NegativeSets(table.double(), torch.arange(3), [3], [math.log(4)]))  # fmt: skip
    out.sum().backward()
    assert torch.isfinite(query.grad).all()
    torch.testing.assert_close(out.double(), slow, atol=2e-5, rtol=1e-4)
