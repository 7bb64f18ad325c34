"""Max fusion, which needs no array with the scores of all items.

The items of each set are scored in chunks, with the queries of the set. `Reaching` picks the few
scores of a chunk that reach the user's threshold, and `BestItems` keeps the best of them. No array
is larger than the scores of one chunk, [paths, users, items].

Matrix products have one of a few shapes and are padded with zeros. So a score does not depend on
the other rows and columns of the product. This holds only if products of these shapes give the same
bits, which is tried out on each machine. If they do not, only one shape is used.

Shapes: B users, p paths of an item set, U users of a product, R rows of a path in the product,
n items of a chunk, N columns of the product, c items that reach a threshold, d width.
"""

from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.heads.score import Score
from torchrec_priors.retrieval.best_items import BestItems
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.open_paths import OpenPaths
from torchrec_priors.retrieval.reaching import Reaching

_COLUMNS = 512  # items in the smallest product
_MOST_COLUMNS = 2048  # items in the largest product
_USERS = 16  # users in the smallest product
_MOST_ROWS = 1024  # users x paths in the largest product


@torch.no_grad()
def search_max(index: GroupIndex, score: Score, open_S: list[OpenPaths], best: BestItems) -> None:
    """Offers `best` every item of this rank that may be among a user's best items.

    Args:
        index: this rank's items.
        score: turns stored vectors into the vectors that scores are computed with.
        open_S: for each item set, the queries of the paths that are open to each user.
        best: the best items of each user so far.
    """
    for number, paths in enumerate(open_S):
        # Each chunk is scored for all groups of users, so the narrowest product limits its size.
        groups = list(_groups(paths))
        width = min((group.width for group in groups), default=_COLUMNS)

        for item_n, row_n in index.chunks(number, width):
            columns = _COLUMNS
            while columns < len(item_n):
                columns *= 2
            # The vectors are gathered once for all users, and padded with zeros.
            vectors_nd = score.items(index.shard.rows.index_select(0, row_n))
            vectors_dN = F.pad(vectors_nd, (0, 0, 0, columns - len(item_n))).T
            for group in groups:
                group.offer(item_n, vectors_dN, best)


class _Users:
    """The queries of some users for one item set, arranged for matrix products."""

    def __init__(self, first: int, users: int, paths: OpenPaths, rows: int) -> None:
        """
        Args:
            first, users: the number of the first user, and the number of users.
            paths: the queries of all users for the item set.
            rows: the number of users that a product has room for; places after `users` are padded
                with zeros.
        """
        part = slice(first, first + users)
        self.first = first
        self.users = users
        self.path_pU = paths.path_Bp[part].T

        vector_pRd = F.pad(paths.vector_Bpd[part].transpose(0, 1), (0, 0, 0, rows - users))
        self._vectors = vector_pRd.flatten(0, 1).contiguous()
        # If all biases are 0, adding them is skipped.
        bias_pU = paths.bias_Bp[part].T
        self._bias_pU = bias_pU.contiguous() if bool((bias_pU != 0).any()) else None

        # The memory for scores is allocated once, for all chunks.
        self.width = _width(len(self._vectors), len(vector_pRd) * _USERS, vector_pRd.shape[2])
        self._rows = rows
        self._scores = vector_pRd.new_empty(len(self._vectors) * self.width)
        self._reaching = Reaching(users, self.width, vector_pRd.device)

    def offer(self, item_n: Tensor, vectors_dN: Tensor, best: BestItems) -> None:
        """Offers `best` the items of a chunk that reach a user's threshold, with their best paths.

        Args:
            item_n: the row ids of the items.
            vectors_dN: the vectors of the items, padded with zeros.
            best: the best items of each user so far.
        """
        columns = vectors_dN.shape[1]
        scores = self._scores[: len(self._vectors) * columns].view(-1, columns)
        torch.mm(self._vectors, vectors_dN, out=scores)

        score_pRN = scores.view(-1, self._rows, columns)
        threshold_U = best.threshold_B[self.first : self.first + self.users]
        user_c, column_c = self._reaching.scores(score_pRN, self._bias_pU, len(item_n), threshold_U)
        # After the first chunks thresholds are high, and usually no item reaches them.
        if not len(user_c):
            return

        score_pc = score_pRN[:, user_c, column_c]
        if self._bias_pU is not None:
            score_pc += self._bias_pU[:, user_c]
        score_c, path_c = score_pc.max(0)
        best.offer(user_c + self.first, item_n[column_c], score_c, self.path_pU[path_c, user_c])


def _groups(paths: OpenPaths) -> Iterator[_Users]:
    """Divides the users into groups; the users of a group are multiplied in one product."""
    # Larger products are faster. A shape is used only if it gives the same bits as the smallest.
    users, ways, dim = paths.vector_Bpd.shape
    rows = _USERS
    while (
        rows < users
        and 2 * rows * ways <= _MOST_ROWS
        and _agree(2 * rows * ways, _COLUMNS, _USERS * ways, dim)
    ):
        rows *= 2

    for first in range(0, users, rows):
        yield _Users(first, min(rows, users - first), paths, rows)


def _width(rows: int, fewest: int, dim: int) -> int:
    """Returns the largest number of items in a product that gives the same bits as the smallest.

    Args:
        rows: the number of rows (users x paths) in the product.
        fewest: the number of rows in the smallest product.
        dim: the width of the vectors.
    """
    width = _COLUMNS
    while width < _MOST_COLUMNS and _agree(rows, 2 * width, fewest, dim):
        width *= 2
    return width


@cache
def _agree(rows: int, columns: int, fewest: int, dim: int) -> bool:
    """Whether a product of `rows` x `columns` gives the same bits as smaller products.

    The smaller products have `fewest` rows and `_COLUMNS` columns.
    """
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, dim, generator=generator)
    right = torch.randn(columns, dim, generator=generator)
    whole = left @ right.T

    for left_part, whole_rows in zip(left.split(fewest), whole.split(fewest), strict=True):
        pairs = zip(right.split(_COLUMNS), whole_rows.split(_COLUMNS, 1), strict=True)
        for right_part, whole_part in pairs:
            if not torch.equal(whole_part, left_part @ right_part.T):
                return False
    return True
