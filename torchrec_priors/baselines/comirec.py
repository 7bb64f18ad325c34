"""ComiRec (Cen et al., "Controllable Multi-Interest Framework for Recommendation", KDD 2020): several queries a user.

Self-attention (ComiRec-SA), H being the states of what a position has seen, one a column:

    A = softmax(W2^T tanh(W1 H)),    V = H A^T

or dynamic routing (ComiRec-DR), see `ops.dynamic_routing`, where an item says W_k h to capsule k. In training a target
trains the query that scores it highest; in retrieval an item's score is the highest of all queries. Their greedy
controllable aggregation comes after retrieval and is not part of the model.

The authors' code has a map for each capsule and place in the history; here a capsule has one for all places.

Shapes: N tokens, K interests, d width, a width of the attention, L configured context.
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

_READ_BY = {"attention": ("attention", "positions"), "dynamic": ("iterations",)}


@dataclass
class Options:
    """Settings.

    Attributes:
        routing: `attention` (SA) or `dynamic` (DR).
        attention: width of the attention; 0 for 4 * model.dim, as in their paper.
        iterations: of dynamic routing.
        positions: whether the attention also sees the place of an item in its window; encoders of this package tell it
            already.
    """

    routing: Literal["attention", "dynamic"] = "attention"
    attention: int = 0
    iterations: int = 3
    positions: bool = False


class SelfAttention(nn.Module):
    """Interests by self-attention, with the sums of the squares of their weights."""

    def __init__(self, dim: int, interests: int, context: int, options: Options) -> None:
        super().__init__()
        self.position = nn.Embedding(context, dim) if options.positions else None
        self.w1 = nn.Linear(dim, options.attention or 4 * dim, bias=False)
        self.w2 = nn.Linear(options.attention or 4 * dim, interests, bias=False)
        if self.position is not None:
            nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, states: Jagged, token_Q: Tensor) -> tuple[Tensor, Tensor]:
        """[Q, K, d] and [Q, K]."""
        seen_Nd = states.vector_Nd
        if self.position is not None:
            place_N = positions(states.offsets_B1, len(seen_Nd), self.position.num_embeddings)
            seen_Nd = seen_Nd + self.position(place_N)
        score_NK = self.w2(torch.tanh(self.w1(seen_Nd)))
        return interest_attention(score_NK, states.vector_Nd, states.offsets_B1, token_Q)


class DynamicRouting(nn.Module):
    """Interests by dynamic routing from zero, with a map of its own for each, which tells them apart."""

    first_LK: Tensor

    def __init__(self, dim: int, interests: int, context: int, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.interests = interests
        self.map = nn.Linear(dim, interests * dim, bias=False)
        self.register_buffer("first_LK", torch.zeros(context, interests), persistent=False)

    def forward(self, states: Jagged, token_Q: Tensor) -> Tensor:
        """[Q, K, d]"""
        x_NKd = self.map(states.vector_Nd).unflatten(1, (self.interests, -1))
        open_QK = torch.ones(len(token_Q), self.interests, dtype=torch.bool, device=token_Q.device)
        return dynamic_routing(
            x_NKd, self.first_LK, states.offsets_B1, token_Q, self.iterations, open_QK
        )


class ComiRec(nn.Module):
    """Either of the two."""

    def __init__(self, dim: int, interests: int, context: int, options: Options) -> None:
        super().__init__()
        self.interests: SelfAttention | DynamicRouting
        if options.routing == "attention":
            self.interests = SelfAttention(dim, interests, context, options)
        else:
            self.interests = DynamicRouting(dim, interests, context, options.iterations)

    def queries(self, states: Jagged, token_Q: Tensor) -> Tensor:
        found = self.interests(states, token_Q)
        query_QKd: Tensor = found[0] if isinstance(found, tuple) else found
        return query_QKd

    def learn(self, states: Jagged, learning: Learning) -> Learnt:
        return learning.routed(self.queries(states, learning.token_Q))


def check_width(attention: int) -> None:
    """Raises UserError where the width of the attention is none."""
    if attention < 0:
        raise UserError(f"baseline.options.attention = {attention} must not be negative")


def load(config: BaselineConfig, dim: int, context: int) -> ComiRec:
    """ComiRec with its first values."""
    options = read_options(Options, config)
    for routing, names in _READ_BY.items():
        for name in config.options:
            if name in names and options.routing != routing:
                raise UserError(
                    f"baseline.options.{name} means nothing with routing = '{options.routing}'"
                )
    if options.iterations < 1:
        raise UserError(f"baseline.options.iterations = {options.iterations} must be at least 1")
    check_width(options.attention)
    return ComiRec(dim, config.interests, context, options)
