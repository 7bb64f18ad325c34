"""Max fusion without scores of all items: each item set's vectors against its own queries.

Vectors go by in chunks. Of a chunk's scores [paths, users, items] only those that reach the user's
threshold are looked at further (`BestItems`, `Reaching`). Nothing larger than a chunk's scores
exists.

Products have one of a few shapes, filled up with zeros, so a score does not depend on the other
rows and columns. Whether products of these shapes agree to the last bit is tried out on each
machine; if they do not, only one shape is used.

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

# Items of the smallest and the largest product.
_COLUMNS = 512
_MOST_COLUMNS = 2048
# Users of the smallest product; users x paths of the largest.
_USERS = 16
_MOST_ROWS = 1024


@torch.no_grad()
def search_max(index: GroupIndex, score: Score, open_S: list[OpenPaths], best: BestItems) -> None:
    """Offers `best` every item of this rank that may be among a user's best.

    Args:
        open_S: the users' queries for each item set.
    """
    for number, paths in enumerate(open_S):
        # A chunk is scored for all groups of users, so it fits the narrowest of their products.
        groups = list(_groups(paths))
        width = min((group.width for group in groups), default=_COLUMNS)

        for item_n, row_n in index.chunks(number, width):
            columns = _COLUMNS
            while columns < len(item_n):
                columns *= 2
            # Gathered once for all users; columns without an item are zeros.
            vectors_nd = score.items(index.shard.rows.index_select(0, row_n))
            vectors_dN = F.pad(vectors_nd, (0, 0, 0, columns - len(item_n))).T
            for group in groups:
                group.offer(item_n, vectors_dN, best)


class _Users:
    """Some users' queries of one item set, ready to be multiplied."""

    def __init__(self, first: int, users: int, paths: OpenPaths, rows: int) -> None:
        """
        Args:
            first, users: which users.
            rows: users of a product; those after `users` are zeros.
        """
        part = slice(first, first + users)
        self.first = first
        self.users = users
        self.path_pU = paths.path_Bp[part].T

        vector_pRd = F.pad(paths.vector_Bpd[part].transpose(0, 1), (0, 0, 0, rows - users))
        self._vectors = vector_pRd.flatten(0, 1).contiguous()
        # Biases of zero are not added at all.
        bias_pU = paths.bias_Bp[part].T
        self._bias_pU = bias_pU.contiguous() if bool((bias_pU != 0).any()) else None

        # Room for the scores is taken once, for all chunks.
        self.width = _width(len(self._vectors), len(vector_pRd) * _USERS, vector_pRd.shape[2])
        self._rows = rows
        self._scores = vector_pRd.new_empty(len(self._vectors) * self.width)
        self._reaching = Reaching(users, self.width, vector_pRd.device)

    def offer(self, item_n: Tensor, vectors_dN: Tensor, best: BestItems) -> None:
        """Offers a chunk's items that reach a user's threshold, each with its best path."""
        columns = vectors_dN.shape[1]
        scores = self._scores[: len(self._vectors) * columns].view(-1, columns)
        torch.mm(self._vectors, vectors_dN, out=scores)

        score_pRN = scores.view(-1, self._rows, columns)
        threshold_U = best.threshold_B[self.first : self.first + self.users]
        user_c, column_c = self._reaching.scores(score_pRN, self._bias_pU, len(item_n), threshold_U)
        # Mostly nothing reaches a threshold, once these are high.
        if not len(user_c):
            return

        score_pc = score_pRN[:, user_c, column_c]
        if self._bias_pU is not None:
            score_pc += self._bias_pU[:, user_c]
        score_c, path_c = score_pc.max(0)
        best.offer(user_c + self.first, item_n[column_c], score_c, self.path_pU[path_c, user_c])


def _groups(paths: OpenPaths) -> Iterator[_Users]:
    """All users, in products as large as agree with the smallest."""
    # Larger products are faster; they are used only if their bits are those of the smallest.
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
    """The number of items of a product with `rows` rows."""
    width = _COLUMNS
    while width < _MOST_COLUMNS and _agree(rows, 2 * width, fewest, dim):
        width *= 2
    return width


@cache
def _agree(rows: int, columns: int, fewest: int, dim: int) -> bool:
    """Whether a product of `rows` and `columns` has the bits of smaller ones.

    These have `fewest` rows and `_COLUMNS` columns.
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
