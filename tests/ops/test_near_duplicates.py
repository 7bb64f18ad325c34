"""Near-duplicates of a query's positives are hidden from it, as the definition says, also from the loss."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.config import parse
from torchrec_priors.errors import UserError
from torchrec_priors.ops.in_group_sets import NegativeSets, QuerySets, WeighedPositives
from torchrec_priors.ops.in_group_softmax import in_group_loss, in_group_loss_reference
from torchrec_priors.ops.near_duplicates import hide_near_duplicates
from torchrec_priors.settings.run_config import RunConfig

THRESHOLD = 0.9


def case(queries, counts, shared, seed):
    """Items in two dimensions, so that many are alike; ids agree with vectors."""
    generator = torch.Generator().manual_seed(seed)
    vector_Id = F.normalize(torch.randn(9, 2, generator=generator), dim=1)
    id_n = torch.cat([torch.randint(0, 9, (n,), generator=generator).sort()[0] for n in counts])
    more = torch.randint(0, 9, (shared,), generator=generator).sort()[0]
    id_n = torch.cat([id_n, more])
    number_P = sum(queries)
    query_M = torch.arange(number_P).repeat_interleave(2)
    source_M = torch.randint(0, 9, query_M.shape, generator=generator)
    positives = WeighedPositives(
        vector_Id, source_M, source_M, query_M, torch.rand(len(query_M), generator=generator)
    )
    negatives = NegativeSets(vector_Id[id_n], id_n, counts, shared)
    query_Pd = torch.randn(number_P, 2, generator=generator) * 3
    return query_Pd, positives, negatives


@settings(deadline=None, max_examples=60)
@given(
    queries=st.lists(st.integers(0, 4), min_size=2, max_size=2),
    counts=st.lists(st.integers(1, 8), min_size=2, max_size=2),
    shared=st.integers(0, 5),
    seed=st.integers(0, 999),
    on_device=st.booleans(),
)
def test_the_loss_is_that_without_near_duplicates(queries, counts, shared, seed, on_device):
    query_Pd, positives, negatives = case(queries, counts, shared, seed)
    sets = QuerySets.of(queries, query_Pd.device) if on_device else queries
    hidden = hide_near_duplicates(sets, positives, negatives, THRESHOLD)

    starts = [0, counts[0], sum(counts)]
    losses = []
    for query, source in zip(positives.query_M, positives.source_M, strict=True):
        number = int(query >= queries[0])
        pool = [*range(starts[number], starts[number + 1])]
        pool += range(sum(counts), sum(counts) + shared)
        own = positives.item_Xd[positives.source_M[positives.query_M == query]]
        logits = [query_Pd[query] @ positives.item_Xd[source]]
        for j in pool:
            vector = negatives.vectors_nd[j]
            alike = (own @ vector > THRESHOLD).any() or negatives.ids_n[j] == source
            if not alike:
                logits.append(query_Pd[query] @ vector)
        losses.append(torch.logsumexp(torch.stack(logits), 0) - logits[0])
    wanted = torch.stack(losses) if losses else torch.zeros(0)
    _, nll_M = in_group_loss(query_Pd, queries, positives, negatives, hidden)
    torch.testing.assert_close(nll_M, wanted, atol=1e-4, rtol=1e-4)
    _, reference_M = in_group_loss_reference(query_Pd, queries, positives, negatives, hidden)
    torch.testing.assert_close(nll_M, reference_M, atol=1e-4, rtol=1e-4)


def test_what_was_hidden_before_stays_hidden():
    _, positives, negatives = case([3, 2], [6, 7], 4, seed=5)
    before = hide_near_duplicates([3, 2], positives, negatives, 0.5)
    both = hide_near_duplicates([3, 2], positives, negatives, 0.95, before)
    columns = [slice(0, 6), slice(13, 17)]
    cells = [
        set(zip(*(part.tolist() for part in some.cells(slice(0, 3), columns)), strict=True))
        for some in (before, both)
    ]
    assert cells[0] == cells[1]
    assert len(cells[0]) > 3


def test_near_duplicates_need_cosines():
    with pytest.raises(UserError, match=r"near_duplicates = 0.99 needs model.score=\"cosine\""):
        parse({"negatives": {"near_duplicates": 0.99}})
    found = parse({"negatives": {"near_duplicates": 0.99}, "model": {"score": "cosine"}})
    assert isinstance(found, RunConfig)
