"""The synthetic catalogue.

Its items are in leaves of the category tree, with a price band, a style, and a Zipf popularity.

Items are kept in the order (leaf, band, style). So everything that a user may look for is a range
of positions: a level-1 category, a leaf, a price band of a leaf, or one *cell* (items of the same
leaf, band and style). An item of a range is drawn by popularity with one search in the cumulative
weights.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from torchrec_priors.synthetic.categories import Leaf, leaves

BANDS = ("budget", "mid-range", "premium")
_STYLES = (
    "Retro", "Minimal", "Pastel", "Vintage", "Rustic", "Neon", "Classic", "Floral", "Industrial",
    "Boho", "Nordic", "Gothic", "Coastal", "Monochrome", "Art-deco", "Street", "Tropical",
    "Military", "Kawaii", "Preppy", "Galaxy", "Tartan", "Botanical", "Geometric",
)  # fmt: skip
# The popularity of the item of rank r is (r + 3)^-1.1 (Zipf-Mandelbrot).
_ZIPF = 1.1
_FLAT = 3.0
_ITEMS_A_CELL = 16
_MOST_STYLES = 64
# At least so many, on average. Small catalogues use a part of the tree, with each of its _TOPS.
_ITEMS_A_LEAF = 48
_TOPS = 10
_STREAM = 0x6361746C6F67  # distinguishes these draws from other uses of the seed


def items_for(rows: int) -> int:
    """Returns the size of the catalogue for a log of a number of rows: 0.25 rows^0.75.

    >>> [items_for(rows) for rows in (2_000, 200_000, 10_000_000)]
    [74, 2364, 44456]
    """
    return int(0.25 * rows**0.75)


@dataclass(frozen=True)
class Catalogue:
    """Items by position.

    Attributes:
        tree: Leaves in use, in tree order.
        leaf: Leaf of each item, ascending.
        band: Price band, ascending within a leaf.
        style: Number of the style, ascending within a band.
        item_id: Original ids: 1 to the number of items, in random order.
        weight: Popularity, positive. The sum is 1.
        price: Price in cents.
    """

    tree: tuple[Leaf, ...]
    leaf: np.ndarray
    band: np.ndarray
    style: np.ndarray
    item_id: np.ndarray
    weight: np.ndarray
    price: np.ndarray

    @classmethod
    def make(cls, items: int, seed: int) -> "Catalogue":
        """Returns the catalogue of a size and a seed.

        The order of the draws below is part of the result: another order is another catalogue.
        """
        random = np.random.Generator(np.random.Philox(key=[seed, _STREAM]))
        tree = _used_leaves(max(_TOPS, min(len(leaves()), items // _ITEMS_A_LEAF)))

        # Leaves differ in demand. Each of them has at least one item.
        demand = (1.0 + np.arange(len(tree))) ** -0.5
        demand = random.permutation(demand / demand.sum())
        leaf = np.concatenate(
            [np.arange(len(tree)), random.choice(len(tree), items - len(tree), p=demand)]
        )

        # A small leaf has fewer bands and styles, so cells have about the same size everywhere.
        size = np.bincount(leaf, minlength=len(tree))
        bands = np.clip(size // _ITEMS_A_CELL, 1, len(BANDS))[leaf]
        styles = np.clip(size // (_ITEMS_A_CELL * len(BANDS)), 1, _MOST_STYLES)[leaf]
        band = (random.random(items) * bands).astype(np.int64) + (len(BANDS) - bands) // 2
        style = (random.random(items) * styles).astype(np.int64)
        order = np.lexsort((style, band, leaf))

        # Popularity does not depend on the leaf. Prices do, and they rise with the band.
        weight = random.permutation((1.0 + _FLAT + np.arange(items)) ** -_ZIPF)
        level = 500 * 2.0 ** (2 * random.random(len(tree)))[leaf] * 4.0**band
        price = np.round(level * 2.0 ** (random.random(items) - 0.5)).astype(np.int64)

        return cls(
            tree=tree,
            leaf=leaf[order],
            band=band[order],
            style=style[order],
            item_id=1 + random.permutation(items),
            weight=weight / weight.sum(),
            price=price[order],
        )

    @cached_property
    def cumulative(self) -> np.ndarray:
        """[items + 1]: total weight of the items before a position."""
        return np.concatenate([[0.0], np.cumsum(self.weight)])

    def pick(self, first: np.ndarray | int, last: np.ndarray | int, at: np.ndarray) -> np.ndarray:
        """Returns the position of an item of [first, last), drawn by popularity.

        Args:
            first, last: Range of positions.
            at: Uniform random number in [0, 1).
        """
        low = self.cumulative[first]
        high = self.cumulative[last]
        position = np.searchsorted(self.cumulative, low + at * (high - low), side="right") - 1

        # Rounding may lead just outside the range.
        return np.clip(position, first, np.asarray(last) - 1)

    @cached_property
    def leaf_bounds(self) -> np.ndarray:
        """[leaves + 1]: first position of each leaf, and the number of items."""
        return np.searchsorted(self.leaf, np.arange(len(self.tree) + 1))

    @cached_property
    def band_bounds(self) -> np.ndarray:
        """[leaves * bands + 1]: first position of each (leaf, band), and the number of items."""
        code = self.leaf * len(BANDS) + self.band
        return np.searchsorted(code, np.arange(len(self.tree) * len(BANDS) + 1))

    @cached_property
    def top_of_leaf(self) -> np.ndarray:
        """[leaves]: number of the level-1 category of each leaf."""
        names = [leaf.level1 for leaf in self.tree]
        return np.cumsum([0, *(a != b for a, b in itertools.pairwise(names))])

    @cached_property
    def top_bounds(self) -> np.ndarray:
        """[level-1 categories + 1]: first position of each, and the number of items."""
        return self.leaf_bounds[
            np.searchsorted(self.top_of_leaf, np.arange(self.top_of_leaf[-1] + 2))
        ]

    @cached_property
    def cell_of(self) -> np.ndarray:
        """[items]: number of each item's cell."""
        # Items are sorted by this code: a cell begins where it changes.
        code = (self.leaf * len(BANDS) + self.band) * _MOST_STYLES + self.style
        return np.cumsum(np.concatenate([[0], np.diff(code) != 0])).astype(np.int64)

    @cached_property
    def cell_bounds(self) -> np.ndarray:
        """[cells + 1]: first position of each cell, and the number of items."""
        return np.searchsorted(self.cell_of, np.arange(self.cell_of[-1] + 2))

    def titles(self) -> list[str]:
        """Returns the titles, by position."""
        nouns = [node.noun for node in self.tree]
        titles = []
        for style, leaf, band, number in zip(
            self.style.tolist(),
            self.leaf.tolist(),
            self.band.tolist(),
            self.item_id.tolist(),
            strict=True,
        ):
            name = _style_name(style, leaf)
            titles.append(f"{name} {nouns[leaf]}, {BANDS[band]}, no. {number}")
        return titles

    def table(self) -> pa.Table:
        """Returns `items.parquet`: one row for each item, by id."""
        order = np.argsort(self.item_id)
        leaf = self.leaf[order]
        numbers = self.item_id[order]

        def names(level: str) -> pa.Array:
            values = pa.array([getattr(node, level) for node in self.tree])
            return values.dictionary_encode().take(pa.array(leaf))

        return pa.table(
            {
                "item_id": pa.array(numbers, pa.int64()),
                "title": pa.array(self.titles()).take(pa.array(order)),
                "category": names("level1"),
                "category2": names("level2"),
                "category3": names("level3"),
                "price": pa.array(self.price[order], pa.int64()),
            }
        )


def _used_leaves(count: int) -> tuple[Leaf, ...]:
    """Returns `count` leaves spread evenly over the tree, in its order."""
    every = leaves()
    return tuple(every[number * len(every) // count] for number in range(count))


def _style_name(style: int, leaf: int) -> str:
    """Returns the name of a style.

    The list begins elsewhere for every leaf: leaves of a single style have different ones.
    """
    turn, place = divmod(style, len(_STYLES))
    name = _STYLES[(place + 5 * leaf) % len(_STYLES)]
    return name if turn == 0 else f"{name} {turn + 1}"
