"""EASE: a linear model that predicts each item of a history from the others, in closed form.

Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019. X are the histories, 1 for
the items of a user and 0 elsewhere. The weights minimise |X - X B|^2 + l2 |B|^2 with a diagonal of
zeros:

    P = (X^T X + l2 1)^-1,    B_ij = -P_ij / P_jj for i != j,    B_jj = 0

The scores of a user are the history times B.

Shapes: B users of a batch, I items.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack

from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import UserError
from torchrec_priors.plain.log import Log, bags
from torchrec_priors.settings.ranges import CountOrZero, PositiveAmount, Section

# Two matrices of I x I float64 are in memory for a moment, 6.4 GB at this size.
MOST_ITEMS = 20_000


@dataclass
class Options(Section):
    """The options of EASE.

    Attributes:
        l2: the penalty. Large values suit logs in which items occur often.
        last: the number of last items of a history that are used; 0 for all.
    """

    l2: PositiveAmount = 300.0
    last: CountOrZero = 0


class Ease:
    """The weights between all items."""

    columns = ()

    def __init__(self, weight_II: np.ndarray, last: int) -> None:
        self._weight_II = weight_II
        self._last = last
        self.numbers = weight_II.size

    def scores(self, users: Histories) -> np.ndarray:
        """Returns the history times the weights, [B, I]."""
        scores: np.ndarray = bags(users, len(self._weight_II), self._last) @ self._weight_II
        return scores


def load(options: Options, log: Log) -> Ease:
    """Solves for the weights; takes O(I^3) time and O(I^2) memory.

    Raises:
        UserError: the catalogue is too large.
    """
    if log.items > MOST_ITEMS:
        raise UserError(
            f"plain.name = 'ease' inverts a matrix of items x items: {log.items:,} items are more "
            f"than {MOST_ITEMS:,}: use item_knn"
        )

    # LAPACK works in place on columns, and fills only the lower triangle.
    gram = np.asfortranarray((log.seen_UI.T @ log.seen_UI).toarray())
    gram[np.diag_indices(log.items)] += options.l2
    factor, failed = lapack.dpotrf(gram, lower=1, overwrite_a=1)
    assert not failed, "with a positive penalty, the matrix is positive definite"
    inverse, failed = lapack.dpotri(factor, lower=1, overwrite_c=1)
    assert not failed
    lower = np.tril(inverse, -1)
    diagonal = np.diag(inverse).copy()
    del gram, factor, inverse

    lower += lower.T
    lower /= -diagonal
    return Ease(lower, options.last)
