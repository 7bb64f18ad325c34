"""Gives items without a row factors of scores, by a map from their content (`content_map.py`).

The map is fitted to a sample of the items that have a row and content. Whether an item is in the
sample, held out or a landmark depends only on the row ids, so every rank knows it, and the number
of ranks does not matter.

Shapes: I items, M items with content, N items of a request, C candidates, c width of content, f
width of factors.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.common.splitmix import of_numbers
from torchrec_priors.embedding.content_map import LANDMARKS, Block, ContentMap, Kernel
from torchrec_priors.embedding.item_rows import ItemRows

MOST_FITTED = 1 << 16
LEAST_FITTED = 10  # with fewer items, the projection is used
_HELD_OUT = 5  # one of so many items chooses the penalty
_AT_ONCE = 1 << 14


class MappedItems:
    """The items without a row, whose content is mapped.

    Attributes:
        map: the map; None before it is fitted.
        may_fit: whether there are items to map, and enough items to fit the map to. Otherwise items
            keep the factors of their projections.
        sample: the number of items that the map is fitted to, over all ranks.
    """

    def __init__(
        self, item_M: np.ndarray, rows: ItemRows, frequency_I: np.ndarray, device: torch.device
    ) -> None:
        """
        Args:
            item_M: row ids of the items with content, ascending.
            rows: the map from items to rows.
            frequency_I: the number of training interactions of each item in the data set.
            device: where content is held.
        """
        self.map: ContentMap | None = None
        has_row_I = np.ones(rows.items, bool) if rows.own_row_I is None else rows.own_row_I
        self._no_row_I = torch.from_numpy(~has_row_I).to(device)
        self._log_count_I = torch.from_numpy(np.log1p(frequency_I)).float().to(device)

        # The sample: the items with the smallest hashes, in this order.
        place = np.flatnonzero(has_row_I[item_M])
        by_hash = np.argsort(of_numbers(item_M[place]), kind="stable")
        chosen = place[by_hash[:MOST_FITTED]]
        self.sample = len(chosen)
        self.may_fit = bool(rows.content_rows) and self.sample >= LEAST_FITTED
        held_out = np.arange(len(chosen)) % _HELD_OUT == _HELD_OUT - 1
        in_sample_I = np.zeros(rows.items, bool)
        in_sample_I[item_M[chosen]] = True
        held_out_I = np.zeros(rows.items, bool)
        held_out_I[item_M[chosen[held_out]]] = True
        self._in_sample_I = torch.from_numpy(in_sample_I).to(device)
        self._held_out_I = torch.from_numpy(held_out_I).to(device)
        self._landmark_L = torch.from_numpy(chosen[~held_out][:LANDMARKS]).to(device)

    @torch.no_grad()
    def fit(
        self,
        vector_Mc: Tensor,
        place_I: Tensor,
        item_C: Tensor,
        factor_Cf: Tensor,
        total: Callable[[Tensor], Tensor],
        *,
        leads: bool,
    ) -> None:
        """Fits the map. Every rank must call it.

        Args:
            vector_Mc: the content of all items, of length 1.
            place_I: the number of each item among the M items with content; -1 without content.
            item_C: the row ids of this rank's candidates, each the candidate of one rank.
            factor_Cf: their factors.
            total: returns the sum of a tensor over all ranks.
            leads: whether this is the first rank.
        """
        number_S = self._in_sample_I[item_C].nonzero()[:, 0]

        def blocks() -> Iterator[Block]:
            # There is at least one part: a rank without candidates takes part in the sums too.
            for part in parts(len(number_S)):
                item_N = item_C[number_S[part]]
                yield Block(
                    vector_Mc[place_I[item_N]],
                    factor_Cf[number_S[part]],
                    self._log_count_I[item_N],
                    self._held_out_I[item_N],
                )

        kernel = Kernel.of(vector_Mc[self._landmark_L], total, leads=leads)
        self.map = ContentMap.fit(kernel, blocks(), total, leads=leads)

    def write(self, vector_Mc: Tensor, place_I: Tensor, item_N: Tensor, factor_Nf: Tensor) -> None:
        """Replaces the factors of items without a row by mapped ones, if the map is fitted.

        Args:
            vector_Mc, place_I: as for `fit`.
            item_N: the row ids of the items.
            factor_Nf: the factors of the items' vectors, which are changed.
        """
        if self.map is None:
            return
        number_n = ((place_I[item_N] >= 0) & self._no_row_I[item_N]).nonzero()[:, 0]
        for part in parts(len(number_n)):
            place_n = place_I[item_N[number_n[part]]]
            factor_Nf[number_n[part]] = self.map(vector_Mc[place_n])


def parts(items: int) -> Iterator[slice]:
    """Yields slices of a moderate number of items, at least one slice."""
    for start in range(0, max(items, 1), _AT_ONCE):
        yield slice(start, start + _AT_ONCE)
