"""REMI is ComiRec's self-attention, trained with hard negatives and regularised routing.

Xie et al., "Rethinking Multi-Interest Learning for Candidate Matching in Recommender Systems",
RecSys 2023.

With interest-aware hard negatives, the n negatives j of a target's query q are weighted:

    -log( e^{q.e} / (e^{q.e} + n sum_j w_j e^{q.e_j}) )
    w_j = e^{beta q.e_j} / sum_i e^{beta q.e_i}

beta = 0 gives the softmax of the other models. Routing regularisation keeps an interest from
attending to only one item. It is lambda times the squared norm of the diagonal of a covariance
matrix: the covariance of the attention matrix over the seen items.

As in the authors' code, the sum over items is divided by d. The term is a sum over the sequences of
the batch, although the rest of the loss is a mean over them: a batch twice as large is regularised
twice as much. In the authors' code, a sequence has one position with a target. Here it may have
several, so a sequence's term is the mean over its positions.

Shapes: N tokens, B sequences, K interests, d width, Q positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchrec_priors.baselines.baseline import read_options
from torchrec_priors.baselines.comirec import Options as ComiRecOptions
from torchrec_priors.baselines.comirec import SelfAttention, check_width
from torchrec_priors.baselines.learning import Learning, Learnt
from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.encoder.positions import positions
from torchrec_priors.errors import UserError
from torchrec_priors.ops.hard_negatives import hard_negatives_loss
from torchrec_priors.settings.baseline import BaselineConfig


@dataclass
class Options:
    """The options of REMI.

    Attributes:
        beta: how much more the harder negatives count.
        regularisation: lambda, the weight of the routing regularisation, a sum over the batch.
        attention: as in ComiRec.
        positions: as in ComiRec.
    """

    beta: float = 1.0
    regularisation: float = 100.0
    attention: int = 0
    positions: bool = False


class Remi(nn.Module):
    """REMI, with ComiRec's parameters."""

    def __init__(self, dim: int, interests: int, context: int, options: Options) -> None:
        super().__init__()
        self.options = options
        self.context = context
        attention = ComiRecOptions(attention=options.attention, positions=options.positions)
        self.interests = SelfAttention(dim, interests, context, attention)

    def queries(self, states: Jagged, token_Q: Tensor) -> Tensor:
        """Returns the interests of positions, [Q, K, d]."""
        query_QKd: Tensor = self.interests(states, token_Q)[0]
        return query_QKd

    def learn(self, states: Jagged, learning: Learning) -> Learnt:
        """Returns the loss against hard negatives plus the routing regularisation."""
        query_QKd, square_QK = self.interests(states, learning.token_Q)
        routed = learning.route(query_QKd)
        loss, nll_M = hard_negatives_loss(
            routed.query_Pd, routed.positives, learning.negatives, self.options.beta, routed.hidden
        )

        tokens, dim = states.vector_Nd.shape
        position_N = positions(states.offsets_B1, tokens, self.context)
        seen_Q = position_N[learning.token_Q] + 1
        spread_Q = routing_spread(square_QK, seen_Q, dim)
        spread = over_sequences(spread_Q, learning.token_Q, states.offsets_B1)

        return Learnt(loss, nll_M, routed.path_M).plus(self.options.regularisation * spread)


def routing_spread(square_QK: Tensor, seen_Q: Tensor, dim: int) -> Tensor:
    """Returns the sum over interests of the square of sum_j (a_j - 1 / n)^2 / d, [Q].

    a_j are an interest's weights of the n seen items.

    Args:
        square_QK: sums of the squares of each interest's weights.
        seen_Q: number of items that each position has seen.
        dim: d.
    """
    # The weights sum to 1, so sum_j (a_j - 1 / n)^2 = sum_j a_j^2 - 1 / n.
    variance_QK = (square_QK - 1 / seen_Q[:, None]) / dim
    return (variance_QK**2).sum(1)


def over_sequences(term_Q: Tensor, token_Q: Tensor, offsets_B1: Tensor) -> Tensor:
    """Returns the sum over sequences of the mean over each sequence's positions.

    A sequence is never split over ranks or parts of a batch, so the sums of all parts and ranks add
    up to the sum over the batch.

    Args:
        term_Q: the term of each position.
        token_Q: the positions, ascending.
        offsets_B1: bounds of the sequences.
    """
    sequence_Q = torch.searchsorted(offsets_B1, token_Q, right=True) - 1
    positions_B = torch.bincount(sequence_Q, minlength=len(offsets_B1) - 1)
    return (term_Q / positions_B[sequence_Q]).sum()


def load(config: BaselineConfig, dim: int, context: int) -> Remi:
    """Returns REMI with initial values."""
    options = read_options(Options, config)

    for name in ("beta", "regularisation"):
        value = getattr(options, name)
        if not 0 <= value < float("inf"):
            raise UserError(f"baseline.options.{name} = {value} must be a number of at least 0")
    check_width(options.attention)

    return Remi(dim, config.interests, context, options)
