"""Max fusion, which needs no array with the scores of all items.

The items of each set are scored in chunks, with the queries of the set. `Reaching` picks the few
scores of a chunk that reach the user's threshold, and `BestItems` keeps the best of them. No array
is larger than the scores of one chunk, [paths, users, items]. Each thread takes one chunk after
another (`ops/work_queue.py`).

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
from torchrec_priors.ops.work_queue import work_through
from torchrec_priors.retrieval.best_items import BestItems
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.index_parts import Chunk
from torchrec_priors.retrieval.open_paths import OpenPaths, flops
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
    work_through(
        (
            chunk
            for number, paths in enumerate(open_S)
            for chunk in index.chunks(number, _most_items(paths))
        ),
        lambda: _Scorer(index, score, open_S, best).offer,
        index.item_C.device,
        flops(index.own_sizes, open_S),
    )


class _Scorer:
    """Scores chunks of items for all users, in one thread. It holds the memory for scores."""

    def __init__(
        self, index: GroupIndex, score: Score, open_S: list[OpenPaths], best: BestItems
    ) -> None:
        """
        Args:
            index, score, open_S, best: as for `search_max`.
        """
        self._index = index
        self._score = score
        self._open_S = open_S
        self._best = best
        self._number = -1
        self._groups: list[_Users] = []

        # The memory for scores is allocated once, for all chunks.
        most_scores = max(
            _most_users(paths) * paths.vector_Bpd.shape[1] * _most_items(paths) for paths in open_S
        )
        most_users = max(map(_most_users, open_S))
        self._scores = open_S[0].vector_Bpd.new_empty(most_scores)
        self._reaching = Reaching(most_users, _MOST_COLUMNS, self._scores.device)

    def offer(self, chunk: Chunk) -> None:
        """Offers the items of a chunk that reach a user's threshold, with their best paths."""
        # Chunks come set after set, so the queries of one set at a time are arranged.
        if chunk.number != self._number:
            self._groups = list(_groups(self._open_S[chunk.number]))
            self._number = chunk.number

        item_n, row_n = self._index.of_chunk(chunk)
        columns = _COLUMNS
        while columns < len(chunk):
            columns *= 2
        # The vectors are gathered once for all users, and padded with zeros.
        vectors_nd = self._score.items(self._index.shard.rows.index_select(0, row_n))
        vectors_dN = F.pad(vectors_nd, (0, 0, 0, columns - len(chunk))).T
        for users in self._groups:
            self._offer(users, item_n, vectors_dN)

    def _offer(self, users: "_Users", item_n: Tensor, vectors_dN: Tensor) -> None:
        columns = vectors_dN.shape[1]
        scores = self._scores[: len(users.vectors) * columns].view(-1, columns)
        torch.mm(users.vectors, vectors_dN, out=scores)

        score_pRN = scores.view(-1, users.rows, columns)
        threshold_U = self._best.threshold_B[users.first : users.first + users.users]
        user_c, column_c = self._reaching.scores(score_pRN, users.bias_pU, len(item_n), threshold_U)
        # After the first chunks thresholds are high, and usually no item reaches them.
        if not len(user_c):
            return

        score_pc = score_pRN[:, user_c, column_c]
        if users.bias_pU is not None:
            score_pc += users.bias_pU[:, user_c]
        score_c, path_c = score_pc.max(0)
        path_c = users.path_pU[path_c, user_c]
        self._best.offer(user_c + users.first, item_n[column_c], score_c, path_c)


class _Users:
    """The queries of some users for one item set, arranged for matrix products.

    Attributes:
        first, users: the number of the first user, and the number of users.
        rows: the number of users that a product has room for.
        vectors: the queries, path after path, padded with zeros after the users of each path.
        path_pU: the number of each path.
        bias_pU: the bias of each path; None if all biases are 0.
    """

    def __init__(self, first: int, users: int, paths: OpenPaths, rows: int) -> None:
        """
        Args:
            first, users, rows: see the attributes.
            paths: the queries of all users for the item set.
        """
        part = slice(first, first + users)
        self.first = first
        self.users = users
        self.rows = rows
        self.path_pU = paths.path_Bp[part].T

        vector_pRd = F.pad(paths.vector_Bpd[part].transpose(0, 1), (0, 0, 0, rows - users))
        self.vectors = vector_pRd.flatten(0, 1).contiguous()
        # If all biases are 0, adding them is skipped.
        bias_pU = paths.bias_Bp[part].T
        self.bias_pU = bias_pU.contiguous() if bool((bias_pU != 0).any()) else None


def _groups(paths: OpenPaths) -> Iterator[_Users]:
    """Divides the users into groups; the users of a group are multiplied in one product."""
    users = len(paths.vector_Bpd)
    rows = _most_users(paths)
    for first in range(0, users, rows):
        yield _Users(first, min(rows, users - first), paths, rows)


def _most_users(paths: OpenPaths) -> int:
    """Returns the number of users that a product has room for."""
    # Larger products are faster. A shape is used only if it gives the same bits as the smallest.
    users, ways, dim = paths.vector_Bpd.shape
    rows = _USERS
    while (
        rows < users
        and 2 * rows * ways <= _MOST_ROWS
        and _agree(2 * rows * ways, _COLUMNS, _USERS * ways, dim)
    ):
        rows *= 2
    return rows


def _most_items(paths: OpenPaths) -> int:
    """Returns the largest number of items in a product that gives the same bits as the smallest."""
    _, ways, dim = paths.vector_Bpd.shape
    rows = _most_users(paths) * ways
    columns = _COLUMNS
    while columns < _MOST_COLUMNS and _agree(rows, 2 * columns, _USERS * ways, dim):
        columns *= 2
    return columns


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
