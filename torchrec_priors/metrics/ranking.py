"""Metrics of ranked lists (design: "Metrics"; the paper's 4.2 and 4.4.1).

What a single user's list is worth: `per_user.py`. Everything is a sum over users, so that batches and ranks add up.

Shapes: B users, R length of the lists.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import CUTOFFS, GAIN, IDEAL, Ranked


class RankingMetrics:
    """Accumulates batches; `sum_over` and then `results`."""

    def __init__(self, items: int, frequency: np.ndarray, category: Categories, others: list[Categories]) -> None:
        """
        Args:
            items: size of the catalogue.
            frequency: training interactions of each item; novelty's popularity is (frequency + 1) / (sum + items).
            category: the category prior, for entropy and new interest.
            others: further item priors to report recall and ndcg by group of.
        """
        self.items, self.category = items, category
        self.priors = [category, *others]
        self.surprise = -np.log2((frequency + 1.0) / (frequency.sum() + items))
        self._sums: dict[str, np.ndarray] = {}

    def update(
        self,
        row_BR: np.ndarray,
        targets: np.ndarray,
        target_lengths: np.ndarray,
        history: np.ndarray,
        history_lengths: np.ndarray,
    ) -> None:
        """A batch of users.

        Args:
            row_BR: recommended row ids, best first, at least `DEPTH` columns; -1 where the list is shorter.
            targets, target_lengths: future items, user after user; repeats count once.
            history, history_lengths: everything before the targets.
        """
        users = len(row_BR)
        if users == 0:
            return
        ranked = Ranked.of(row_BR, targets, target_lengths, self.items)
        row_BR, hit_BR, user, target = ranked.row_BR, ranked.hit_BR, ranked.user_M, ranked.target_M
        newcomer_B = self._has_new_category(users, user, target, history, history_lengths)

        self._add("users", np.array([users, newcomer_B.sum()]))
        for cutoff in CUTOFFS:
            values = ranked.values(cutoff, self.category)
            for name, value_B in values.items():
                self._add(f"{name}@{cutoff}", np.array([value_B.sum(), value_B[newcomer_B].sum()]))
            shown = row_BR[:, :cutoff][row_BR[:, :cutoff] >= 0]
            self._add(f"shown@{cutoff}", np.bincount(shown, minlength=self.items).astype(np.float64))
            self._add(f"surprise@{cutoff}", np.array([self.surprise[shown].sum()]))
        for prior in self.priors:
            self._update_groups(prior, users, user, target, hit_BR, row_BR)

    def sum_over(self, total: Callable[[Tensor], Tensor]) -> None:
        """Adds up all ranks; `total` gives a tensor's sum over them. Every rank must have the same priors."""
        for name in sorted(self._names()):
            array = self._sums.get(name)
            filled = np.zeros(self._size(name)) if array is None else array
            self._sums[name] = total(torch.from_numpy(filled.astype(np.float64))).numpy()

    def results(self) -> dict[str, Any]:
        """Flat names -> numbers, and `users`."""
        users, newcomers = self._sums["users"]
        out: dict[str, Any] = {}
        for prefix, column, count in (("", 0, users), ("new_interest/", 1, newcomers)):
            for name in ("recall", "ndcg", "entropy"):
                for cutoff in CUTOFFS:
                    value = self._sums[f"{name}@{cutoff}"][column]
                    out[f"{prefix}{name}@{cutoff}"] = float(value / count) if count else None
            out[f"{prefix}users"] = int(count)
        for cutoff in CUTOFFS:
            shown = self._sums[f"shown@{cutoff}"]
            out[f"coverage@{cutoff}"] = float((shown > 0).mean())
            out[f"gini@{cutoff}"] = _gini(shown)
            out[f"novelty@{cutoff}"] = float(self._sums[f"surprise@{cutoff}"][0] / max(shown.sum(), 1))
        for prior in self.priors:
            counts = self._sums[f"group/{prior.name}/users"]
            for number, group in enumerate(prior.groups):
                for name in ("recall", "ndcg"):
                    for cutoff in CUTOFFS:
                        value = self._sums[f"group/{prior.name}/{name}@{cutoff}"][number]
                        key = f"group/{prior.name}/{group}/{name}@{cutoff}"
                        out[key] = float(value / counts[number]) if counts[number] else None
                out[f"group/{prior.name}/{group}/users"] = int(counts[number])
        return out

    def _add(self, name: str, value: np.ndarray) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value.astype(np.float64)

    def _names(self) -> list[str]:
        names = ["users"]
        for cutoff in CUTOFFS:
            names += [f"{name}@{cutoff}" for name in ("recall", "ndcg", "entropy", "shown", "surprise")]
            names += [f"group/{prior.name}/{name}@{cutoff}" for prior in self.priors for name in ("recall", "ndcg")]
        return names + [f"group/{prior.name}/users" for prior in self.priors]

    def _size(self, name: str) -> int:
        if name.startswith("group/"):
            return len(next(prior for prior in self.priors if name.startswith(f"group/{prior.name}/")).groups)
        return self.items if name.startswith("shown") else 1 if name.startswith("surprise") else 2

    def _has_new_category(
        self, users: int, user: np.ndarray, target: np.ndarray, history: np.ndarray, lengths: np.ndarray
    ) -> np.ndarray:
        """Users with a target one of whose categories never occurs in their history."""
        known_BJ = self.category.count(np.repeat(np.arange(users), lengths), history, users) > 0
        wanted_BJ = self.category.count(user, target, users) > 0
        return np.asarray((wanted_BJ & ~known_BJ).any(1))

    def _update_groups(
        self,
        prior: Categories,
        users: int,
        user: np.ndarray,
        target: np.ndarray,
        hit_BR: np.ndarray,
        row_BR: np.ndarray,
    ) -> None:
        """Recall and ndcg of the targets in each group alone, over users who have one."""
        m_BG = prior.count(user, target, users)
        has = m_BG > 0
        self._add(f"group/{prior.name}/users", has.sum(0))
        hit_user, rank = np.nonzero(hit_BR)
        index, group = prior.expand(row_BR[hit_user, rank])
        cell = hit_user[index] * len(prior.groups) + group
        for cutoff in CUTOFFS:
            inside = rank[index] < cutoff
            hits = np.bincount(cell[inside], minlength=m_BG.size).reshape(m_BG.shape)
            gains = np.bincount(cell[inside], GAIN[rank[index][inside]], m_BG.size).reshape(m_BG.shape)
            recall = np.divide(hits, m_BG, out=np.zeros(m_BG.shape), where=has)
            ndcg = np.divide(gains, IDEAL[np.minimum(cutoff, m_BG)], out=np.zeros(m_BG.shape), where=has)
            self._add(f"group/{prior.name}/recall@{cutoff}", recall.sum(0))
            self._add(f"group/{prior.name}/ndcg@{cutoff}", ndcg.sum(0))


def _gini(shown: np.ndarray) -> float:
    """Gini coefficient of how often items are shown: 0 all alike, 1 one item alone."""
    ordered = np.sort(shown)
    total = ordered.sum()
    if total == 0:
        return 0.0
    ranks = np.arange(1, len(ordered) + 1)
    return float((2 * ranks - len(ordered) - 1) @ ordered / (len(ordered) * total))
