"""What a baseline learns from in a step, and the losses that most of them have.

The loss is that of one head (Eq. 7 and 8), whose query a baseline chooses or makes for each target:

    L = sum_t gamma^(t-1) / (sum_t gamma^(t-1)) * (mean over the global batch's targets at offset t of -log p)

Every target counts once, whichever query it goes to, so nothing depends on how a batch is split over ranks.

Shapes: Q positions that predict, K queries of each, M targets, X items that targets are among, d width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchrec_priors.heads.score import Score
from torchrec_priors.ops.hidden_negatives import Hidden, SeenItems
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.in_group_softmax import in_group_loss


@dataclass(frozen=True)
class Learnt:
    """A loss.

    Attributes:
        loss: this rank's share; the loss is the sum over ranks.
        nll_M: -log p of each target, no gradient.
        path_M: which of the K queries it went to.
    """

    loss: Tensor
    nll_M: Tensor
    path_M: Tensor

    def plus(self, term: Tensor) -> "Learnt":
        """With this rank's share of a further term."""
        return replace(self, loss=self.loss + term)


@dataclass(frozen=True)
class Routed:
    """Targets with the queries that they go to.

    Attributes:
        query_Pd: the distinct queries that any target goes to, ready for scoring.
        positives: the targets, sorted by these queries.
        path_M: which of the K queries of its position each is.
        pair_P: number of each query among all Q * K.
        hidden: negatives that the queries do not see; None where they see all.
    """

    query_Pd: Tensor
    positives: WeighedPositives
    path_M: Tensor
    pair_P: Tensor
    hidden: Hidden | None


@dataclass(frozen=True)
class Learning:
    """Targets of some histories.

    Attributes:
        token_Q: positions that have targets, ascending.
        vector_Xd: item vectors as the table has them.
        positives: the targets: vectors ready for scoring, their positions (`query_M`, places in `token_Q`) and
            weights, which add up over offsets and ranks to 1.
        offset_M: 1-based distance of each target.
        negatives: one item set.
        score: makes queries ready for scoring.
        positions: how many positions of the global batch have a target: what means over positions divide by.
        step: of training, from 0.
        seen: what histories had seen, where that is no negative.
    """

    token_Q: Tensor
    vector_Xd: Tensor
    positives: WeighedPositives
    offset_M: Tensor
    negatives: NegativeSets
    score: Score
    positions: Tensor
    step: int = 0
    seen: SeenItems | None = None

    def route(self, query_QKd: Tensor) -> Routed:
        """Each target with the query that gives it the highest score; gradients go through that one alone.

        Args:
            query_QKd: not yet ready for scoring; of equal scores the first wins.
        """
        of = self.positives
        queries = query_QKd.shape[1]
        query_QKd = self.score.queries(query_QKd)
        with torch.no_grad():
            item_Md = of.item_Xd.index_select(0, of.source_M)
            score_MK = torch.bmm(query_QKd.index_select(0, of.query_M), item_Md[:, :, None])[
                :, :, 0
            ]
            pair_M, order_M = torch.sort(of.query_M * queries + score_MK.argmax(1), stable=True)
            pair_P, place_M = torch.unique_consecutive(pair_M, return_inverse=True)
        positives = replace(of.chosen(order_M), query_M=place_M)
        return Routed(
            query_Pd=query_QKd.flatten(0, 1).index_select(0, pair_P),
            positives=positives,
            path_M=pair_M % queries,
            pair_P=pair_P,
            hidden=self._hidden(pair_P // queries, positives),
        )

    def routed(self, query_QKd: Tensor) -> Learnt:
        """The loss where each target trains the query that gives it the highest score, see `route`."""
        to = self.route(query_QKd)
        loss, nll_M = in_group_loss(
            to.query_Pd, [len(to.query_Pd)], to.positives, self.negatives, to.hidden
        )
        return Learnt(loss, nll_M, to.path_M)

    def of_positions(self, query_Qd: Tensor) -> Learnt:
        """The loss where each position has one query, not yet ready for scoring."""
        hidden = self._hidden(torch.arange(len(query_Qd), device=query_Qd.device), self.positives)
        query_Qd = self.score.queries(query_Qd)
        loss, nll_M = in_group_loss(
            query_Qd, [len(query_Qd)], self.positives, self.negatives, hidden
        )
        return Learnt(loss, nll_M, torch.zeros_like(self.positives.query_M))

    def of_targets(self, query_Md: Tensor, path_M: Tensor) -> Learnt:
        """The loss where each target has a query of its own.

        Args:
            query_Md: in the order of the targets, not yet ready for scoring.
            path_M: which of the K queries they are told apart as.
        """
        own = replace(self.positives, query_M=torch.arange(len(query_Md), device=query_Md.device))
        hidden = self._hidden(self.positives.query_M, own)
        loss, nll_M = in_group_loss(
            self.score.queries(query_Md), [len(query_Md)], own, self.negatives, hidden
        )
        return Learnt(loss, nll_M, path_M)

    def _hidden(self, place_P: Tensor, positives: WeighedPositives) -> Hidden | None:
        """Negatives that queries do not see; None where they see all.

        Args:
            place_P: of each query's position in `token_Q`.
            positives: the queries'.
        """
        if self.seen is None:
            return None
        return self.seen.hidden(self.token_Q[place_P], [len(place_P)], positives)

    def mean(self, term_Q: Tensor) -> Tensor:
        """This rank's share of the mean of a term over the positions of the global batch."""
        return term_Q.sum() / self.positions.clamp(min=1)
