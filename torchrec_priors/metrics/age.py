"""Metrics by the age of items, counted to the last training interaction of the log.

The age of an item is the time from its first training interaction to this moment.

    age/CLASS/items        the number of items of this age
    age/CLASS/targets      the number of distinct (user, target) pairs with such an item
    age/CLASS/users        the number of users with such a target
    age/CLASS/recall@K     recall of these users, if only such targets count
    age/CLASS/ndcg@K       the same for ndcg; the ideal list has these targets first
    age/CLASS/coverage@K   the share of these items that are shown to at least one user

The classes are `under_1_day`, `1_to_7_days`, `7_to_30_days`, `30_to_365_days` and `over_365_days`.
Those without items are left out. Items without a training interaction have no age; their metrics
are in `cold.py`.

Shapes: I items, C classes, B users, M distinct (user, target) pairs.
"""

from typing import Any

import numpy as np

from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.metric import Metric, mean
from torchrec_priors.metrics.per_user import CUTOFFS, GAIN, IDEAL
from torchrec_priors.prepared.data_set import PreparedData

_DAY = 24 * 3_600_000  # milliseconds
_BOUNDS = (1, 7, 30, 365)  # days
CLASSES = ("under_1_day", "1_to_7_days", "7_to_30_days", "30_to_365_days", "over_365_days")


def ages_of_items(data: PreparedData) -> np.ndarray | None:
    """Returns the class of each item, int64 [I]; -1 for items without a training interaction.

    It is None if the log has no times. The whole log is read once.
    """
    if not data.manifest.has_times:
        return None
    newest = np.iinfo(np.int64).max
    first_I = np.full(data.items, newest, np.int64)
    last = np.iinfo(np.int64).min
    for group in data.row_groups:
        users = data.read_users(group, ["timestamps"])
        ends = data.training_ends[group.first_user : group.first_user + group.users]
        place = np.arange(len(users.items)) - np.repeat(users.starts[:-1], users.lengths)
        is_training = place < np.repeat(ends, users.lengths)
        times = users.columns["timestamps"][is_training].astype(np.int64)
        np.minimum.at(first_I, users.items[is_training], times)
        last = max(last, int(times.max(initial=last)))

    class_I = np.full(data.items, -1, np.int64)
    seen_I = first_I < newest
    bounds = np.array(_BOUNDS) * _DAY
    class_I[seen_I] = np.searchsorted(bounds, last - first_I[seen_I], side="right")
    return class_I


class AgeOfItems(Metric):
    """Scores the targets of each class of ages alone.

    `shown@K` in `sums` has a number for each item. Other arrays have one for each class.
    """

    def __init__(self, class_I: np.ndarray) -> None:
        """
        Args:
            class_I: the class of each item; -1 for items that belong to no class.
        """
        self.class_I = class_I
        self.items_C = np.bincount(class_I[class_I >= 0], minlength=len(CLASSES))
        names = [f"{name}@{cutoff}" for name in ("recall", "ndcg") for cutoff in CUTOFFS]
        self.sums = {name: np.zeros(len(CLASSES)) for name in ("users", "targets", *names)}
        for cutoff in CUTOFFS:
            self.sums[f"shown@{cutoff}"] = np.zeros(len(class_I))

    def update(self, batch: RankedBatch) -> None:
        ranked = batch.ranked
        for cutoff in CUTOFFS:
            # Lists with fewer items are padded with -1.
            row_BK = ranked.row_BR[:, :cutoff]
            shown = row_BK[row_BK >= 0]
            self.sums[f"shown@{cutoff}"] += np.bincount(shown, minlength=len(self.class_I))

        class_M = self.class_I[ranked.target_M]
        for number in np.unique(class_M[class_M >= 0]).tolist():
            self._add(batch, number, class_M == number)

    def _add(self, batch: RankedBatch, number: int, chosen_M: np.ndarray) -> None:
        """Adds the targets of one class."""
        user_M = batch.ranked.user_M[chosen_M]
        rank_M = batch.ranked.rank_M[chosen_M]
        users = len(batch.users)
        m_B = np.bincount(user_M, minlength=users)
        has_B = m_B > 0
        self.sums["users"][number] += has_B.sum()
        self.sums["targets"][number] += len(user_M)
        for cutoff in CUTOFFS:
            hit_M = rank_M < cutoff
            hits_B = np.bincount(user_M[hit_M], minlength=users)
            gains_B = np.bincount(user_M[hit_M], GAIN[rank_M[hit_M]], minlength=users)
            ideal_B = IDEAL[np.minimum(cutoff, m_B)]
            self.sums[f"recall@{cutoff}"][number] += (hits_B[has_B] / m_B[has_B]).sum()
            self.sums[f"ndcg@{cutoff}"][number] += (gains_B[has_B] / ideal_B[has_B]).sum()

    def results(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for number in np.flatnonzero(self.items_C).tolist():
            name = f"age/{CLASSES[number]}"
            users = self.sums["users"][number]
            out[f"{name}/items"] = int(self.items_C[number])
            out[f"{name}/targets"] = int(self.sums["targets"][number])
            out[f"{name}/users"] = int(users)
            for kind in ("recall", "ndcg"):
                for cutoff in CUTOFFS:
                    value = self.sums[f"{kind}@{cutoff}"][number]
                    out[f"{name}/{kind}@{cutoff}"] = mean(value, users)
            for cutoff in CUTOFFS:
                shown = self.sums[f"shown@{cutoff}"][self.class_I == number] > 0
                out[f"{name}/coverage@{cutoff}"] = float(shown.mean())
        return out
