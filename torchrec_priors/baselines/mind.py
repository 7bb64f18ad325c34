"""MIND: interests by dynamic routing, one query for each target by label-aware attention.

Li et al., "Multi-Interest Network with Dynamic Routing for Recommendation at Tmall", CIKM 2019.

Behaviour-to-interest routing (see `ops.dynamic_routing`) sends every seen item, mapped by one
matrix S that all interests share, to capsules, whose first logits are normal numbers of a fixed
seed. A layer follows, and in training label-aware attention makes one query of the interests for
each target e:

    V = ReLU(W u + b) for each capsule u,    q = V softmax(pow(V^T e, p))

p -> infinity takes the interest that scores the target highest. In retrieval an item's score is the
highest of all interests. With `adaptive`, a user with |I| seen items has
K' = max(1, min(K, floor(log2 |I|))) interests; the others get the query of the first one, which
changes no highest score. Another fusion is therefore not allowed.

Shapes: N tokens, K interests, d width, Q positions, M targets, L configured context.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.baselines.baseline import read_options
from torchrec_priors.baselines.learning import Learning, Learnt
from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.encoder.positions import positions
from torchrec_priors.errors import UserError
from torchrec_priors.ops.dynamic_routing import dynamic_routing
from torchrec_priors.settings.baseline import BaselineConfig

# The seed of the first routing: not trained, and the same for every run.
_FIRST_ROUTING = 20


@dataclass
class Options:
    """Settings.

    Attributes:
        power: p of label-aware attention, a whole number; 0 for infinity. A finite p makes a query
            for each target instead of each position and interest, and costs more in proportion.
        adaptive: whether users with short histories have fewer interests.
        iterations: iterations of dynamic routing.
    """

    power: int = 0
    adaptive: bool = True
    iterations: int = 3


class Mind(nn.Module):
    """MIND, with d * d + d * d + d parameters."""

    first_LK: Tensor

    def __init__(self, dim: int, interests: int, context: int, options: Options) -> None:
        super().__init__()
        self.options = options
        self.interests = interests
        self.shared = nn.Linear(dim, dim, bias=False)
        self.layer = nn.Linear(dim, dim)
        self.register_buffer("first_LK", first_routing(context, interests), persistent=False)

    @property
    def only_max(self) -> str:
        """See `check_fusion`: users with few interests have copies of the first."""
        if not self.options.adaptive or self.interests == 1:
            return ""
        return (
            "would count the first interest several times for users with few: Mind needs "
            "evaluation.fusion=max, or baseline.options.adaptive=false"
        )

    def queries(self, states: Jagged, token_Q: Tensor) -> Tensor:
        """Returns the interests of positions, [Q, K, d]."""
        open_QK = self._open(states, token_Q)
        query_QKd = self._interests(states, token_Q, open_QK)
        # A copy of the first interest cannot raise the highest score of any item.
        return torch.where(open_QK[:, :, None], query_QKd, query_QKd[:, :1])

    def learn(self, states: Jagged, learning: Learning) -> Learnt:
        """Returns the loss of each target with the query of label-aware attention."""
        # p = infinity: the query that scores the target highest.
        if not self.options.power:
            return learning.routed(self.queries(states, learning.token_Q))

        targets = learning.positives
        open_QK = self._open(states, learning.token_Q)
        query_QKd = self._interests(states, learning.token_Q, open_QK)

        target_Md = learning.vector_Xd.index_select(0, targets.source_M)
        query_MKd = query_QKd.index_select(0, targets.query_M)
        open_MK = open_QK[targets.query_M]
        weight_MK = label_attention(query_MKd, target_Md, self.options.power, open_MK)

        query_Md = torch.einsum("mk,mkd->md", weight_MK, query_MKd)
        return learning.of_targets(query_Md, weight_MK.argmax(1))

    def _interests(self, states: Jagged, token_Q: Tensor, open_QK: Tensor) -> Tensor:
        """Returns the interests [Q, K, d], those that are not open included."""
        x_N1d = self.shared(states.vector_Nd)[:, None]
        capsules = dynamic_routing(
            x_N1d, self.first_LK, states.offsets_B1, token_Q, self.options.iterations, open_QK
        )
        return F.relu(self.layer(capsules))

    def _open(self, states: Jagged, token_Q: Tensor) -> Tensor:
        """Returns bool [Q, K]: the interests that a position has."""
        context = len(self.first_LK)
        position_N = positions(states.offsets_B1, len(states.vector_Nd), context)
        seen_Q = position_N[token_Q] + 1

        number_Q = torch.full_like(seen_Q, self.interests)
        if self.options.adaptive:
            # floor(log2), exact: a logarithm may round to the wrong side at powers of 2.
            exponent_Q = torch.frexp(seen_Q.double()).exponent - 1
            number_Q = exponent_Q.clamp(1, self.interests)

        return torch.arange(self.interests, device=token_Q.device) < number_Q[:, None]


def label_attention(query_MKd: Tensor, target_Md: Tensor, power: int, open_MK: Tensor) -> Tensor:
    """Returns [M, K]: the softmax of pow(V^T e, p) over the interests that a position has."""
    score_MK = torch.einsum("mkd,md->mk", query_MKd, target_Md)
    return torch.softmax(score_MK.pow(power).masked_fill(~open_MK, -torch.inf), 1)


def first_routing(context: int, interests: int) -> Tensor:
    """Returns the first logits of the routing [L, K]: normal numbers, not trained.

    Without them capsules, which share one map, would all be equal.
    """
    generator = torch.Generator().manual_seed(_FIRST_ROUTING)
    return torch.randn(context, interests, generator=generator, device="cpu")


def load(config: BaselineConfig, dim: int, context: int) -> Mind:
    """Builds MIND with its first values."""
    options = read_options(Options, config)
    if options.power < 0:
        raise UserError(
            f"baseline.options.power = {options.power} must not be negative (0 is infinity)"
        )
    if options.iterations < 1:
        raise UserError(f"baseline.options.iterations = {options.iterations} must be at least 1")
    return Mind(dim, config.interests, context, options)
