"""What is hidden from a query is what its history had met by then, that and nothing else."""

import torch
from histories import random_histories
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops.hidden_negatives import SeenItems
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives


@settings(deadline=None, max_examples=150)
@given(
    lengths=st.lists(st.integers(0, 5), max_size=4),
    queries=st.lists(st.integers(0, 6), min_size=1, max_size=3),
    negatives=st.lists(st.integers(0, 8), min_size=3, max_size=3),
    shared=st.integers(0, 6),
    seed=st.integers(0, 999),
)
def test_hidden_are_the_negatives_that_were_met_before(lengths, queries, negatives, shared, seed):
    queries = queries if sum(lengths) else [0] * len(queries)
    negatives = negatives[: len(queries)]
    id_N, offsets, history_N, position_P, id_n = random_histories(
        lengths, queries, [*negatives, shared], 7, seed
    )
    query_M = torch.arange(len(position_P)).repeat_interleave(2)
    id_M = torch.randint(0, 9, query_M.shape, generator=torch.Generator().manual_seed(seed))
    positives = WeighedPositives(torch.zeros(9, 1), id_M, id_M, query_M, torch.ones(len(id_M)))
    pools = NegativeSets(torch.zeros(len(id_n), 1), id_n, negatives, shared)
    hidden = SeenItems(id_N, offsets, pools).hidden(position_P, queries, positives)

    def met(position: int) -> set[int]:
        same = history_N[: position + 1] == history_N[position]
        return set(id_N[: position + 1][same].tolist())

    starts = torch.tensor([0, *negatives, shared]).cumsum(0).tolist()
    first = 0
    for number, count in enumerate(queries):
        columns = [
            slice(starts[number], starts[number + 1]),
            *([slice(starts[-2], starts[-1])] if shared else []),
        ]
        row, column = hidden.cells(slice(first, first + count), columns)
        found = set(zip(row.tolist(), column.tolist(), strict=True))
        beside = [j for some in columns for j in range(some.start, some.stop)]
        assert found == {
            (r, c)
            for r, position in enumerate(position_P[first : first + count].tolist())
            for c, j in enumerate(beside)
            if int(id_n[j]) in met(position)
        }
        first += count
    assert hidden.own_M.tolist() == [
        item in met(position)
        for item, position in zip(id_M.tolist(), position_P[query_M].tolist(), strict=True)
    ]
