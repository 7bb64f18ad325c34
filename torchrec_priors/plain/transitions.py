"""Transitions: an item is scored by how often it followed the last item of the user's history.

With a prior of items, an item that has followed rarely borrows from its categories. If c are the
categories of the last item i, the score of j is the estimate of P(j | i)

    (n_ij + w q_j) / (n_i + w),    q_j = mean over c of n_cj / n_c

where j followed i in n_ij of n_i cases, and followed an item of category c in n_cj of n_c cases.
Without a prior, it is n_ij / n_i. Items that are scored 0 are ranked by their popularity.

Shapes: B users of a batch, I items, C categories.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from torchrec_priors.data.histories import Histories
from torchrec_priors.plain.log import Log
from torchrec_priors.plain.plain import check_prior
from torchrec_priors.settings.ranges import PositiveAmount, Section


@dataclass
class Options(Section):
    """The options of transitions.

    Attributes:
        prior: the name of a prior of items, whose groups are the categories; empty for none.
        weight: w, the number of pseudo-observations that the category estimate is worth; only used
            with a prior.
    """

    prior: str = ""
    weight: PositiveAmount = 10.0


class Transitions:
    """Counts of next items, of items and of categories."""

    columns = ()

    def __init__(
        self,
        next_II: sparse.csr_matrix,
        category_IC: sparse.csr_matrix,
        next_CI: sparse.csr_matrix,
        weight: float,
    ) -> None:
        """
        Args:
            next_II: n_ij.
            category_IC: the weight of each of an item's categories, which add up to 1.
            next_CI: n_cj / n_c.
            weight: w.
        """
        self._next_II = next_II
        self._total_I = np.asarray(next_II.sum(1)).ravel()
        self._category_IC = category_IC
        self._next_CI = next_CI
        self._weight = weight
        self.numbers = next_II.nnz + next_CI.nnz

    def scores(self, users: Histories) -> np.ndarray:
        """Returns the estimates of P(j | last item), [B, I]; 0 for users without a history."""
        has_last_B = users.seen_lengths > 0
        scores = np.zeros((len(users), self._next_II.shape[0]))
        last = users.seen[np.cumsum(users.seen_lengths)[has_last_B] - 1]

        counts = self._next_II[last].toarray()
        counts += self._weight * (self._category_IC[last] @ self._next_CI).toarray()
        total = self._total_I[last] + self._weight
        # Without a prior, nothing may have followed the item: then all its counts are 0.
        scores[has_last_B] = counts / np.maximum(total, 1)[:, None]
        return scores


def load(options: Options, log: Log) -> Transitions:
    """Counts what followed each item, and each category of items.

    Raises:
        UserError: the data set has no such prior of items.
    """
    same_user = log.user_N[1:] == log.user_N[:-1]
    item = log.item_N[:-1][same_user]
    following = log.item_N[1:][same_user]
    shape = (log.items, log.items)
    next_II = sparse.csr_matrix((np.ones(len(item)), (item, following)), shape)

    if not options.prior:
        no_IC = sparse.csr_matrix((log.items, 0))
        no_CI = sparse.csr_matrix((0, log.items))
        return Transitions(next_II, no_IC, no_CI, 0.0)

    check_prior(options.prior, log.data, "item", "graph")
    categories = len(log.data.manifest.prior(options.prior).groups)
    of_item, category = log.data.prior_pairs(options.prior, "item")
    ones = np.ones(len(of_item))
    category_IC = sparse.csr_matrix((ones, (of_item, category)), (log.items, categories))
    next_CI = _shares(category_IC.T.tocsr() @ next_II)
    return Transitions(next_II, _shares(category_IC), next_CI, options.weight)


def _shares(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Divides each row by its sum; rows of zeros stay."""
    sums = np.asarray(matrix.sum(1)).ravel()
    return (sparse.diags_array(1 / np.maximum(sums, 1)) @ matrix).tocsr()
