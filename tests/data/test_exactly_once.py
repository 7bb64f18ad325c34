"""However training is interrupted, and on whatever ranks it goes on, an epoch has every window exactly once."""

import collections
import itertools
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs_in_memory import cuts, logs, pieces, stream_of, token_cuts

from torchrec_priors.ranks.share import Share

starts = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=4
)


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(logs(), cuts | token_cuts, st.sampled_from([None, 1, 64]), st.integers(0, 2), starts)
def test_every_window_is_seen_once_in_an_epoch_of_interruptions(log, cut, dim, epoch, starts):
    """`starts`: steps until the next interruption, ranks and threads; the last goes on to the end of the epoch."""
    whole = stream_of(log, cut)
    first, end = epoch * whole.steps_an_epoch, (epoch + 1) * whole.steps_an_epoch
    seen = collections.Counter()
    numbers = collections.defaultdict(list)
    for start, (steps, world, workers) in enumerate(starts):
        last = end if start == len(starts) - 1 else min(end, first + steps)
        for rank in range(world):
            how = {
                "share": Share(rank, world),
                "balanced_for": dim,
                "first_step": first,
                "workers": workers,
            }
            with closing(iter(stream_of(log, cut, **how))) as batches:
                for windows in itertools.islice(batches, last - first):
                    seen.update(pieces(windows))
                    numbers[windows.step] += windows.numbers.tolist()
        first = last
    expected = collections.Counter()
    for items in log.training():
        for stop in range(len(items) - 1, 0, -cut.context):
            expected[
                tuple(items[max(0, stop - cut.context) : stop]),
                tuple(items[stop : stop + cut.horizon]),
            ] += 1
    assert seen == expected
    assert list(map(sorted, numbers.values())) == [
        list(range(len(batch))) for batch in numbers.values()
    ]
