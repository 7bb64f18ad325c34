"""Metrics of cold items, by hand on a small case: only cold targets count, in the lists of all items."""

import math

import numpy as np
import pyarrow as pa
import pytest

from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.cold import ColdItems
from torchrec_priors.metrics.per_user import DEPTH, Ranked

COLD_I = np.array([False, True, False, True, True])


def _batch(lists, targets):
    parts = [[np.array(part, np.int64) for part in of] for of in ([[0]] * len(lists), targets)]
    users = Histories.of(pa.array(range(len(lists))), *parts, 2)
    rows = np.full((len(lists), DEPTH), -1)
    for row, items in zip(rows, lists, strict=True):
        row[: len(items)] = items
    return RankedBatch(users, Ranked.of(rows, users.targets, users.target_lengths, len(COLD_I)))


def test_only_cold_targets_count():
    metric = ColdItems(COLD_I)
    # The first user has the cold targets 1 (third in the list) and 4 (not in it); 2 is warm.
    metric.update(_batch([[2, 0, 1], [0, 2, 3]], [[1, 2, 4, 1], [2]]))
    metric.update(_batch([[3, 1]], [[3]]))
    found = metric.results()
    assert (found["cold/items"], found["cold/targets"], found["cold/users"]) == (3, 3, 2)
    assert found["cold/recall@10"] == (1 / 2 + 1) / 2
    ideal = 1 + 1 / math.log2(3)
    assert found["cold/ndcg@10"] == pytest.approx((0.5 / ideal + 1) / 2)
    assert found["cold/coverage@10"] == 2 / 3, "item 4 is never shown"
    assert found["cold/share@10"] == 4 / 8


def test_without_cold_targets_means_are_null():
    metric = ColdItems(COLD_I)
    metric.update(_batch([[0, 2]], [[2]]))
    found = metric.results()
    assert found["cold/recall@10"] is None
    assert found["cold/coverage@200"] == 0
