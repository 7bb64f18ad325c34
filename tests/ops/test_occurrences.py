"""Occurrences of items are those that a walk through the histories finds."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops.occurrences import occurrences


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_equals_a_walk_through_the_histories(data):
    histories = data.draw(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=4))
    offsets = torch.tensor([0, *map(len, histories)]).cumsum(0)
    items = [item for history in histories for item in history]
    positions = st.integers(0, len(items) - 1) if items else st.nothing()
    most = 8 if items else 0
    asked = data.draw(st.lists(st.tuples(positions, st.integers(0, 4)), max_size=most))

    expected = []
    for number, (position, item) in enumerate(asked):
        (first,) = [a for a, b in itertools.pairwise(offsets) if a <= position < b]
        for place in range(int(first), position + 1):
            if items[place] == item:
                expected.append((number, place))

    pair_M2 = torch.tensor(asked, dtype=torch.int64).reshape(-1, 2)
    found = occurrences(torch.tensor(items, dtype=torch.int64), offsets, *pair_M2.T)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == expected
