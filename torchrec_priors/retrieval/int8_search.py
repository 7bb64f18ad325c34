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

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.heads.score import Score
from torchrec_priors.retrieval.best_items import BestItems
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.open_paths import OpenPaths
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
    for number, paths in enumerate(open_S):
        users, ways, _ = paths.vector_Bpd.shape
        at_once = max(1, _MOST_ROWS // ways)
        groups = [
            _Users(first, min(at_once, users - first), paths, quantised)
            for first in range(0, users, at_once)
        ]

        for item_n, row_n in index.chunks(number, _COLUMNS):
            # All products have the same shape, so their memory is allocated once. A chunk with
            # fewer items is padded with zeros.
            missing = _COLUMNS - len(row_n)
            bytes_dN = F.pad(quantised.byte_Rd.index_select(0, row_n), (0, 0, 0, missing)).T
            step_N = F.pad(quantised.step_R[row_n], (0, missing))

            for group in groups:
                survivors = group.survivors(bytes_dN, step_N, len(row_n), best.threshold_B)
                # They are scored in parts, as there may be many while thresholds are low.
                parts = (values.split(_AT_ONCE) for values in survivors)
                for user_c, column_c, path_c in zip(*parts, strict=True):
                    vectors_cd = score.items(index.shard.rows.index_select(0, row_n[column_c]))
                    exact_c = (paths.vector_Bpd[user_c, path_c] * vectors_cd).sum(1)
                    # Offers of an earlier part may have raised the threshold.
                    reaches = torch.nonzero(exact_c >= best.threshold_B[user_c])[:, 0]
                    user_c = user_c[reaches]
                    best.offer(
                        user_c,
                        item_n[column_c[reaches]],
                        exact_c[reaches],
                        paths.path_Bp[user_c, path_c[reaches]],
                    )


def has_plain_scores(open_S: list[OpenPaths]) -> bool:
    """Whether all scores are plain products: no path has a bias or is closed to a user."""
    return not any(bool((paths.bias_Bp != 0).any()) for paths in open_S)


class _Users:
    """The queries of some users for one item set, as bytes.

    All queries of a user have the same step s_q, so their integer products can be compared.
    """

    def __init__(self, first: int, users: int, paths: OpenPaths, quantised: Quantised) -> None:
        """
        Args:
            first, users: the number of the first user, and the number of users.
            paths: the queries of all users for the item set.
            quantised: the item vectors.
        """
        vector_Upd = paths.vector_Bpd[first : first + users]
        step_U11 = _step(vector_Upd.flatten(1))[..., None]
        rounded = (vector_Upd / step_U11).round_()
        self.first = first
        self.users = users
        self.step_U = step_U11[:, 0, 0]

        # This is c of the bound at the top of this module, with |q| of the user's longest query.
        longest_U = vector_Upd.norm(dim=2).amax(1)
        error_U = (vector_Upd - rounded * step_U11).norm(dim=2).amax(1)
        self.margin_U = _SLACK * (
            (longest_U * quantised.rounding + error_U * quantised.length) / self.step_U
        )

        # Queries are sorted by path, then by user, as `Reaching` expects.
        self._bytes = rounded.to(torch.int8).transpose(0, 1).flatten(0, 1).contiguous()
        self._products = torch.empty(
            len(self._bytes), _COLUMNS, dtype=torch.int32, device=vector_Upd.device
        )
        self._reaching = Reaching(users, _COLUMNS, vector_Upd.device)

    def survivors(
        self, bytes_dN: Tensor, step_N: Tensor, items: int, threshold_B: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Finds the scores that may reach the threshold and be the best of their item.

        Args:
            bytes_dN: v8 of the items of a chunk, padded with zeros.
            step_N: s_v of the items, padded with zeros.
            items: the number of items.
            threshold_B: the threshold of each user.

        Returns:
            Users, columns and paths (numbered within the item set) of the scores, sorted by path.
        """
        torch._int_mm(self._bytes, bytes_dN, out=self._products)
        product_pUN = self._products.view(-1, self.users, _COLUMNS)
        threshold_U = threshold_B[self.first : self.first + self.users] / self.step_U
        user_c, column_c = self._reaching.bounds(
            product_pUN, self.margin_U, step_N, items, threshold_U
        )

        # A score survives if its upper bound reaches the threshold. It must also reach the lower
        # bound of the item's best score.
        product_pc = product_pUN[:, user_c, column_c].float()
        margin_c = self.margin_U[user_c]
        may_reach = (product_pc + margin_c) * step_N[column_c] >= threshold_U[user_c]
        may_be_best = product_pc + margin_c >= product_pc.amax(0) - margin_c
        path, index = torch.nonzero(may_reach & may_be_best, as_tuple=True)
        return user_c[index] + self.first, column_c[index], path


def _step(vectors_Rd: Tensor) -> Tensor:
    """Returns the step of each vector, [R, 1], so that its largest number is `_STEPS` steps.

    The step of a vector of zeros is 1.
    """
    largest = vectors_Rd.abs().amax(1, keepdim=True)
    return torch.where(largest > 0, largest / _STEPS, 1.0)
