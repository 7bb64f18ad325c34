"""Sets of items from which items are drawn by popularity."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np


class Pools:
    """Numbered sets of items, which may overlap.

    Shapes: I items, P pools, M items of all pools together.

    Attributes:
        bounds: The first entry of each pool in `items`, and at the end M, [P + 1].
        items: The positions of each pool's items, one pool after another, [M].

    Args:
        weight: The popularity of each item of the catalogue, which is positive, [I].
        pools: The positions of the items of each pool; none is empty.
    """

    def __init__(self, weight: np.ndarray, pools: Sequence[np.ndarray]) -> None:
        sizes = [len(pool) for pool in pools]
        assert all(sizes), "a pool is empty"
        self.weight = weight
        self.bounds = np.concatenate([[0], np.cumsum(sizes)])
        self.items = np.concatenate(pools)
        self._cumulative = np.concatenate([[0.0], np.cumsum(weight[self.items])])

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def draw(self, pool: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Draws items by popularity.

        Args:
            pool: The number of the pool of each draw.
            at: A uniform random number in [0, 1) for each draw.

        Returns:
            The positions of the items.
        """
        first = self.bounds[pool]
        last = self.bounds[pool + 1]
        low = self._cumulative[first]
        high = self._cumulative[last]
        entry = np.searchsorted(self._cumulative, low + at * (high - low), side="right") - 1

        # Because of rounding, an entry may be just outside its pool.
        drawn: np.ndarray = self.items[np.clip(entry, first, last - 1)]
        return drawn

    @cached_property
    def mass(self) -> np.ndarray:
        """[P]: the popularity of each pool's items together."""
        mass: np.ndarray = np.add.reduceat(self.weight[self.items], self.bounds[:-1])
        return mass

    def share(self, chosen: np.ndarray) -> np.ndarray:
        """[P]: the share of each pool's popularity that chosen items have.

        Args:
            chosen: Whether each item of the catalogue is chosen, [I].
        """
        weight = np.where(chosen, self.weight, 0.0)[self.items]
        share: np.ndarray = np.add.reduceat(weight, self.bounds[:-1]) / self.mass
        return share

    def spread(self, amount: np.ndarray) -> np.ndarray:
        """[I]: the sum over an item's pools of the pool's amount times the item's popularity.

        Args:
            amount: A number for each pool, [P].
        """
        amount_M = np.repeat(amount, np.diff(self.bounds))
        total = np.bincount(self.items, weights=amount_M, minlength=len(self.weight))
        spread: np.ndarray = total * self.weight
        return spread
