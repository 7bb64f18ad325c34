"""Counts how often a target is found, by how soon it comes.

Shapes: B users, k items found, T offsets.
"""

from dataclasses import dataclass, field

import numpy as np

from torchrec_priors.data.histories import Histories
from torchrec_priors.retrieval.search_types import Found


@dataclass
class ByOffset:
    """Sums over the targets of each offset.

    Attributes:
        k: the length of lists.
        targets_T: the number of targets at each offset; the next item is at offset 0.
        hits_T: the number of those that are in the list.
    """

    k: int
    targets_T: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    hits_T: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def recall_T(self) -> np.ndarray:
        """The share of the targets of each offset that are in the list."""
        return self.hits_T / np.maximum(self.targets_T, 1)

    def update(self, users: Histories, found: Found) -> None:
        """Adds the targets of a batch of users.

        Args:
            users: the users with their targets, in the order of the log.
            found: the items found, best first; at least k.
        """
        row_Bk = found.row_Bk[:, : self.k].numpy()
        longest = int(users.target_lengths.max(initial=0))
        more = max(0, longest - len(self.targets_T))
        self.targets_T = np.pad(self.targets_T, (0, more))
        self.hits_T = np.pad(self.hits_T, (0, more))

        bounds = np.cumsum(users.target_lengths)
        for user, target_M in enumerate(np.split(users.targets, bounds[:-1])):
            self.targets_T[: len(target_M)] += 1
            self.hits_T[: len(target_M)] += np.isin(target_M, row_Bk[user])
