"""REMI (Xie et al., "Rethinking Multi-Interest Learning for Candidate Matching in Recommender Systems", RecSys 2023).

ComiRec's self-attention with two changes. Interest-aware hard negatives weigh the n negatives j of a target's query q:

    -log( e^{q.e} / (e^{q.e} + n sum_j w_j e^{q.e_j}) ),    w_j = e^{beta q.e_j} / sum_i e^{beta q.e_i}

(beta = 0 is the softmax of everyone else), and routing regularisation keeps an interest from attending to one item
alone: lambda times the square of the norm of the diagonal of the covariance of the attention matrix over the items
seen. As in the authors' code, the sum over items is divided by d, and the term is summed over the sequences of the
batch, while the loss beside it is a mean over them: a batch twice as large is regularised twice as much. Their
sequences have one position with a target each, so here it is the mean over a sequence's positions that is summed.

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
    """Settings.

    Attributes:
        beta: how much harder negatives count for more.
        regularisation: lambda, of a sum over the batch.
        attention, positions: as of ComiRec.
    """

    beta: float = 1.0
    regularisation: float = 100.0
    attention: int = 0
    positions: bool = False


class Remi(nn.Module):
    """Parameters as ComiRec."""

    def __init__(self, dim: int, interests: int, context: int, options: Options) -> None:
        super().__init__()
        self.options = options
        self.context = context
        as_there = ComiRecOptions(attention=options.attention, positions=options.positions)
        self.interests = SelfAttention(dim, interests, context, as_there)

    def queries(self, states: Jagged, token_Q: Tensor) -> Tensor:
        query_QKd: Tensor = self.interests(states, token_Q)[0]
        return query_QKd

    def learn(self, states: Jagged, learning: Learning) -> Learnt:
        query_QKd, square_QK = self.interests(states, learning.token_Q)
        to = learning.route(query_QKd)
        loss, nll_M = hard_negatives_loss(
            to.query_Pd, to.positives, learning.negatives, self.options.beta, to.hidden
        )
        place_N = positions(states.offsets_B1, len(states.vector_Nd), self.context)
        spread_Q = routing_spread(
            square_QK, place_N[learning.token_Q] + 1, states.vector_Nd.shape[1]
        )
        spread = over_sequences(spread_Q, learning.token_Q, states.offsets_B1)
        return Learnt(loss, nll_M, to.path_M).plus(self.options.regularisation * spread)


def routing_spread(square_QK: Tensor, seen_Q: Tensor, dim: int) -> Tensor:
    """[Q]: sum over interests of the square of sum_j (a_j - 1 / n)^2 / d, a the weights of the n items seen.

    Args:
        square_QK: sums of the squares of the weights.
        seen_Q: how many items each position has seen.
    """
    variance_QK = (square_QK - 1 / seen_Q[:, None]) / dim
    return (variance_QK**2).sum(1)


def over_sequences(term_Q: Tensor, token_Q: Tensor, offsets_B1: Tensor) -> Tensor:
    """The sum over sequences of the mean over the positions of each.

    A sequence is never split over ranks or parts of a batch, so their sums add up to the batch's.
    """
    sequence_Q = torch.searchsorted(offsets_B1, token_Q, right=True) - 1
    positions_B = torch.bincount(sequence_Q, minlength=len(offsets_B1) - 1)
    return (term_Q / positions_B[sequence_Q]).sum()


def load(config: BaselineConfig, dim: int, context: int) -> Remi:
    """REMI with its first values."""
    options = read_options(Options, config)
    for name in ("beta", "regularisation"):
        if not 0 <= getattr(options, name) < float("inf"):
            raise UserError(
                f"baseline.options.{name} = {getattr(options, name)} must be a number of at least 0"
            )
    check_width(options.attention)
    return Remi(dim, config.interests, context, options)
