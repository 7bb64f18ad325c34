"""Turns the scores of a plain baseline into lists of items, as `Finder` does for a neural model.

Shapes: B users, I items, k results.
"""

import numpy as np
import torch

from torchrec_priors.data.histories import Histories
from torchrec_priors.plain.plain import Plain
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.retrieval.diversify import CANDIDATES, Diversifier
from torchrec_priors.retrieval.search_types import Found
from torchrec_priors.settings.evaluation import RetrievalConfig

_SAMPLE = 256  # the number of items whose scores are looked at to guess which are high


class PlainLists:
    """A fitted plain baseline that is ready to find items for users.

    Attributes:
        context: plain baselines read whole histories, not their last items only.
        event_given: always False, as plain baselines have no heads for events.
        threads: always 1: the scores of a batch are a large array.
    """

    context = 1
    event_given = False
    threads = 1

    def __init__(
        self, plain: Plain, order_I: np.ndarray, config: RetrievalConfig, data: PreparedData, k: int
    ) -> None:
        """
        Args:
            plain: the baseline.
            order_I: all items, the most popular first: the order of items with equal scores.
            config: the settings of the search; `filter_seen`, `batch` and `diversify` are used.
            k: the number of items for each user.
        """
        self._plain = plain
        self._order_I = order_I
        self._filter_seen = config.filter_seen
        self._k = k
        self._searched = k
        self._diversifier = None
        if config.diversify:
            self._searched = max(k, CANDIDATES)
            self._diversifier = Diversifier.of(data, config.diversify, torch.device("cpu"))

    def find(self, users: Histories) -> tuple[Found, None]:
        """Finds the best items of each user; there are no lists for given events."""
        score_BI = self._plain.scores(users)
        if self._filter_seen:
            user_X = np.repeat(np.arange(len(users)), users.seen_lengths)
            score_BI[user_X, users.seen] = -np.inf

        row_Bk, score_Bk = best(score_BI, self._order_I, self._searched)
        path_Bk = torch.zeros(row_Bk.shape, dtype=torch.int64)
        found = Found(torch.from_numpy(row_Bk), torch.from_numpy(score_Bk).float(), path_Bk)
        if self._diversifier is not None:
            found = self._diversifier.rerank(found).first(self._k)
        return found, None


def best(score_BI: np.ndarray, order_I: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k items with the highest scores.

    Args:
        score_BI: the scores; -inf for items that must not be found.
        order_I: all items; of items with equal scores, those that are earlier in it come first.
        k: the number of items; it may be larger than I.

    Returns:
        (rows, scores), [B, k] each, best first; -1 and -inf after the end of a shorter list.
    """
    users, items = score_BI.shape
    row_Bk = np.full((users, k), -1)
    score_Bk = np.full((users, k), -np.inf)
    kept = min(k, items)
    place_I = np.empty(items, np.int64)
    place_I[order_I] = np.arange(items)

    for user in range(users):
        rows = _best_of_one(score_BI[user], order_I, place_I, kept)
        row_Bk[user, :kept] = rows
        score_Bk[user, :kept] = score_BI[user, rows]

    row_Bk[np.isneginf(score_Bk)] = -1
    return row_Bk, score_Bk


def _best_of_one(
    score_I: np.ndarray, order_I: np.ndarray, place_I: np.ndarray, k: int
) -> np.ndarray:
    """Returns the k best items of one user, best first; `place_I` is the inverse of `order_I`."""
    # Only items above a pivot are sorted: most scores are low, and often most are equal.
    pivot = _pivot(score_I, k)
    found = np.flatnonzero(score_I > pivot)
    missing = k - len(found)
    if missing > 0:
        equal = np.flatnonzero(score_I[order_I] == pivot)[:missing]
        found = np.concatenate([found, order_I[equal]])
        if len(equal) < missing:
            found = order_I  # the pivot was too high, so all items are searched

    score = score_I[found]
    if len(found) > k:
        lowest = np.partition(score, len(found) - k)[len(found) - k]
        found = found[score >= lowest]
        score = score_I[found]
    best_first = np.lexsort((place_I[found], -score))
    rows: np.ndarray = found[best_first[:k]]
    return rows


def _pivot(score_I: np.ndarray, k: int) -> float:
    """Returns a score that, judging by a sample, about twice as many items exceed as are needed."""
    sample = score_I[:: max(1, len(score_I) // _SAMPLE)]
    exceeding = min(0.5, 2 * k / len(score_I))
    index = int((1 - exceeding) * (len(sample) - 1))
    pivot: float = np.partition(sample, index)[index]
    return pivot
