"""Eq. 6-8: positives of every path, their in-group likelihood, and their weights in the loss.

    L = sum_t gamma^(t-1) / (sum_t gamma^(t-1)) * sum_k w_k * L_kt
    L_kt = (sum of -log p over the global batch's positives of path k at offset t) / (their global count), 0 without any

Shapes: N tokens, K paths, T = tau offsets, M positives, P distinct (token, path) pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.errors import UserError
from torchrec_priors.priors.prior import Targets
from torchrec_priors.priors.tree import PriorTree


@dataclass
class LossConfig:
    """Weights of the loss (Eq. 8).

    Attributes:
        gamma: discount per offset, in (0, 1].
        balance: w_k = (share of training positives of path k) ^ balance, normalised: 1 is the paper's frequency
            balancing, 0 gives every path the same weight.
    """

    gamma: float = 0.99
    balance: float = 1.0

    def check(self) -> None:
        if not 0 < self.gamma <= 1:
            raise UserError(f"loss.gamma = {self.gamma} must be in (0, 1]")
        if not 0 <= self.balance <= 1:
            raise UserError(f"loss.balance = {self.balance} must be in [0, 1]")

    def weights(self, positives_K: Tensor) -> Tensor:
        """w_k from the counts of training positives; a path without any gets 0."""
        powers = torch.where(positives_K > 0, positives_K.double() ** self.balance, 0.0)
        return (powers / powers.sum().clamp(min=1e-300)).float()


@dataclass(frozen=True)
class Positives:
    """Positives of a batch and the queries they need.

    Attributes:
        token_P, path_P: distinct (token, path) pairs, ascending by path, then by token.
        query_M: pair of each positive.
        source_M: which future item it is, an index into the extended sequences.
        offset_M: 1-based distance.
        path_M: its path.
    """

    token_P: Tensor
    path_P: Tensor
    query_M: Tensor
    source_M: Tensor
    offset_M: Tensor
    path_M: Tensor


def find_positives(
    tree: PriorTree,
    item_X: Tensor,
    context_N: Tensor,
    end_N: Tensor,
    horizon: int,
    *,
    event_X: Tensor | None = None,
    user_N: Tensor | None = None,
) -> Positives:
    """Every (token, offset, path) with a positive (Eq. 6).

    Args:
        item_X: row ids of the extended sequences.
        context_N: where each token that predicts stands in item_X.
        end_N: end of its extended sequence there.
        horizon: tau.
        event_X: event codes of the extended sequences, where the tree needs them.
        user_N: user of each token, where the tree needs them.
    """
    source_NT = context_N[:, None] + torch.arange(1, horizon + 1, device=item_X.device)
    token, column = torch.nonzero(source_NT < end_N[:, None], as_tuple=True)
    source = source_NT[token, column]
    event_M = None if event_X is None else event_X[source]
    user_M = None if user_N is None else user_N[token]
    index_M, path_M = tree.assign(Targets(item_X[source], column + 1, event_M, user_M))
    key_M = path_M * max(len(context_N), 1) + token[index_M]
    key_P, query_M = torch.unique(key_M, return_inverse=True)
    tokens = max(len(context_N), 1)
    return Positives(key_P % tokens, key_P // tokens, query_M, source[index_M], column[index_M] + 1, path_M)


def counts_per_path_and_offset(positives: Positives, paths: int, horizon: int) -> Tensor:
    """int64 [K, T] counts of this rank's positives."""
    cell_M = positives.path_M * horizon + positives.offset_M - 1
    return torch.bincount(cell_M, minlength=paths * horizon).view(paths, horizon)


def discount(gamma: float, horizon: int) -> Tensor:
    """gamma^(t-1) / sum gamma^(t-1), [T].

    >>> discount(0.5, 2).tolist()
    [0.6666666865348816, 0.3333333432674408]
    """
    powers = gamma ** torch.arange(horizon, dtype=torch.float64)
    return (powers / powers.sum()).float()


def prior_loss(nll_M: Tensor, positives: Positives, counts_KT: Tensor, weight_K: Tensor, discount_T: Tensor) -> Tensor:
    """This rank's term of Eq. 8; the loss is the sum over ranks.

    Args:
        nll_M: -log p of this rank's positives.
        counts_KT: positives of the global batch.
        weight_K: w_k.
        discount_T: see `discount`.
    """
    cell_KT = weight_K[:, None] * discount_T / counts_KT.clamp(min=1)
    return (cell_KT[positives.path_M, positives.offset_M - 1] * nll_M).sum()
