"""The gate: for every item set, the probability that a target belongs to it, given the user's
state.

    P(target in set s | h) = sigmoid(w_s . h + b_s)

There is one decision for each set, as a target may belong to several sets; a set that holds every
target needs none. The gate learns together with the heads (`gate_loss`), and puts the in-group
softmaxes of different groups on one scale (`retrieval.fusion`).

Shapes: N states, d width, S item sets.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Gate(nn.Module):
    """d + 1 parameters for each item set; a probability starts at the set's share of training
    targets.
    """

    gated_S: Tensor

    def __init__(self, dim: int, gated_S: Tensor) -> None:
        """
        Args:
            gated_S: bool, whether a target may fall outside the set.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(gated_S), dim))
        self.bias = nn.Parameter(torch.zeros(len(gated_S)))
        self.register_buffer("gated_S", gated_S, persistent=False)

    @torch.no_grad()
    def start_from(self, share_S: Tensor) -> None:
        """Sets the first values from shares of training targets."""
        self.bias.copy_(torch.logit(share_S.double(), eps=1e-7))

    def forward(self, state_Nd: Tensor) -> Tensor:
        """[N, S] logits."""
        return F.linear(state_Nd, self.weight, self.bias)

    def log_probability(self, state_Nd: Tensor) -> Tensor:
        """[N, S] log-probabilities, 0 for sets that need no decision."""
        return F.logsigmoid(self(state_Nd)).masked_fill(~self.gated_S, 0.0)
