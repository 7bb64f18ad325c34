"""Counts the targets that a model can find at all.

A target cannot be found for one of three reasons:

    - The user has seen it before, and `evaluation.filter_seen` leaves out seen items.
    - It may not be recommended, because it has no row in the embedding table or the model cannot
      distinguish it from other items; or no item of the user's history has a row.
    - No head may retrieve it.

The other metrics count such a target as a miss. It is never left out of a mean.

Shapes: I items, K paths, B users, M distinct (user, target) pairs, T targets with repeats.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.data.histories import Histories
from torchrec_priors.embedding.rows import Rows
from torchrec_priors.metrics.batch import RankedBatch, Reachable
from torchrec_priors.metrics.metric import Metric
from torchrec_priors.metrics.per_user import Ranked
from torchrec_priors.model.recommender import Recommender
from torchrec_priors.priors.prior import Targets
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.settings.evaluation import RetrievalConfig

FEW = 0.5  # a warning is given if a smaller share of the targets can be found
_NAMED = 5  # heads that a message names
_ROWS = 1 << 16  # items that are looked up at a time
_COUNTS = ("targets", "found", "met", "without_row", "without_head")


class Reach(Metric):
    """Counts all targets and those that can be found, in total and for each head."""

    def __init__(self, tree: PriorTree, rows: Rows, horizon: int, *, filter_seen: bool) -> None:
        """
        Args:
            tree: the prior tree of the model.
            rows: which items have rows in the embedding table and may be recommended.
            horizon: the horizon of the model. Targets beyond it are not counted for heads, as
                heads do not learn them.
            filter_seen: whether items that a user has seen are left out of the user's list.
        """
        self._tree = tree
        self._horizon = horizon
        self._filter_seen = filter_seen

        self._has_head_I = _has_head(tree)
        if rows.recommendable_I is None:
            self._recommendable_I = np.ones(tree.items, bool)
        else:
            self._recommendable_I = rows.recommendable_I
        self._has_row_I = rows.has_row_I
        # Targets are assigned to heads as in training; a level of events needs their events.
        self.needs = tuple(need for need in tree.needs if need == "events")

        heads = len(tree.item_set_K)
        self.sums = {name: np.zeros(1) for name in (*_COUNTS, "users", "share")}
        self.sums |= {name: np.zeros(heads) for name in ("of_head", "found_of_head")}

    @classmethod
    def of(cls, model: Recommender, config: RetrievalConfig) -> "Reach":
        """Makes the metric for a model and the settings of its evaluation."""
        horizon = model.config.horizon
        return cls(model.tree, model.item_rows, horizon, filter_seen=config.filter_seen)

    def reachable(self, users: Histories, ranked: Ranked) -> Reachable:
        """Returns which distinct targets of a batch can be found, and why the others cannot."""
        seen_M = np.zeros(len(ranked.target_M), bool)
        if self._filter_seen:
            seen_M = self._seen_before(users, ranked)
        known_B = self._has_known_history(users)
        row_M = self._recommendable_I[ranked.target_M] & known_B[ranked.user_M]
        head_M = self._has_head_I[ranked.target_M]
        return Reachable(row_M & head_M & ~seen_M, seen_M, row_M, head_M)

    def update(self, batch: RankedBatch) -> None:
        assert batch.reachable is not None
        ranked = batch.ranked
        seen_M = batch.reachable.seen_M
        row_M = batch.reachable.row_M
        head_M = batch.reachable.head_M
        found_M = batch.reachable.found_M

        # If several reasons apply to a target, it is counted only for the first of them.
        self.sums["targets"] += len(found_M)
        self.sums["found"] += found_M.sum()
        self.sums["met"] += seen_M.sum()
        self.sums["without_row"] += (~seen_M & ~row_M).sum()
        self.sums["without_head"] += (~seen_M & row_M & ~head_M).sum()

        # For each user, the share of targets that can be found is the highest possible recall.
        users = len(batch.users)
        found_B = np.bincount(ranked.user_M[found_M], minlength=users)
        self.sums["users"] += users
        self.sums["share"] += (found_B / ranked.m_B).sum()

        self._count_heads(batch.users, found_M[ranked.pair_T])

    def results(self) -> dict[str, Any]:
        targets = self._count("targets")
        found = self._count("found")
        # In metrics.json, "met" stands for seen items, as in earlier versions.
        return {
            "reachable/targets": found,
            "reachable/targets_share": found / max(targets, 1),
            "reachable/recall": float(self.sums["share"][0] / max(self.sums["users"][0], 1)),
            "reachable/met": self._count("met"),
            "reachable/without_row": self._count("without_row"),
            "reachable/without_head": self._count("without_head"),
            "reachable/heads_in_vain": len(self._heads_in_vain()),
        }

    def in_words(self) -> str | None:
        """Says how many targets can be found, and why others cannot; None if all can be found."""
        targets = self._count("targets")
        found = self._count("found")
        if found == targets:
            return None

        counts = {
            "are items that their users had before, which lists leave out "
            "(with them: --name with-seen evaluation.filter_seen=false)": "met",
            "cannot be recommended, or no item of the user's history is known": "without_row",
            "are in no head": "without_head",
        }
        reasons = []
        for reason, name in counts.items():
            count = self._count(name)
            if count:
                reasons.append(f"{count:,} {reason}")
        share = found / targets
        return f"{found:,} of {targets:,} targets can be found ({share:.1%}): {'; '.join(reasons)}"

    def warnings(self) -> list[str]:
        """Returns warnings about targets that cannot be found, one line each.

        There is one if less than `FEW` of all targets can be found, and one if a head can find none
        of its targets. In these cases the metrics say little about the model.
        """
        targets = self._count("targets")
        found = self._count("found")
        met = self._count("met")
        messages = []

        # Without the filter, seen items are found. This is suggested only if it helps for most of
        # the targets.
        if 2 * met > targets:
            messages.append(
                f"most targets ({met:,} of {targets:,}) are items that their users had before, and "
                "lists leave these out: if people come back to items here, set "
                "evaluation.filter_seen=false"
            )
        elif found < FEW * targets:
            amount = f"only {found / targets:.1%}" if found else "none"
            messages.append(f"{amount} of the targets can be found")

        # If no target can be found, the first warning is enough.
        names = self._heads_in_vain()
        if found and names:
            heads = len(self._tree.item_set_K)
            listed = ", ".join(names[:_NAMED])
            if len(names) > _NAMED:
                listed += ", ..."
            messages.append(
                f"{len(names):,} of {heads:,} heads can find none of their targets ({listed})"
            )
        return messages

    def _count(self, name: str) -> int:
        return int(self.sums[name][0])

    def _heads_in_vain(self) -> list[str]:
        """Returns the names of the heads that have targets but can find none of them."""
        in_vain_K = (self.sums["of_head"] > 0) & (self.sums["found_of_head"] == 0)
        return [
            path.name
            for path, in_vain in zip(self._tree.paths, in_vain_K.tolist(), strict=True)
            if in_vain
        ]

    def _seen_before(self, users: Histories, ranked: Ranked) -> np.ndarray:
        """Returns bool [M]: whether the target is in its user's history."""
        # Each (user, item) pair is encoded as one number.
        items = self._tree.items
        seen = np.repeat(np.arange(len(users)), users.seen_lengths) * items + users.seen
        return np.isin(ranked.user_M * items + ranked.target_M, seen)

    def _has_known_history(self, users: Histories) -> np.ndarray:
        """Returns bool [B]: whether any item of the user's history has a row.

        For other users nothing is recommended.
        """
        if self._has_row_I is None:
            return np.ones(len(users), bool)
        user = np.repeat(np.arange(len(users)), users.seen_lengths)
        return np.bincount(user[self._has_row_I[users.seen]], minlength=len(users)) > 0

    def _count_heads(self, users: Histories, found_T: np.ndarray) -> None:
        """Counts the targets of each head (Eq. 6), and those among them that can be found.

        Args:
            users: the batch.
            found_T: bool, whether the target can be found.
        """
        # The position of a target in the user's future, from 1, decides its segment of time.
        starts = np.cumsum(users.target_lengths) - users.target_lengths
        offset_T = np.arange(len(users.targets)) - np.repeat(starts, users.target_lengths) + 1
        within = offset_T <= self._horizon

        events = users.target_columns.get("events")
        device = self._tree.device
        targets = Targets(
            _as_ids(users.targets[within], device),
            _as_ids(offset_T[within], device),
            None if events is None else _as_ids(events[within], device),
            _as_ids(np.repeat(users.users, users.target_lengths)[within], device),
        )
        index, path = (values.cpu().numpy() for values in self._tree.assign(targets))

        # `index` counts only the targets within the horizon. A target may occur in it several
        # times, once for each of its heads.
        heads = len(self._tree.item_set_K)
        found = found_T[within][index]
        self.sums["of_head"] += np.bincount(path, minlength=heads)
        self.sums["found_of_head"] += np.bincount(path[found], minlength=heads)


def _as_ids(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.int64)).to(device)


def _has_head(tree: PriorTree) -> np.ndarray:
    """Returns bool [I]: whether any head may retrieve the item.

    Groups of users need not be considered. A group of users that has heads has a head for each item
    set, so every user has an open head for each item set.
    """
    # If one set has all items (as with a single head), the other sets need not be looked up.
    if len(tree.set_sizes) and int(tree.set_sizes.max()) == tree.items:
        return np.ones(tree.items, bool)

    has_head_I = np.zeros(tree.items, bool)
    for first in range(0, tree.items, _ROWS):
        for rows in tree.eligible(first, min(first + _ROWS, tree.items)):
            has_head_I[rows] = True
    return has_head_I
