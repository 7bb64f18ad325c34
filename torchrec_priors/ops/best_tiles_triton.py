"""The kernels of `best_tiles.py`.

`tile_maxima` multiplies a tile with the queries of a block of users, one path after another, so
the vectors of a tile are read once for all paths. `tile_scores` has a program for each user and
chosen tile; it sums products in an order that does not depend on other users or tiles, so a score
has the same bits in every batch.

Shapes: as in `best_tiles.py`.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernels have no annotations: Triton reads the types of the arguments at each call.

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchrec_priors.ops.best_tiles import TILE, TiledItems
from torchrec_priors.ops.residual_adapters_triton import precision

USERS = 32  # in a block


@triton.jit
def _tile(
    rows,
    tile,
    vectors,
    scales,
    width,
    SCALED: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Loads which places of a tile have items, their vectors, and their scales."""
    place = tl.arange(0, TILE)
    row = tl.load(rows + tile * TILE + place).to(tl.int64)
    exists = row >= 0
    column = tl.arange(0, WIDTH)
    vector = tl.load(
        vectors + row[:, None] * width + column[None, :],
        mask=exists[:, None] & (column < width)[None, :],
        other=0.0,
    )
    scale = tl.zeros([TILE], tl.float32) + 1.0
    if SCALED:
        scale = tl.load(scales + row, mask=exists, other=1.0)
    return exists, vector, scale


@triton.jit
def _maxima(
    rows, sets, first_path, vectors, scales, queries, biases, maxima, users, paths, tiles, width,
    SCALED: tl.constexpr,
    USERS: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes the largest score of a tile for a block of users."""
    tile = tl.program_id(0).to(tl.int64)
    exists, vector, scale = _tile(rows, tile, vectors, scales, width, SCALED, TILE, WIDTH)
    user = tl.program_id(1) * USERS + tl.arange(0, USERS)
    known = user < users
    column = tl.arange(0, WIDTH)
    number = tl.load(sets + tile)

    best = tl.zeros([USERS, TILE], tl.float32) + float("-inf")
    for path in range(tl.load(first_path + number), tl.load(first_path + number + 1)):
        query = tl.load(
            queries + (user.to(tl.int64) * paths + path)[:, None] * width + column[None, :],
            mask=known[:, None] & (column < width)[None, :],
            other=0.0,
        )
        bias = tl.load(biases + user.to(tl.int64) * paths + path, mask=known, other=0.0)
        score = tl.dot(query, tl.trans(vector), input_precision=PRECISION)
        best = tl.maximum(best, score * scale[None, :] + bias[:, None])
    best = tl.where(exists[None, :], best, float("-inf"))
    tl.store(maxima + user.to(tl.int64) * tiles + tile, tl.max(best, 1), mask=known)


@triton.jit
def _scores(
    rows, sets, first_path, vectors, scales, queries, biases, chosen, scores, best_paths,
    paths, number_chosen, width,
    SCALED: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Writes the scores and the best paths of a user's tile."""
    user = tl.program_id(0).to(tl.int64)
    at = user * number_chosen + tl.program_id(1)
    tile = tl.load(chosen + at)
    exists, vector, scale = _tile(rows, tile, vectors, scales, width, SCALED, TILE, WIDTH)
    column = tl.arange(0, WIDTH)
    number = tl.load(sets + tile)

    best = tl.zeros([TILE], tl.float32) + float("-inf")
    best_path = tl.zeros([TILE], tl.int64)
    for path in range(tl.load(first_path + number), tl.load(first_path + number + 1)):
        query = tl.load(
            queries + (user * paths + path) * width + column, mask=column < width, other=0.0
        )
        bias = tl.load(biases + user * paths + path)
        score = tl.sum(vector.to(tl.float32) * query[None, :].to(tl.float32), 1) * scale + bias
        better = score > best
        best = tl.where(better, score, best)
        best_path = tl.where(better, path, best_path)

    place = tl.arange(0, TILE)
    tl.store(scores + at * TILE + place, tl.where(exists, best, float("-inf")))
    tl.store(best_paths + at * TILE + place, best_path.to(tl.int32))


def tile_maxima(items: TiledItems, query_BKd: Tensor, bias_BK: Tensor) -> Tensor:
    """Returns the largest score of each tile, [B, t]; see `TILE_MAXIMA`."""
    users, paths, width = query_BKd.shape
    maximum_Bt = torch.empty(users, len(items), dtype=torch.float32, device=bias_BK.device)
    if maximum_Bt.numel():
        padded = max(16, triton.next_power_of_2(width))
        _maxima[(len(items), triton.cdiv(users, USERS))](
            *_pointers(items), query_BKd.contiguous(), bias_BK.contiguous(), maximum_Bt,
            users, paths, len(items), width,
            SCALED=items.scale_R is not None, USERS=USERS, TILE=TILE, WIDTH=padded,
            PRECISION=precision(), num_warps=4 if padded <= 64 else 8, num_stages=2,
        )  # fmt: skip
    return maximum_Bt


def tile_scores(
    items: TiledItems, query_BKd: Tensor, bias_BK: Tensor, tile_BC: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the scores of chosen tiles, and their best paths; see `TILE_SCORES`."""
    users, paths, width = query_BKd.shape
    chosen = tile_BC.shape[1]
    score_BE = torch.empty(users, chosen * TILE, dtype=torch.float32, device=bias_BK.device)
    path_BE = torch.empty(users, chosen * TILE, dtype=torch.int32, device=bias_BK.device)
    if score_BE.numel():
        _scores[(users, chosen)](
            *_pointers(items), query_BKd.contiguous(), bias_BK.contiguous(), tile_BC.contiguous(),
            score_BE, path_BE, paths, chosen, width,
            SCALED=items.scale_R is not None, TILE=TILE,
            WIDTH=max(16, triton.next_power_of_2(width)), num_warps=4,
        )  # fmt: skip
    return score_BE, path_BE


def _pointers(items: TiledItems) -> tuple[Tensor, ...]:
    """Returns the tensors of the items; a kernel needs a pointer for every argument."""
    scale = items.vector_Rd if items.scale_R is None else items.scale_R
    return items.row_E, items.set_t, items.first_path_S1, items.vector_Rd.contiguous(), scale
