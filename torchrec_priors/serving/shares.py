"""Finds lists of k items in which given groups have at least their shares.

Items that are in exactly the same of these groups form a cell. The cells are searched one after
another, so every item is scored once. Then each list is chosen from the best items of all cells
(`choice.py`).

Shapes: B users, J groups, k items.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.errors import UserError
from torchrec_priors.retrieval.search_types import Found
from torchrec_priors.serving.choice import Candidate, choose, fewest


class Shares:
    """The groups, and the number of items from each group that each list must have.

    Every rank must create one, and make the same calls.

    Attributes:
        names: the names of the groups.
        k: the number of items in a list.
        need: the number of items of each group.
    """

    def __init__(
        self,
        share: dict[str, float],
        groups: dict[str, np.ndarray],
        k: int,
        candidates: np.ndarray,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """
        Args:
            share: the share of each group, by name.
            groups: for each name, the bits of this rank's items in the group
                (`retrieval/item_filter.py`).
            k: the number of items in a list.
            candidates: the bits of this rank's items that may be recommended.
            total: sums a tensor over ranks.

        Raises:
            UserError: the shares need more than k items.
        """
        self.names = list(share)
        self.k = k
        # Before the ceiling, rounding removes errors: 0.7 x 10 is 7.000000000000001 in Python.
        self.need = [math.ceil(round(part * k, 9)) for part in share.values()]

        # The mask of an item has bit g if the item is in group g. Items with equal masks form a
        # cell. Every rank searches each cell that has items on any rank.
        cells = {0: candidates}
        for group, name in enumerate(self.names):
            inside = {mask | 1 << group: bits & groups[name] for mask, bits in cells.items()}
            cells = {mask: bits & ~groups[name] for mask, bits in cells.items()} | inside
        in_cell = [int(cells[mask].any()) for mask in range(len(cells))]
        on_any_rank = total(torch.tensor(in_cell)).tolist()
        self._cells = {mask: cells[mask] for mask, any_rank in enumerate(on_any_rank) if any_rank}
        # Without any item, all lists are empty.
        self._cells = self._cells or {0: candidates}

        # Here it is checked only whether the shares fit into k items. Whether a group has enough
        # items is checked for each list, so each group counts as if it had k items of its own.
        counts_by_cell = {1 << group: k for group in range(len(self.names))}
        counts_by_cell |= dict.fromkeys(self._cells, k)
        items = fewest(tuple(self.need), counts_by_cell)
        if items > k:
            shares = ", ".join(
                f"'{name}' {need}" for name, need in zip(self.names, self.need, strict=True)
            )
            raise UserError(
                f"at-least: {shares} take {items:.0f} items together, more than k = {k}: "
                "give smaller shares"
            )

    def find(self, search: Callable[[np.ndarray], Found]) -> tuple[Found, Tensor]:
        """Finds the lists of some users.

        Args:
            search: finds the k best items for each user, among items that are given by their bits.

        Returns:
            The lists; and bool [B, J], whether a list has fewer items of a group than it needs.
        """
        # A search is a collective, so every rank searches the same cells in the same order.
        found_in_cell = {mask: search(bits) for mask, bits in self._cells.items()}
        candidates = {mask: _candidates(found) for mask, found in found_in_cell.items()}

        example = next(iter(found_in_cell.values()))
        device = example.row_Bk.device
        row_Bk = torch.full_like(example.row_Bk, -1)
        score_Bk = torch.full_like(example.score_Bk, -torch.inf)
        path_Bk = torch.zeros_like(example.path_Bk)
        short_BJ = torch.zeros(len(row_Bk), len(self.names), dtype=torch.bool)

        for user in range(len(row_Bk)):
            cells = {mask: candidates_B[user] for mask, candidates_B in candidates.items()}
            best, met = choose(cells, self.need, self.k)

            row_Bk[user, : len(best)] = torch.tensor([item.row for item in best], device=device)
            score_Bk[user, : len(best)] = torch.tensor([item.score for item in best], device=device)
            path_Bk[user, : len(best)] = torch.tensor([item.path for item in best], device=device)
            short_BJ[user] = torch.tensor(met) < torch.tensor(self.need)
        return Found(row_Bk, score_Bk, path_Bk), short_BJ


def _candidates(found: Found) -> list[list[Candidate]]:
    """Returns the items that were found for each user, best first."""
    columns = (found.score_Bk.tolist(), found.row_Bk.tolist(), found.path_Bk.tolist())
    return [
        [Candidate(score, row, path) for score, row, path in zip(*parts, strict=True) if row >= 0]
        for parts in zip(*columns, strict=True)
    ]
