"""Gives interactions of one user at one time a new order every epoch, as the log has none.

A log in whole seconds has many (half of all neighbours in MovieLens), and the order in which they
happen to be stored is learned as if it meant something. The new order depends only on seed, epoch,
user and position, not on the rank or the row groups in memory.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.common.splitmix import GOLDEN, mix, of_epoch
from torchrec_priors.prepared.data_set import Columns, PreparedData, RowGroup

# Distinguishes these draws from other uses of the seed.
_TIES = 0x74696573


@dataclass(frozen=True)
class Ties:
    """The ties in the training parts of a data set's users.

    Attributes:
        training_end_U: number of items of each user that are trained on; the later ones stay in
            place.
    """

    data: PreparedData
    training_end_U: np.ndarray
    seed: int

    def shuffle(self, group: RowGroup, epoch: int, columns: Columns) -> None:
        """Shuffles the tied interactions of a row group's users.

        Args:
            columns: the row group's columns, `timestamps` among them; they are changed in place.
        """
        users = slice(group.first_user, group.first_user + group.users)
        length_U = self.data.lengths[users]
        first_U = np.cumsum(length_U) - length_U
        user_X = np.repeat(np.arange(group.users), length_U)
        end_X = (first_U + self.training_end_U[users])[user_X]

        # Whether an interaction is tied with the one before. The entry after the last is False.
        same_X = (np.diff(columns["timestamps"]) == 0) & (np.diff(user_X) == 0)
        tied_X = np.zeros(len(user_X) + 1, bool)
        tied_X[1:-1] = same_X & (np.arange(1, len(user_X)) < end_X[1:])

        # A run of ties begins at an interaction that is tied only with the one after it.
        chosen = np.flatnonzero(tied_X[:-1] | tied_X[1:])
        user = user_X[chosen]
        run = np.cumsum(~tied_X[chosen])

        # Sorted by run first, so interactions change places only within their run.
        key_U = of_epoch(np.arange(users.start, users.stop), self.seed ^ _TIES, epoch)
        draw = mix(key_U[user] + (chosen - first_U[user]).astype(np.uint64) * GOLDEN)
        order = chosen[np.lexsort((draw, run))]
        for values in columns.values():
            values[chosen] = values[order]
