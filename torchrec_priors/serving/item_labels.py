"""What an item is, in the words of the data set, for reasons that do not follow from a head.

The labels are those of the category prior of the data set, such as genres. The heads of the model
need not have them.

Shapes: N items of a history, L labels.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from torchrec_priors.metrics.categories import Categories
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.serving.reasons import Label, LevelWords


class ItemLabels:
    """The labels of all items. Any thread may read them."""

    def __init__(self, words: LevelWords, categories: Categories) -> None:
        """
        Args:
            words: the names of the labels, and what they are called.
            categories: the labels of the items.
        """
        self.words = words
        self._categories = categories
        numbers = range(len(words.groups))
        # The rest of a prior, such as "no genre", says nothing about an item.
        self._nouns = [None if words.is_rest(one) else words.noun(one) for one in numbers]

    @classmethod
    def of(cls, data: PreparedData) -> "ItemLabels":
        """Reads the labels of a data set."""
        info = data.category_prior()
        words = LevelWords(info.name, info.kind, info.groups, info.words)
        return cls(words, Categories.of_prior(data, info.name))

    @classmethod
    def of_lists(cls, words: LevelWords, lists: pa.ListArray) -> "ItemLabels":
        """Makes them from the numbers of each item's labels (`lists`), as an export has them."""
        item = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
        label = lists.flatten().to_numpy()
        groups = list(words.groups)
        return cls(words, Categories.from_pairs(words.name, groups, item, label, len(lists)))

    def lists(self, rows: np.ndarray) -> pa.ListArray:
        """Returns the numbers of the labels of each item."""
        index, label = self._categories.expand(rows)
        offsets = np.searchsorted(index, np.arange(len(rows) + 1))
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(label, pa.int32()))

    @property
    def is_empty(self) -> bool:
        """Whether no item has a label that says something."""
        used = np.bincount(self._categories.labels, minlength=len(self._nouns)).tolist()
        return not any(noun and count for noun, count in zip(self._nouns, used, strict=True))

    def count(self, rows: np.ndarray) -> Sequence[int]:
        """Returns how many items of a history have each label, [L]."""
        counts: list[int] = self._categories.count(np.zeros_like(rows), rows, 1)[0].tolist()
        return counts

    def of_item(self, row: int, counts: Sequence[int]) -> Label | None:
        """Returns the label of an item that most items of the history have; None without labels.

        Args:
            row: the row id of the item.
            counts: what `count` returns for the history.
        """
        first, last = self._categories.starts[row : row + 2].tolist()
        labels = self._categories.labels[first:last].tolist()
        named = [(-counts[label], label) for label in labels if self._nouns[label] is not None]
        if not named:
            return None
        label = min(named)[1]
        return Label(str(self._nouns[label]), counts[label])
