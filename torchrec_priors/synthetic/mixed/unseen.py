"""Draws items that the user has not seen before.

The draws of a row are numbered by turns. The item of a row is the first of its draws that is not
the item of an earlier row of the user. Here all rows are drawn at once: starting from the first
draws, the items of all rows are computed anew from the earlier rows' items of the last pass, until
nothing changes. After n passes at least the first n rows of each user are final, so the result is
the same as that of drawing one row after another. In practice a few passes are enough.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.synthetic.mixed.pools import Pools
from torchrec_priors.synthetic.randomness import Stream, counter_of, uniform
from torchrec_priors.synthetic.rows import Rows

# The turns in which a row draws from its pool. In as many further turns, it draws from the whole
# catalogue. If the user has seen all of these items, the last one is repeated.
TURNS = 32


@dataclass(frozen=True)
class Drawn:
    """The items of all rows.

    Attributes:
        position: The position of each row's item in the catalogue, [R].
        gave_up: Whether the item was drawn from the whole catalogue because the user had seen all
            items that were drawn from the pool, [R].
    """

    position: np.ndarray
    gave_up: np.ndarray


def draw_unseen(pools: Pools, whole: int, rows: Rows, pool: np.ndarray) -> Drawn:
    """Draws an item for each row.

    Args:
        pools: The pools.
        whole: The number of the pool with the whole catalogue.
        rows: The rows.
        pool: The number of the pool of each row, [R].
    """
    draws = _Draws(pools, whole, rows, pool)
    every = np.arange(len(pool))
    first = draws.at(every, 0)
    position = first.copy()
    turn = np.zeros(len(pool), np.int64)

    # A user takes part in a pass if an item of the user changed in the last one.
    active = every
    while len(active):
        seen = _Seen(pools, rows.user[active], active, position[active])
        drawn = first[active]
        turns = np.zeros(len(active), np.int64)
        pending = np.flatnonzero(seen.before(rows.user[active], active, drawn))
        for number in range(1, 2 * TURNS):
            if not len(pending):
                break
            row = active[pending]
            drawn[pending] = draws.at(row, number)
            turns[pending] = number
            pending = pending[seen.before(rows.user[row], row, drawn[pending])]

        changed = np.zeros(len(rows.keys), bool)
        changed[rows.user[active[drawn != position[active]]]] = True
        position[active] = drawn
        turn[active] = turns
        active = active[changed[rows.user[active]]]

    return Drawn(position, turn >= TURNS)


@dataclass(frozen=True)
class _Draws:
    """The numbered draws of each row."""

    pools: Pools
    whole: int
    rows: Rows
    pool: np.ndarray

    def at(self, row: np.ndarray, turn: int) -> np.ndarray:
        """Returns the items that some rows draw in a turn."""
        at = uniform(self.rows.key[row], Stream.item, counter_of(self.rows.step[row], turn))
        pool = self.pool[row] if turn < TURNS else np.full(len(row), self.whole)
        return self.pools.draw(pool, at)


class _Seen:
    """The first row in which each user sees each item."""

    def __init__(
        self, pools: Pools, user: np.ndarray, row: np.ndarray, position: np.ndarray
    ) -> None:
        self.items = len(pools.weight)
        code = user * self.items + position

        # Rows rise, and the sort is stable, so the first of several equal codes is the first row.
        order = np.argsort(code, kind="stable")
        self.code = code[order]
        self.row = row[order]

    def before(self, user: np.ndarray, row: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Returns whether users see items before some of their rows."""
        code = user * self.items + position
        at = np.minimum(np.searchsorted(self.code, code), len(self.code) - 1)
        before: np.ndarray = (self.code[at] == code) & (self.row[at] < row)
        return before
