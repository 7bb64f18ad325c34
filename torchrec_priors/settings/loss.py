"""The section `[loss]`: weights of Eq. 8."""

from dataclasses import dataclass

from torchrec_priors.errors import UserError


@dataclass
class LossConfig:
    """Weights of the loss (Eq. 8).

    Attributes:
        gamma: discount per offset, in (0, 1].
        balance: w_k = (share of training positives of path k) ^ balance, normalised: 1 is the paper's frequency
            balancing, 0 gives every path the same weight.
        gate: weight of the gate's loss beside Eq. 8; 0 for a model without a gate, which cannot be calibrated.
    """

    gamma: float = 0.99
    balance: float = 1.0
    gate: float = 0.0

    def check(self) -> None:
        if not 0 < self.gamma <= 1:
            raise UserError(f"loss.gamma = {self.gamma} must be in (0, 1]")
        if not 0 <= self.balance <= 1:
            raise UserError(f"loss.balance = {self.balance} must be in [0, 1]")
        if self.gate < 0:
            raise UserError(f"loss.gate = {self.gate} must not be negative")
