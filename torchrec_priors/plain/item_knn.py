"""Item-kNN: an item is scored by its similarity to the items of the user's history.

The similarity of items i and j is the cosine of the users who have seen them, with shrinkage s:

    sim(i, j) = n_ij / (sqrt(n_i n_j) + s)

where n_ij users have seen both, and n_i users have seen i. Shrinkage lowers the similarity of items
that few users have seen. Only the most similar items of each item, its neighbours, are kept. The
score of j is the sum of sim(i, j) over the history's items i.

Shapes: B users of a batch, I items.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from torchrec_priors.data.histories import Histories
from torchrec_priors.plain.log import Log, bags
from torchrec_priors.settings.ranges import Amount, CountOrZero, Section

_ROWS = 1024  # items whose similarities are computed at a time, which limits the memory


@dataclass
class Options(Section):
    """The options of item-kNN.

    Attributes:
        neighbours: the number of most similar items that are kept for each item; 0 for all.
        shrinkage: s, in users.
        last: the number of last items of a history that are used; 0 for all.
    """

    neighbours: CountOrZero = 100
    shrinkage: Amount = 10.0
    last: CountOrZero = 0


class ItemKnn:
    """The similarities of all items to their neighbours."""

    columns = ()

    def __init__(self, similarity_II: sparse.csr_matrix, last: int) -> None:
        self._similarity_II = similarity_II
        self._last = last
        self.numbers = similarity_II.nnz

    def scores(self, users: Histories) -> np.ndarray:
        """Returns the sums of similarities, [B, I]."""
        items = self._similarity_II.shape[0]
        scores: np.ndarray = (bags(users, items, self._last) @ self._similarity_II).toarray()
        return scores


def load(options: Options, log: Log) -> ItemKnn:
    """Computes the neighbours of all items."""
    seen_UI = log.seen_UI
    seen_IU = seen_UI.T.tocsr()
    users_I = np.asarray(seen_UI.sum(0)).ravel()
    # The place of each item by popularity; of equally similar items, the more popular one is kept.
    place_I = np.empty(log.items, np.int64)
    place_I[log.order_I] = np.arange(log.items)

    blocks = []
    for first in range(0, log.items, _ROWS):
        both = (seen_IU[first : first + _ROWS] @ seen_UI).tocoo()
        other = both.row + first != both.col
        row = both.row[other]
        column = both.col[other]
        similarity = both.data[other] / (
            np.sqrt(users_I[row + first] * users_I[column]) + options.shrinkage
        )
        if options.neighbours:
            # Only a small part has to be sorted.
            high = _is_high(row, similarity, options.neighbours)
            row = row[high]
            column = column[high]
            similarity = similarity[high]

        # Rows in order, each with the most similar items first.
        order = np.lexsort((place_I[column], -similarity, row))
        if options.neighbours:
            counts = np.bincount(row, minlength=both.shape[0])
            starts = np.repeat(np.cumsum(counts) - counts, counts)
            order = order[np.arange(len(order)) - starts < options.neighbours]
        places = (row[order], column[order])
        blocks.append(sparse.csr_matrix((similarity[order], places), both.shape))
    return ItemKnn(sparse.vstack(blocks).tocsr(), options.last)


def _is_high(row: np.ndarray, value: np.ndarray, k: int) -> np.ndarray:
    """Returns bool: whether a value is at least as high as the k-th highest of its row.

    Args:
        row: the row of each value, ascending.
        value: the values.
        k: how many values are high; more if some are equal, and all in a row of fewer.
    """
    counts = np.bincount(row)
    ends = np.cumsum(counts)
    high = np.ones(len(value), bool)
    for number in np.flatnonzero(counts > k):
        count = counts[number]
        of_row = slice(ends[number] - count, ends[number])
        lowest = np.partition(value[of_row], count - k)[count - k]
        high[of_row] = value[of_row] >= lowest
    return high
