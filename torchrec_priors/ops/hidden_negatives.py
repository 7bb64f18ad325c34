"""Hidden negatives: the items that a query's history had seen by its position.

If seen items are never recommended, queries need not be distinguished from them. The hidden
negatives of a query are a range of one list, which has each pair of an item of a history and a
negative of the same id once: nothing grows with queries times items.

Shapes: N positions of histories, one history after another, P queries sorted by item set, M
positives sorted by query, n negatives of S item sets and those that are shared, H places in the
list.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.ranges import numbers, ranges


@dataclass(frozen=True)
class Hidden:
    """Hidden negatives of some queries.

    Attributes:
        negative_H: indices of negatives.
        first_RP, count_RP: each query's range of them: in its item set and, if there are shared
            negatives, among those.
        own_M: bool, whether a positive's own id is hidden from its query.
    """

    negative_H: Tensor
    first_RP: Tensor
    count_RP: Tensor
    own_M: Tensor

    def of(self, queries: Tensor) -> "Hidden":
        """Those of some queries whose positives are not hidden."""
        return Hidden(
            self.negative_H, self.first_RP[:, queries], self.count_RP[:, queries], self.own_M[:0]
        )

    def cells(self, rows: slice, columns: list[slice]) -> tuple[Tensor, Tensor]:
        """(row, column) of all hidden negatives in a block of logits.

        Args:
            rows: the queries.
            columns: the negatives next to one another: those of the item set, then the shared ones.
        """
        hidden_rows = []
        hidden_columns = []
        width = 0
        for first_P, count_P, pool in zip(self.first_RP, self.count_RP, columns, strict=True):
            row, index = ranges(first_P[rows], count_P[rows])
            hidden_rows.append(row)
            hidden_columns.append(self.negative_H[index] - pool.start + width)
            width += pool.stop - pool.start
        return torch.cat(hidden_rows), torch.cat(hidden_columns)


class SeenItems:
    """The items of some histories, by position, and the negatives with the same ids."""

    def __init__(self, id_N: Tensor, offsets_B1: Tensor, negatives: NegativeSets) -> None:
        """
        Args:
            id_N: row ids, as the negatives have them.
            offsets_B1: bounds of the histories.
        """
        self._ids = id_N
        self._offsets_B1 = offsets_B1
        self._history_N = numbers(offsets_B1.diff())
        self._sets = len(negatives.counts_S)
        self._has_shared = negatives.shared > 0

        # Every pair of a negative and a position with its id.
        sorted_N, position_N = torch.sort(id_N, stable=True)
        first_n = torch.searchsorted(sorted_N, negatives.ids_n)
        count_n = torch.searchsorted(sorted_N, negatives.ids_n, right=True) - first_n
        negative_H, index_H = ranges(first_n, count_n)

        # Sorted by item set, then by position, so that the positions a query has seen are a range.
        counts = torch.tensor([*negatives.counts_S, negatives.shared], device=id_N.device)
        key_H = numbers(counts)[negative_H] * len(id_N) + position_N[index_H]
        self._key_H, order = torch.sort(key_H)
        self._negative_H = negative_H[order]

    def hidden(
        self, position_P: Tensor, query_counts_S: list[int], positives: WeighedPositives
    ) -> Hidden:
        """Hides from every query what its history has seen up to its position, inclusive.

        Args:
            position_P: position of each query, among the N.
            query_counts_S: number of queries of each item set.
            positives: of the queries.
        """
        set_P = numbers(torch.tensor(query_counts_S, device=position_P.device))
        start_P = self._offsets_B1[self._history_N[position_P]]
        pools = [set_P]
        if self._has_shared:
            pools.append(torch.full_like(set_P, self._sets))

        first = []
        count = []
        for pool_P in pools:
            key_P = pool_P * len(self._ids)
            low = torch.searchsorted(self._key_H, key_P + start_P)
            high = torch.searchsorted(self._key_H, key_P + position_P, right=True)
            first.append(low)
            count.append(high - low)
        own_M = self._seen(position_P[positives.query_M], positives)
        return Hidden(self._negative_H, torch.stack(first), torch.stack(count), own_M)

    def _seen(self, position_M: Tensor, positives: WeighedPositives) -> Tensor:
        """bool [M]: whether a history has seen a positive's own id by a position."""
        if not len(position_M):
            return torch.zeros(0, dtype=torch.bool, device=position_M.device)

        # The first position of an id in a history comes first among equal keys: the sort is stable.
        span = torch.maximum(self._ids.amax(), positives.id_M.amax()) + 1
        key_N, position_N = torch.sort(self._history_N * span + self._ids, stable=True)
        key_M = self._history_N[position_M] * span + positives.id_M
        first_M = torch.searchsorted(key_N, key_M).clamp_(max=len(key_N) - 1)
        return (key_N[first_M] == key_M) & (position_N[first_M] <= position_M)
