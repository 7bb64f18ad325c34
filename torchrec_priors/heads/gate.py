"""The gate predicts, for every item set, whether a target belongs to it, given the user's state.

    P(target in set s | h) = sigmoid(w_s . h + b_s)

Each set has its own decision, because a target may belong to several sets. A set that contains
every target needs no decision. The gate is trained together with the heads (`gate_loss`). It puts
the in-group softmaxes of different groups on one scale (`retrieval.fusion`).

With a joint softmax (`ops/joint_softmax.py`), the logit w_s . h + b_s is added to the scores of the
items in set s, and all sets have one softmax. There are no decisions then.

Shapes: N states, d width, S item sets.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Gate(nn.Module):
    """A logistic regression for each item set, with d + 1 parameters."""

    gated_S: Tensor

    def __init__(self, dim: int, gated_S: Tensor) -> None:
        """
        Args:
            dim: d.
            gated_S: bool, whether a target may be outside a set, so that a decision is needed.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(gated_S), dim))
        self.bias = nn.Parameter(torch.zeros(len(gated_S)))
        self.register_buffer("gated_S", gated_S, persistent=False)

    @torch.no_grad()
    def start_from(self, share_S: Tensor) -> None:
        """Makes each set's initial probability its share of training targets."""
        self.bias.copy_(torch.logit(share_S.double(), eps=1e-7))

    def forward(self, state_Nd: Tensor) -> Tensor:
        """Returns logits, [N, S]."""
        return F.linear(state_Nd, self.weight, self.bias)

    def log_probability(self, state_Nd: Tensor) -> Tensor:
        """Returns log-probabilities, [N, S]; they are 0 for sets that need no decision."""
        return F.logsigmoid(self(state_Nd)).masked_fill(~self.gated_S, 0.0)
