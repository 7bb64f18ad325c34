"""The section `[loss]`: weights of Eq. 8."""

from dataclasses import dataclass

from torchrec_priors.settings.ranges import (
    Amount,
    PositiveShare,
    Section,
    Share,
    check_ranges,
)


@dataclass
class LossConfig(Section):
    """Weights of the loss (Eq. 8).

    Attributes:
        gamma: discount per offset.
        balance: w_k = (share of training positives of path k) ^ balance, normalised: 1 is the
            paper's frequency balancing, 0 gives every path the same weight.
        gate: weight of the gate's loss, added to Eq. 8. The gate learns which groups come next, and
            `evaluation.calibrated` needs it; 0 for a model without a gate.
    """

    gamma: PositiveShare = 0.99
    balance: Share = 1.0
    gate: Amount = 0.0

    def check(self) -> None:
        """Raises UserError if a value is out of its range."""
        check_ranges(self, "loss")
