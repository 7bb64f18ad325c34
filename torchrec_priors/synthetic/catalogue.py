"""The synthetic catalogue.

Each item has a leaf of the category tree, a price band, a style, and a popularity. Popularities
follow Zipf's law.

Items are sorted by leaf, band and style. So everything that a user may look for is a range of
positions: a level-1 category, a leaf, a price band of a leaf, or a *cell* (the items with the same
leaf, band and style). Drawing an item of a range by popularity takes a single search in the
cumulative weights.
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
# The minimum average number of items in a leaf. A small catalogue therefore uses only some leaves
# of the tree, but at least one for each of the _TOPS level-1 categories.
_ITEMS_A_LEAF = 48
_TOPS = 10
_STREAM = 0x6361746C6F67  # distinguishes these draws from other uses of the seed


def items_for(rows: int) -> int:
    """Returns the number of items in the catalogue of a log: 0.25 rows^0.75.

    >>> [items_for(rows) for rows in (2_000, 200_000, 10_000_000)]
    [74, 2364, 44456]
    """
    return int(0.25 * rows**0.75)


@dataclass(frozen=True)
class Catalogue:
    """The items of a catalogue; arrays have one entry for each item, by position.

    Attributes:
        tree: The leaves that have items, in the order of the tree.
        leaf: The index in `tree` of the item's leaf, ascending.
        band: The item's price band, ascending within a leaf.
        style: The number of the item's style, ascending within a band.
        item_id: The item's original id: 1 to the number of items, in random order.
        weight: The item's popularity, which is positive. The sum over all items is 1.
        price: The item's price in cents.
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
        """Makes a catalogue with `items` items.

        The draws below must stay in this order: in another order, the same seed would give a
        different catalogue.
        """
        random = np.random.Generator(np.random.Philox(key=[seed, _STREAM]))
        tree = _used_leaves(max(_TOPS, min(len(leaves()), items // _ITEMS_A_LEAF)))

        # Leaves differ in demand. Each leaf has at least one item.
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
        """[items + 1]: the total weight of the items before each position."""
        return np.concatenate([[0.0], np.cumsum(self.weight)])

    def pick(self, first: np.ndarray | int, last: np.ndarray | int, at: np.ndarray) -> np.ndarray:
        """Draws items by popularity, each from a range of positions.

        Args:
            first, last: The first position of each range, and the position after its last one.
            at: A uniform random number in [0, 1) for each draw.

        Returns:
            The positions of the items.
        """
        low = self.cumulative[first]
        high = self.cumulative[last]
        position = np.searchsorted(self.cumulative, low + at * (high - low), side="right") - 1

        # Because of rounding, a position may be just outside its range.
        return np.clip(position, first, np.asarray(last) - 1)

    @cached_property
    def leaf_bounds(self) -> np.ndarray:
        """[leaves + 1]: the first position of each leaf, and at the end the number of items."""
        return np.searchsorted(self.leaf, np.arange(len(self.tree) + 1))

    @cached_property
    def band_bounds(self) -> np.ndarray:
        """[leaves * bands + 1]: the first position of each band of each leaf.

        The last entry is the number of items.
        """
        code = self.leaf * len(BANDS) + self.band
        return np.searchsorted(code, np.arange(len(self.tree) * len(BANDS) + 1))

    @cached_property
    def top_of_leaf(self) -> np.ndarray:
        """[leaves]: the number of each leaf's level-1 category."""
        names = [leaf.level1 for leaf in self.tree]
        return np.cumsum([0, *(a != b for a, b in itertools.pairwise(names))])

    @cached_property
    def top_bounds(self) -> np.ndarray:
        """[level-1 categories + 1]: the first position of each category.

        The last entry is the number of items.
        """
        return self.leaf_bounds[
            np.searchsorted(self.top_of_leaf, np.arange(self.top_of_leaf[-1] + 2))
        ]

    @cached_property
    def cell_of(self) -> np.ndarray:
        """[items]: the number of each item's cell."""
        # Items are sorted by this code, so a cell begins where the code changes.
        code = (self.leaf * len(BANDS) + self.band) * _MOST_STYLES + self.style
        return np.cumsum(np.concatenate([[0], np.diff(code) != 0])).astype(np.int64)

    @cached_property
    def cell_bounds(self) -> np.ndarray:
        """[cells + 1]: the first position of each cell, and at the end the number of items."""
        return np.searchsorted(self.cell_of, np.arange(self.cell_of[-1] + 2))

    def titles(self) -> list[str]:
        """Returns the title of each item, by position."""
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
        """Returns the content of `items.parquet`: one row for each item, in the order of ids."""
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
    """Returns `count` leaves that are spread evenly over the tree, in the order of the tree."""
    all_leaves = leaves()
    return tuple(all_leaves[number * len(all_leaves) // count] for number in range(count))


def _style_name(style: int, leaf: int) -> str:
    """Returns the name of a style.

    Each leaf begins at a different place in the list of names, so that neighbouring leaves with
    only one style do not have the same style.
    """
    turn, index = divmod(style, len(_STYLES))
    name = _STYLES[(index + 5 * leaf) % len(_STYLES)]
    return name if turn == 0 else f"{name} {turn + 1}"
