"""MIND (Li et al., "Multi-Interest Network with Dynamic Routing for Recommendation at Tmall", CIKM 2019).

Behaviour-to-interest routing (see `ops.dynamic_routing`) sends every item seen, mapped by one matrix S that all
interests share, to capsules, whose first logits are normal from a fixed seed. A layer follows, and in training
label-aware attention makes one query of them for each target e:

    V = ReLU(W u + b) for each capsule u,    q = V softmax(pow(V^T e, p))

p -> infinity takes the interest that scores the target highest. In retrieval an item's score is the highest of all
interests. With `adaptive`, a user of |I| items seen has K' = max(1, min(K, floor(log2 |I|))) interests; the others are
given the first one's query, which changes no highest score (nor is another fusion allowed).

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

_FIRST_ROUTING = 20  # seed


@dataclass
class Options:
    """Settings.

    Attributes:
        power: p of label-aware attention, a whole number; 0 for infinity. A finite one takes a query for each target
            instead of each position and interest, which costs as many times more.
        adaptive: whether users with short histories have fewer interests.
        iterations: of dynamic routing.
    """

    power: int = 0
    adaptive: bool = True
    iterations: int = 3


class Mind(nn.Module):
    """d * d + d * d + d parameters."""

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
        """See `check_fusion`: users with few interests are given copies of the first."""
        if not self.options.adaptive or self.interests == 1:
            return ""
        return (
            "would count the first interest several times for users with few: Mind needs evaluation.fusion=max, or "
            "baseline.options.adaptive=false"
        )

    def queries(self, states: Jagged, token_Q: Tensor) -> Tensor:
        open_QK = self._open(states, token_Q)
        query_QKd = self._interests(states, token_Q, open_QK)
        return torch.where(open_QK[:, :, None], query_QKd, query_QKd[:, :1])

    def learn(self, states: Jagged, learning: Learning) -> Learnt:
        if not self.options.power:
            return learning.routed(self.queries(states, learning.token_Q))
        of = learning.positives
        open_QK = self._open(states, learning.token_Q)
        query_QKd = self._interests(states, learning.token_Q, open_QK)
        target_Md = learning.vector_Xd.index_select(0, of.source_M)
        query_MKd = query_QKd.index_select(0, of.query_M)
        weight_MK = label_attention(query_MKd, target_Md, self.options.power, open_QK[of.query_M])
        return learning.of_targets(
            torch.einsum("mk,mkd->md", weight_MK, query_MKd), weight_MK.argmax(1)
        )

    def _interests(self, states: Jagged, token_Q: Tensor, open_QK: Tensor) -> Tensor:
        """[Q, K, d]"""
        x_N1d = self.shared(states.vector_Nd)[:, None]
        capsules = dynamic_routing(
            x_N1d, self.first_LK, states.offsets_B1, token_Q, self.options.iterations, open_QK
        )
        return F.relu(self.layer(capsules))

    def _open(self, states: Jagged, token_Q: Tensor) -> Tensor:
        """bool [Q, K]: the interests that a position has."""
        seen_Q = (
            positions(states.offsets_B1, len(states.vector_Nd), len(self.first_LK))[token_Q] + 1
        )
        number_Q = torch.full_like(seen_Q, self.interests)
        if self.options.adaptive:
            exponent_Q = torch.frexp(seen_Q.double()).exponent - 1  # floor(log2), exact
            number_Q = exponent_Q.clamp(1, self.interests)
        return torch.arange(self.interests, device=token_Q.device) < number_Q[:, None]


def label_attention(query_MKd: Tensor, target_Md: Tensor, power: int, open_MK: Tensor) -> Tensor:
    """[M, K]: softmax over a position's own interests of pow(V^T e, p)."""
    score_MK = torch.einsum("mkd,md->mk", query_MKd, target_Md)
    return torch.softmax(score_MK.pow(power).masked_fill(~open_MK, -torch.inf), 1)


def first_routing(context: int, interests: int) -> Tensor:
    """[L, K]: what the routing starts from, normal numbers that tell capsules of one map apart; not learnt."""
    generator = torch.Generator().manual_seed(_FIRST_ROUTING)
    return torch.randn(context, interests, generator=generator, device="cpu")


def load(config: BaselineConfig, dim: int, context: int) -> Mind:
    """MIND with its first values."""
    options = read_options(Options, config)
    if options.power < 0:
        raise UserError(
            f"baseline.options.power = {options.power} must not be negative (0 is infinity)"
        )
    if options.iterations < 1:
        raise UserError(f"baseline.options.iterations = {options.iterations} must be at least 1")
    return Mind(dim, config.interests, context, options)
