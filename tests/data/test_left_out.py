"""Windows and histories without unknown items are those of a log that never had them."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.data.histories import Histories
from torchrec_priors.data.left_out import leave_out, recent
from torchrec_priors.data.windows import Windows

ITEMS = 6
SEQUENCES = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=2, max_size=9), max_size=6)
KNOWN = st.lists(st.booleans(), min_size=ITEMS, max_size=ITEMS).map(np.array)


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(SEQUENCES, KNOWN, st.data())
def test_windows(sequences, known, data):
    contexts = [data.draw(st.integers(1, len(sequence))) for sequence in sequences]
    flat = np.array([item for sequence in sequences for item in sequence], np.int64)
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    numbers = np.arange(len(sequences)) * 3
    windows = Windows(
        step=4, items=flat, lengths=lengths, contexts=np.array(contexts, np.int64), numbers=numbers, users=numbers + 1,
        columns={"timestamps": np.arange(len(flat)) * 10},
    )  # fmt: skip
    left = leave_out(windows, known)
    expected = []
    place = 0
    for number, (sequence, context) in enumerate(zip(sequences, contexts, strict=True)):
        kept = [
            (item, 10 * (place + at), at < context)
            for at, item in enumerate(sequence)
            if known[item]
        ]
        place += len(sequence)
        if any(inside for _, _, inside in kept):
            expected.append((number * 3, number * 3 + 1, kept))
    assert left.step == 4
    assert left.numbers.tolist() == [number for number, _, _ in expected]
    assert left.users.tolist() == [user for _, user, _ in expected]
    assert left.lengths.tolist() == [len(kept) for *_, kept in expected]
    assert left.contexts.tolist() == [sum(inside for *_, inside in kept) for *_, kept in expected]
    assert left.items.tolist() == [item for *_, kept in expected for item, *_ in kept]
    assert left.columns["timestamps"].tolist() == [
        time for *_, kept in expected for _, time, _ in kept
    ]


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(SEQUENCES, KNOWN, st.integers(1, 5))
def test_histories(sequences, known, context):
    seen = [np.array(sequence, np.int64) for sequence in sequences]
    times = [np.arange(len(sequence)) for sequence in sequences]
    ids, nothing = pa.array(range(len(seen))), [np.empty(0, np.int64)] * len(seen)
    users = Histories.of(ids, seen, nothing, 1 << 40, {"timestamps": times})
    read = recent(users, known, context)
    kept = [np.flatnonzero(known[sequence])[-context:] for sequence in seen]
    assert read.lengths.tolist() == [len(places) for places in kept]
    assert read.items.tolist() == [
        int(sequence[at]) for sequence, places in zip(seen, kept, strict=True) for at in places
    ]
    assert read.columns["timestamps"].tolist() == [int(at) for places in kept for at in places]
    # All items of the histories are still seen.
    assert read.seen.tolist() == users.seen.tolist()
