"""ComiRec (Cen et al., "Controllable Multi-Interest Framework for Recommendation", KDD 2020).

A user has several queries, the columns of V. ComiRec-SA computes them by self-attention over the
states that a position has seen, the columns of H:

    A = softmax(W2^T tanh(W1 H)),    V = H A^T

ComiRec-DR computes them by dynamic routing (see `ops.dynamic_routing`), in which an item's vector
for capsule k is W_k h. In training, a target trains the query that scores it highest. In retrieval,
an item's score is the highest over all queries. The paper's greedy controllable aggregation comes
after retrieval and is not part of the model.

The authors' code has a different W_k for each position in the history; here each capsule has one
for all positions.

Shapes: N tokens, K interests, d width, Q positions, L configured context.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from torchrec_priors.baselines.baseline import read_options
from torchrec_priors.baselines.learning import Learning, Learnt
from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.encoder.positions import positions
from torchrec_priors.errors import UserError
from torchrec_priors.ops.dynamic_routing import dynamic_routing
from torchrec_priors.ops.interest_attention import interest_attention
from torchrec_priors.settings.baseline import BaselineConfig

# Options that only one kind of routing uses.
_READ_BY = {"attention": ("attention", "positions"), "dynamic": ("iterations",)}


@dataclass
class Options:
    """The options of ComiRec.

    Attributes:
        routing: `attention` (SA) or `dynamic` (DR).
        attention: width of the attention; 0 for 4 * model.dim, as in the paper.
        iterations: number of iterations of dynamic routing.
        positions: whether the attention also uses an item's position in its window. The states of
            this package's encoders already contain it.
    """

    routing: Literal["attention", "dynamic"] = "attention"
    attention: int = 0
    iterations: int = 3
    positions: bool = False


class SelfAttention(nn.Module):
    """Computes interests by self-attention, and the sums of the squares of their weights."""

    def __init__(self, dim: int, interests: int, context: int, options: Options) -> None:
        super().__init__()
        width = options.attention or 4 * dim

        # The initial values of a seed depend on the order of these draws.
        self.position = nn.Embedding(context, dim) if options.positions else None
        self.w1 = nn.Linear(dim, width, bias=False)
        self.w2 = nn.Linear(width, interests, bias=False)
        if self.position is not None:
            nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, states: Jagged, token_Q: Tensor) -> tuple[Tensor, Tensor]:
        """Returns interests [Q, K, d] and the sums of the squares of their weights [Q, K]."""
        seen_Nd = states.vector_Nd

        # Positions only change the weights: the sum is over the states themselves.
        if self.position is not None:
            contexts = self.position.num_embeddings
            position_N = positions(states.offsets_B1, len(seen_Nd), contexts)
            seen_Nd = seen_Nd + self.position(position_N)

        score_NK = self.w2(torch.tanh(self.w1(seen_Nd)))
        return interest_attention(score_NK, states.vector_Nd, states.offsets_B1, token_Q)


class DynamicRouting(nn.Module):
    """Computes interests by dynamic routing that starts with logits of zero.

    The interests nevertheless differ, because each has its own map.
    """

    first_LK: Tensor

    def __init__(self, dim: int, interests: int, context: int, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.interests = interests
        self.map = nn.Linear(dim, interests * dim, bias=False)
        self.register_buffer("first_LK", torch.zeros(context, interests), persistent=False)

    def forward(self, states: Jagged, token_Q: Tensor) -> Tensor:
        """Returns interests [Q, K, d]."""
        x_NKd = self.map(states.vector_Nd).unflatten(1, (self.interests, -1))
        # ComiRec gives every user all interests.
        open_QK = torch.ones(len(token_Q), self.interests, dtype=torch.bool, device=token_Q.device)
        return dynamic_routing(
            x_NKd, self.first_LK, states.offsets_B1, token_Q, self.iterations, open_QK
        )


class ComiRec(nn.Module):
    """ComiRec-SA or ComiRec-DR."""

    def __init__(self, dim: int, interests: int, context: int, options: Options) -> None:
        super().__init__()
        self.interests: SelfAttention | DynamicRouting
        if options.routing == "attention":
            self.interests = SelfAttention(dim, interests, context, options)
        else:
            self.interests = DynamicRouting(dim, interests, context, options.iterations)

    def queries(self, states: Jagged, token_Q: Tensor) -> Tensor:
        """Returns the interests of positions, [Q, K, d]."""
        output = self.interests(states, token_Q)
        query_QKd: Tensor = output[0] if isinstance(output, tuple) else output
        return query_QKd

    def learn(self, states: Jagged, learning: Learning) -> Learnt:
        """Returns the loss of each target with the query that scores it highest."""
        return learning.routed(self.queries(states, learning.token_Q))


def check_width(attention: int) -> None:
    """Raises UserError if the width of the attention is negative."""
    if attention < 0:
        raise UserError(f"baseline.options.attention = {attention} must not be negative")


def load(config: BaselineConfig, dim: int, context: int) -> ComiRec:
    """Returns ComiRec with initial values."""
    options = read_options(Options, config)

    # Without this error, the user would not notice that an option has no effect.
    for routing, names in _READ_BY.items():
        for name in config.options:
            if name in names and options.routing != routing:
                raise UserError(
                    f"baseline.options.{name} has no effect with routing = '{options.routing}'"
                )

    if options.iterations < 1:
        raise UserError(f"baseline.options.iterations = {options.iterations} must be at least 1")
    check_width(options.attention)

    return ComiRec(dim, config.interests, context, options)
