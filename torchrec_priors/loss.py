"""Finds the positives of every path (Eq. 6), and weights them in the loss (Eq. 8).

    L = sum_t gamma^(t-1) / (sum_t gamma^(t-1)) * sum_k w_k * L_kt
    L_kt = (sum of -log p over the global batch's positives of path k at offset t)
           / (their expected count)
    expected count = (number of targets of the global batch at offset t)
                     * (share of training targets at offset t that are positives of path k)

Here the global batch is the batches of all ranks, gamma is `loss.gamma`, which discounts later
offsets, and w_k is the weight of path k. p is the probability of the positive in the in-group
softmax (Eq. 7). Eq. 8 as printed in the paper differs in two ways. It is not divided by the sum of
gamma^(t-1), which is a constant factor, and its L_kt is the loss of a single example.

This module also computes the loss of the gate. The item set of a path contains the items that the
path may retrieve. A target is in an item set if it is a positive of a path with this set. From the
user's state h, the gate predicts for every target and item set s whether the target is in s. Each
of these predictions is called a decision. The gate's loss is

    L_gate = sum_t gamma^(t-1) / (sum_t gamma^(t-1)) * W_t
             * (mean over the global batch's targets at offset t of
                sum_s -log P(the target is, or is not, in s | h))
    W_t = sum of w_k over the paths that have training positives at offset t

L_kt is divided by the expected count of positives, not by the batch's count. Otherwise, a path with
positives in only one of ten batches would have only a tenth of its weight w_k.

W_t puts the gate's loss on the scale of the heads' loss. For example, in a tree whose top level is
temporal:4, only a quarter of the paths have positives at a given offset, and the weights w_k of
these paths add up to a quarter.

A run calls the functions of this module in this order:

    before training    `path_weights`, `positive_weights` and `decision_weights` compute the
                       factors that are the same for all batches; `LossWeights` keeps them
    in each step       `find_positives` and `count` prepare a batch. `LossWeights.of` weights its
                       positives, and `LossWeights.of_targets` the gate's decisions about its
                       targets. `ops/in_group_softmax.py` then computes L, and `gate_loss` computes
                       L_gate

A token is an item of a context. An extended sequence consists of the items of one window: a
context, and the items that follow the context. The targets of a token are the items after it in its
extended sequence, up to the horizon.

Shapes: N tokens, X items of the extended sequences, K paths, S item sets, T offsets (the horizon,
tau in the paper), M positives, P distinct (token, path) pairs.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.ops.gpu_kernel import on_gpu
from torchrec_priors.ops.next_items import next_items
from torchrec_priors.priors.padded import can_pad, padded_positives
from torchrec_priors.priors.prior import Targets
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.settings.loss import LossConfig


class LossWeights(nn.Module):
    """The weights of positives and of the gate's decisions, up to factors that depend on the batch.

    In each step, `of` and `of_targets` divide them by numbers of targets in the global batch.

    Attributes:
        positive_KT: weight of a positive, by path and offset (see `positive_weights`).
        decision_T: weight of the decisions about a target, by offset (see `decision_weights`).
    """

    positive_KT: Tensor
    decision_T: Tensor

    def __init__(self, paths: int, horizon: int) -> None:
        super().__init__()
        self.register_buffer("positive_KT", torch.zeros(paths, horizon), persistent=False)
        self.register_buffer("decision_T", torch.zeros(horizon), persistent=False)

    def of(self, positives: "Positives", counts: "Counts") -> Tensor:
        """Returns the weights of -log p in Eq. 8 for the positives of this rank, [M].

        The loss L is the weighted sum of -log p over the positives of all ranks.
        """
        cell_KT = self.positive_KT / counts.trained_T.clamp(min=1)
        return cell_KT[positives.path_M, positives.offset_M - 1]

    def of_targets(self, counts: "Counts") -> Tensor:
        """Returns the weight of the decisions about a target, by offset, [T].

        The loss L_gate is the weighted sum over the targets of all ranks.
        """
        return self.decision_T / counts.target_T.clamp(min=1)


_PER_POSITIVE = ("query_M", "source_M", "offset_M", "path_M")


@dataclass(frozen=True)
class Positives:
    """The positives of a batch, and the queries that are needed for them.

    Attributes:
        token_P, path_P: token and path of each query. The pairs are distinct, and sorted by path,
            then by token.
        query_M: index of each positive's query, ascending.
        source_M: index of each positive's item in the extended sequences.
        offset_M: how many items after the token each positive is; the next item has offset 1.
        path_M: path of each positive.
        reach_N: number of targets of each token, at most T.
        trained_T: at each offset, the number of targets that the heads are trained on.
        trained_M: bool, whether the heads are trained on a positive; None if they are trained on
            all. The items of the other positives have no vectors of their own, but the gate learns
            their groups.
        target_T: at each offset, the number of targets; None if it is computed from `reach_N`.
    """

    token_P: Tensor
    path_P: Tensor
    query_M: Tensor
    source_M: Tensor
    offset_M: Tensor
    path_M: Tensor
    reach_N: Tensor
    trained_T: Tensor
    trained_M: Tensor | None = None
    target_T: Tensor | None = None

    def trained(self) -> "Positives":
        """Returns the positives that the heads are trained on, with the same queries."""
        if self.trained_M is None:
            return self
        return replace(self.only(self.trained_M), trained_M=None)

    def new(self, new_NT: Tensor) -> "Positives":
        """Returns the positives whose targets are new, with the same queries.

        Args:
            new_NT: bool, by token and offset (from 1): whether the target exists and is new, i.e.
                its item is not in the context up to the token.
        """
        return self.only(new_NT[self.token_P[self.query_M], self.offset_M - 1])

    def only(self, chosen_M: Tensor) -> "Positives":
        """Returns the chosen positives, with the same queries.

        Args:
            chosen_M: bool, whether a positive is chosen.
        """
        chosen = {name: getattr(self, name)[chosen_M] for name in _PER_POSITIVE}
        if self.trained_M is not None:
            chosen["trained_M"] = self.trained_M[chosen_M]
        return replace(self, **chosen)


@dataclass(frozen=True)
class Counts:
    """Counts of targets in the global batch.

    Attributes:
        trained_T: int64, at each offset, the number of targets that the heads are trained on.
        target_T: int64, at each offset, the number of all targets.
    """

    trained_T: Tensor
    target_T: Tensor


def find_positives(
    tree: PriorTree,
    item_X: Tensor,
    context_N: Tensor,
    end_N: Tensor,
    horizon: int,
    *,
    event_X: Tensor | None = None,
    user_N: Tensor | None = None,
    trained_X: Tensor | None = None,
) -> Positives:
    """Finds every (token, offset, path) for which there is a positive (Eq. 6).

    Args:
        tree: the prior tree.
        item_X: row ids of the items of the extended sequences.
        context_N: index of each token in item_X.
        end_N: index in item_X at which the extended sequence of each token ends (exclusive).
        horizon: T.
        event_X: event codes of the items in item_X; None if the tree does not need events.
        user_N: user of each token; None if the tree does not need users.
        trained_X: bool, whether the heads are trained on an item; None if they are trained on all.
    """
    if on_gpu(item_X) and can_pad(tree):
        found = padded_positives(
            tree,
            item_X,
            context_N,
            end_N,
            horizon,
            event_X=event_X,
            user_N=user_N,
            trained_X=trained_X,
        )
        return Positives(**found)  # type: ignore[arg-type]

    # A target is a positive of each path that it is assigned to.
    targets = next_items(context_N, end_N, horizon)
    token = targets.token_M
    offset = targets.offset_M
    source = targets.source_M

    event = None if event_X is None else event_X[source]
    user = None if user_N is None else user_N[token]
    index_M, path_M = tree.assign(Targets(item_X[source], offset, event, user))

    # Positives are sorted by path, then by token, so those of one query are next to each other.
    tokens = max(len(context_N), 1)
    key_M, order_M = torch.sort(path_M * tokens + token[index_M])
    key_P, query_M = torch.unique_consecutive(key_M, return_inverse=True)
    index_M = index_M[order_M]
    source_M = source[index_M]

    learned = offset if trained_X is None else offset[trained_X[source]]
    return Positives(
        token_P=key_P % tokens,
        path_P=key_P // tokens,
        query_M=query_M,
        source_M=source_M,
        offset_M=offset[index_M],
        path_M=path_M[order_M],
        reach_N=(end_N - context_N - 1).clamp(0, horizon),
        trained_T=torch.bincount(learned - 1, minlength=horizon),
        trained_M=None if trained_X is None else trained_X[source_M],
    )


def count(positives: Positives, horizon: int) -> Tensor:
    """Counts this rank's targets at each offset, int64 [2, T].

    The first row counts the targets that the heads are trained on, the second row all targets.

    Args:
        positives: the positives of this rank.
        horizon: T.
    """
    if positives.target_T is not None:
        return torch.stack([positives.trained_T, positives.target_T])

    # A token with r targets has one at each of the offsets 1 to r.
    tokens_by_reach = torch.bincount(positives.reach_N, minlength=horizon + 1)
    target_T = tokens_by_reach.flip(0).cumsum(0).flip(0)[1:]
    return torch.stack([positives.trained_T, target_T])


def discount(gamma: float, horizon: int) -> Tensor:
    """Returns gamma^(t-1) / sum gamma^(t-1), [T].

    >>> discount(0.5, 2).tolist()
    [0.6666666865348816, 0.3333333432674408]
    """
    powers = gamma ** torch.arange(horizon, dtype=torch.float64)
    return (powers / powers.sum()).float()


def path_weights(config: LossConfig, positives_K: Tensor) -> Tensor:
    """Returns the weights w_k of the paths, [K].

    Args:
        config: the section `loss` of the configuration.
        positives_K: number of training positives of each path. A path without any has weight 0.
    """
    powers_K = torch.where(positives_K > 0, positives_K.double() ** config.balance, 0.0)
    return (powers_K / powers_K.sum().clamp(min=1e-300)).float()


def positive_weights(
    positives_KT: Tensor, targets_T: Tensor, weight_K: Tensor, discount_T: Tensor
) -> Tensor:
    """Returns the weights of -log p in Eq. 8, by path and offset, [K, T].

    `LossWeights.of` divides them by the global batch's number of targets at the offset.

    Args:
        positives_KT: number of training positives of each path and offset.
        targets_T: number of training targets at each offset.
        weight_K: w_k.
        discount_T: see `discount`.
    """
    share_KT = positives_KT.double() / targets_T.clamp(min=1)
    weight_KT = weight_K[:, None] * discount_T / share_KT.clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(positives_KT > 0, weight_KT, 0.0).float()


def decision_weights(positives_KT: Tensor, weight_K: Tensor, discount_T: Tensor) -> Tensor:
    """Returns the weights of the gate's decisions in L_gate, by offset, [T].

    `LossWeights.of_targets` divides them by the global batch's number of targets at the offset. The
    decisions about a target weigh as much as the target's positives in Eq. 8.

    Args:
        positives_KT, weight_K, discount_T: as for `positive_weights`.
    """
    active_T = (weight_K[:, None] * (positives_KT > 0)).sum(0)
    return active_T * discount_T


def gate_loss(
    logit_NS: Tensor,
    gated_S: Tensor,
    positives: Positives,
    item_set_K: Tensor,
    weight_T: Tensor,
    new_NT: Tensor | None = None,
) -> Tensor:
    """Returns this rank's term of L_gate. (L_gate is the sum of these terms over all ranks.)

    Args:
        logit_NS: logits of the gate.
        gated_S: bool, whether the gate decides about a set. It does not if the set contains every
            target.
        positives: the positives of this rank. A target is in the item sets of its positives' paths.
        item_set_K: item set of each path.
        weight_T: weight of the decisions about a target (see `LossWeights.of_targets`).
        new_NT: bool, by token and offset: whether L_gate includes this target; `positives` must
            contain only such targets. None to include all targets.
    """
    sets = logit_NS.shape[1]
    tokens = max(len(logit_NS), 1)

    # -log P(no) = softplus(logit) and -log P(yes) = softplus(logit) - logit. So every decision is
    # first counted as a no; then the logit of each yes is subtracted.
    if new_NT is None:
        reached_N = torch.cat([weight_T.new_zeros(1), weight_T.cumsum(0)])[positives.reach_N]
    else:
        reached_N = (new_NT * weight_T).sum(1)
    all_no = (reached_N[:, None] * torch.where(gated_S, F.softplus(logit_NS), 0.0)).sum()

    # A target counts only once for a set, even if several of its paths have this set.
    token_M = positives.token_P[positives.query_M]
    set_M = item_set_K[positives.path_M]
    key = (positives.offset_M * sets + set_M) * tokens + token_M
    is_new = None
    if on_gpu(key):
        # `unique` would make the host wait for the number of distinct keys, so duplicates are kept
        # and masked.
        key = key.sort().values
        is_new = torch.ones_like(key, dtype=torch.bool)
        is_new[1:] = key[1:] != key[:-1]
    else:
        key = torch.unique(key)
    token = key % tokens
    set_ = key // tokens % sets
    offset = key // tokens // sets

    counts = gated_S[set_] if is_new is None else gated_S[set_] & is_new
    yes = torch.where(counts, logit_NS[token, set_], 0.0)
    return all_no - (weight_T[offset - 1] * yes).sum()
