"""The softmax over all item sets equals its definition, forward and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops import joint_softmax, softmax_blocks
from torchrec_priors.ops.hidden_negatives import SeenItems
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.joint_softmax import (
    JointQueries,
    RowGroup,
    joint_loss,
    joint_loss_reference,
)


def _queries(rows_and_sets, item_sets, generator, dim):
    """Queries of random rows, sorted by set: (query, bias, set of each, groups)."""
    first = 0
    firsts = [[] for _ in rows_and_sets]
    set_P = []
    for item_set in range(item_sets):
        for number, (rows, sets) in enumerate(rows_and_sets):
            if item_set in sets:
                firsts[number].append(first)
                set_P += [item_set] * rows
                first += rows
    groups = [
        RowGroup(rows, sorted(sets), of_sets)
        for (rows, sets), of_sets in zip(rows_and_sets, firsts, strict=True)
    ]
    query = torch.randn(first, dim, generator=generator, dtype=torch.float64)
    bias = torch.randn(first, generator=generator, dtype=torch.float64)
    return query, bias, torch.tensor(set_P, dtype=torch.int64), groups


@settings(deadline=None, max_examples=150)
@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    data=st.data(),
    positives=st.integers(0, 12),
    dim=st.integers(1, 5),
    block=st.sampled_from([1, 7, 1 << 21]),
    heavy=st.sampled_from([1e-9, 1.0, 256.0]),
    safe=st.sampled_from([0.0, 60.0]),
    shifted=st.booleans(),
    hides=st.booleans(),
    seed=st.integers(0, 999),
)
def test_equals_the_definition_forward_and_gradient(
    counts, data, positives, dim, block, heavy, safe, shifted, hides, seed
):
    item_sets = len(counts)
    generator = torch.Generator().manual_seed(seed)
    rows_and_sets = data.draw(
        st.lists(
            st.tuples(
                st.integers(0, 4),
                st.sets(st.integers(0, item_sets - 1), min_size=1, max_size=item_sets),
            ),
            min_size=1,
            max_size=3,
        )
    )
    query, bias, set_P, groups = _queries(rows_and_sets, item_sets, generator, dim)

    # Set s has the items 3 s, 3 s + 1 and 3 s + 2.
    items = 3 * item_sets
    table = torch.randn(items, dim, generator=generator, dtype=torch.float64)
    pools = [
        torch.randint(3 * number, 3 * number + 3, (count,), generator=generator).sort().values
        for number, count in enumerate(counts)
    ]
    id_n = torch.cat(pools)
    shift_I = 3 * torch.randn(items, generator=generator, dtype=torch.float64)

    rows = sum(group.rows for group in groups)
    row_M = torch.randint(0, max(rows, 1), (positives if rows else 0,), generator=generator)
    row_M = row_M.sort().values
    query_M = []
    id_M = []
    position_P = torch.zeros(len(query), dtype=torch.int64)
    first_row = 0
    for group in groups:
        for first in group.first_queries:
            position_P[first : first + group.rows] = torch.arange(first_row, first_row + group.rows)
        for row in row_M[(row_M >= first_row) & (row_M < first_row + group.rows)].tolist():
            place = int(torch.randint(0, len(group.sets), (), generator=generator))
            query_M.append(group.first_queries[place] + row - first_row)
            id_M.append(3 * group.sets[place] + int(torch.randint(0, 3, (), generator=generator)))
        first_row += group.rows
    query_M = torch.tensor(query_M, dtype=torch.int64)
    id_M = torch.tensor(id_M, dtype=torch.int64)
    weight = torch.linspace(-1, 2, len(id_M), dtype=torch.float64)
    seen_R = torch.randint(0, items, (rows,), generator=generator)

    results = []
    for loss in (joint_loss, joint_loss_reference):
        q, b = query.clone().requires_grad_(), bias.clone().requires_grad_()
        vectors = table.clone().requires_grad_()
        negatives = NegativeSets(
            vectors[id_n], id_n, counts, shifts_n=shift_I[id_n] if shifted else None
        )
        of = WeighedPositives(vectors, id_M, id_M, query_M, weight)
        joint = JointQueries(q, b, set_P, groups, row_M)
        hidden = None
        if hides and rows:
            query_counts = torch.bincount(set_P, minlength=item_sets).tolist()
            seen = SeenItems(seen_R, torch.tensor([0, rows]), negatives)
            hidden = seen.hidden(position_P, query_counts, of)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(softmax_blocks.BLOCK, "cpu", block)
            patch.setattr(joint_softmax, "HEAVY", heavy)
            patch.setattr(softmax_blocks, "_SAFE", safe)
            total, each = loss(joint, of, negatives, hidden)
            (3 * total + 0 * (q.sum() + b.sum() + vectors.sum())).backward()
        results.append([total, each, q.grad, b.grad, vectors.grad])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-8, rtol=1e-6)


def test_all_sets_together_are_the_softmax_of_the_catalogue():
    """If all sets have the same query, their joint softmax is that of one head."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(4, 3, generator=generator)
    table = torch.randn(6, 3, generator=generator)
    negatives = NegativeSets(table, torch.arange(6), [2, 4])
    group = RowGroup(4, [0, 1], [0, 4])
    set_P = torch.tensor([0] * 4 + [1] * 4)
    item = torch.tensor([5, 0, 2, 1])
    query_M = torch.arange(4) + 4 * (item >= 2)
    positives = WeighedPositives(table, item, item, query_M, torch.ones(4))

    joint = JointQueries(torch.cat([state, state]), torch.zeros(8), set_P, [group], torch.arange(4))
    _, nll = joint_loss(joint, positives, negatives)
    exact = torch.nn.functional.cross_entropy(state @ table.T, item, reduction="none")
    torch.testing.assert_close(nll, exact)


def test_without_gradients_the_losses_are_the_same():
    generator = torch.Generator().manual_seed(1)
    query, bias, set_P, groups = _queries([(3, {0, 1})], 2, generator, 4)
    table = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    negatives = NegativeSets(table, torch.arange(6), [3, 3])
    item = torch.tensor([0, 4])
    positives = WeighedPositives(
        table, item, item, torch.tensor([0, 5]), torch.ones(2, dtype=torch.float64)
    )
    row_M = torch.tensor([0, 2])
    joint = JointQueries(query.requires_grad_(), bias, set_P, groups, row_M)
    with torch.no_grad():
        _, alone = joint_loss(joint, positives, negatives)
    total, each = joint_loss(joint, positives, negatives)
    assert torch.equal(alone, each)
    assert total.requires_grad
