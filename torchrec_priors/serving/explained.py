"""Turns found items into recommendations with names, titles, reasons and scores of the heads.

Shapes: K paths, S item sets, L labels, C candidates, k items of a user.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.serving.catalogue import Catalogue
from torchrec_priors.serving.item_labels import ItemLabels
from torchrec_priors.serving.reasons import Facts, Reasons
from torchrec_priors.serving.request import Recommendation, Source


@dataclass(frozen=True)
class AskedFor:
    """The user to whom items are recommended, as far as reasons need it.

    Attributes:
        source: what answers: the model, or popularity.
        rows: the row ids of the history.
        known_levels: the levels of users of which the user's groups are known.
    """

    source: Source
    rows: np.ndarray
    known_levels: frozenset[int] = frozenset()


class Explainer:
    """Names items and heads. Any thread may call it."""

    def __init__(
        self, tree: PriorTree, catalogue: Catalogue, heads: list[str], data: PreparedData
    ) -> None:
        """
        Args:
            tree: the prior tree.
            catalogue: the items.
            heads: the names of all heads: those of the K paths and, if there is one, of the repeat
                head.
            data: the data set, which has the labels of items.
        """
        self._catalogue = catalogue
        self._heads = heads
        self._reasons = Reasons(tree)
        self._labels = ItemLabels.of(data) if self._reasons.name_labels else None
        self._item_set_K = tree.item_set_K
        self._paths = len(tree.item_set_K)

        # The item sets of an item are found by the groups of its row id, which are kept for all
        # items: 4 bytes for each item, and 4 for each of its sets.
        sets = tree.eligible(0, tree.items)
        item = np.concatenate(sets)
        order = np.argsort(item, kind="stable")
        numbers = np.repeat(np.arange(len(sets), dtype=np.int32), [len(rows) for rows in sets])
        self._set_of_entry = numbers[order]
        counts = np.bincount(item, minlength=tree.items)
        self._first_entry = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._paths_of_set = _paths_of_sets(tree)

    @property
    def lacks_labels(self) -> bool:
        """Whether reasons would name labels of items, but the data set has none."""
        return self._labels is not None and self._labels.is_empty

    def explained(
        self,
        rows: list[int],
        scores: list[float],
        paths: list[int],
        score_kK: Tensor | None,
        user: AskedFor,
    ) -> list[Recommendation]:
        """Returns the recommendations of one user.

        Args:
            rows: the row ids of the items, best first; -1 after the end of a shorter list.
            scores: their scores.
            paths: for each item, the path that contributed most; K for a repeat.
            score_kK: the scores of all paths; -inf if a path is closed to the user, or excluded by
                the request. None if nobody wants them, nor a reason.
            user: the user.
        """
        if rows and rows[-1] < 0:
            rows = rows[: rows.index(-1)]
        heads = [self._heads[path] for path in paths]
        columns = (self._catalogue.item_ids(rows), self._catalogue.titles_of(rows), scores, heads)
        if score_kK is None:
            return [Recommendation(*of_item, {}) for of_item in zip(*columns, strict=False)]

        of_paths = zip(rows, scores, paths, score_kK.tolist(), strict=False)
        of_heads = [self._by_name(*of_item) for of_item in of_paths]
        own = [by_name.get(head) for by_name, head in zip(of_heads, heads, strict=False)]
        reasons = self._in_words(rows, paths, user)
        parts = zip(*columns, of_heads, reasons, own, strict=False)
        return list(itertools.starmap(Recommendation, parts))

    def _in_words(self, rows: list[int], paths: list[int], user: AskedFor) -> list[str]:
        """Returns the reasons for items; the arguments are those of `explained`."""
        inside_S = None
        inside_L = None
        reasons = []
        for row, path in zip(rows, paths, strict=False):
            if path == self._paths:
                times = int((user.rows == row).sum())
                reasons.append(self._reasons.of_repeat(Facts(times=times)))
                continue
            sentence = self._reasons.sentence(path, user.source, user.known_levels)
            inside = 0
            if sentence.items:
                if inside_S is None:
                    inside_S = self._count(user.rows)
                inside = inside_S[self._item_set_K[path]]
            label = None
            if sentence.names_label and self._labels is not None:
                if inside_L is None:
                    inside_L = self._labels.count(user.rows)
                label = self._labels.of_item(row, inside_L)
            reasons.append(sentence.of_history(inside, len(user.rows), label))
        return reasons

    def _count(self, rows: np.ndarray) -> list[int]:
        """Returns for each item set how many items of a history are in it."""
        first_N = self._first_entry[rows]
        size_N = self._first_entry[rows + 1] - first_N
        # Entry e of item n is at first_N[n] + e.
        ends_N = np.cumsum(size_N)
        offset = np.arange(size_N.sum()) - np.repeat(ends_N - size_N, size_N)
        sets = self._set_of_entry[np.repeat(first_N, size_N) + offset]
        counts: list[int] = np.bincount(sets, minlength=len(self._paths_of_set)).tolist()
        return counts

    def _by_name(
        self, row: int, score: float, winner: int, of_paths: list[float]
    ) -> dict[str, float]:
        """Returns the scores of the paths that may retrieve an item for a user, by name."""
        # Only the repeat head gives an item of the history a score.
        if winner == self._paths:
            return {self._heads[self._paths]: score}
        return {
            self._heads[path]: of_paths[path]
            for path in self._paths_of(row)
            if of_paths[path] != -math.inf
        }

    def _paths_of(self, row: int) -> list[int]:
        """Returns the numbers of the paths that may retrieve an item, ascending."""
        sets = self._set_of_entry[self._first_entry[row] : self._first_entry[row + 1]]
        return [path for number in sets.tolist() for path in self._paths_of_set[number]]


def _paths_of_sets(tree: PriorTree) -> list[range]:
    """Returns the paths of each item set, which follow each other."""
    bounds = np.searchsorted(np.array(tree.item_set_K), np.arange(tree.item_sets + 1)).tolist()
    return [range(first, last) for first, last in itertools.pairwise(bounds)]
