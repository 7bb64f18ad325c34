"""Max fusion on 8-bit copies of the vectors, with the same results as in float32.

A query q and an item vector v are rounded to multiples of a step s, from -127 s to 127 s:
q = s_q q8 + e_q and v = s_v v8 + e_v, where e is the rounding error. This bounds the score:

    q . v = s_q s_v (q8 . v8) + q . e_v + e_q . (s_v v8)  <=  s_v s_q (q8 . v8 + c),
    c = (|q| max |e_v| / s_v + |e_q| max |v8|) / s_q

An item is left out if the upper bound is below the user's threshold. The other items survive, a few
in ten thousand. They are scored again in float32, so no item that belongs in a list is lost.

Shapes: B users, p paths of an item set, U users of a product, n items of a chunk, N columns of a
product, c survivors, R rows of the shard, d width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

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

_COLUMNS = 2048  # items in a product
_MOST_ROWS = 1024  # users x paths in a product
_AT_ONCE = 1 << 14  # survivors that are scored again at a time
_ROWS_AT_ONCE = 1 << 16  # vectors that are quantised at a time
_STEPS = 127  # from 0 to the largest number of a vector
_SLACK = 1.001  # factor of c that allows for rounding errors of float32


@dataclass(frozen=True)
class Quantised:
    """The item vectors of a shard, with one byte for each number.

    Attributes:
        byte_Rd: v8 of each vector, int8.
        step_R: s_v of each vector.
        rounding: the largest |e_v| / s_v of all vectors.
        length: the largest |v8| of all vectors.
    """

    byte_Rd: Tensor
    step_R: Tensor
    rounding: float
    length: float

    @classmethod
    @torch.no_grad()
    def of(cls, rows_Rd: Tensor, score: Score) -> "Quantised":
        """Quantises stored vectors.

        Args:
            rows_Rd: the vectors as they are stored.
            score: turns stored vectors into the vectors that scores are computed with.
        """
        byte_Rd = torch.empty(rows_Rd.shape, dtype=torch.int8, device=rows_Rd.device)
        step_R = torch.empty(len(rows_Rd), device=rows_Rd.device)
        rounding = 0.0
        length = 0.0
        # This is done in parts, as a second copy of all vectors in float32 may not fit into memory.
        for first in range(0, len(rows_Rd), _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            vectors = score.items(rows_Rd[part])
            step = _step(vectors)
            rounded = (vectors / step).round_()
            byte_Rd[part] = rounded.to(torch.int8)
            step_R[part] = step[:, 0]

            error = (vectors / step - rounded).norm(dim=1)
            rounding = max(rounding, float(error.max()))
            length = max(length, float(rounded.norm(dim=1).max()))
        return cls(byte_Rd, step_R, rounding, length)


@torch.no_grad()
def search_int8(
    index: GroupIndex, score: Score, quantised: Quantised, open_S: list[OpenPaths], best: BestItems
) -> None:
    """Offers `best` every item of this rank that may be among a user's best items.

    Args:
        index: this rank's items.
        score: turns stored vectors into the vectors that scores are computed with.
        quantised: the vectors of the index, as bytes.
        open_S: for each item set, the queries of the paths that are open to each user. Scores must
            be plain products (see `has_plain_scores`).
        best: the best items of each user so far.
    """
    work_through(
        (chunk for number in range(len(open_S)) for chunk in index.chunks(number, _COLUMNS)),
        lambda: _Scorer(index, score, quantised, open_S, best).offer,
        index.item_C.device,
        flops(index.own_sizes, open_S),
    )


def has_plain_scores(open_S: list[OpenPaths]) -> bool:
    """Whether all scores are plain products: no path has a bias or is closed to a user."""
    return not any(bool((paths.bias_Bp != 0).any()) for paths in open_S)


class _Scorer:
    """Scores chunks of items for all users, in one thread. It holds the memory for products."""

    def __init__(
        self,
        index: GroupIndex,
        score: Score,
        quantised: Quantised,
        open_S: list[OpenPaths],
        best: BestItems,
    ) -> None:
        """
        Args:
            index, score, quantised, open_S, best: as for `search_int8`.
        """
        self._index = index
        self._score = score
        self._quantised = quantised
        self._open_S = open_S
        self._best = best
        self._number = -1
        self._groups: list[_Users] = []

        # The memory for products is allocated once, for all chunks.
        device = index.item_C.device
        most_users = max(map(_most_users, open_S))
        most_rows = max(_most_users(paths) * paths.vector_Bpd.shape[1] for paths in open_S)
        self._products = torch.empty(most_rows, _COLUMNS, dtype=torch.int32, device=device)
        self._reaching = Reaching(most_users, _COLUMNS, device)

    def offer(self, chunk: Chunk) -> None:
        """Offers the items of a chunk that may be among a user's best items."""
        # Chunks come set after set, so the queries of one set at a time are arranged.
        paths = self._open_S[chunk.number]
        if chunk.number != self._number:
            self._groups = list(_groups(paths, self._quantised))
            self._number = chunk.number

        # All products have the same shape; a chunk with fewer items is padded with zeros.
        item_n, row_n = self._index.of_chunk(chunk)
        missing = _COLUMNS - len(chunk)
        bytes_dN = F.pad(self._quantised.byte_Rd.index_select(0, row_n), (0, 0, 0, missing)).T
        step_N = F.pad(self._quantised.step_R[row_n], (0, missing))

        best = self._best
        for users in self._groups:
            survivors = self._survivors(users, bytes_dN, step_N, len(chunk))
            # They are scored in parts, as there may be many while thresholds are low.
            parts = (values.split(_AT_ONCE) for values in survivors)
            for user_c, column_c, path_c in zip(*parts, strict=True):
                rows_cd = self._index.shard.rows.index_select(0, row_n[column_c])
                exact_c = (paths.vector_Bpd[user_c, path_c] * self._score.items(rows_cd)).sum(1)
                # Offers of an earlier part may have raised the threshold.
                reaches = torch.nonzero(exact_c >= best.threshold_B[user_c])[:, 0]
                user_c = user_c[reaches]
                best.offer(
                    user_c,
                    item_n[column_c[reaches]],
                    exact_c[reaches],
                    paths.path_Bp[user_c, path_c[reaches]],
                )

    def _survivors(
        self, users: "_Users", bytes_dN: Tensor, step_N: Tensor, items: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Finds the scores that may reach the threshold and be the best of their item.

        Args:
            users: the users.
            bytes_dN: v8 of the items of a chunk, padded with zeros.
            step_N: s_v of the items, padded with zeros.
            items: the number of items.

        Returns:
            Users, columns and paths (numbered within the item set) of the scores, sorted by path.
        """
        products = self._products[: len(users.bytes)]
        torch._int_mm(users.bytes, bytes_dN, out=products)
        product_pUN = products.view(-1, users.users, _COLUMNS)
        threshold_B = self._best.threshold_B
        threshold_U = threshold_B[users.first : users.first + users.users] / users.step_U
        user_c, column_c = self._reaching.bounds(
            product_pUN, users.margin_U, step_N, items, threshold_U
        )

        # A score survives if its upper bound reaches the threshold. It must also reach the lower
        # bound of the item's best score.
        product_pc = product_pUN[:, user_c, column_c].float()
        margin_c = users.margin_U[user_c]
        may_reach = (product_pc + margin_c) * step_N[column_c] >= threshold_U[user_c]
        may_be_best = product_pc + margin_c >= product_pc.amax(0) - margin_c
        path, index = torch.nonzero(may_reach & may_be_best, as_tuple=True)
        return user_c[index] + users.first, column_c[index], path


class _Users:
    """The queries of some users for one item set, as bytes.

    All queries of a user have the same step s_q, so their integer products can be compared.

    Attributes:
        first, users: the number of the first user, and the number of users.
        bytes: the queries as bytes, sorted by path, then by user, as `Reaching` expects.
        step_U: s_q of each user.
        margin_U: c of the bound at the top of this module, with |q| of the user's longest query.
    """

    def __init__(self, first: int, users: int, paths: OpenPaths, quantised: Quantised) -> None:
        """
        Args:
            first, users: see the attributes.
            paths: the queries of all users for the item set.
            quantised: the item vectors.
        """
        vector_Upd = paths.vector_Bpd[first : first + users]
        step_U11 = _step(vector_Upd.flatten(1))[..., None]
        rounded = (vector_Upd / step_U11).round_()
        self.first = first
        self.users = users
        self.step_U = step_U11[:, 0, 0]

        longest_U = vector_Upd.norm(dim=2).amax(1)
        error_U = (vector_Upd - rounded * step_U11).norm(dim=2).amax(1)
        self.margin_U = _SLACK * (
            (longest_U * quantised.rounding + error_U * quantised.length) / self.step_U
        )
        self.bytes = rounded.to(torch.int8).transpose(0, 1).flatten(0, 1).contiguous()


def _groups(paths: OpenPaths, quantised: Quantised) -> Iterator[_Users]:
    """Divides the users into groups; the users of a group are multiplied in one product."""
    users = len(paths.vector_Bpd)
    at_once = _most_users(paths)
    for first in range(0, users, at_once):
        yield _Users(first, min(at_once, users - first), paths, quantised)


def _most_users(paths: OpenPaths) -> int:
    """Returns the number of users of a product."""
    users, ways, _ = paths.vector_Bpd.shape
    return max(1, min(users, _MOST_ROWS // ways))


def _step(vectors_Rd: Tensor) -> Tensor:
    """Returns the step of each vector, [R, 1], so that its largest number is `_STEPS` steps.

    The step of a vector of zeros is 1.
    """
    largest = vectors_Rd.abs().amax(1, keepdim=True)
    return torch.where(largest > 0, largest / _STEPS, 1.0)
