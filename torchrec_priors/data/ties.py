"""Interactions of one user at one time, whose order the log does not know, in a new order every epoch.

A log in whole seconds has many (half of all neighbours in MovieLens), and the order in which they happen to be stored
is learned as if it meant something. The new one follows from seed, epoch, user and place alone, whatever the rank or
the row groups in memory.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.common.splitmix import GOLDEN, mix, of_epoch
from torchrec_priors.prepared.data_set import Columns, PreparedData, RowGroup

_TIES = 0x74696573  # tells these draws from other uses of the seed


@dataclass(frozen=True)
class Ties:
    """Of the training parts of a data set's users.

    Attributes:
        training_end_U: how many items of each user are trained on; the later ones stay where they are.
    """

    data: PreparedData
    training_end_U: np.ndarray
    seed: int

    def shuffle(self, group: RowGroup, epoch: int, columns: Columns) -> None:
        """Gives tied interactions of a row group's users new places in its columns, `timestamps` among them."""
        users = slice(group.first_user, group.first_user + group.users)
        length_U = self.data.lengths[users]
        first_U = np.cumsum(length_U) - length_U
        user_X = np.repeat(np.arange(group.users), length_U)
        end_X = (first_U + self.training_end_U[users])[user_X]
        same_X = (np.diff(columns["timestamps"]) == 0) & (np.diff(user_X) == 0)
        tied_X = np.zeros(len(user_X) + 1, bool)  # with the one before
        tied_X[1:-1] = same_X & (np.arange(1, len(user_X)) < end_X[1:])
        chosen = np.flatnonzero(tied_X[:-1] | tied_X[1:])
        user = user_X[chosen]
        run = np.cumsum(~tied_X[chosen])
        key_U = of_epoch(np.arange(users.start, users.stop), self.seed ^ _TIES, epoch)
        draw = mix(key_U[user] + (chosen - first_U[user]).astype(np.uint64) * GOLDEN)
        order = chosen[np.lexsort((draw, run))]
        for values in columns.values():
            values[chosen] = values[order]
