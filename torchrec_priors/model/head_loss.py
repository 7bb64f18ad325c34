"""The loss of the prior heads (Eq. 8): a softmax for each item set, or one for all heads together.

    in-group    state_Nd --- heads ---> query_Pd --- in_group_loss ---> loss
    joint       state_Nd --- heads, gate ---> query_Pd, bias_P --- joint_loss ---> loss

Shapes: N tokens, K paths, S item sets, P (token, path) pairs, M positives, d width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchrec_priors.baselines.learning import Learning, Learnt
from torchrec_priors.heads.gate import Gate
from torchrec_priors.heads.joint_rows import JointRows
from torchrec_priors.heads.prior_heads import PriorHeads
from torchrec_priors.loss import Positives
from torchrec_priors.ops.gpu_kernel import has_kernels
from torchrec_priors.ops.in_group_sets import QuerySets
from torchrec_priors.ops.in_group_softmax import in_group_loss
from torchrec_priors.ops.joint_softmax import JointQueries, joint_loss
from torchrec_priors.ops.near_duplicates import hide_near_duplicates
from torchrec_priors.priors.joint import JointPaths
from torchrec_priors.priors.tree import PriorTree


@dataclass(frozen=True)
class HeadLoss:
    """Computes Eq. 8 with the prior heads.

    Attributes:
        heads: turn states into queries.
        tree: the prior tree.
        item_set_K: the item set of each path, as in the tree, on the device.
        first_path_S1: the first path of each item set, then K, on the device.
        joint: the paths that compete in one softmax; None if each item set has its own.
        gate: its logits are added to the scores of a joint softmax; None without a gate.
        near_duplicates: without a joint softmax, negatives with a larger cosine with a positive are
            left out; 1 for none.
    """

    heads: PriorHeads
    tree: PriorTree
    item_set_K: Tensor
    first_path_S1: Tensor
    joint: JointPaths | None
    gate: Gate | None
    near_duplicates: float

    def of(self, state_Nd: Tensor, positives: Positives, learning: Learning) -> Learnt:
        """Computes the loss of a part of a batch.

        Args:
            state_Nd: the states of the part.
            positives: the trained positives of the part.
            learning: the same positives with their weights and vectors, the negatives, and the
                score, as a baseline model gets them.
        """
        if self.joint is None:
            return self._in_groups(state_Nd, positives, learning)
        return self._jointly(self.joint, state_Nd, positives, learning)

    def _in_groups(self, state_Nd: Tensor, positives: Positives, learning: Learning) -> Learnt:
        """Computes Eq. 8 with the softmax of Eq. 7 for each item set."""
        weighed = learning.positives
        negatives = learning.negatives
        query_Pd = self.heads(state_Nd, positives.token_P, positives.path_P)
        query_Pd = learning.score.queries(query_Pd)

        sets = self._sets_of(positives.path_P)
        hidden = None
        if learning.seen is not None:
            hidden = learning.seen.hidden(positives.token_P, sets, weighed)
        if self.near_duplicates < 1:
            hidden = hide_near_duplicates(sets, weighed, negatives, self.near_duplicates, hidden)

        loss, nll_M = in_group_loss(query_Pd, sets, weighed, negatives, hidden)
        return Learnt(loss, nll_M, positives.path_M)

    def _jointly(
        self, joint: JointPaths, state_Nd: Tensor, positives: Positives, learning: Learning
    ) -> Learnt:
        """Computes Eq. 8 with one softmax over the items of all heads, instead of Eq. 7."""
        rows = JointRows.of(
            joint,
            self.tree.item_set_K,
            positives.token_P[positives.query_M],
            positives.path_M,
            len(state_Nd),
        )
        set_P = self.item_set_K[rows.path_P]
        query_Pd = learning.score.queries(self.heads(state_Nd, rows.token_P, rows.path_P))
        bias_P = query_Pd.new_zeros(len(query_Pd))
        if self.gate is not None:
            bias_P = self.gate(state_Nd)[rows.token_P, set_P]

        weighed = replace(learning.positives.chosen(rows.order_M), query_M=rows.query_M)
        queries = JointQueries(query_Pd, bias_P, set_P, rows.groups, rows.row_M)
        hidden = None
        if learning.seen is not None:
            counts_S = torch.bincount(set_P, minlength=self.tree.item_sets).tolist()
            hidden = learning.seen.hidden(rows.token_P, counts_S, weighed)

        loss, nll_M = joint_loss(queries, weighed, learning.negatives, hidden)
        return Learnt(loss, nll_M, positives.path_M[rows.order_M])

    def _sets_of(self, path_P: Tensor) -> list[int] | QuerySets:
        """Returns the number of queries of each item set; on a GPU, the item set of each query.

        Args:
            path_P: the path of each query, ascending. So item sets ascend, too.
        """
        set_P = self.item_set_K[path_P]
        if has_kernels(path_P):
            return QuerySets(set_P, torch.searchsorted(path_P, self.first_path_S1))
        counts_S: list[int] = torch.bincount(set_P, minlength=self.tree.item_sets).tolist()
        return counts_S
