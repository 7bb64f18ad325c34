"""Trending: an item is scored by its interactions in the last hours before a user's last one.

If t is the time of the last interaction of the history, the score of an item is the number of
interactions with it, of all users, from t - `hours` to t, both included. Items that are equally
frequent, including all items that nobody had in these hours, are ranked by their popularity.

Only interactions of the training part are counted, and none after t. So everything that is counted
is known before the targets:

- If each history is split separately (`--split user`), the training parts of other users reach
  beyond t. Their interactions until t are counted, because they precede the targets in time. The
  validation and test parts of other users may begin before t; they are never counted.
- If the log is split in time (`--split time`), the training part ends at the same time for all
  users. For the test split, t may be later; the end of the window is then empty.

Shapes: B users of a batch, I items, N interactions.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import UserError
from torchrec_priors.plain.log import Log
from torchrec_priors.settings.ranges import PositiveAmount, Section

_MS_PER_HOUR = 3_600_000


@dataclass
class Options(Section):
    """The options of trending.

    Attributes:
        hours: the length of the window before the user's last interaction.
    """

    hours: PositiveAmount = 1.0


class Trending:
    """All interactions in order of time, in which windows are counted."""

    columns = ("timestamps",)

    def __init__(self, time_N: np.ndarray, item_N: np.ndarray, items: int, length: int) -> None:
        """
        Args:
            time_N: the times in ms, ascending.
            item_N: the items.
            items: I.
            length: the length of the window in ms.
        """
        self._time_N = time_N
        self._item_N = item_N
        self._items = items
        self._length = length
        self.numbers = 2 * len(item_N)

    def scores(self, users: Histories) -> np.ndarray:
        """Returns the counts, [B, I].

        The window of a user without a history ends with the training part.
        """
        last_B = np.full(len(users), self._time_N[-1])
        has_last_B = users.lengths > 0
        last_B[has_last_B] = users.columns["timestamps"][np.cumsum(users.lengths)[has_last_B] - 1]

        first_B = np.searchsorted(self._time_N, last_B - self._length, side="left")
        end_B = np.searchsorted(self._time_N, last_B, side="right")
        scores = np.zeros((len(users), self._items))
        for user, (first, end) in enumerate(zip(first_B, end_B, strict=True)):
            scores[user] = np.bincount(self._item_N[first:end], minlength=self._items)
        return scores


def load(options: Options, log: Log) -> Trending:
    """Sorts the interactions of all users by time.

    Raises:
        UserError: the log has no times.
    """
    time_N = log.times()
    if time_N is None:
        raise UserError(
            f"plain.name = 'trending' needs times, which data set '{log.data.manifest.name}' does "
            "not have: use popularity, with plain.options.recent for the last part of each history"
        )

    order_N = np.argsort(time_N, kind="stable")
    length = round(options.hours * _MS_PER_HOUR)
    return Trending(time_N[order_N], log.item_N[order_N], log.items, length)
