"""Samples negatives from each item set, so that the sample is the same for any number of ranks.

An item set contains the items that a path may retrieve. Here, a row id is the number of an item's
row in the table. Each rank owns (is responsible for) one contiguous block of rows.

Imagine the items of a set on a line, one after another in the order of their row ids. Each item
takes up as many positions on the line as its weight (an integer; 1 if draws are uniform). A rank
that owns a block of rows therefore owns one contiguous piece of the line.

A draw is a random position on the line. All ranks draw the same positions. The rank that owns a
position serves the draw: it finds the row id by binary search among the positions at which its
items end, and looks the row up. Therefore:

- The negatives of all ranks together are one sample of the set, the same for any number of ranks.
- Every rank can compute which rank serves which draw, without communication.
- No rank needs a list of other ranks' rows, or the weights of these rows.

For example, this is the line of a set with the rows 3, 7 and 8 and the weights 4, 2 and 1. Rank 0
owns row 3, and rank 1 the others:

    position    0 1 2 3 4 5 6
    row         3 3 3 3 7 7 8
    rank        0 0 0 0 1 1 1

Shapes: S item sets (the last one is the whole catalogue if `negatives.catalogue_share` is above 0),
W ranks, n draws in all.
"""

import math
from dataclasses import dataclass

import numpy as np

from torchrec_priors.settings.negatives import NegativesConfig

_STREAM = 0x6E65676174697665  # distinguishes these draws from other uses of the seed


def draws_of_sets(config: NegativesConfig, positives_S: np.ndarray) -> np.ndarray:
    """Returns the number of draws from each item set, int64 [S].

    Args:
        config: the section `negatives` of the configuration.
        positives_S: number of training positives of each item set.

    Example:
        >>> draws_of_sets(NegativesConfig(total=10), np.array([700, 199, 101, 0])).tolist()
        [5, 2, 2, 1]
    """
    if not config.total or not config.in_group:
        return np.full(len(positives_S), config.in_group)

    # Each set has at least one draw. The running sum is rounded instead of each number, so that the
    # total is exact.
    share_S = positives_S / max(int(positives_S.sum()), 1)
    wanted_S = share_S * max(config.in_group - len(share_S), 0)
    return 1 + np.diff(np.rint(np.cumsum(wanted_S)).astype(np.int64), prepend=0)


@dataclass(frozen=True)
class Draw:
    """The negatives of one step. A slot is the place of one negative among those of all ranks.

    Slots are ordered by item set, then by row id.

    Attributes:
        own_ids: int64 row ids of the slots that this rank serves, in the order of the slots.
        own_shifts: float32, numbers to add to the logits of these slots; None unless
            `negatives.logq` is set.
        slots_W: the slots that each rank serves.
        counts_S: number of slots of each item set, except the whole catalogue (see `shared`).
        shared: number of slots of the whole catalogue. They come after all others.
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
        rows: for each set, the row ids that this rank owns, ascending.
        ends: for each set, the position at which each of these rows ends, counted from the
            beginning of this rank's piece of the line: running sums of weights.
    """

    rows: list[np.ndarray]
    ends: list[np.ndarray]

    @classmethod
    def weighted(cls, rows: list[np.ndarray], first_row: int, weights: np.ndarray) -> "OwnItems":
        """Builds this rank's part of every set; the ends are computed from the weights of its rows.

        Args:
            rows: see the attribute `rows`.
            first_row: row id of the first weight.
            weights: weights of all rows that this rank owns (see `draw_weights`).
        """
        return cls(rows, [np.cumsum(weights[members - first_row]) for members in rows])

    def sizes(self) -> np.ndarray:
        """Returns the number of rows and the total weight of each part, int64 [S, 2]."""
        # If this rank has no rows of a set, the set has no ends.
        totals = [int(ends[-1]) if len(ends) else 0 for ends in self.ends]
        return np.array([[len(members) for members in self.rows], totals], np.int64).T


class GroupSampler:
    """Draws negatives with replacement.

    If a set has at most as many items as draws, each of its items is taken once instead.

    Example:
        >>> own = OwnItems.weighted([np.array([0, 2]), np.array([3])], 0, np.ones(4, np.int64))
        >>> config = NegativesConfig(per_set=8)
        >>> sampler = GroupSampler(own, own.sizes()[None], config, rank=0, seed=0)
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
            own: this rank's part of the sets; the last set is the whole catalogue if
                `negatives.catalogue_share` is above 0.
            sizes_WS2: `OwnItems.sizes` of each rank.
            config: the section `negatives` of the configuration.
            rank: index of this rank.
            seed: seed of the run.
            positives_S: number of training positives of each item set; needed if the configuration
                sets `total`.
        """
        assert (own.sizes() == sizes_WS2[rank]).all(), "sizes_WS2 does not match this rank's rows"
        self.own = own
        self.config = config
        self.rank = rank
        self.seed = seed

        self._rows_WS = sizes_WS2[..., 0]
        # The position at which each rank's piece of each set's line begins. An additional last row
        # has the lengths of the lines.
        self._first_WS = np.zeros((len(sizes_WS2) + 1, len(own.rows)), np.int64)
        np.cumsum(sizes_WS2[..., 1], axis=0, out=self._first_WS[1:])

        if positives_S is None:
            item_sets = len(own.rows)
            if config.shared:
                item_sets -= 1
            positives_S = np.ones(item_sets)
        draws = draws_of_sets(config, positives_S)
        if config.shared:
            draws = np.append(draws, config.shared)

        # If a set has at most as many items as draws, it is taken as a whole.
        sizes = self._rows_WS.sum(0)
        self._whole = sizes <= draws
        self._counts = np.minimum(sizes, draws)

    def draw(self, step: int) -> Draw:
        """Returns the negatives of the global batch with the index `step`."""
        random = np.random.Generator(np.random.Philox(key=[self.seed ^ _STREAM, step]))
        # One generator draws for all sets in their order, so every rank draws the same positions.
        parts = [self._draw_set(number, random) for number in range(len(self._counts))]
        own_ids, own_shifts, rank_n = (
            np.concatenate(values) for values in zip(*parts, strict=True)
        )

        # The sort by rank is stable, so the slots of each rank stay in their order.
        ranks = len(self._rows_WS)
        bounds = np.cumsum(np.bincount(rank_n, minlength=ranks))
        slots_W = np.split(np.argsort(rank_n, kind="stable"), bounds[:-1])

        counts = self._counts.tolist()
        shared = 0
        if self.config.shared:
            shared = counts.pop()

        return Draw(
            own_ids=own_ids.astype(np.int64),
            own_shifts=own_shifts.astype(np.float32) if self.config.logq else None,
            slots_W=slots_W,
            counts_S=counts,
            shared=shared,
        )

    def _draw_set(
        self, number: int, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draws the negatives of one set.

        Returns:
            The row ids and shifts of the slots that this rank serves; and for every slot of the
            set, the rank that serves it.
        """
        rows = self.own.rows[number]
        ends = self.own.ends[number]
        first_W = self._first_WS[:, number]
        count = int(self._counts[number])
        log_share = 0.0
        if count:
            log_share = math.log(self._share_of_sum(number))

        # Every item of the set is taken once, so no random numbers are needed.
        if self._whole[number]:
            rank_n = np.repeat(np.arange(len(self._rows_WS)), self._rows_WS[:, number])
            return rows, np.full(len(rows), log_share), rank_n

        position_n = np.sort(random.integers(0, first_W[-1], count))
        rank_n = np.searchsorted(first_W, position_n, side="right") - 1

        # Positions on this rank's piece are counted from the beginning of the piece. The items at
        # these positions are found with `ends`.
        own_position = position_n[rank_n == self.rank] - first_W[self.rank]
        index = np.searchsorted(ends, own_position, side="right")
        weight = ends[index] - np.where(index > 0, ends[index - 1], 0)
        return rows[index], log_share - np.log(count * (weight / first_W[-1])), rank_n

    def _share_of_sum(self, number: int) -> float:
        """Returns the weight of a set's sum in the denominator of the softmax.

        For the whole catalogue it is `catalogue_share`. For every other set it is
        1 - `catalogue_share`.
        """
        share = self.config.catalogue_share
        if self.config.shared and number == len(self._counts) - 1:
            return share
        return 1 - share
