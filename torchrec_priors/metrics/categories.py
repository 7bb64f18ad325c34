"""Groups of items as numpy arrays, for counting."""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.data.labels import compress
from torchrec_priors.data.prepared import PreparedData


@dataclass(frozen=True)
class Categories:
    """Labels of an item prior.

    Attributes:
        name: the prior's name.
        groups: names by group number.
        starts, labels: the groups of all items (see `compress`).
    """

    name: str
    groups: list[str]
    starts: np.ndarray
    labels: np.ndarray

    @classmethod
    def from_pairs(cls, name: str, groups: list[str], item: np.ndarray, group: np.ndarray, items: int) -> "Categories":
        return cls(name, groups, *compress(item, group, items))

    @classmethod
    def of_prior(cls, data: PreparedData, name: str) -> "Categories":
        """Those of an item prior of the data set."""
        pairs = data.prior_pairs(name, "item")
        return cls.from_pairs(name, data.manifest.prior(name).groups, *pairs, data.items)

    def expand(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(index into items, group) for every group of every item."""
        counts = self.starts[items + 1] - self.starts[items]
        index = np.repeat(np.arange(len(items)), counts)
        within = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
        return index, self.labels[np.repeat(self.starts[items], counts) + within]

    def count(self, row: np.ndarray, items: np.ndarray, rows: int) -> np.ndarray:
        """[rows, groups]: how many of the items that belong to a row are in each group."""
        index, group = self.expand(items)
        cell = row[index] * len(self.groups) + group
        return np.bincount(cell, minlength=rows * len(self.groups)).reshape(rows, len(self.groups))
