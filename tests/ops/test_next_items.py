"""The targets of tokens equal the definition: the items between a token and the end of its sequence."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops.next_items import next_items


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), max_size=8),
    st.integers(1, 4),
)
def test_equals_the_definition(places, horizon):
    context = [place for place, _ in places]
    end = [place + 1 + left for place, left in places]
    expected = [
        (token, source - place, source)
        for token, (place, stop) in enumerate(zip(context, end, strict=True))
        for source in range(place + 1, stop)
        if source - place <= horizon
    ]

    found = next_items(
        torch.tensor(context, dtype=torch.int64), torch.tensor(end, dtype=torch.int64), horizon
    )
    listed = (found.token_M.tolist(), found.offset_M.tolist(), found.source_M.tolist())
    assert list(zip(*listed, strict=True)) == expected
    exists = {(token, offset) for token, offset, _ in expected}
    assert found.exists_NT.shape == (len(places), horizon)
    assert {(token, column + 1) for token, column in found.exists_NT.nonzero().tolist()} == exists
