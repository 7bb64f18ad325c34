"""What the repeat head says about histories: how likely a repeat is, and which item it is.

Shapes: B histories, N positions of all histories, one history after another.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RepeatShares:
    """What the repeat head says about B histories of N items in all (`heads/repeat_head.py`).

    Attributes:
        logit_B: the logit of the probability that a target is a repeat.
        log_share_N: for each position, the logarithm of its share of the repeats.
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
        """Concatenates the shares of several batches into one."""
        return cls(
            torch.cat([part.logit_B for part in parts]),
            torch.cat([part.log_share_N for part in parts]),
            torch.cat([part.length_B for part in parts]),
        )
