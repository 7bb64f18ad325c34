"""Metrics by the age of items, by hand on a small case, and ages from the training part of a log alone."""

import numpy as np
import pyarrow as pa
import pytest

from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.age import CLASSES, AgeOfItems, ages_of_items
from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.per_user import DEPTH, IDEAL, Ranked
from torchrec_priors.prepared.data_set import PreparedData

CLASS_I = np.array([0, 1, 0, -1, 1])


def _batch(lists, targets):
    parts = [[np.array(part, np.int64) for part in of] for of in ([[0]] * len(lists), targets)]
    users = Histories.of(pa.array(range(len(lists))), *parts, 2)
    rows = np.full((len(lists), DEPTH), -1)
    for row, items in zip(rows, lists, strict=True):
        row[: len(items)] = items
    return RankedBatch(users, Ranked.of(rows, users.targets, users.target_lengths, len(CLASS_I)))


def test_each_class_has_its_own_targets_and_items():
    metric = AgeOfItems(CLASS_I)
    # The first user: item 1 is found third, item 4 not; of class 0, item 2 is found first.
    metric.update(_batch([[2, 3, 1], [0, 2, 3]], [[1, 2, 4, 1], [3]]))
    metric.update(_batch([[3, 1]], [[0]]))
    found = metric.results()
    young, old = (f"age/{name}" for name in CLASSES[:2])
    assert (found[f"{young}/items"], found[f"{old}/items"]) == (2, 2)
    assert (found[f"{young}/users"], found[f"{young}/targets"]) == (2, 2)
    assert found[f"{young}/recall@10"] == 1 / 2
    assert found[f"{old}/recall@10"] == 1 / 2
    assert found[f"{old}/ndcg@10"] == pytest.approx(0.5 / IDEAL[2])
    assert found[f"{old}/coverage@10"] == 1 / 2, "item 4 is never shown"
    assert not any(name.startswith(f"age/{CLASSES[2]}") for name in found)


def test_ages_are_those_of_the_training_part(small_data):
    data = PreparedData(small_data)
    first, last = {}, 0
    for group in data.row_groups:
        users = data.read_users(group, ["timestamps"])
        for user in range(group.users):
            end = data.training_ends[group.first_user + user]
            times = users.columns_of(user)["timestamps"][:end].tolist()
            for item, time in zip(users.history(user)[:end].tolist(), times, strict=True):
                first[item] = min(time, first.get(item, time))
                last = max(last, time)
    days = {item: (last - time) / 86_400_000 for item, time in first.items()}
    found = ages_of_items(data)
    for item in range(data.items):
        wanted = -1
        if item in days:
            wanted = sum(days[item] >= bound for bound in (1, 7, 30, 365))
        assert found[item] == wanted
    assert len(set(found.tolist())) > 1
