"""The output of the repeat head: how likely a repeat is, and which item would then be repeated.

Shapes: B histories, N positions of all histories, one history after another.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RepeatShares:
    """The output of the repeat head (`heads/repeat_head.py`) for B histories with N positions.

    Attributes:
        logit_B: for each history, the logit of the probability that the target is a repeat.
        log_share_N: for each position, the logarithm of its share of the head's attention. If the
            target is a repeat, the probability of an item is the sum of its positions' shares.
        length_B: the number of positions of each history.
    """

    logit_B: Tensor
    log_share_N: Tensor
    length_B: Tensor

    def first(self, users: int) -> "RepeatShares":
        """Returns the shares of the first `users` histories."""
        length_B = self.length_B[:users]
        return RepeatShares(self.logit_B[:users], self.log_share_N[: int(length_B.sum())], length_B)

    @classmethod
    def joined(cls, parts: "list[RepeatShares]") -> "RepeatShares":
        """Returns the shares of several batches as those of one batch."""
        return cls(
            torch.cat([part.logit_B for part in parts]),
            torch.cat([part.log_share_N for part in parts]),
            torch.cat([part.length_B for part in parts]),
        )
