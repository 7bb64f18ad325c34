"""The queries of all paths for a batch of users, and the probabilities of item sets and repeats.

An item set contains the items that a path may retrieve.

Shapes: B users, K paths, d width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.heads.repeat_shares import RepeatShares


@dataclass(frozen=True)
class PathQueries:
    """The queries of all paths for a batch of users.

    Attributes:
        query_BKd: queries, scaled and normalised for scoring.
        log_group_BK: logarithm of the probability that a target belongs to the path's item set.
            With a joint softmax, it is the logit that is added to the scores of the path. 0 if the
            model has no gate.
        repeats: the probabilities of repeats; None if the model has no repeat head.
    """

    query_BKd: Tensor
    log_group_BK: Tensor
    repeats: RepeatShares | None = None

    def __len__(self) -> int:
        return len(self.query_BKd)

    def first(self, users: int) -> "PathQueries":
        """Returns the queries of the first `users` users."""
        repeats = None if self.repeats is None else self.repeats.first(users)
        return PathQueries(self.query_BKd[:users], self.log_group_BK[:users], repeats)

    @classmethod
    def joined(cls, parts: "list[PathQueries]") -> "PathQueries":
        """Returns the queries of several batches as one batch."""
        if len(parts) == 1:
            return parts[0]
        repeats = [part.repeats for part in parts if part.repeats is not None]
        return cls(
            torch.cat([part.query_BKd for part in parts]),
            torch.cat([part.log_group_BK for part in parts]),
            RepeatShares.joined(repeats) if repeats else None,
        )
