"""Repeats: an item is scored by how often it occurs in the user's history (personal popularity).

The weight of an occurrence is 2^(-age / half_life), where the age is the number of later
interactions in the history: the weight is 1 for the last interaction, and a half for one that is a
half-life older. Without a half-life, all weights are 1. The score of an item is the sum of the
weights of its occurrences. Items that are not in the history are scored 0, below all others, so
they are ranked by their popularity.

Nothing is counted in the training part: two users with the same history get the same scores. The
lists are of items that users know, so seen items must not be filtered (`settings/plain.py` requires
`filter_seen = false`).

Shapes: B users of a batch, I items.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from torchrec_priors.data.histories import Histories
from torchrec_priors.plain.log import Log, occurrences
from torchrec_priors.settings.ranges import Amount, CountOrZero, Section

# The smallest weight of an occurrence, so that an item of the history never ties with others.
_LEAST = float(np.finfo(np.float64).tiny)


@dataclass
class Options(Section):
    """The options of repeats.

    Attributes:
        half_life: the number of later interactions that halve the weight of an occurrence; 0: all
            weights are equal.
        last: the number of last items of a history that are used; 0 for all.
    """

    half_life: Amount = 0.0
    last: CountOrZero = 0


class Repeats:
    """Weighted counts of the items of each history."""

    numbers = 0
    columns = ()

    def __init__(self, items: int, options: Options) -> None:
        self._items = items
        self._options = options

    def scores(self, users: Histories) -> np.ndarray:
        """Returns the weighted counts, [B, I]; 0 for items that are not in the history."""
        user_X, item_X, age_X = occurrences(users, self._options.last)
        weight_X = np.ones(len(age_X))
        if self._options.half_life:
            weight_X = np.maximum(np.exp2(-age_X / self._options.half_life), _LEAST)

        # Occurrences of the same item are added up.
        shape = (len(users), self._items)
        scores: np.ndarray = sparse.csr_matrix((weight_X, (user_X, item_X)), shape).toarray()
        return scores


def load(options: Options, log: Log) -> Repeats:
    """Returns the baseline, which needs nothing of the log but the number of items."""
    return Repeats(log.items, options)
