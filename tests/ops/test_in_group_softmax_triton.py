"""The kernels of the in-group softmax equal the definition, by Triton's interpreter on a CPU.

`pip install triton` (the extra `triton`) where torch has brought none.
"""

from dataclasses import dataclass, replace

import pytest
import torch

pytest.importorskip(
    "triton", reason="triton is not installed: pip install 'torchrec-priors[triton]'"
)

from torchrec_priors.ops import in_group_softmax_triton as kernels
from torchrec_priors.ops.hidden_negatives import Hidden, SeenItems
from torchrec_priors.ops.in_group_sets import NegativeSets, QuerySets, WeighedPositives
from torchrec_priors.ops.in_group_softmax import SOFTMAX, in_group_loss_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class Case:
    """The number of queries and negatives of each set, and so on."""

    queries: list[int]
    negatives: list[int]
    shared: int = 0
    positives: int = 8
    width: int = 16
    ids: int = 9
    shifted: bool = False
    heavy: float = 0.0
    hides: bool = False


CASES = {
    "one set": Case([3], [5]),
    "blocks with several sets": Case([3, 0, 2, 4], [5, 2, 0, 7], positives=14, shifted=True),
    "shared negatives": Case([3, 2], [4, 66], shared=5, width=5, shifted=True),
    "sets of several blocks": Case([70, 3], [3, 70], positives=90, ids=40, width=20),
    "no negatives": Case([3], [0]),
    "only copies": Case([2, 2], [1, 3], ids=1),
    "heavy copies": Case([3, 2], [9, 4], shared=3, ids=4, positives=9, shifted=True, heavy=7.0),
    "no positives": Case([0, 0], [2, 3], positives=0),
    "hidden negatives": Case([3, 2], [9, 70], shared=5, ids=12, positives=14, hides=True),
    "hidden and heavy": Case(
        [3, 2], [9, 4], shared=3, ids=4, positives=9, shifted=True, heavy=7.0, hides=True
    ),
}


def _inputs(case: Case) -> tuple[torch.Tensor, WeighedPositives, NegativeSets]:
    generator = torch.Generator().manual_seed(0)
    pools = [
        torch.randint(case.ids, (count,), generator=generator).sort().values
        for count in (*case.negatives, case.shared)
    ]
    ids = torch.cat(pools)
    # Copies have the vector of the positive, and their shift is the same in a set.
    table = torch.randn(case.ids, case.width, generator=generator)
    shifts = None
    if case.shifted:
        shifts = torch.cat([torch.randn(case.ids, generator=generator)[pool] for pool in pools])
        shifts += case.heavy

    positive_id = torch.randint(case.ids, (case.positives,), generator=generator)
    query_of = torch.randint(max(sum(case.queries), 1), (case.positives,), generator=generator)
    positives = WeighedPositives(
        item_Xd=table,
        source_M=positive_id,
        id_M=positive_id,
        query_M=query_of.sort().values,
        weight_M=torch.rand(case.positives, generator=generator),
    )
    query = torch.randn(sum(case.queries), case.width, generator=generator)
    return query, positives, NegativeSets(table[ids], ids, case.negatives, case.shared, shifts)


def _hidden(case: Case, positives: WeighedPositives, negatives: NegativeSets) -> Hidden | None:
    """What a history of seven items hides from the queries, which are at any of its positions."""
    if not case.hides:
        return None
    generator = torch.Generator().manual_seed(1)
    history = torch.randint(case.ids, (7,), generator=generator)
    position = torch.randint(7, (sum(case.queries),), generator=generator)
    seen = SeenItems(history, torch.tensor([0, 7]), negatives)
    return seen.hidden(position, case.queries, positives)


def _definition(case: Case) -> tuple[torch.Tensor, ...]:
    """Losses, and gradients of queries and of the table, in float64."""
    query, positives, negatives = _inputs(case)
    query = query.double().requires_grad_()
    table = positives.item_Xd.double().requires_grad_()
    shifts = None if negatives.shifts_n is None else negatives.shifts_n.double()
    total, losses = in_group_loss_reference(
        query,
        case.queries,
        replace(positives, item_Xd=table, weight_M=positives.weight_M.double()),
        replace(negatives, vectors_nd=table[negatives.ids_n], shifts_n=shifts),
        _hidden(case, positives, negatives),
    )
    (total + 0 * (query.sum() + table.sum())).backward()
    return losses, query.grad, table.grad


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_definition_forward_and_gradient(case):
    expected = _definition(case)
    query, positives, negatives = _inputs(case)
    sets = QuerySets.of(case.queries, query.device)
    first_positive = torch.searchsorted(positives.query_M, torch.arange(len(query) + 1))
    negatives = negatives.on_device()
    hidden = _hidden(case, positives, negatives)

    for compute in (kernels.in_group_softmax, SOFTMAX.reference):
        losses, grad_query, grad_item, grad_vectors = compute(
            query, sets.set_P, sets.first_S1, first_positive, positives, negatives, hidden, True
        )
        # A copy and its positive are one row of the table.
        grad_table = grad_item.index_add(0, negatives.ids_n, grad_vectors)
        for fast, slow in zip((losses, grad_query, grad_table), expected, strict=True):
            largest = float(slow.abs().max()) if slow.numel() else 0.0
            torch.testing.assert_close(fast.double(), slow, rtol=1e-4, atol=2e-5 * (1 + largest))

        without = compute(
            query, sets.set_P, sets.first_S1, first_positive, positives, negatives, hidden, False
        )
        torch.testing.assert_close(without[0], losses)
        assert not len(without[1])
