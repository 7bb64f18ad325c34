"""Interactions with unseen items are counted with repeats, in histories and in targets."""

import numpy as np
import pyarrow as pa

from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.per_user import DEPTH, Ranked
from torchrec_priors.metrics.unseen import UnseenCounts

OWN_ROW_I = np.array([True, False, True, False])


def _batch(seen, targets):
    lists = [[np.array(part, np.int64) for part in parts] for parts in (seen, targets)]
    users = Histories.of(pa.array(range(len(seen))), *lists, 2)
    nothing = np.full((len(seen), DEPTH), -1)
    ranked = Ranked.of(nothing, users.targets, users.target_lengths, len(OWN_ROW_I))
    return RankedBatch(users, ranked)


def test_counts_are_sums_over_all_batches():
    counts = UnseenCounts(OWN_ROW_I)
    counts.update(_batch([[0, 1, 1], [2]], [[3], [0]]))
    counts.update(_batch([[3, 0, 2, 2]], [[1, 1]]))
    assert counts.results() == {
        "unseen/items": 2,
        "unseen/interactions": 3,
        "unseen/interactions_share": 3 / 8,
        "unseen/targets": 3,
        "unseen/targets_share": 3 / 4,
    }


def test_without_interactions_shares_are_zero():
    results = UnseenCounts(OWN_ROW_I).results()
    assert results["unseen/targets"] == results["unseen/targets_share"] == 0
