"""Max fusion on 8-bit copies of the item vectors, with exact scores for those that may be best.

With q = s_q q8 + e_q and v = s_v v8 + e_v, rounded to the nearest of 255 steps,

    q . v = s_q s_v (q8 . v8) + q . e_v + e_q . (s_v v8)  <=  s_v s_q (q8 . v8 + c),
    c = (|q| max |e_v| / s_v + |e_q| max |v8|) / s_q

so an item can be left out if the right-hand side is below the user's threshold, and nothing is
lost: the results are those of float32. The survivors, some in ten thousand, are scored again in
float32.

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

_COLUMNS = 2048  # items of a product
_MOST_ROWS = 1024  # users x paths of a product
_AT_ONCE = 1 << 14  # survivors that are scored again at a time
_ROWS_AT_ONCE = 1 << 16  # vectors that are quantised at a time
_STEPS = 127
_SLACK = 1.001  # for rounding errors of float32


@dataclass(frozen=True)
class Quantised:
    """Item vectors of a shard, with a byte for each number.

    Attributes:
        byte_Rd: v8, int8.
        step_R: s_v.
        rounding: the largest |e_v| / s_v.
        length: the largest |v8|.
    """

    byte_Rd: Tensor
    step_R: Tensor
    rounding: float
    length: float

    @classmethod
    @torch.no_grad()
    def of(cls, rows_Rd: Tensor, score: Score) -> "Quantised":
        """Stored vectors, as `score` takes them."""
        byte_Rd = torch.empty(rows_Rd.shape, dtype=torch.int8, device=rows_Rd.device)
        step_R = torch.empty(len(rows_Rd), device=rows_Rd.device)
        rounding = 0.0
        length = 0.0
        # Some rows at a time: a second copy of all vectors in float32 may not fit.
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
    """Like `search_max`, for item sets with plain scores (see `has_plain_scores`)."""
    for number, paths in enumerate(open_S):
        users, ways, _ = paths.vector_Bpd.shape
        at_once = max(1, _MOST_ROWS // ways)
        groups = [
            _Users(first, min(at_once, users - first), paths, quantised)
            for first in range(0, users, at_once)
        ]

        for item_n, row_n in index.chunks(number, _COLUMNS):
            # All products have one shape, for which there is memory; missing columns are zeros.
            missing = _COLUMNS - len(row_n)
            bytes_dN = F.pad(quantised.byte_Rd.index_select(0, row_n), (0, 0, 0, missing)).T
            step_N = F.pad(quantised.step_R[row_n], (0, missing))

            for group in groups:
                survivors = group.survivors(bytes_dN, step_N, len(row_n), best.threshold_B)
                parts = (values.split(_AT_ONCE) for values in survivors)
                for user_c, column_c, path_c in zip(*parts, strict=True):
                    vectors_cd = score.items(index.shard.rows.index_select(0, row_n[column_c]))
                    exact_c = (paths.vector_Bpd[user_c, path_c] * vectors_cd).sum(1)
                    # Offers since then may have raised the threshold.
                    reaches = torch.nonzero(exact_c >= best.threshold_B[user_c])[:, 0]
                    user_c = user_c[reaches]
                    best.offer(
                        user_c,
                        item_n[column_c[reaches]],
                        exact_c[reaches],
                        paths.path_Bp[user_c, path_c[reaches]],
                    )


def has_plain_scores(open_S: list[OpenPaths]) -> bool:
    """Whether scores are plain products: no path is closed to anyone, and none has a bias."""
    return not any(bool((paths.bias_Bp != 0).any()) for paths in open_S)


class _Users:
    """Some users' queries of one item set, as bytes; all paths of a user have one step."""

    def __init__(self, first: int, users: int, paths: OpenPaths, quantised: Quantised) -> None:
        # One step for all paths of a user: their integer products can be compared directly.
        vector_Upd = paths.vector_Bpd[first : first + users]
        step_U11 = _step(vector_Upd.flatten(1))[..., None]
        rounded = (vector_Upd / step_U11).round_()
        self.first = first
        self.users = users
        self.step_U = step_U11[:, 0, 0]

        # c of the bound above, for the longest query of each user.
        longest_U = vector_Upd.norm(dim=2).amax(1)
        error_U = (vector_Upd - rounded * step_U11).norm(dim=2).amax(1)
        self.margin_U = _SLACK * (
            (longest_U * quantised.rounding + error_U * quantised.length) / self.step_U
        )

        # Path by path, so a path's rows are together, as `Reaching` reads them.
        self._bytes = rounded.to(torch.int8).transpose(0, 1).flatten(0, 1).contiguous()
        self._products = torch.empty(
            len(self._bytes), _COLUMNS, dtype=torch.int32, device=vector_Upd.device
        )
        self._reaching = Reaching(users, _COLUMNS, vector_Upd.device)

    def survivors(
        self, bytes_dN: Tensor, step_N: Tensor, items: int, threshold_B: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores that may reach the threshold and be the best of their item, ordered by path.

        Returns:
            Users, columns and paths (numbered within the item set).
        """
        torch._int_mm(self._bytes, bytes_dN, out=self._products)
        product_pUN = self._products.view(-1, self.users, _COLUMNS)
        threshold_U = threshold_B[self.first : self.first + self.users] / self.step_U
        user_c, column_c = self._reaching.bounds(
            product_pUN, self.margin_U, step_N, items, threshold_U
        )

        # A path survives if its upper bound reaches the threshold, and the best lower bound.
        product_pc = product_pUN[:, user_c, column_c].float()
        margin_c = self.margin_U[user_c]
        may_reach = (product_pc + margin_c) * step_N[column_c] >= threshold_U[user_c]
        may_be_best = product_pc + margin_c >= product_pc.amax(0) - margin_c
        path, index = torch.nonzero(may_reach & may_be_best, as_tuple=True)
        return user_c[index] + self.first, column_c[index], path


def _step(vectors_Rd: Tensor) -> Tensor:
    """[R, 1]: the largest number of each row is 127 steps; rows of zeros have steps of 1."""
    largest = vectors_Rd.abs().amax(1, keepdim=True)
    return torch.where(largest > 0, largest / _STEPS, 1.0)
