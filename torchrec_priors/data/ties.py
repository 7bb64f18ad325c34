"""Shuffles ties in every epoch.

Ties are interactions of one user at the same time, which have no order. In MovieLens, with times in
whole seconds, half of all neighbouring interactions are ties. Without shuffling, a model learns the
order in which they happen to be stored. The new order depends only on seed, epoch, user and
position, not on the rank or on the row groups in memory.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.common.splitmix import GOLDEN, mix, of_epoch
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.users import Columns, RowGroup

# Distinguishes these draws from other uses of the seed.
_TIES = 0x74696573


@dataclass(frozen=True)
class Ties:
    """Shuffles the ties in the training part of each history.

    Attributes:
        data: the prepared data set.
        training_end_U: for each user, the index at which the items for training end. Later items
            are not shuffled.
        seed: the seed of the training run.
    """

    data: PreparedData
    training_end_U: np.ndarray
    seed: int

    def shuffle(self, group: RowGroup, epoch: int, columns: Columns) -> None:
        """Shuffles the tied interactions of a row group's users.

        Args:
            group: the row group.
            epoch: the index of the epoch.
            columns: the columns of the row group, including `timestamps`; they are changed in
                place.
        """
        users = slice(group.first_user, group.first_user + group.users)
        length_U = self.data.lengths[users]
        first_U = np.cumsum(length_U) - length_U
        user_X = np.repeat(np.arange(group.users), length_U)
        end_X = (first_U + self.training_end_U[users])[user_X]

        # `tied_X` says whether an interaction is tied with the one before. Its last entry, False,
        # is for the end.
        same_X = (np.diff(columns["timestamps"]) == 0) & (np.diff(user_X) == 0)
        tied_X = np.zeros(len(user_X) + 1, bool)
        tied_X[1:-1] = same_X & (np.arange(1, len(user_X)) < end_X[1:])

        # `chosen` has all interactions in ties. A run of ties begins where an interaction is not
        # tied with the one before.
        chosen = np.flatnonzero(tied_X[:-1] | tied_X[1:])
        user = user_X[chosen]
        run = np.cumsum(~tied_X[chosen])

        # Interactions are sorted by run, and within a run by a random number.
        key_U = of_epoch(np.arange(users.start, users.stop), self.seed ^ _TIES, epoch)
        draw = mix(key_U[user] + (chosen - first_U[user]).astype(np.uint64) * GOLDEN)
        order = chosen[np.lexsort((draw, run))]
        for values in columns.values():
            values[chosen] = values[order]
