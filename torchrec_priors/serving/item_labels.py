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
        items_L = np.bincount(categories.labels, minlength=len(words.groups)).tolist()
        items = len(categories.starts) - 1
        # The rest of a prior, such as "no genre", and a label of all items say nothing of an item.
        self._nouns = [
            words.noun(label) if 0 < count < items and not words.is_rest(label) else None
            for label, count in enumerate(items_L)
        ]

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
        """Whether no label says anything of an item."""
        return not any(self._nouns)

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
        found: Label | None = None
        for label in labels:
            noun = self._nouns[label]
            if noun is not None and (found is None or counts[label] > found.inside):
                found = Label(noun, counts[label])
        return found
