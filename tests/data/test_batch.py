"""A batch's tensors are those of a plain reading of its windows, token after token."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from logs_in_memory import cuts, logs, stream_of, take, time_of

from torchrec_priors.data.batch import make_batch
from torchrec_priors.ops.keyed_dropout import mix
from torchrec_priors.ranks.share import Share
from torchrec_priors.sampling.group_sampler import Draw

DRAW = Draw(np.array([7, 9]), None, [np.array([0, 1])], [2], 0)


@settings(deadline=None, max_examples=50)
@given(logs(), cuts, st.integers(0, 2), st.integers(1, 3), st.booleans())
def test_tensors_are_those_of_the_windows(log, cut, rank, parts, timed):
    columns = ["timestamps"] if timed else []
    stream = stream_of(log, cut, share=Share(rank, 3), balanced_for=64, columns=columns)
    for windows in take(stream, stream.steps_an_epoch):
        batch = make_batch(windows, DRAW, feature="item", seed=5, parts=parts)
        assert batch.ids.keys() == ["item"]
        assert batch.ids.values().tolist() == [*windows.items.tolist(), 7, 9]
        assert batch.ids.lengths().tolist() == [*windows.lengths.tolist(), 2]
        assert len(batch.parts) == parts
        place, first, token = 0, 0, 0
        for part in batch.parts:
            own = range(place, place + len(part.offsets_B1) - 1)
            context, end, user = [], [], []
            for window in own:
                length = int(windows.lengths[window])
                context += range(first, first + int(windows.contexts[window]))
                end += [first + length] * int(windows.contexts[window])
                user += [int(windows.users[window])] * int(windows.contexts[window])
                first += length
            assert part.first == token
            assert part.context_N.tolist() == context
            assert part.end_N.tolist() == end
            assert part.user_N.tolist() == user
            assert (
                part.offsets_B1.diff().tolist() == windows.contexts[own.start : own.stop].tolist()
            )
            assert part.dropout.keys == [
                mix(5, windows.step, int(windows.numbers[window])) for window in own
            ]
            assert part.dropout.lengths == part.offsets_B1.diff().tolist()
            assert part.event_N is None
            if timed:
                assert part.time_N.tolist() == time_of(windows.items[context]).tolist()
            tensors = (part.context_N, part.end_N, part.user_N, part.offsets_B1)
            assert {tensor.dtype for tensor in tensors} == {torch.int64}
            place, token = own.stop, token + len(context)
        assert place == len(windows.lengths)
