"""What a baseline model learns from in a step, and the losses that most of them use.

The loss is that of one head (Eq. 7 and 8); a baseline chooses or builds the query of each target:

    L = sum_t gamma^(t-1) / (sum_t gamma^(t-1)) * m_t
    m_t = mean of -log p over the global batch's targets at offset t

Every target counts once, whichever query it goes to, so nothing depends on how a batch is split
over ranks.

Shapes: Q positions that predict, K queries of each, M targets, X items that targets are among, P
queries with a target, d width.
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
    """A loss and the targets' parts of it.

    Attributes:
        loss: this rank's share; the loss is the sum over ranks.
        nll_M: -log p of each target, without gradient.
        path_M: which of the K queries each target went to.
    """

    loss: Tensor
    nll_M: Tensor
    path_M: Tensor

    def plus(self, term: Tensor) -> "Learnt":
        """Returns the same with this rank's share of a further term added to the loss."""
        return replace(self, loss=self.loss + term)


@dataclass(frozen=True)
class Routed:
    """Targets with the queries that they go to.

    Attributes:
        query_Pd: the distinct queries that have a target, ready for scoring.
        positives: the targets, sorted by these queries.
        path_M: which of the K queries of its position each target goes to.
        pair_P: number of each query among all Q * K.
        hidden: negatives hidden from queries; None if all are visible.
    """

    query_Pd: Tensor
    positives: WeighedPositives
    path_M: Tensor
    pair_P: Tensor
    hidden: Hidden | None


@dataclass(frozen=True)
class Learning:
    """The targets of some histories, and what their loss needs.

    Attributes:
        token_Q: positions that have targets, ascending.
        vector_Xd: item vectors as the table has them.
        positives: the targets: vectors ready for scoring, their positions (`query_M`, indices into
            `token_Q`) and weights, which add up over offsets and ranks to 1.
        offset_M: 1-based distance of each target.
        negatives: one item set.
        score: makes queries ready for scoring.
        positions: number of positions of the global batch that have a target: the divisor of means
            over positions.
        step: training step, from 0.
        seen: seen items of the histories, if these are hidden from the negatives.
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
        """Gives each target the query that scores it highest; only that query gets a gradient.

        Args:
            query_QKd: queries, not yet ready for scoring; of equal scores the first wins.
        """
        targets = self.positives
        queries = query_QKd.shape[1]
        query_QKd = self.score.queries(query_QKd)

        # The choice itself has no gradient. The loss wants targets sorted by query, and the stable
        # sort keeps the order of one query's targets.
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
        """Returns the loss if each target trains the query that scores it highest, see `route`."""
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
        # Query number q is position number q, so the positives stay as they are.
        position_Q = torch.arange(len(query_Qd), device=query_Qd.device)
        hidden = self._hidden(position_Q, self.positives)
        query_Qd = self.score.queries(query_Qd)

        loss, nll_M = in_group_loss(
            query_Qd, [len(query_Qd)], self.positives, self.negatives, hidden
        )
        return Learnt(loss, nll_M, torch.zeros_like(self.positives.query_M))

    def of_targets(self, query_Md: Tensor, path_M: Tensor) -> Learnt:
        """Returns the loss if each target has a query of its own.

        Args:
            query_Md: queries in the order of the targets, not yet ready for scoring.
            path_M: which of the K queries each is reported as.
        """
        # Seen items are those of the targets' positions, whatever the queries' numbers.
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
        """Returns the negatives that are hidden from queries; None if all are visible.

        Args:
            position_P: each query's position, as an index into `token_Q`.
            positives: the queries' positives.
        """
        if self.seen is None:
            return None
        return self.seen.hidden(self.token_Q[position_P], [len(position_P)], positives)
