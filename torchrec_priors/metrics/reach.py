"""How many of the targets a model could find at all, however good it were: what is left out of lists is a miss.

A target of a user can be found unless it was met before and met items are filtered, it has no row or may not be
recommended, no head's items hold it, or nothing is known of the user's history. Counted, never taken out.

Shapes: I items, K paths, B users, M distinct (user, target) pairs, T targets with their repeats.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.data.histories import Histories
from torchrec_priors.embedding.item_rows import ItemRows
from torchrec_priors.embedding.managed import ManagedRows
from torchrec_priors.metrics.per_user import Ranked
from torchrec_priors.model import Recommender
from torchrec_priors.priors.prior import Targets
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.settings.evaluation import RetrievalConfig

FEW = 0.5  # share of the targets below which there is a warning
_NAMED = 5  # heads
_ROWS = 1 << 16  # looked at together
_COUNTS = ("targets", "found", "met", "without_row", "without_head")


class Reach:
    """Accumulates batches; `sum_over` and then `results`."""

    def __init__(
        self, tree: PriorTree, rows: ItemRows | ManagedRows, horizon: int, *, filter_seen: bool
    ) -> None:
        """
        Args:
            horizon: of the model: heads learn no targets beyond it.
        """
        self._tree = tree
        self._horizon = horizon
        self._filter_seen = filter_seen
        self._in_a_head_I = _in_a_head(tree)
        self._may_be_found_I = (
            np.ones(tree.items, bool) if rows.recommendable_I is None else rows.recommendable_I
        )
        self._known_I = rows.has_row_I
        heads = len(tree.item_set_K)
        self._sums = {name: np.zeros(1) for name in (*_COUNTS, "users", "share")}
        self._sums |= {name: np.zeros(heads) for name in ("of_head", "found_of_head")}

    @classmethod
    def of(cls, model: Recommender, config: RetrievalConfig) -> "Reach":
        """Of a model whose item rows are those that will be searched."""
        return cls(
            model.tree, model.item_rows, model.config.horizon, filter_seen=config.filter_seen
        )

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns of the sequences that `update` reads beside the targets."""
        return tuple(need for need in self._tree.needs if need == "events")

    def update(self, users: Histories, ranked: Ranked) -> np.ndarray:
        """bool [M]: distinct targets of a batch that can be found."""
        target_M = ranked.target_M
        user_M = ranked.user_M
        met_M = self._met(users, ranked) if self._filter_seen else np.zeros(len(target_M), bool)
        row_M = self._may_be_found_I[target_M] & self._anything_known(users)[user_M]
        head_M = self._in_a_head_I[target_M]
        found_M = row_M & head_M & ~met_M

        counted = (
            len(target_M),
            found_M.sum(),
            met_M.sum(),
            (~met_M & ~row_M).sum(),
            (~met_M & row_M & ~head_M).sum(),
        )
        for name, count in zip(_COUNTS, counted, strict=True):
            self._sums[name] += count
        self._sums["users"] += len(users)
        self._sums["share"] += (
            np.bincount(user_M[found_M], minlength=len(users)) / ranked.m_B
        ).sum()

        self._count_heads(users, found_M[ranked.pair_T])
        return found_M

    def sum_over(self, total: Callable[[Tensor], Tensor]) -> None:
        """Adds up all ranks."""
        for name in sorted(self._sums):
            self._sums[name] = total(torch.from_numpy(self._sums[name])).numpy()

    def results(self) -> dict[str, Any]:
        """Flat names -> numbers."""
        of = self._count("targets")
        found = self._count("found")
        return {
            "reachable/targets": found,
            "reachable/targets_share": found / max(of, 1),
            "reachable/recall": float(self._sums["share"][0] / max(self._sums["users"][0], 1)),
            "reachable/met": self._count("met"),
            "reachable/without_row": self._count("without_row"),
            "reachable/without_head": self._count("without_head"),
            "reachable/heads_in_vain": len(self._heads_in_vain()),
        }

    def in_words(self) -> str | None:
        """How many of the targets can be found, and why not the others; None where all can."""
        of = self._count("targets")
        found = self._count("found")
        if found == of:
            return None
        why = {
            "were met before, and evaluation.filter_seen leaves out what was met": self._count(
                "met"
            ),
            "have no row, or a history without any": self._count("without_row"),
            "are in no head": self._count("without_head"),
        }
        reasons = "; ".join(f"{count:,} {what}" for what, count in why.items() if count)
        return f"{found:,} of {of:,} targets can be found ({found / of:.1%}): {reasons}"

    def warnings(self) -> list[str]:
        """One line for each thing that spoils what the metrics say."""
        of = self._count("targets")
        found = self._count("found")
        said = []
        if found < FEW * of:
            remedy = (
                ": evaluation.filter_seen=false finds what was met, too"
                if 2 * self._count("met") > of
                else ""
            )
            said.append(
                f"{'none' if not found else f'only {found / of:.1%}'} of the targets can be found{remedy}"
            )
        names = self._heads_in_vain()
        if found and names:
            first = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
            heads = len(self._tree.item_set_K)
            said.append(
                f"{len(names):,} of {heads:,} heads can find none of their targets ({first})"
            )
        return said

    def _count(self, name: str) -> int:
        return int(self._sums[name][0])

    def _heads_in_vain(self) -> list[str]:
        """Names of heads with targets of which none can be found."""
        in_vain_K = (self._sums["of_head"] > 0) & (self._sums["found_of_head"] == 0)
        return [
            path.name
            for path, in_vain in zip(self._tree.paths, in_vain_K.tolist(), strict=True)
            if in_vain
        ]

    def _met(self, users: Histories, ranked: Ranked) -> np.ndarray:
        """bool [M]"""
        items = self._tree.items
        seen = np.repeat(np.arange(len(users)), users.seen_lengths) * items + users.seen
        return np.isin(ranked.user_M * items + ranked.target_M, seen)

    def _anything_known(self, users: Histories) -> np.ndarray:
        """bool [B]: users of whose history any item has a row, without which nothing is found for them."""
        if self._known_I is None:
            return np.ones(len(users), bool)
        user = np.repeat(np.arange(len(users)), users.seen_lengths)
        return np.bincount(user[self._known_I[users.seen]], minlength=len(users)) > 0

    def _count_heads(self, users: Histories, found_T: np.ndarray) -> None:
        """For each head, its targets (Eq. 6) and those of them that can be found."""
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
        heads = len(self._tree.item_set_K)
        self._sums["of_head"] += np.bincount(path, minlength=heads)
        self._sums["found_of_head"] += np.bincount(path[found_T[within][index]], minlength=heads)


def _as_ids(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.int64)).to(device)


def _in_a_head(tree: PriorTree) -> np.ndarray:
    """bool [I]: items that any head may retrieve. Whose head it is need not be asked: every item set has heads that are
    open to a user, one of each group of users that has heads."""
    if len(tree.set_sizes) and int(tree.set_sizes.max()) == tree.items:
        return np.ones(tree.items, bool)
    held_I = np.zeros(tree.items, bool)
    for first in range(0, tree.items, _ROWS):
        for rows in tree.eligible(first, min(first + _ROWS, tree.items)):
            held_I[rows] = True
    return held_I
