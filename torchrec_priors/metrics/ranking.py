"""Metrics of ranked lists (design: "Metrics"; the paper's 4.2 and 4.4.1).

What a single user's list is worth: `per_user.py`; by group of a prior: `groups.py`. Everything is a sum over users, so
that batches and ranks add up.

Shapes: B users, R length of the lists.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.groups import GroupMetrics
from torchrec_priors.metrics.per_user import CUTOFFS, Ranked
from torchrec_priors.metrics.reach import Reach

_VALUES = tuple(f"{name}@{cutoff}" for name in ("recall", "ndcg", "entropy") for cutoff in CUTOFFS)
EVENT_GIVEN = "event_given/"


class RankingMetrics:
    """Accumulates batches; `sum_over` and then `results`."""

    def __init__(
        self,
        items: int,
        frequency: np.ndarray,
        category: Categories,
        others: list[Categories],
        *,
        event_given: bool = False,
        reach: Reach | None = None,
    ) -> None:
        """
        Args:
            items: size of the catalogue.
            frequency: training interactions of each item; novelty's popularity is (frequency + 1) / (sum + items).
            category: the category prior, for entropy and new interest.
            others: further priors to report by group of.
            event_given: whether users have a second list, of what was found by the heads of their targets' events.
            reach: counts which targets could be found at all; None where that is not asked.
        """
        self.items = items
        self.category = category
        self.event_given = event_given
        self.reach = reach
        self.surprise = -np.log2((frequency + 1.0) / (frequency.sum() + items))
        self.groups = [
            GroupMetrics(prior, counts_found=reach is not None) for prior in (category, *others)
        ]
        self._sums = {"users": np.zeros(2)} | {
            name: np.zeros(2) for name in _VALUES
        }  # of all users, of newcomers
        for cutoff in CUTOFFS:
            self._sums |= {f"shown@{cutoff}": np.zeros(items), f"surprise@{cutoff}": np.zeros(1)}
        if event_given:
            self._sums |= {EVENT_GIVEN + name: np.zeros(1) for name in _VALUES}

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns of the sequences that `update` reads beside the targets."""
        if any(group.prior.entity == "event" for group in self.groups):
            return ("events",)
        return self.reach.needs if self.reach is not None else ()

    def update(
        self, users: Histories, row_BR: np.ndarray, row_given_BR: np.ndarray | None = None
    ) -> None:
        """A batch of users, with what `needs` names beside their targets.

        Args:
            row_BR: recommended row ids, best first, at least `DEPTH` columns; -1 where the list is shorter.
            row_given_BR: what was found by the heads of their targets' events.
        """
        assert self.event_given == (row_given_BR is not None)
        if not len(users):
            return
        ranked = Ranked.of(row_BR, users.targets, users.target_lengths, self.items)
        newcomer_B = self.category.new_to(users)
        self._sums["users"] += [len(users), newcomer_B.sum()]
        for cutoff in CUTOFFS:
            for name, value_B in ranked.values(cutoff, self.category).items():
                self._sums[f"{name}@{cutoff}"] += [value_B.sum(), value_B[newcomer_B].sum()]
            shown = ranked.row_BR[:, :cutoff][ranked.row_BR[:, :cutoff] >= 0]
            self._sums[f"shown@{cutoff}"] += np.bincount(shown, minlength=self.items)
            self._sums[f"surprise@{cutoff}"] += self.surprise[shown].sum()
        found_M = None if self.reach is None else self.reach.update(users, ranked)
        for group in self.groups:
            group.update(ranked, users, found_M)
        if row_given_BR is not None:
            given = Ranked.of(row_given_BR, users.targets, users.target_lengths, self.items)
            for cutoff in CUTOFFS:
                for name, value_B in given.values(cutoff, self.category).items():
                    self._sums[f"{EVENT_GIVEN}{name}@{cutoff}"] += value_B.sum()

    def sum_over(self, total: Callable[[Tensor], Tensor]) -> None:
        """Adds up all ranks; `total` gives a tensor's sum over them. Every rank must have the same priors."""
        for sums in (self._sums, *(group.sums for group in self.groups)):
            for name in sorted(sums):
                sums[name] = total(torch.from_numpy(sums[name])).numpy()
        if self.reach is not None:
            self.reach.sum_over(total)

    def results(self) -> dict[str, Any]:
        """Flat names -> numbers, and `users`."""
        users, newcomers = self._sums["users"]
        out: dict[str, Any] = {}
        for prefix, column, count in (("", 0, users), ("new_interest/", 1, newcomers)):
            for name in _VALUES:
                out[prefix + name] = float(self._sums[name][column] / count) if count else None
            out[f"{prefix}users"] = int(count)
        if self.event_given:
            for name in _VALUES:
                out[EVENT_GIVEN + name] = (
                    float(self._sums[EVENT_GIVEN + name][0] / users) if users else None
                )
        for cutoff in CUTOFFS:
            shown = self._sums[f"shown@{cutoff}"]
            out[f"coverage@{cutoff}"] = float((shown > 0).mean())
            out[f"gini@{cutoff}"] = _gini(shown)
            out[f"novelty@{cutoff}"] = float(
                self._sums[f"surprise@{cutoff}"][0] / max(shown.sum(), 1)
            )
        if self.reach is not None:
            out |= self.reach.results()
        for group in self.groups:
            out |= group.results()
        return out


def _gini(shown: np.ndarray) -> float:
    """Gini coefficient of how often items are shown: 0 all alike, 1 one item alone."""
    ordered = np.sort(shown)
    total = ordered.sum()
    if total == 0:
        return 0.0
    ranks = np.arange(1, len(ordered) + 1)
    return float((2 * ranks - len(ordered) - 1) @ ordered / (len(ordered) * total))
