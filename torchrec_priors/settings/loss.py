"""The section `[loss]`: the weights of the terms of the loss (Eq. 8)."""

from dataclasses import dataclass
from typing import Literal

from torchrec_priors.settings.ranges import (
    Amount,
    PositiveShare,
    Section,
    Share,
    check_ranges,
)


@dataclass
class LossConfig(Section):
    """The weights of the terms of the loss (Eq. 8).

    Attributes:
        gamma: the factor by which the weight of a target decreases with each further offset.
        balance: the exponent of the paths' weights. Path k has the weight w_k = (its share of the
            training positives) ^ balance, and all weights are normalised. 1 is the paper's
            frequency balancing; 0 gives every path the same weight. A joint softmax has no such
            weights: every target counts once.
        gate: the weight of the gate's loss, which is added to Eq. 8. The gate learns which groups
            come next. `evaluation.calibrated` needs it. 0 gives a model without a gate.
        softmax: `in_group` (Eq. 7: a positive competes with the items of its own group) or `joint`
            (with the items of all groups, each scored by the query of its own group; each item must
            have one group). With `joint`, the gate's logits are added to the scores, and learned
            in the same softmax: any `gate` above 0 turns them on.
    """

    gamma: PositiveShare = 0.99
    balance: Share = 1.0
    gate: Amount = 0.0
    softmax: Literal["in_group", "joint"] = "in_group"

    def check(self) -> None:
        """Raises UserError if a value is out of its range."""
        check_ranges(self, "loss")
