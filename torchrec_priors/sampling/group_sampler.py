"""In-group negatives: every rank draws the same positions from a counter and serves those that fall on its rows.

The items of set s, in row order, lie one after another on a line, each as long as its weight (an integer; 1 where draws
are uniform). A rank owns one contiguous piece of the line, as row-wise shards are contiguous. A draw is a position on
the line; the owner alone turns it into a row id, by binary search in the ends of its own items. So the union of what
the ranks serve is one sample of Omega_s, the same for any number of ranks, every rank knows who serves which draw
without a message, and no rank holds a list of other ranks' rows, or their weights.

Shapes: S item sets, the catalogue that all share the last of them where there is one; W ranks; n draws in all.
"""

import math
from dataclasses import dataclass

import numpy as np

from torchrec_priors.settings.negatives import NegativesConfig

_STREAM = 0x6E65676174697665  # tells these draws from other uses of the seed


def draws_of_sets(config: NegativesConfig, positives_S: np.ndarray) -> np.ndarray:
    """int64 [S]: draws from each item set.

    Args:
        positives_S: training positives of each.

    Example:
        >>> draws_of_sets(NegativesConfig(total=10), np.array([700, 199, 101, 0])).tolist()
        [5, 2, 2, 1]
    """
    if not config.total or not config.in_group:
        return np.full(len(positives_S), config.in_group)
    share_S = positives_S / max(int(positives_S.sum()), 1)
    wanted_S = share_S * max(config.in_group - len(share_S), 0)
    return 1 + np.diff(np.rint(np.cumsum(wanted_S)).astype(np.int64), prepend=0)


@dataclass(frozen=True)
class Draw:
    """Negatives of one step. Slots are ordered by item set, then by row, so ids ascend within a set.

    Attributes:
        own_ids: int64 row ids of the slots this rank serves, in slot order.
        own_shifts: float32, what is added to their logits; None where that is 0 for all.
        slots_W: for each rank, the slots it serves.
        counts_S: slots of each item set, without the catalogue's.
        shared: slots of the whole catalogue, after all others.
    """

    own_ids: np.ndarray
    own_shifts: np.ndarray | None
    slots_W: list[np.ndarray]
    counts_S: list[int]
    shared: int


@dataclass(frozen=True)
class OwnItems:
    """This rank's part of every item set.

    Attributes:
        rows: row ids of each set, ascending.
        ends: where each of them ends on this rank's piece of the line: running sums of weights.
    """

    rows: list[np.ndarray]
    ends: list[np.ndarray]

    @classmethod
    def weighted(cls, rows: list[np.ndarray], first_row: int, weights: np.ndarray) -> "OwnItems":
        """Sets of rows from `first_row` on, whose draw weights are `weights` (see `draw_weights`)."""
        return cls(rows, [np.cumsum(weights[members - first_row]) for members in rows])

    def sizes(self) -> np.ndarray:
        """int64 [S, 2]: rows and total weight of each set."""
        totals = [int(ends[-1]) if len(ends) else 0 for ends in self.ends]
        return np.array([[len(members) for members in self.rows], totals], np.int64).T


class GroupSampler:
    """Draws with replacement; a set of at most as many items as draws is taken whole, each item once.

    Example:
        >>> own = OwnItems.weighted([np.array([0, 2]), np.array([3])], 0, np.ones(4, np.int64))
        >>> sampler = GroupSampler(own, own.sizes()[None], NegativesConfig(per_set=8), rank=0, seed=0)
        >>> sampler.draw(step=0).own_ids.tolist()
        [0, 2, 3]
    """

    def __init__(
        self,
        own: OwnItems,
        sizes_WS2: np.ndarray,
        config: NegativesConfig,
        *,
        rank: int,
        seed: int,
        positives_S: np.ndarray | None = None,
    ) -> None:
        """
        Args:
            own: what this rank owns; where the configuration has a share of the catalogue, the last set is all items.
            sizes_WS2: `OwnItems.sizes` of each rank.
            positives_S: training positives of each item set; needed where the configuration has a total.
        """
        assert (own.sizes() == sizes_WS2[rank]).all(), "own rows and sizes differ"
        self.own = own
        self.config = config
        self.rank = rank
        self.seed = seed
        self._rows_WS = sizes_WS2[..., 0]
        self._first_WS = np.zeros(
            (len(sizes_WS2) + 1, len(own.rows)), np.int64
        )  # on the line; the last row: totals
        np.cumsum(sizes_WS2[..., 1], axis=0, out=self._first_WS[1:])
        sets = len(own.rows) - (config.shared > 0)
        draws = draws_of_sets(config, np.ones(sets) if positives_S is None else positives_S)
        if config.shared:
            draws = np.append(draws, config.shared)
        sizes = self._rows_WS.sum(0)
        self._whole = sizes <= draws
        self._counts = np.minimum(sizes, draws)

    def draw(self, step: int) -> Draw:
        """The negatives of global batch `step`."""
        random = np.random.Generator(np.random.Philox(key=[self.seed ^ _STREAM, step]))
        parts = [self._draw_set(number, random) for number in range(len(self._counts))]
        own_ids, own_shifts, rank_n = (
            np.concatenate(values) for values in zip(*parts, strict=True)
        )
        ranks = len(self._rows_WS)
        bounds = np.cumsum(np.bincount(rank_n, minlength=ranks))
        counts = self._counts.tolist()
        shared = counts.pop() if self.config.shared else 0
        return Draw(
            own_ids=own_ids.astype(np.int64),
            own_shifts=own_shifts.astype(np.float32) if self.config.logq else None,
            slots_W=np.split(np.argsort(rank_n, kind="stable"), bounds[:-1]),
            counts_S=counts,
            shared=shared,
        )

    def _draw_set(
        self, number: int, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids and shifts of the slots of a set that this rank serves, and the rank that serves each slot."""
        rows = self.own.rows[number]
        ends = self.own.ends[number]
        first_W = self._first_WS[:, number]
        count = int(self._counts[number])
        part = math.log(self._part(number)) if count else 0.0
        if self._whole[number]:
            return (
                rows,
                np.full(len(rows), part),
                np.repeat(np.arange(len(self._rows_WS)), self._rows_WS[:, number]),
            )
        position = np.sort(random.integers(0, first_W[-1], count))
        rank_n = np.searchsorted(first_W, position, side="right") - 1
        index = np.searchsorted(
            ends, position[rank_n == self.rank] - first_W[self.rank], side="right"
        )
        weight = ends[index] - np.where(index > 0, ends[index - 1], 0)
        return rows[index], part - np.log(count * (weight / first_W[-1])), rank_n

    def _part(self, number: int) -> float:
        """What a set's sum counts for in the denominator."""
        share = self.config.catalogue_share
        return share if self.config.shared and number == len(self._counts) - 1 else 1 - share
