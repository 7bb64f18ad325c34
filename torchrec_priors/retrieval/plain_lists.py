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


class PlainLists:
    """A fitted plain baseline that is ready to find items for users.

    Attributes:
        context: plain baselines read whole histories, not their last items only.
        event_given: always False, as plain baselines have no heads for events.
    """

    context = 1
    event_given = False

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

    for user in range(users):
        # In the order that decides between equal scores. Of the items that equal the k-th highest
        # score, the first ones fill the list.
        score_I = score_BI[user][order_I]
        lowest = np.partition(score_I, items - kept)[items - kept]
        above = np.flatnonzero(score_I > lowest)
        equal = np.flatnonzero(score_I == lowest)[: kept - len(above)]

        place_k = np.concatenate([above[np.argsort(-score_I[above], kind="stable")], equal])
        score_Bk[user, :kept] = score_I[place_k]
        row_Bk[user, :kept] = order_I[place_k]

    row_Bk[np.isneginf(score_Bk)] = -1
    return row_Bk, score_Bk
