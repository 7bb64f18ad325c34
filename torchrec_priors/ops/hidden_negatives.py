"""Negatives that a query does not see: the items that its history had met by its position.

Where met items are never recommended, no query need be told from them. A query's hidden negatives are a range of one
list, in which every place where an item of a history is a negative stands once: nothing grows with queries times items.

Shapes: N positions of histories, one history after another, P queries sorted by item set, M positives sorted by query,
n negatives of S item sets and those that are shared, H places in the list.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.ranges import numbers, ranges


@dataclass(frozen=True)
class Hidden:
    """Of every query, in the order of the queries.

    Attributes:
        negative_H: places among the negatives.
        first_RP, count_RP: each query's range of them: in its item set and, where there are any, among those that are
            shared.
        own_M: bool, whether a positive's own id is hidden from its query.
    """

    negative_H: Tensor
    first_RP: Tensor
    count_RP: Tensor
    own_M: Tensor

    def of(self, queries: Tensor) -> "Hidden":
        """Those of some queries, of whose positives none is hidden."""
        return Hidden(
            self.negative_H, self.first_RP[:, queries], self.count_RP[:, queries], self.own_M[:0]
        )

    def cells(self, rows: slice, columns: list[slice]) -> tuple[Tensor, Tensor]:
        """(row, column) of all hidden ones in a block of logits.

        Args:
            rows: the queries.
            columns: their negatives: those of their item set, then the shared, side by side.
        """
        of_rows = []
        of_columns = []
        before = 0
        for first_P, count_P, some in zip(self.first_RP, self.count_RP, columns, strict=True):
            row, place = ranges(first_P[rows], count_P[rows])
            of_rows.append(row)
            of_columns.append(self.negative_H[place] - (some.start - before))
            before += some.stop - some.start
        return torch.cat(of_rows), torch.cat(of_columns)


class SeenItems:
    """What some histories meet where, and which negatives those items are."""

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
        self._shared = negatives.shared > 0
        sorted_N, position_N = torch.sort(id_N, stable=True)
        first_n = torch.searchsorted(sorted_N, negatives.ids_n)
        count_n = torch.searchsorted(sorted_N, negatives.ids_n, right=True) - first_n
        negative_H, place_H = ranges(first_n, count_n)
        counts = torch.tensor([*negatives.counts_S, negatives.shared], device=id_N.device)
        key_H = (
            numbers(counts)[negative_H] * len(id_N) + position_N[place_H]
        )  # by item set, then by position
        self._key_H, order = torch.sort(key_H)
        self._negative_H = negative_H[order]

    def hidden(
        self, position_P: Tensor, query_counts_S: list[int], positives: WeighedPositives
    ) -> Hidden:
        """From every query what its history had met up to its position, that included.

        Args:
            position_P: each query's, among the N.
            query_counts_S: queries of each item set.
        """
        set_P = numbers(torch.tensor(query_counts_S, device=position_P.device))
        start_P = self._offsets_B1[self._history_N[position_P]]
        first = []
        count = []
        for of_P in (set_P, torch.full_like(set_P, self._sets))[: 1 + self._shared]:
            low = torch.searchsorted(self._key_H, of_P * len(self._ids) + start_P)
            first.append(low)
            count.append(
                torch.searchsorted(self._key_H, of_P * len(self._ids) + position_P, right=True)
                - low
            )
        return Hidden(
            self._negative_H,
            torch.stack(first),
            torch.stack(count),
            self._met(position_P[positives.query_M], positives),
        )

    def _met(self, position_M: Tensor, positives: WeighedPositives) -> Tensor:
        """bool [M]: whether a history had met a positive's own id by a position."""
        if not len(position_M):
            return torch.zeros(0, dtype=torch.bool, device=position_M.device)
        span = torch.maximum(self._ids.amax(), positives.id_M.amax()) + 1
        key_N, position_N = torch.sort(self._history_N * span + self._ids, stable=True)
        key_M = self._history_N[position_M] * span + positives.id_M
        first_M = torch.searchsorted(key_N, key_M).clamp_(max=len(key_N) - 1)
        return (key_N[first_M] == key_M) & (position_N[first_M] <= position_M)
