"""The loss over weighed negatives equals its definition, forward and gradient."""

from dataclasses import replace

import pytest
import torch
from histories import random_histories

from torchrec_priors.ops import hard_negatives
from torchrec_priors.ops.hard_negatives import hard_negatives_loss, hard_negatives_loss_reference
from torchrec_priors.ops.hidden_negatives import SeenItems
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.in_group_softmax import in_group_loss_reference


def _case(queries, seed, shifted, dtype=torch.float64, sharpness=1.0):
    torch.manual_seed(seed)
    ids = torch.cat([torch.randint(12, (9,)).sort().values, torch.randint(12, (5,)).sort().values])
    table = torch.randn(12, 4, dtype=dtype)
    query_M = torch.arange(queries).repeat_interleave(2)
    source_M = torch.randint(6, (len(query_M),))
    positives = WeighedPositives(
        table[:6].clone(), source_M, source_M, query_M, torch.rand(len(query_M), dtype=dtype)
    )
    shifts = torch.linspace(-1, 1, 12, dtype=dtype)[ids] if shifted else None
    return (
        sharpness * torch.randn(queries, 4, dtype=dtype),
        positives,
        NegativeSets(table[ids], ids, [9], 5, shifts),
    )


def _grads(function, query, positives, negatives, beta, hidden=None):
    leaves = [
        value.clone().requires_grad_() for value in (query, positives.item_Xd, negatives.vectors_nd)
    ]
    loss, nll = function(
        leaves[0],
        replace(positives, item_Xd=leaves[1]),
        replace(negatives, vectors_nd=leaves[2]),
        beta,
        hidden,
    )
    if loss.requires_grad:
        loss.backward()
    return (
        loss,
        nll,
        *(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves),
    )


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("cells", [20, 1 << 20])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("queries", [0, 1, 7])
def test_it_is_the_definition(queries, beta, shifted, cells, hides, monkeypatch):
    monkeypatch.setattr(hard_negatives, "_CELLS", cells)
    case = (*_case(queries, queries, shifted), beta)
    if hides:
        _, positives, negatives, _ = case
        id_N, offsets, _, position_P, _ = random_histories([4, 2, 9], [queries], [], 12, queries)
        hidden = SeenItems(id_N, offsets, negatives).hidden(position_P, [queries], positives)
        assert not queries or hidden.count_RP.sum()
        case = (*case, hidden)
    for ours, theirs in zip(
        _grads(hard_negatives_loss, *case),
        _grads(hard_negatives_loss_reference, *case),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shifted", [False, True])
def test_without_hardness_it_is_the_softmax_of_everyone_else(shifted):
    query, positives, negatives = _case(5, 0, shifted)
    ours = hard_negatives_loss(query, positives, negatives, 0.0)
    torch.testing.assert_close(ours, in_group_loss_reference(query, [5], positives, negatives))


def test_a_positive_far_above_the_others_leaves_nothing_of_its_own_among_them():
    query, positives, negatives = _case(7, 3, False, torch.float32, sharpness=12.0)
    ours = _grads(hard_negatives_loss, query, positives, negatives, 1.0)
    doubled = (
        query.double(),
        replace(
            positives, item_Xd=positives.item_Xd.double(), weight_M=positives.weight_M.double()
        ),
    )
    exact = _grads(
        hard_negatives_loss_reference,
        *doubled,
        replace(negatives, vectors_nd=negatives.vectors_nd.double()),
        1.0,
    )
    for mine, wanted in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine.double(), wanted, rtol=1e-3, atol=1e-4)


def test_alone_with_copies_of_itself_it_loses_nothing():
    query, item = torch.ones(1, 4), torch.ones(1, 4)
    zero, weight = torch.zeros(1, dtype=torch.int64), torch.ones(1)
    positives = WeighedPositives(item, zero, zero, zero, weight)
    loss, _ = hard_negatives_loss(
        query, positives, NegativeSets(item.repeat(3, 1), zero.repeat(3), [3]), 1.0
    )
    assert float(loss) == 0.0
