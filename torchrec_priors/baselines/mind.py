"""MIND: dynamic routing computes interests; label-aware attention computes a query for each target.

Li et al., "Multi-Interest Network with Dynamic Routing for Recommendation at Tmall", CIKM 2019.

Behaviour-to-interest routing (see `ops.dynamic_routing`) sorts the seen items into capsules. Items
are first multiplied by a matrix S that all capsules share. The first logits of the routing are
normal numbers with a fixed seed. A layer turns each capsule u into an interest. In training,
label-aware attention combines the interests into one query for each target e:

    V = ReLU(W u + b) for each capsule u,    q = V softmax(pow(V^T e, p))

For p -> infinity, q is the interest that scores the target highest. In retrieval, an item's score
is the highest over all interests.

With `adaptive`, a user with |I| seen items has K' = max(1, min(K, floor(log2 |I|))) interests. The
other K - K' queries are copies of the first one, which do not change the highest score. But they
would change the result of any other fusion, so only max fusion is allowed.

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

# The seed of the routing's first logits, which are not trained and are the same in every run.
_FIRST_ROUTING = 20


@dataclass
class Options:
    """The options of MIND.

    Attributes:
        power: p of label-aware attention, a whole number; 0 for infinity. A finite p is slower,
            because it needs a query for each target instead of each position and interest.
        adaptive: whether users with short histories have fewer interests.
        iterations: number of iterations of dynamic routing.
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
        """See `check_fusion`: users with fewer than K interests have copies of the first one."""
        if not self.options.adaptive or self.interests == 1:
            return ""
        return (
            "would count the first interest several times for users with few interests: MIND needs "
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
        # For p = infinity, the query is the interest that scores the target highest.
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
        """Returns the interests, [Q, K, d], including those that a position does not have."""
        x_N1d = self.shared(states.vector_Nd)[:, None]
        capsules = dynamic_routing(
            x_N1d, self.first_LK, states.offsets_B1, token_Q, self.options.iterations, open_QK
        )
        return F.relu(self.layer(capsules))

    def _open(self, states: Jagged, token_Q: Tensor) -> Tensor:
        """Returns bool [Q, K], whether a position has an interest."""
        context = len(self.first_LK)
        position_N = positions(states.offsets_B1, len(states.vector_Nd), context)
        seen_Q = position_N[token_Q] + 1

        number_Q = torch.full_like(seen_Q, self.interests)
        if self.options.adaptive:
            # This floor(log2) is exact. A computed logarithm may be on the wrong side of a whole
            # number.
            exponent_Q = torch.frexp(seen_Q.double()).exponent - 1
            number_Q = exponent_Q.clamp(1, self.interests)

        return torch.arange(self.interests, device=token_Q.device) < number_Q[:, None]


def label_attention(query_MKd: Tensor, target_Md: Tensor, power: int, open_MK: Tensor) -> Tensor:
    """Returns the softmax of pow(V^T e, p) over the interests that a position has, [M, K]."""
    score_MK = torch.einsum("mkd,md->mk", query_MKd, target_Md)
    return torch.softmax(score_MK.pow(power).masked_fill(~open_MK, -torch.inf), 1)


def first_routing(context: int, interests: int) -> Tensor:
    """Returns the first logits of the routing, [L, K]: normal numbers that are not trained.

    With equal logits, all capsules would be equal, because they share one map.
    """
    generator = torch.Generator().manual_seed(_FIRST_ROUTING)
    return torch.randn(context, interests, generator=generator, device="cpu")


def load(config: BaselineConfig, dim: int, context: int) -> Mind:
    """Returns MIND with initial values."""
    options = read_options(Options, config)
    if options.power < 0:
        raise UserError(
            f"baseline.options.power = {options.power} must not be negative (0 is infinity)"
        )
    if options.iterations < 1:
        raise UserError(f"baseline.options.iterations = {options.iterations} must be at least 1")
    return Mind(dim, config.interests, context, options)
