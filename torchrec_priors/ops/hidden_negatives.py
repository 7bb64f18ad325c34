"""The hidden negatives of a query are those that its history contains, up to the query's position.

If seen items are never recommended, queries need not be trained against them. One list holds every
pair of a history's item and a negative with the same id, once. The hidden negatives of a query are
a range of this list, so no memory of size queries times items is needed.

Shapes: N positions of histories, one history after another; P queries sorted by item set; R ranges
per query (2 if there are shared negatives, otherwise 1); M positives sorted by query; n negatives,
first those of S item sets, then the shared ones; H pairs in the list.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.ops.in_group_sets import NegativeSets, QuerySets, WeighedPositives
from torchrec_priors.ops.pinned import to_device
from torchrec_priors.ops.ranges import numbers, ranges


@dataclass(frozen=True)
class Hidden:
    """The hidden negatives of some queries.

    Attributes:
        negative_H: the index of the negative of each pair in the list.
        first_RP, count_RP: the ranges of the list that are hidden from each query: a range of
            negatives of its item set and, if there are shared negatives, a range of these.
        own_M: bool, whether a positive's own id is hidden from its query.
    """

    negative_H: Tensor
    first_RP: Tensor
    count_RP: Tensor
    own_M: Tensor

    def of(self, queries: Tensor) -> "Hidden":
        """Returns the hidden negatives of some queries.

        The positives of these queries must not be hidden: `own_M` of the result is empty.
        """
        return Hidden(
            self.negative_H, self.first_RP[:, queries], self.count_RP[:, queries], self.own_M[:0]
        )

    def cells(self, rows: slice, columns: list[slice]) -> tuple[Tensor, Tensor]:
        """Returns (row, column) of all hidden negatives in a block of logits.

        Args:
            rows: the queries of the block.
            columns: the negatives of the block: those of the item set, then the shared ones.
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
    """Finds the negatives that occur in histories up to a position."""

    def __init__(self, id_N: Tensor, offsets_B1: Tensor, negatives: NegativeSets) -> None:
        """Lists all pairs of a history's item and a negative with the same id.

        Args:
            id_N: row ids of the histories' items; the negatives' ids are row ids, too.
            offsets_B1: bounds of the histories.
            negatives: the negatives of all queries.
        """
        self._ids = id_N
        self._offsets_B1 = offsets_B1
        self._history_N = numbers(offsets_B1.diff(), len(id_N))
        self._sets = len(negatives.counts_S)
        self._has_shared = negatives.shared > 0

        # All pairs of a negative and a position that holds its id.
        sorted_N, position_N = torch.sort(id_N, stable=True)
        first_n = torch.searchsorted(sorted_N, negatives.ids_n)
        count_n = torch.searchsorted(sorted_N, negatives.ids_n, right=True) - first_n
        negative_H, index_H = ranges(first_n, count_n)

        # The pairs are sorted by item set, then by position: what a query has seen is a range.
        counts = to_device([*negatives.counts_S, negatives.shared], id_N.device)
        key_H = numbers(counts, len(negatives.ids_n))[negative_H] * len(id_N) + position_N[index_H]
        self._key_H, order = torch.sort(key_H)
        self._negative_H = negative_H[order]

    def hidden(
        self,
        position_P: Tensor,
        query_counts_S: list[int] | QuerySets,
        positives: WeighedPositives,
    ) -> Hidden:
        """Returns what is hidden from every query: its history up to and including its position.

        Args:
            position_P: position of each query among the N positions.
            query_counts_S: number of queries of each item set, or their sets on the device.
            positives: positives of the queries.
        """
        if isinstance(query_counts_S, QuerySets):
            set_P = query_counts_S.set_P
        else:
            set_P = numbers(to_device(query_counts_S, position_P.device), len(position_P))
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
        """Returns bool [M]: whether a positive's id is in the history up to a position."""
        if not len(position_M):
            return torch.zeros(0, dtype=torch.bool, device=position_M.device)

        # The sort is stable: of an id's positions in a history, the earliest comes first.
        span = torch.maximum(self._ids.amax(), positives.id_M.amax()) + 1
        key_N, position_N = torch.sort(self._history_N * span + self._ids, stable=True)
        key_M = self._history_N[position_M] * span + positives.id_M
        first_M = torch.searchsorted(key_N, key_M).clamp_(max=len(key_N) - 1)
        return (key_N[first_M] == key_M) & (position_N[first_M] <= position_M)
