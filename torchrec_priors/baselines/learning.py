"""The data from which a baseline model learns in a step, and the losses that most of them use.

A baseline model chooses or computes the query of each target. The loss is that of one head (Eq. 7
and 8):

    L = sum_t gamma^(t-1) / (sum_t gamma^(t-1)) * m_t
    m_t = mean of -log p over the global batch's targets at offset t

Every target counts once, whichever query it trains, so nothing depends on how a batch is split over
ranks.

Shapes: Q positions that have targets, K queries of each position, M targets, X items from which
targets are taken, P queries with a target, d width.
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
    """A loss, and -log p of each target.

    Attributes:
        loss: this rank's share; the loss is the sum over ranks.
        nll_M: -log p of each target, without gradient.
        path_M: index of the query that each target trained, among the K of its position.
    """

    loss: Tensor
    nll_M: Tensor
    path_M: Tensor

    def plus(self, term: Tensor) -> "Learnt":
        """Returns this loss plus a term, given as this rank's share."""
        return replace(self, loss=self.loss + term)


@dataclass(frozen=True)
class Routed:
    """Targets, with the query that each of them trains.

    Attributes:
        query_Pd: the distinct queries that have a target, ready for scoring.
        positives: the targets, sorted by these queries.
        path_M: index of the query that each target trains, among the K of its position.
        pair_P: index of each query among all Q * K.
        hidden: negatives that are hidden from queries; None if none are.
    """

    query_Pd: Tensor
    positives: WeighedPositives
    path_M: Tensor
    pair_P: Tensor
    hidden: Hidden | None


@dataclass(frozen=True)
class Learning:
    """The targets of some histories, and the other inputs of their loss.

    Attributes:
        token_Q: positions that have targets, ascending.
        vector_Xd: item vectors as in the table.
        positives: the targets, with vectors that are ready for scoring. `query_M` is the index of
            the target's position in `token_Q`. The weights add up to 1 over all offsets and ranks.
        offset_M: how many items after its position each target is; the next item has offset 1.
        negatives: the negatives of one item set.
        score: makes queries ready for scoring.
        positions: number of positions with targets in the global batch; means over positions are
            divided by it.
        step: index of the training step, from 0.
        seen: finds seen items of the histories among the negatives; None if these are not hidden.
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
        """Gives each target the query that scores it highest. Only that query gets a gradient.

        If scores are equal, the first query is taken.

        Args:
            query_QKd: queries, not yet ready for scoring.
        """
        targets = self.positives
        queries = query_QKd.shape[1]
        query_QKd = self.score.queries(query_QKd)

        # The choice itself has no gradient. The loss needs targets sorted by query; the sort is
        # stable, so the targets of one query keep their order.
        with torch.no_grad():
            item_Md = targets.item_Xd.index_select(0, targets.source_M)
            candidate_MKd = query_QKd.index_select(0, targets.query_M)
            score_MK = torch.bmm(candidate_MKd, item_Md[:, :, None])[:, :, 0]

            best_M = score_MK.argmax(1)
            pair_M, order_M = torch.sort(targets.query_M * queries + best_M, stable=True)
            pair_P, index_M = torch.unique_consecutive(pair_M, return_inverse=True)

        positives = replace(targets.chosen(order_M), query_M=index_M)
        return Routed(
            query_Pd=query_QKd.flatten(0, 1).index_select(0, pair_P),
            positives=positives,
            path_M=pair_M % queries,
            pair_P=pair_P,
            hidden=self._hidden(pair_P // queries, positives),
        )

    def routed(self, query_QKd: Tensor) -> Learnt:
        """Returns the loss if each target trains the query that scores it highest (see `route`)."""
        routed = self.route(query_QKd)
        loss, nll_M = in_group_loss(
            routed.query_Pd,
            [len(routed.query_Pd)],
            routed.positives,
            self.negatives,
            routed.hidden,
        )
        return Learnt(loss, nll_M, routed.path_M)

    def of_positions(self, query_Qd: Tensor) -> Learnt:
        """Returns the loss if each position has one query.

        Args:
            query_Qd: queries, not yet ready for scoring.
        """
        # Query q belongs to position q, so the positives do not change.
        position_Q = torch.arange(len(query_Qd), device=query_Qd.device)
        hidden = self._hidden(position_Q, self.positives)
        query_Qd = self.score.queries(query_Qd)

        loss, nll_M = in_group_loss(
            query_Qd, [len(query_Qd)], self.positives, self.negatives, hidden
        )
        return Learnt(loss, nll_M, torch.zeros_like(self.positives.query_M))

    def of_targets(self, query_Md: Tensor, path_M: Tensor) -> Learnt:
        """Returns the loss if each target has its own query.

        Args:
            query_Md: queries in the order of the targets, not yet ready for scoring.
            path_M: for each query, the number from 0 to K - 1 under which it is reported.
        """
        # The items to hide are those that were seen at the positions of the targets.
        target_M = torch.arange(len(query_Md), device=query_Md.device)
        positives = replace(self.positives, query_M=target_M)
        hidden = self._hidden(self.positives.query_M, positives)
        query_Md = self.score.queries(query_Md)

        loss, nll_M = in_group_loss(query_Md, [len(query_Md)], positives, self.negatives, hidden)
        return Learnt(loss, nll_M, path_M)

    def mean(self, term_Q: Tensor) -> Tensor:
        """Returns this rank's share of the mean of a term over the global batch's positions."""
        return term_Q.sum() / self.positions.clamp(min=1)

    def _hidden(self, position_P: Tensor, positives: WeighedPositives) -> Hidden | None:
        """Returns the negatives that are hidden from queries; None if none are.

        Args:
            position_P: index of each query's position in `token_Q`.
            positives: positives of the queries.
        """
        if self.seen is None:
            return None
        return self.seen.hidden(self.token_Q[position_P], [len(position_P)], positives)
